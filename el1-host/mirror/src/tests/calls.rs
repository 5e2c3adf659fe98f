//! The typed calls: which words go out, what the answers become.

use std::cell::RefCell;

use hyp_abi::run::Exit;
use hyp_abi::{Handle, Hypercall, PageState, Prot, Refusal, Ret};

use crate::fake::{gfn, pfn};
use crate::{Calls, Features, GuestRun, HostRun, Hypercalls, Leftovers, RunExit, VmStats};

/// Answers the same whatever it is asked, and remembers the question.
struct Wire {
    answer: Ret,
    asked: RefCell<Vec<(Hypercall, [u64; 4])>>,
}

impl Hypercalls for Wire {
    fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret {
        self.asked.borrow_mut().push((call, args));
        self.answer
    }
}

fn wire(x1: i64) -> Wire {
    full(Ret { x1, ..Ret::default() })
}

fn full(answer: Ret) -> Wire {
    Wire { answer, asked: RefCell::new(Vec::new()) }
}

#[test]
fn every_plain_call_sends_its_own_number_and_arguments_in_order() {
    let w = wire(0);
    let vm = Handle::from_raw(0x105);
    w.share_hyp(pfn(1)).unwrap();
    w.unshare_hyp(pfn(2)).unwrap();
    w.share_guest(pfn(3), gfn(4), 1, Prot::RX).unwrap();
    w.unshare_guest(vm, gfn(5), 1).unwrap();
    w.relax_perms(gfn(6), Prot::W).unwrap();
    w.wrprotect(vm, gfn(7), 8).unwrap();
    w.test_clear_young(vm, gfn(9), 10, true).unwrap();
    w.test_clear_young(vm, gfn(9), 10, false).unwrap();
    w.mkyoung(gfn(11)).unwrap();
    w.reserve_vm().unwrap();
    w.unreserve_vm(vm).unwrap();
    w.init_vm(vm, 2, pfn(12)).unwrap();
    w.init_vcpu(vm, 1, pfn(13)).unwrap();
    w.start_teardown_vm(vm).unwrap();
    w.finalize_teardown_vm(vm).unwrap();
    w.vcpu_load(vm, 1).unwrap();
    w.vcpu_put().unwrap();
    w.vcpu_sync_state().unwrap();
    w.tlb_flush_vmid(vm).unwrap();
    w.version().unwrap();
    w.features().unwrap();
    w.memcache_topup(pfn(14)).unwrap();
    w.reclaim_vm_page(vm).unwrap();
    w.map_gicv(gfn(15)).unwrap();
    w.unmap_gicv(vm, gfn(16)).unwrap();
    w.vm_stats(vm).unwrap();
    w.vcpu_run().unwrap();
    use Hypercall as H;
    let expected = [
        (H::ShareHyp, [1, 0, 0, 0]),
        (H::UnshareHyp, [2, 0, 0, 0]),
        (H::ShareGuest, [3, 4, 1, Prot::RX.bits()]),
        (H::UnshareGuest, [0x105, 5, 1, 0]),
        (H::RelaxPerms, [6, 2, 0, 0]),
        (H::Wrprotect, [0x105, 7, 8, 0]),
        (H::TestClearYoung, [0x105, 9, 10, 1]),
        (H::TestClearYoung, [0x105, 9, 10, 0]),
        (H::Mkyoung, [11, 0, 0, 0]),
        (H::ReserveVm, [0; 4]),
        (H::UnreserveVm, [0x105, 0, 0, 0]),
        (H::InitVm, [0x105, 2, 12, 0]),
        (H::InitVcpu, [0x105, 1, 13, 0]),
        (H::StartTeardownVm, [0x105, 0, 0, 0]),
        (H::FinalizeTeardownVm, [0x105, 0, 0, 0]),
        (H::VcpuLoad, [0x105, 1, 0, 0]),
        (H::VcpuPut, [0; 4]),
        (H::VcpuSyncState, [0; 4]),
        (H::TlbFlushVmid, [0x105, 0, 0, 0]),
        (H::Version, [0; 4]),
        (H::Features, [0; 4]),
        (H::MemcacheTopup, [14, 0, 0, 0]),
        (H::ReclaimVmPage, [0x105, 0, 0, 0]),
        (H::MapGicv, [15, 0, 0, 0]),
        (H::UnmapGicv, [0x105, 16, 0, 0]),
        (H::VmStats, [0x105, 0, 0, 0]),
        (H::VcpuRun, [0; 4]),
    ];
    assert_eq!(*w.asked.borrow(), expected);
}

#[test]
fn a_negative_answer_is_a_refusal_whatever_the_call() {
    let busy = wire(-16);
    let by_reference: &dyn Hypercalls = &busy;
    assert_eq!(by_reference.share_hyp(pfn(1)), Err(Refusal::Busy));
    assert_eq!((&by_reference).vcpu_put(), Err(Refusal::Busy));
    assert_eq!(busy.wrprotect(Handle::from_raw(1), gfn(0), 1), Err(Refusal::Busy));
    assert_eq!(busy.reserve_vm(), Err(Refusal::Busy));
    assert_eq!(busy.features(), Err(Refusal::Busy));
    assert_eq!(busy.vcpu_run(), Err(Refusal::Busy));
    assert_eq!(busy.vm_stats(Handle::from_raw(1)), Err(Refusal::Busy));
    assert_eq!(busy.reclaim_vm_page(Handle::from_raw(1)), Err(Refusal::Busy));
    assert_eq!(busy.audit_vm(Handle::from_raw(1), 0), Err(Refusal::Busy));
    assert_eq!(busy.audit_host(0), Err(Refusal::Busy));
    // A code that the ABI does not have is a refusal all the same.
    assert_eq!(wire(-9999).version(), Err(Refusal::Invalid));
    assert_eq!(wire(i64::MIN).memcache_topup(pfn(1)), Err(Refusal::Invalid));
}

