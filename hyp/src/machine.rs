//! The machine as `hyp-core` sees it: numbers become addresses here, and nowhere else.
//!
//! All RAM is mapped at virtual = physical, writable, for as long as EL2 runs (`el2`, before
//! [`Hw::new`]). Memory that others may write at the same time is only ever accessed through atomics
//! (tables, words of shared pages, metadata), never through a reference to plain data.

use core::sync::atomic::{AtomicU64, Ordering};

use hyp_abi::{Ipa, PAGE_SIZE, Pfn};
use hyp_core::machine::{Cpu, Frames, Meta, Tables, Tlb};
use hyp_core::memmap::PageRange;
use hyp_s2::{Regime, TablePfn};

use crate::arch::{cache, percpu, sysreg, tlb};

const WORDS: usize = (PAGE_SIZE / 8) as usize;

/// The hardware.
#[derive(Debug)]
pub struct Hw {
    /// First frame of the metadata.
    meta: Pfn,
    /// Number of entries.
    entries: usize,
}

/// Word `index` of a frame of RAM.
fn word(pfn: Pfn, index: usize) -> &'static AtomicU64 {
    let address = pfn.pa().raw() as usize + (index % WORDS) * 8;
    // SAFETY:
    // 1. The core names frames of the memory map only, all of which EL2 has mapped for good.
    // 2. The address is aligned, and inside the frame.
    // 3. Rust code reaches this memory through this function only: the core's pages are its own, the
    //    host's and the guests' are nobody else's at EL2.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }
}

impl Hw {
    /// Takes `meta`, which is cleared, for `entries` pages of RAM; `None` if it is too small.
    ///
    /// # Safety
    /// All RAM of the memory map is mapped, and `meta` is used for nothing else.
    pub unsafe fn new(meta: PageRange, entries: usize) -> Option<Self> {
        let first = meta.iter().next()?;
        if (meta.pages() as usize).checked_mul(WORDS)? < entries {
            return None;
        }
        let hw = Self { meta: first, entries };
        meta.iter().for_each(|pfn| hw.zero(pfn));
        Some(hw)
    }

    fn entry(&self, index: usize) -> &'static AtomicU64 {
        assert!(index < self.entries, "metadata index {index} beyond {}", self.entries);
        let page = self.meta.add((index / WORDS) as u64);
        word(page.unwrap_or(self.meta), index)
    }
}

impl Tables for Hw {
    fn load(&self, table: TablePfn, index: usize) -> u64 {
        word(table.pfn(), index).load(Ordering::Acquire)
    }
    fn store(&self, table: TablePfn, index: usize, pte: u64) {
        word(table.pfn(), index).store(pte, Ordering::Release);
    }
    fn compare_exchange(
        &self,
        table: TablePfn,
        index: usize,
        old: u64,
        new: u64,
    ) -> Result<(), u64> {
        word(table.pfn(), index)
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
    }
}

impl Tlb for Hw {
    fn publish(&self) {
        sysreg::dsb_ishst();
    }
    fn inval_ipa(&self, regime: Regime, ipa: Ipa, _level: Option<u8>) {
        tlb::inval_ipa(regime, ipa);
    }
    fn inval_vmid(&self, regime: Regime) {
        tlb::inval_vmid(regime);
    }
    fn inval_ipa_local(&self, regime: Regime, ipa: Ipa, _level: Option<u8>) {
        tlb::inval_ipa_local(regime, ipa);
    }
    fn switch_vcpu(&self, regime: Regime) {
        tlb::switch_vcpu(regime);
    }
}

impl Frames for Hw {
    fn read(&self, pfn: Pfn, index: usize) -> u64 {
        let value = word(pfn, index).load(Ordering::Relaxed);
        #[cfg(feature = "oracle")]
        crate::oracle::note_read(index, value);
        value
    }
    fn write(&self, pfn: Pfn, index: usize, value: u64) {
        word(pfn, index).store(value, Ordering::Relaxed);
    }
    fn zero(&self, pfn: Pfn) {
        (0..WORDS).for_each(|index| word(pfn, index).store(0, Ordering::Relaxed));
    }
    fn clean_to_poc(&self, pfn: Pfn) {
        cache::clean_to_poc(pfn.pa().raw(), PAGE_SIZE);
    }
    fn sync_icache(&self, pfn: Pfn) {
        cache::sync_icache(pfn.pa().raw(), PAGE_SIZE);
    }
}

impl Meta for Hw {
    fn meta_load(&self, index: usize) -> u64 {
        self.entry(index).load(Ordering::Relaxed)
    }
    fn meta_store(&self, index: usize, value: u64) {
        self.entry(index).store(value, Ordering::Relaxed);
    }
}

impl Cpu for Hw {
    fn cpu(&self) -> usize {
        percpu::number()
    }
}
