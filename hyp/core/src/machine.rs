//! Everything that the core asks of the hardware: small traits, values in and values out.
//!
//! No reference to table or guest memory crosses this seam. At EL2 `hyp::machine` implements it; on
//! a PC `fake` does, with TLBs that keep stale entries until the right invalidate and barrier.

use hyp_abi::Pfn;

pub use hyp_s2::{Tables, Tlb};

/// Contents of RAM frames.
pub trait Frames {
    /// Reads the 64-bit word `word` (0..512) of a frame, once.
    fn read(&self, pfn: Pfn, word: usize) -> u64;
    /// Writes a word, once.
    fn write(&self, pfn: Pfn, word: usize, value: u64);
    /// Fills a frame with zeros.
    fn zero(&self, pfn: Pfn);
    /// Cleans and invalidates a frame's data cache lines to the point of coherency, then waits
    /// (DDI0487 D7.5.9; needed because a guest may run with its caches off).
    fn clean_to_poc(&self, pfn: Pfn);
    /// Makes new instructions in a frame visible to every CPU's fetches.
    fn sync_icache(&self, pfn: Pfn);
}

/// The page metadata: one 8-byte word for each RAM page, zero at boot.
pub trait Meta {
    /// Reads entry `index`; indices come from the memory map and are below its page count.
    fn meta_load(&self, index: usize) -> u64;
    /// Writes entry `index`.
    fn meta_store(&self, index: usize, value: u64);
}

/// This CPU.
pub trait Cpu {
    /// Number of this CPU, dense from 0.
    fn cpu(&self) -> usize;
}

/// The whole machine.
pub trait Machine: Tables + Tlb + Frames + Meta + Cpu {}
impl<T: Tables + Tlb + Frames + Meta + Cpu> Machine for T {}
