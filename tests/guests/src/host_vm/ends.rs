//! Ends of a VM in every wrong order, and then the right one.

use hyp_abi::{Hypercall as H, Refusal};

use super::code;
use super::cpu::{Cpu, DATA, RWX};
use crate::check_eq;
use crate::hcall::{self, Answer};
use crate::host::{Vm, digest, must, refusal};

pub fn run() {
    let cpu = Cpu::new(RWX);
    let h = cpu.vm.handle;
    let out = cpu.start(code::calls(), &[]);
    check_eq!(out.exit, Some(hyp_abi::run::Exit::Hvc), "the guest has run");
    let refused = |what: &str, which: H, args: [u64; 4], code: Refusal| {
        let before = digest(&[h]);
        check_eq!(hcall::call(which, args), refusal(code), "{what}: {}", which.name());
        check_eq!(digest(&[h]), before, "{what}: nothing changed");
    };
    refused("loaded", H::StartTeardownVm, [h, 0, 0, 0], Refusal::Invalid);
    refused("not dying", H::FinalizeTeardownVm, [h, 0, 0, 0], Refusal::Invalid);
    refused("not dying", H::ReclaimVmPage, [h, 0, 0, 0], Refusal::Invalid);
    refused("pinned", H::UnshareHyp, [cpu.vm.run >> 12, 0, 0, 0], Refusal::Busy);
    Vm::put();
    refused("put twice", H::VcpuPut, [0; 4], Refusal::Invalid);
    refused("not dying", H::FinalizeTeardownVm, [h, 0, 0, 0], Refusal::Invalid);
    must(H::StartTeardownVm, [h, 0, 0, 0]);
    refused("twice", H::StartTeardownVm, [h, 0, 0, 0], Refusal::Invalid);
    refused("dying", H::VcpuLoad, [h, 0, 0, 0], Refusal::Invalid);
    refused("dying", H::UnreserveVm, [h, 0, 0, 0], Refusal::Invalid);
    refused("pinned", H::UnshareHyp, [cpu.vm.run >> 12, 0, 0, 0], Refusal::Busy);
    let a = hcall::call(H::FinalizeTeardownVm, [h, 0, 0, 0]);
    check_eq!((a.x1, a.rest[0]), (Refusal::Busy.code(), 18), "eighteen guest pages are left");
    must(H::UnshareGuest, [h, DATA >> 12, 1, 0]);
    refused("twice", H::UnshareGuest, [h, DATA >> 12, 1, 0], Refusal::NotFound);
    let a = hcall::call(H::FinalizeTeardownVm, [h, 0, 0, 0]);
    check_eq!((a.x1, a.rest[0]), (Refusal::Busy.code(), 17), "then seventeen");
    cpu.vm.drain();
    refused("empty", H::ReclaimVmPage, [h, 0, 0, 0], Refusal::NotFound);
    let stats = hcall::call(H::VmStats, [h, 0, 0, 0]);
    check_eq!((stats.x1, stats.rest[0], stats.rest[1]), (2, 0, 0), "only the roots are left");
    let done = Answer { x0: 0, x1: 0, rest: [0; 4] };
    check_eq!(hcall::call(H::FinalizeTeardownVm, [h, 0, 0, 0]), done, "then it can end");
    check_eq!(hcall::call(H::FinalizeTeardownVm, [h, 0, 0, 0]), refusal(Refusal::Invalid), "once");
    must(H::UnshareHyp, [cpu.vm.run >> 12, 0, 0, 0]);
}
