//! Physical memory, reached through stage 1's identity map.
//!
//! [`Ram`] and [`ReadOnly`] are minted by `mmu::Map` only, for pages it has just mapped and will not
//! map again: whoever holds one holds the memory.

use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::AtomicU64;

use hyp_abi::{PAGE_SIZE, Pfn};

use crate::ranges::Range;

/// Words in a page.
pub const PAGE_WORDS: usize = PAGE_SIZE as usize / 8;

/// Mapped, writable RAM that its holder has to himself.
pub struct Ram(Range);

impl Ram {
    /// Only for `mmu`.
    pub(super) fn new(range: Range) -> Self {
        Self(range)
    }

    /// Where it is.
    pub fn range(&self) -> Range {
        self.0
    }
}

/// Mapped memory that nobody writes.
pub struct ReadOnly(Range);

impl ReadOnly {
    /// Only for `mmu`.
    pub(super) fn new(range: Range) -> Self {
        Self(range)
    }

    /// The bytes of `part`, which must lie inside.
    pub fn bytes(&self, part: Range) -> Option<&'static [u8]> {
        let inside = self.0.contains(part) && part.start <= part.end && part.start != 0;
        // SAFETY:
        // 1. The bytes are mapped, read-only, for as long as the host runs (`mmu::Map::read_only`).
        // 2. They are RAM outside all that is handed out as `Ram`, so nobody writes them.
        inside.then(|| unsafe {
            core::slice::from_raw_parts(part.start as *const u8, part.len() as usize)
        })
    }
}

/// The device tree at boot, in the early map: `len` bytes at most 2 MiB from `at`.
///
/// `None` if that is not what the early map covers.
pub fn early_tree(at: u64, len: usize) -> Option<&'static [u8]> {
    const COVERED: u64 = 2 << 20;
    let fits = at != 0 && at.is_multiple_of(8) && at < 1 << 47 && len as u64 <= COVERED;
    // SAFETY:
    // 1. boot/el1.S maps the tree's 2 MiB block and the next one, which covers 2 MiB from any start
    //    in the first; the final map covers the same bytes as `read_only`.
    // 2. Nobody writes them: they are kept out of all that is handed out as `Ram`.
    fits.then(|| unsafe { core::slice::from_raw_parts(at as *const u8, len) })
}

/// The RAM of the frame pool. Says where frames may be touched, not whose they are.
#[derive(Default)]
pub struct Memory {
    parts: Vec<Ram>,
}

impl Memory {
    /// No memory.
    pub const fn new() -> Self {
        Self { parts: Vec::new() }
    }

    /// Adds RAM.
    pub fn add(&mut self, ram: Ram) {
        self.parts.push(ram);
    }

    /// The frames of each part.
    pub fn frames(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.parts.iter().map(|ram| (ram.0.start / PAGE_SIZE, ram.0.end / PAGE_SIZE))
    }

    fn page(&self, pfn: Pfn) -> *mut u8 {
        let start = pfn.pa().raw();
        let page = Range { start, end: start + PAGE_SIZE };
        assert!(self.parts.iter().any(|ram| ram.0.contains(page)), "{pfn:?} is not in the pool");
        start as *mut u8
    }

    /// Fills a frame with zeroes.
    pub fn zero(&self, pfn: Pfn) {
        let page = self.page(pfn);
        // SAFETY:
        // 1. `page` answers addresses of whole, mapped, writable pages of the pool only.
        // 2. No Rust reference covers pool pages but those of `words`, which are atomics; the
        //    frame is its caller's, and no guest has it yet.
        unsafe { ptr::write_bytes(page, 0, PAGE_SIZE as usize) };
    }

    /// Copies `data` into a frame, from byte `offset` on.
    pub fn write(&self, pfn: Pfn, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= PAGE_SIZE as usize);
        let to = self.page(pfn).wrapping_add(offset);
        // SAFETY:
        // 1. As for `zero`; the length was checked against the page.
        // 2. `data` is a Rust reference, so it does not cover pool pages.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
    }

    /// A frame as words that EL2 may change at any moment: a run page.
    pub fn words(&self, pfn: Pfn) -> &'static [AtomicU64; PAGE_WORDS] {
        let page = self.page(pfn);
        // SAFETY:
        // 1. The page is mapped RAM of the pool for as long as the host runs, and aligned.
        // 2. Atomics may be changed by others; all other access to pool pages is by pointer.
        unsafe { &*page.cast() }
    }
}
