//! A VM made of raw hypercalls.

use hyp_abi::{Hypercall, hcall as abi};

use super::{must, pages, pfn};
use crate::hcall;

/// The numbers of the machine that tests need.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Pages of a guest's IPA space.
    pub guest_pages: u64,
    /// There is a GICv2.
    pub gicv2: bool,
    /// List registers.
    pub lrs: u64,
}

impl World {
    /// Asks `features`.
    #[must_use]
    pub fn ask() -> Self {
        let a = hcall::call(Hypercall::Features, [0; 4]);
        Self {
            guest_pages: 1 << (a.rest[0].clamp(32, 48) - 12),
            gicv2: a.x1 as u64 & abi::FEATURE_GICV2 != 0,
            lrs: a.rest[1],
        }
    }
}

/// A VM.
#[derive(Clone, Copy, Debug)]
pub struct Vm {
    /// Its handle.
    pub handle: u64,
    /// First of the two root pages.
    pub root: u64,
    /// Run page of vCPU 0, as an address.
    pub run: u64,
}

impl Vm {
    /// An initialised VM with `vcpus` vCPUs, of which number 0 is initialised.
    #[must_use]
    pub fn new(vcpus: u64) -> Self {
        let handle = must(Hypercall::ReserveVm, [0; 4]);
        let root = pages(2) >> 12;
        must(Hypercall::InitVm, [handle, vcpus, root, 0]);
        let run = pages(1);
        must(Hypercall::ShareHyp, [run >> 12, 0, 0, 0]);
        must(Hypercall::InitVcpu, [handle, 0, run >> 12, 0]);
        Self { handle, root, run }
    }

    /// Loads vCPU 0.
    pub fn load(&self) {
        must(Hypercall::VcpuLoad, [self.handle, 0, 0, 0]);
    }

    /// Unloads what is loaded.
    pub fn put() {
        must(Hypercall::VcpuPut, [0; 4]);
    }

    /// Gives the loaded vCPU `n` pages for tables.
    pub fn topup(n: u64) {
        for _ in 0..n {
            must(Hypercall::MemcacheTopup, [pfn(), 0, 0, 0]);
        }
    }

    /// Maps page `pfn` at `gfn`, all tables provided for. The vCPU must be loaded.
    pub fn map(pfn: u64, gfn: u64, prot: u64) {
        if hcall::call(Hypercall::ShareGuest, [pfn, gfn, 1, prot]).x1 != 0 {
            Self::topup(2);
            must(Hypercall::ShareGuest, [pfn, gfn, 1, prot]);
        }
    }

    /// Ends the VM in the right order and takes every page back. The vCPU must not be loaded.
    pub fn end(&self) {
        must(Hypercall::StartTeardownVm, [self.handle, 0, 0, 0]);
        self.drain();
        must(Hypercall::FinalizeTeardownVm, [self.handle, 0, 0, 0]);
        must(Hypercall::UnshareHyp, [self.run >> 12, 0, 0, 0]);
    }

    /// Takes back every page of a dying VM.
    pub fn drain(&self) {
        let mut list = [0; 128];
        loop {
            let mut n = 0;
            super::audit_vm(self.handle, |gfn, _, nr, attrs| {
                for g in gfn..gfn + nr {
                    if let Some(slot) = list.get_mut(n) {
                        *slot = g | (attrs >> 17 & 1) << 40;
                        n += 1;
                    }
                }
            });
            for entry in &list[..n] {
                let gfn = entry & ((1 << 40) - 1);
                if entry >> 40 == 0 {
                    must(Hypercall::UnshareGuest, [self.handle, gfn, 1, 0]);
                } else {
                    must(Hypercall::UnmapGicv, [self.handle, gfn, 0, 0]);
                }
            }
            if n < list.len() {
                break;
            }
        }
        while hcall::call(Hypercall::ReclaimVmPage, [self.handle, 0, 0, 0]).x1 >= 0 {}
    }
}
