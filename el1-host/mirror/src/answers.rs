//! What hypercalls answer beyond a number, with names for the registers.

use hyp_abi::run::Exit;
use hyp_abi::{Gfn, PageState, Pfn, Prot, Refusal};

/// What this EL2 has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The GIC is a GICv2; `map_gicv` exists.
    pub gicv2: bool,
    /// The GIC is a GICv3.
    pub gicv3: bool,
    /// Width of a guest's IPA space.
    pub ipa_bits: u64,
    /// List registers.
    pub list_registers: u64,
    /// Page tables that the host's own stage 2 uses.
    pub host_tables: u64,
}

/// Why `vcpu_run` came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunExit {
    /// The reason.
    pub exit: Exit,
    /// ESR_EL2.
    pub esr: u64,
    /// Faulting IPA (aborts).
    pub ipa: u64,
    /// The value written (stores and system-register writes).
    pub value: u64,
    /// Bits of `hyp_abi::run::exit_flags`.
    pub flags: u64,
}

/// A run of pages of a VM, as EL2 has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestRun {
    /// First guest frame.
    pub gfn: Gfn,
    /// First host frame.
    pub pfn: Pfn,
    /// Pages; 0 if nothing was found yet and the search goes on at `next`.
    pub nr: u64,
    /// Rights.
    pub prot: Prot,
    /// Ownership, seen from the guest.
    pub state: PageState,
    /// Accessed since last aged.
    pub young: bool,
    /// Device memory (the GICV page).
    pub device: bool,
    /// Where to go on.
    pub next: u64,
}

/// A run of RAM pages in equal ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRun {
    /// First frame.
    pub pfn: Pfn,
    /// Pages; 0 if nothing was found yet and the search goes on at `next`.
    pub nr: u64,
    /// State seen from the host.
    pub host: PageState,
    /// State seen from EL2.
    pub el2: PageState,
    /// Guest mappings of each page.
    pub shares: u32,
    /// EL2's pins of each page.
    pub pins: u32,
    /// Where to go on.
    pub next: u64,
}

/// What keeps a VM from being finalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftovers {
    /// The refusal. Only with `Busy` do the counts mean something.
    pub refusal: Refusal,
    /// Guest pages still mapped.
    pub pages: u64,
    /// Table pages not yet reclaimed.
    pub tables: u64,
}

/// EL2's own count of a VM's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmStats {
    /// Table pages in use, roots included.
    pub tables: u64,
    /// Pages in memcaches and free lists.
    pub cached: u64,
    /// Guest pages mapped.
    pub pages: u64,
}
