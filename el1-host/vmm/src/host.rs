//! What this crate needs from the image around it, in small traits.
//!
//! The shim implements them over registers and memory, tests over plain maps. Every method takes
//! `&self`: an implementor that has state locks it, and its lock ranks above those of this crate
//! (it must not call back).

use hyp_abi::Pfn;

pub use host_mirror::Hypercalls;

/// Page frames of the host, exclusively its own while they are free.
pub trait Frames {
    /// One frame, or `None` when there are no more. Its content is undefined.
    fn alloc_frame(&self) -> Option<Pfn>;
    /// Two adjacent frames at a multiple of 8 KiB, freed one by one. Content undefined.
    fn alloc_pair(&self) -> Option<Pfn>;
    /// Gives a frame back. It must be the host's own again at EL2.
    fn free_frame(&self, frame: Pfn);
    /// Writes zeros all over a frame.
    fn zero(&self, frame: Pfn);
    /// Writes bytes into a frame from `offset` on; what does not fit is left out.
    fn fill(&self, frame: Pfn, offset: usize, bytes: &[u8]);
}

/// One vCPU's run page, as an array of 512 words (`hyp_abi::run`).
pub trait RunPage {
    /// Reads word `index`; 0 beyond the page.
    fn read(&self, index: usize) -> u64;
    /// Writes word `index`; nothing happens beyond the page.
    fn write(&self, index: usize, value: u64);
}

/// Access to run pages.
pub trait RunPages {
    /// The view of one.
    type Page: RunPage;
    /// The run page in `frame`: one of `alloc_frame` that is shared with EL2 now.
    fn run_page(&self, frame: Pfn) -> Self::Page;
}

/// Time.
pub trait Clock {
    /// The physical counter (CNTPCT_EL0). A guest's virtual counter is the same: Redan has no
    /// offset between them.
    fn now(&self) -> u64;
    /// How often it counts in a second (CNTFRQ_EL0).
    fn frequency(&self) -> u64;
}

/// Where a guest's serial output goes.
pub trait Console {
    /// Takes one byte, at once.
    fn put(&self, byte: u8);
}

/// Everything together: what a [`Vm`](crate::vm::Vm) runs on.
pub trait Host: Hypercalls + Frames + RunPages + Clock + Console {}

impl<T: Hypercalls + Frames + RunPages + Clock + Console> Host for T {}