#[test]
fn values_come_back_from_their_registers() {
    let vm = Handle::from_raw(1);
    let w = full(Ret { x1: 7, x2: 0x22, x3: 0x33, x4: 0x44, x5: 0x55 });
    assert_eq!(w.wrprotect(vm, gfn(0), 1), Ok(0x22));
    assert_eq!(w.test_clear_young(vm, gfn(0), 1, false), Ok(0x22));
    assert_eq!(w.reserve_vm(), Ok(Handle::from_raw(7)));
    assert_eq!(w.version(), Ok(7));
    assert_eq!(w.memcache_topup(pfn(1)), Ok(7));
    assert_eq!(w.reclaim_vm_page(vm), Ok(Some(pfn(7))));
    assert_eq!(w.vm_stats(vm), Ok(VmStats { tables: 7, cached: 0x22, pages: 0x33 }));
    assert_eq!(
        w.vcpu_run(),
        Ok(RunExit { exit: Exit::Illegal, esr: 0x22, ipa: 0x33, value: 0x44, flags: 0x55 })
    );
    let seen = |gicv2, gicv3| Features {
        gicv2,
        gicv3,
        ipa_bits: 0x22,
        list_registers: 0x33,
        host_tables: 0x44,
    };
    assert_eq!(w.features(), Ok(seen(true, true)));
    let of = |x1| full(Ret { x1, x2: 0x22, x3: 0x33, x4: 0x44, x5: 0 }).features();
    assert_eq!(of(1), Ok(seen(true, false)));
    assert_eq!(of(2), Ok(seen(false, true)));
    assert_eq!(of(4), Ok(seen(false, false)));
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    assert_eq!(wire(8).vcpu_run(), Err(Refusal::Invalid));
    assert_eq!(wire(1 << 40).reclaim_vm_page(Handle::from_raw(1)), Err(Refusal::Invalid));
}

#[test]
fn not_found_means_the_end_where_something_is_streamed() {
    let end = wire(-2);
    assert_eq!(end.reclaim_vm_page(Handle::from_raw(1)), Ok(None));
    assert_eq!(end.audit_vm(Handle::from_raw(1), 0), Ok(None));
    assert_eq!(end.audit_host(0), Ok(None));
}

#[test]
fn what_is_left_comes_with_the_refusal_to_finalise() {
    let left = full(Ret { x1: -16, x2: 3, x3: 4, ..Ret::default() });
    let expected = Leftovers { refusal: Refusal::Busy, pages: 3, tables: 4 };
    assert_eq!(left.finalize_teardown_vm(Handle::from_raw(1)), Err(expected));
}

#[test]
fn audit_words_are_taken_apart() {
    let vm = Handle::from_raw(0x105);
    let word = 0xb | (2 << 8) | (1 << 16);
    let w = full(Ret { x1: 5, x2: 0x10, x3: 0x20, x4: word, x5: 0x15 });
    let run = GuestRun {
        gfn: gfn(0x10),
        pfn: pfn(0x20),
        nr: 5,
        prot: Prot::from_bits(0xb).unwrap(),
        state: PageState::SharedBorrowed,
        young: true,
        device: false,
        next: 0x15,
    };
    assert_eq!(w.audit_vm(vm, 0x14), Ok(Some(run)));
    assert_eq!(*w.asked.borrow(), [(Hypercall::AuditVm, [0x105, 0x14, 0, 0])]);
    // An answer that does not move on would be asked for ever.
    assert_eq!(w.audit_vm(vm, 0x15), Err(Refusal::Invalid));
    let device = full(Ret { x1: 1, x4: 1 << 17, x5: 1, ..Ret::default() });
    let run = device.audit_vm(vm, 0).unwrap().unwrap();
    assert!(run.device && !run.young && run.state == PageState::Owned);
}

#[test]
fn ownership_words_are_taken_apart() {
    let w = full(Ret { x1: 9, x2: 0x40, x3: 1 | (2 << 8), x4: 6 | (7 << 32), x5: 0x49 });
    let run = HostRun {
        pfn: pfn(0x40),
        nr: 9,
        host: PageState::SharedOwned,
        el2: PageState::SharedBorrowed,
        shares: 6,
        pins: 7,
        next: 0x49,
    };
    assert_eq!(w.audit_host(0x40), Ok(Some(run)));
    assert_eq!(*w.asked.borrow(), [(Hypercall::AuditHost, [0x40, 0, 0, 0])]);
    assert_eq!(w.audit_host(0x49), Err(Refusal::Invalid));
    let high = full(Ret { x1: 1, x4: u64::MAX, x5: 1, ..Ret::default() });
    let run = high.audit_host(0).unwrap().unwrap();
    assert_eq!((run.shares, run.pins), (u32::MAX, u32::MAX));
}
