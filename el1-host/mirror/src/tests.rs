//! The mirror against a model of EL2.

mod calls;
mod model;
mod operations;
mod threads;

use hyp_abi::{Handle, Prot};

use crate::fake::{FakeCpu, FakeEl2, gfn, pfn};
use crate::{Calls, Mapping, Mirror};

/// A VM whose vCPU is loaded on the CPU returned.
fn loaded(el2: &FakeEl2) -> (FakeCpu<'_>, Mirror, Handle) {
    let vm = el2.vm();
    let cpu = el2.cpu();
    cpu.vcpu_load(vm, 0).unwrap();
    el2.take_calls();
    (cpu, Mirror::new(vm), vm)
}

/// An EL2 that needs no table pages.
fn el2() -> FakeEl2 {
    let mut el2 = FakeEl2::new();
    el2.free_tables = true;
    el2
}

fn map(cpu: &FakeCpu<'_>, mirror: &Mirror, at: u64, frame: u64, prot: Prot) {
    mirror.map(cpu, gfn(at), pfn(frame), prot).unwrap();
}

/// All runs, as (gfn, pfn, nr, prot).
fn runs(mirror: &Mirror) -> Vec<(u64, u64, u64, Prot)> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some((first, Mapping { pfn, nr, prot })) = mirror.next_in(gfn(at), u64::MAX) {
        all.push((first.raw(), pfn.raw(), nr, prot));
        at = first.raw() + nr;
    }
    all
}
