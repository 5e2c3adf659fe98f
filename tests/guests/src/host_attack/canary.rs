//! The pages that the attacker plays with, and what must stand in them.
//!
//! A canary names its page and word in 64 bits that no arithmetic hits by chance, so one that turns
//! up where it does not belong tells whence it came.

use core::ptr;

use crate::ensure;
use crate::host;

/// Pages in play: hypercalls name them, guests have them.
pub const PLAY: u64 = 112;
/// Pages of the witness.
pub const WITNESS: u64 = 16;
/// Pages that no hypercall ever names.
pub const SECRET: u64 = 16;
/// All of them.
pub const PAGES: usize = (PLAY + WITNESS + SECRET) as usize;
/// Words of a page.
pub const WORDS: usize = 512;

const KEY: u64 = 0x5851_f42d_4c95_7f2d;
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
/// `ODD * INVERSE == 1` modulo 2^64.
const INVERSE: u64 = inverse(ODD);

const fn inverse(odd: u64) -> u64 {
    let mut x = odd;
    let mut n = 0;
    // Newton's iteration doubles the good bits: 3, 6, 12, 24, 48, 96.
    while n < 5 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
        n += 1;
    }
    x
}
const _: () = assert!(ODD.wrapping_mul(INVERSE) == 1);

/// The canary of one word.
const fn canary(page: usize, word: usize) -> u64 {
    ((page << 9 | word) as u64).wrapping_mul(ODD) ^ KEY
}

/// The page that a canary names.
pub fn whence(word: u64) -> Option<usize> {
    let named = (word ^ KEY).wrapping_mul(INVERSE) >> 9;
    usize::try_from(named).ok().filter(|page| *page < PAGES)
}

/// A set of pages.
#[derive(Clone, Copy, Default)]
pub struct Set([u64; 3]);

impl Set {
    /// Adds a page.
    pub fn insert(&mut self, page: usize) {
        if let Some(word) = self.0.get_mut(page / 64) {
            *word |= 1 << (page % 64);
        }
    }
    /// Whether it is in.
    pub fn contains(self, page: usize) -> bool {
        self.0.get(page / 64).is_some_and(|word| word >> (page % 64) & 1 != 0)
    }
}

/// The pages.
pub struct Pages {
    base: u64,
    /// A digest of what was last written into each by someone who may.
    sums: [u64; PAGES],
}

impl Pages {
    /// All with their canaries.
    pub fn new() -> Self {
        let mut pages = Self { base: host::pages(256) >> 12, sums: [0; PAGES] };
        for page in 0..PAGES {
            pages.fill(page);
        }
        pages
    }

    /// The page number of a page.
    pub const fn pfn(&self, page: usize) -> u64 {
        self.base + page as u64
    }

    /// Which page has this number.
    pub fn index(&self, pfn: u64) -> Option<usize> {
        usize::try_from(pfn.checked_sub(self.base)?).ok().filter(|page| *page < PAGES)
    }

    /// Reads a word. The page must be the host's, or the machine ends in an unexpected abort.
    pub fn read(&self, page: usize, word: usize) -> u64 {
        let at = (self.pfn(page) << 12) as *const u64;
        // SAFETY:
        // 1. The arena's page, of which no Rust reference exists; volatile, for EL2 and guests write
        //    to it too.
        unsafe { ptr::read_volatile(at.wrapping_add(word % WORDS)) }
    }

    /// Writes one; `record` when done.
    pub fn write(&self, page: usize, word: usize, value: u64) {
        let at = (self.pfn(page) << 12) as *mut u64;
        // SAFETY:
        // 1. As `read`.
        unsafe { ptr::write_volatile(at.wrapping_add(word % WORDS), value) }
    }

    /// Puts the canaries in.
    pub fn fill(&mut self, page: usize) {
        for word in 0..WORDS {
            self.write(page, word, canary(page, word));
        }
        self.record(page);
    }

    fn sum(&self, page: usize) -> u64 {
        (0..WORDS).fold(page as u64, |sum, word| {
            (sum.rotate_left(5) ^ self.read(page, word)).wrapping_mul(ODD)
        })
    }

    /// What stands there now is right.
    pub fn record(&mut self, page: usize) {
        self.sums[page] = self.sum(page);
    }

    /// Whether somebody has written since.
    pub fn changed(&self, page: usize) -> bool {
        self.sums[page] != self.sum(page)
    }

    /// A page that only its owner may have written.
    pub fn verify(&self, page: usize) {
        ensure!(!self.changed(page), "page {:#x} was written by nobody who may", self.pfn(page));
    }

    /// A page that came back from EL2.
    pub fn verify_zero(&self, page: usize) {
        let dirty = (0..WORDS).find(|word| self.read(page, *word) != 0);
        ensure!(dirty.is_none(), "page {:#x} came back with something in it", self.pfn(page));
    }
}
