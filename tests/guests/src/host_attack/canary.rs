//! The pages that the attacker plays with, and what must stand in them.
//!
//! A canary names its page and word in 64 bits that no arithmetic hits by chance, so one that turns
//! up where it does not belong tells whence it came.
//!
//! Each CPU has pages of its own, and all of them together have a pool that they race for.

use core::ops::Range;
use core::ptr;

use crate::cpu::CPUS;
use crate::ensure;
use crate::host;

/// Pages in play: hypercalls name them, guests have them.
pub const PLAY: u64 = 112;
/// Pages of the witness.
pub const WITNESS: u64 = 16;
/// Pages that no hypercall ever names.
pub const SECRET: u64 = 16;
/// All that one CPU has.
pub const PAGES: usize = (PLAY + WITNESS + SECRET) as usize;
/// Pages that all CPUs race for.
pub const POOL: usize = 96;
/// The number of the pool's first page. Every page has one; those before are the CPUs' own.
pub const POOL_FIRST: usize = CPUS * PAGES;
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
    usize::try_from(named).ok().filter(|page| *page < POOL_FIRST + POOL)
}

/// How many of a page's words, as `read` tells them, are its own canaries.
pub fn own_canaries(number: usize, read: impl Fn(usize) -> u64) -> usize {
    (0..WORDS).filter(|word| read(*word) == canary(number, *word)).count()
}

/// Where all pages of all CPUs are, and the pool after them.
#[derive(Clone, Copy)]
pub struct Field {
    first: u64,
    cpus: usize,
}

impl Field {
    /// For so many CPUs.
    pub fn new(cpus: usize) -> Self {
        let pages = cpus * PAGES + POOL;
        Self { first: host::adjacent(pages as u64, 2) >> 12, cpus }
    }

    /// All of it.
    pub fn range(&self) -> Range<u64> {
        self.first..self.pool() + POOL as u64
    }

    /// The first page of the pool.
    pub fn pool(&self) -> u64 {
        self.own(self.cpus)
    }

    /// The first page of CPU `n`.
    fn own(&self, n: usize) -> u64 {
        self.first + (n * PAGES) as u64
    }
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

/// Writes a word of a page of the field that is the host's.
pub fn write(pfn: u64, word: usize, value: u64) {
    let at = (pfn << 12) as *mut u64;
    // SAFETY:
    // 1. A page of the arena, of which no Rust reference exists; volatile, for EL2 and guests write to
    //    it too.
    unsafe { ptr::write_volatile(at.wrapping_add(word % WORDS), value) }
}

/// The pages of one CPU, or of the pool.
pub struct Pages<const N: usize = PAGES> {
    base: u64,
    /// The number of the first, by which canaries name it.
    first: usize,
    /// A digest of what was last written into each by someone who may.
    sums: [u64; N],
}

impl Pages {
    /// Those of CPU `n`, all with their canaries.
    pub fn of(n: usize, field: Field) -> Self {
        Self::filled(field.own(n), n * PAGES)
    }
}

impl Pages<POOL> {
    /// Those of the pool, all with their canaries.
    pub fn pool(field: Field) -> Self {
        Self::filled(field.pool(), POOL_FIRST)
    }
}

impl<const N: usize> Pages<N> {
    fn filled(base: u64, first: usize) -> Self {
        let mut pages = Self { base, first, sums: [0; N] };
        for page in 0..N {
            pages.fill(page);
        }
        pages
    }

    /// Which page this number is, if it is one of these.
    pub fn numbered(&self, number: usize) -> Option<usize> {
        number.checked_sub(self.first).filter(|page| *page < N)
    }

    /// How many words of a page are its own canaries, where they belong.
    pub fn own_canaries(&self, page: usize) -> usize {
        own_canaries(self.first + page, |word| self.read(page, word))
    }

    /// The page number of a page.
    pub const fn pfn(&self, page: usize) -> u64 {
        self.base + page as u64
    }

    /// Which page has this number.
    pub fn index(&self, pfn: u64) -> Option<usize> {
        usize::try_from(pfn.checked_sub(self.base)?).ok().filter(|page| *page < N)
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
        write(self.pfn(page), word, value);
    }

    /// Puts the canaries in.
    pub fn fill(&mut self, page: usize) {
        for word in 0..WORDS {
            self.write(page, word, canary(self.first + page, word));
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
