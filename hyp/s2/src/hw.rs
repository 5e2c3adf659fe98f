//! What the walker asks of the hardware.

use hyp_abi::{Ipa, Pfn, Vmid};

/// A frame that is a translation table (or the first of several concatenated root tables).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TablePfn(Pfn);

impl TablePfn {
    /// Says that a frame is a table: the duty of whoever takes it from a pool.
    #[must_use]
    pub const fn new(pfn: Pfn) -> Self {
        Self(pfn)
    }
    /// The frame.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        self.0
    }
}

/// What `VTTBR_EL2` holds for one VM: TLB maintenance by IPA acts on the current VMID only, so the
/// implementation enters this regime and leaves it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regime {
    /// Tag of the VM's TLB entries.
    pub vmid: Vmid,
    /// Its root table.
    pub root: TablePfn,
}

/// Memory of translation tables, shared with hardware walkers.
pub trait Tables {
    /// Reads descriptor `index` (0..512), atomically, acquire.
    fn load(&self, table: TablePfn, index: usize) -> u64;
    /// Writes descriptor `index`, atomically, release.
    fn store(&self, table: TablePfn, index: usize, pte: u64);
    /// Replaces descriptor `index` if it still is `old` (hardware may set the access flag at any
    /// moment); `Err` carries what was found.
    ///
    /// # Errors
    /// The value found, when it was not `old`.
    fn compare_exchange(
        &self,
        table: TablePfn,
        index: usize,
        old: u64,
        new: u64,
    ) -> Result<(), u64>;
}

/// Barriers and TLB maintenance (DDI0487 D8.14, B2.7). Every invalidate is broadcast to the inner
/// shareable domain and is complete, on all CPUs, when the function returns.
pub trait Tlb {
    /// `dsb ishst`: stores to tables are visible to walkers before anything that follows.
    fn publish(&self);
    /// Drops the entries of one IPA (stage-2 leaf size by `level`, `None` = unknown), and every
    /// combined entry: `dsb ishst; tlbi ipas2e1is; dsb ish; tlbi vmalle1is; dsb ish; isb`.
    fn inval_ipa(&self, regime: Regime, ipa: Ipa, level: Option<u8>);
    /// Drops everything of the VMID: `dsb ishst; tlbi vmalls12e1is; dsb ish; isb`.
    fn inval_vmid(&self, regime: Regime);
    /// Drops the entries of one IPA on this CPU only (after rights were *added*):
    /// `dsb nshst; tlbi ipas2e1; dsb nsh; tlbi vmalle1; dsb nsh; isb`.
    fn inval_ipa_local(&self, regime: Regime, ipa: Ipa, level: Option<u8>);
    /// Another vCPU of this VM ran on this CPU before: both use one VMID and may use one ASID for
    /// different address spaces, so what the CPU remembers of the stage 1 must go:
    /// `tlbi vmalle1; ic iallu; dsb nsh; isb` inside the regime.
    fn switch_vcpu(&self, regime: Regime);
}
