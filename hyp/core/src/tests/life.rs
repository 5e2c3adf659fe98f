//! Lives of VMs and vCPUs.

use super::*;
use Hypercall::{
    FinalizeTeardownVm, InitVcpu, InitVm, MemcacheTopup, ReclaimVmPage, ReserveVm, ShareGuest,
    ShareHyp, StartTeardownVm, TlbFlushVmid, UnreserveVm, UnshareGuest, VcpuLoad, VcpuPut, VcpuRun,
    VcpuSyncState, VmStats,
};
use Refusal::{Busy, Invalid, NoMemory, NotFound, NotPermitted};
use hyp_abi::hcall::{MAX_VCPUS, MAX_VMS};

#[test]
fn slots_are_as_many_as_promised_and_handles_never_come_back() {
    let mut w = World::new();
    let handles: Vec<_> = (0..MAX_VMS).map(|_| w.ok(ReserveVm, &[])).collect();
    let mut unique = handles.clone();
    unique.dedup();
    assert_eq!(unique.len(), MAX_VMS);
    w.refuse(NoMemory, ReserveVm, &[]);
    for old in [handles[0], handles[63]] {
        w.done(UnreserveVm, &[old]);
        w.refuse(Invalid, UnreserveVm, &[old]);
        let new = w.ok(ReserveVm, &[]);
        assert!(!handles.contains(&new));
        w.refuse(Invalid, UnreserveVm, &[old]);
        w.refuse(Invalid, InitVm, &[old, 1, HOST, 0]);
        w.done(UnreserveVm, &[new]);
        w.ok(ReserveVm, &[]);
    }
}

#[test]
fn a_name_that_is_no_handle_is_refused_by_every_call() {
    let mut w = World::new();
    let vm = w.vm_of(1);
    let reserved = w.ok(ReserveVm, &[]);
    let other_generation = vm.handle + 0x100;
    let no_slot = vm.handle | 64;
    let last_slot = vm.handle | 63;
    for bad in [0, other_generation, no_slot, last_slot, vm.handle | 1 << 63, u64::MAX, reserved] {
        let args = [bad, GUEST, 1, 0];
        let calls = [
            InitVcpu,
            StartTeardownVm,
            FinalizeTeardownVm,
            ReclaimVmPage,
            VcpuLoad,
            TlbFlushVmid,
            UnshareGuest,
            Hypercall::Wrprotect,
            Hypercall::TestClearYoung,
            Hypercall::AuditVm,
            Hypercall::UnmapGicv,
            VmStats,
        ];
        for call in calls {
            w.refuse(Invalid, call, &args);
        }
        if bad != reserved {
            w.refuse(Invalid, UnreserveVm, &[bad]);
            w.refuse(Invalid, InitVm, &[bad, 1, HOST + 0x100, 0]);
        }
    }
}

#[test]
fn init_vm_checks_each_argument() {
    let mut w = World::new();
    let h = w.ok(ReserveVm, &[]);
    for vcpus in [0, MAX_VCPUS as u64 + 1, u64::MAX, 1 << 63, 1 << 32 | 1] {
        w.refuse(Invalid, InitVm, &[h, vcpus, HOST, 0]);
    }
    for flags in [1, 1 << 63, u64::MAX] {
        w.refuse(Invalid, InitVm, &[h, 1, HOST, flags]);
    }
    for pgd in HOSTILE.into_iter().chain([HOST + 1]) {
        w.refuse(Invalid, InitVm, &[h, 1, pgd, 0]);
    }
    // Not RAM, EL2's, one of the two beyond its region; one lent to EL2, the other lent.
    for pgd in [0x9000, EL2, (1 << 36) - 2] {
        w.refuse(NoMemory, InitVm, &[h, 1, pgd, 0]);
    }
    for lent in [HOST, HOST + 1] {
        w.done(ShareHyp, &[lent]);
        w.refuse(NoMemory, InitVm, &[h, 1, HOST, 0]);
        w.done(Hypercall::UnshareHyp, &[lent]);
    }
    w.done(InitVm, &[h, MAX_VCPUS as u64, HOST, 0]);
    w.refuse(Invalid, InitVm, &[h, 1, HOST + 2, 0]);
    w.refuse(Invalid, UnreserveVm, &[h]);
    for root in [HOST, HOST + 1] {
        assert_eq!(w.word(root).hyp(), hyp_abi::PageState::Owned);
        assert!(!w.host_reaches(root));
    }
    assert!(w.host_reaches(HOST + 2));
}

#[test]
fn the_roots_are_zeroed_before_the_vm_exists() {
    let mut w = World::new();
    for word in [0, 511] {
        w.machine().poke(pfn(HOST), word, u64::MAX);
        w.machine().poke(pfn(HOST + 1), word, u64::MAX);
    }
    let h = w.ok(ReserveVm, &[]);
    w.done(InitVm, &[h, 1, HOST, 0]);
    assert!(w.machine().is_zero(pfn(HOST)) && w.machine().is_zero(pfn(HOST + 1)));
    w.refuse(NotFound, Hypercall::AuditVm, &[h, 0]);
}

#[test]
fn no_walker_sees_what_the_host_left_in_the_roots() {
    let mut w = World::new();
    // What a walker would take for a gigabyte: in a root of its own.
    w.machine().poke(pfn(HOST + 1), 0, HOST << 12 | 0x7fd);
    w.machine().publish();
    let h = w.ok(ReserveVm, &[]);
    w.done(InitVm, &[h, 1, HOST, 0]);
    let regime = w.regime(h);
    w.machine().watch(regime, w.hyp.guest_geometry());
    let upper_half = Gfn::new(BEYOND / 2).unwrap().ipa();
    let found = w.machine().access(0, regime.vmid, upper_half, Access::Read);
    assert_eq!(found, Err(Fault::Translation(1)));
}

#[test]
fn a_root_is_a_table_in_use_for_as_long_as_its_vm_lives() {
    let mut w = World::new();
    let vm = w.vm_of(1);
    let mut locks = CpuLocal::new(9).locks;
    let (mut host, _) = w.hyp.host.lock(&mut locks);
    for root in [vm.root, vm.root + 1] {
        assert_eq!(w.word(root), Word::HYP.with_pins(1));
        assert_eq!(host.release(w.hyp.pages(), pfn(root)), Err(Busy));
    }
}

#[test]
fn init_vcpu_checks_each_argument_and_pins_its_run_page() {
    let mut w = World::new();
    let vm = w.vm_of(2);
    let run = w.page();
    w.refuse(NotPermitted, InitVcpu, &[vm.handle, 1, run]);
    w.refuse(NotPermitted, InitVcpu, &[vm.handle, 1, 0x9000]);
    w.refuse(NotPermitted, InitVcpu, &[vm.handle, 1, EL2]);
    w.done(ShareHyp, &[run]);
    for idx in [2, 8, 255, 256, 1 << 32 | 1, u64::MAX] {
        w.refuse(Invalid, InitVcpu, &[vm.handle, idx, run]);
    }
    w.refuse(Invalid, InitVcpu, &[vm.handle, 0, run]);
    for bad in HOSTILE {
        w.refuse(Invalid, InitVcpu, &[vm.handle, 1, bad]);
    }
    w.set_word(run, w.word(run).with_pins(u16::MAX));
    w.refuse(Busy, InitVcpu, &[vm.handle, 1, run]);
    w.set_word(run, w.word(run).with_pins(0));
    w.done(InitVcpu, &[vm.handle, 1, run]);
    assert_eq!(w.word(run).pins(), 1);
    w.refuse(Invalid, InitVcpu, &[vm.handle, 1, run]);
    w.done(StartTeardownVm, &[vm.handle]);
    w.done(FinalizeTeardownVm, &[vm.handle]);
    assert_eq!(w.word(run).pins(), 0);
    w.done(Hypercall::UnshareHyp, &[run]);
}

#[test]
fn one_page_may_serve_two_vcpus_and_is_pinned_for_each() {
    let mut w = World::new();
    let vm = w.vm_of(2);
    w.done(InitVcpu, &[vm.handle, 1, vm.run]);
    assert_eq!(w.word(vm.run).pins(), 2);
    w.end(vm, &[]);
    w.assert_all_is_the_hosts();
}

#[test]
fn a_dying_vm_takes_no_vcpu() {
    let mut w = World::new();
    let vm = w.vm_of(2);
    w.done(StartTeardownVm, &[vm.handle]);
    w.refuse(Invalid, InitVcpu, &[vm.handle, 1, vm.run]);
    w.refuse(Invalid, VcpuLoad, &[vm.handle, 0]);
    w.refuse(Invalid, VcpuLoad, &[vm.handle, 1]);
    w.refuse(Invalid, StartTeardownVm, &[vm.handle]);
    w.done(TlbFlushVmid, &[vm.handle]);
}

#[test]
fn a_vcpu_is_on_one_cpu_and_a_cpu_has_one_vcpu() {
    let mut w = World::new();
    let vm = w.vm_of(3);
    let run = w.page();
    w.done(ShareHyp, &[run]);
    w.done(InitVcpu, &[vm.handle, 1, run]);
    for idx in [3, 8, u64::MAX, 1 << 32] {
        w.refuse(Invalid, VcpuLoad, &[vm.handle, idx]);
    }
    w.refuse(NotFound, VcpuLoad, &[vm.handle, 2]);
    w.done(VcpuLoad, &[vm.handle, 0]);
    w.refuse(Invalid, VcpuLoad, &[vm.handle, 0]);
    w.refuse(Invalid, VcpuLoad, &[vm.handle, 1]);
    w.on(1).refuse(Busy, VcpuLoad, &[vm.handle, 0]);
    w.refuse(NotFound, VcpuLoad, &[vm.handle, 2]);
    w.done(VcpuLoad, &[vm.handle, 1]);
    w.refuse(Invalid, StartTeardownVm, &[vm.handle]);
    w.on(0).done(VcpuPut, &[]);
    w.refuse(Invalid, StartTeardownVm, &[vm.handle]);
    w.refuse(Invalid, VcpuPut, &[]);
    w.refuse(Busy, VcpuLoad, &[vm.handle, 1]);
    w.on(1).done(VcpuPut, &[]);
    w.on(0).done(VcpuLoad, &[vm.handle, 1]);
    w.done(VcpuPut, &[]);
    w.done(StartTeardownVm, &[vm.handle]);
}

#[test]
fn calls_for_the_loaded_vcpu_need_one() {
    let mut w = World::new();
    w.vm_of(1);
    w.refuse(Invalid, VcpuPut, &[]);
    w.refuse(Invalid, VcpuSyncState, &[]);
    w.refuse(Invalid, VcpuRun, &[]);
    w.refuse(Invalid, MemcacheTopup, &[HOST + 0x100]);
    w.refuse(Invalid, ShareGuest, &[HOST + 0x100, GUEST, 1, 15]);
    w.refuse(Invalid, Hypercall::RelaxPerms, &[GUEST, 15]);
    w.refuse(Invalid, Hypercall::Mkyoung, &[GUEST]);
    w.refuse(Invalid, Hypercall::MapGicv, &[GUEST]);
}

#[test]
fn registers_stay_with_the_vcpu_between_cpus() {
    let mut w = World::new();
    let vm = w.vm();
    w.cpu().context().unwrap().gpr[7] = 0x77;
    let regime = w.cpu().regime().unwrap();
    assert_eq!((regime.vmid, regime.root.pfn().raw()), (Vmid::new(1), vm.root));
    w.done(VcpuPut, &[]);
    assert!(w.cpu().context().is_none() && w.cpu().regime().is_none());
    w.on(1).done(VcpuLoad, &[vm.handle, 0]);
    assert_eq!(w.cpu().context().unwrap().gpr[7], 0x77);
    assert_eq!(w.cpu().cpu(), 1);
}

#[test]
fn a_new_vcpu_is_as_after_a_reset() {
    let mut w = World::new();
    let vm = w.vm_of(2);
    w.done(InitVcpu, &[vm.handle, 1, vm.run]);
    w.done(VcpuLoad, &[vm.handle, 1]);
    let ctx = *w.cpu().context().unwrap();
    // EL1h, all masked; MMU and caches off; the second CPU.
    assert_eq!((ctx.pc, ctx.pstate, ctx.sys.sctlr_el1), (0, 0x3c5, 0x30d0_0800));
    assert_eq!(ctx.vmpidr, 0x8000_0001);
    assert_eq!((ctx.gpr, ctx.timer.ctl, ctx.vgic.used), ([0; 31], 0, 0));
}

#[test]
fn another_vcpu_of_the_vm_on_a_cpu_gets_a_clean_tlb() {
    let mut w = World::new();
    let vm = w.vm_of(2);
    let vmid = w.regime(vm.handle).vmid;
    w.done(InitVcpu, &[vm.handle, 1, vm.run]);
    // Each turn: CPU, vCPU. The fake reports a vCPU that could use another one's entries.
    let turns = [(0, 0), (0, 0), (0, 1), (1, 0), (0, 1), (0, 0), (1, 0), (1, 1)];
    let expected = [0, 0, 1, 1, 1, 2, 2, 3];
    for ((cpu, vcpu), flushes) in turns.into_iter().zip(expected) {
        w.on(cpu).done(VcpuLoad, &[vm.handle, vcpu as u64]);
        w.machine().run_vcpu(cpu, vmid, vcpu);
        w.done(VcpuPut, &[]);
        assert_eq!(w.machine().invalidations().vcpu, flushes, "CPU {cpu} vCPU {vcpu}");
    }
}

#[test]
fn a_cpu_beyond_those_remembered_flushes_at_every_load() {
    let mut w = World::new();
    let vm = w.vm_of(1);
    for (cpu, per_load) in [(7, 0), (8, 1)] {
        w.cpus[0] = CpuLocal::new(cpu);
        let before = w.machine().invalidations().vcpu;
        for n in 1..=2 {
            w.done(VcpuLoad, &[vm.handle, 0]);
            w.done(VcpuPut, &[]);
            assert_eq!(w.machine().invalidations().vcpu - before, n * per_load, "CPU {cpu}");
        }
    }
}

#[test]
fn a_memcache_has_an_end() {
    let mut w = World::new();
    w.vm();
    for n in 1..=32 {
        let page = w.page();
        assert_eq!(w.call(MemcacheTopup, &[page]), Ret { x1: n, ..Ret::default() });
    }
    let page = w.page();
    w.refuse(Busy, MemcacheTopup, &[page]);
    assert!(w.is_hosts_own(page));
}

#[test]
fn a_whole_life_gives_every_page_back() {
    let mut w = World::new();
    let vm = w.vm_of(2);
    w.done(InitVcpu, &[vm.handle, 1, vm.run]);
    w.done(VcpuLoad, &[vm.handle, 0]);
    let (first, second) = (w.next, w.next + 5);
    w.topup(5);
    w.share(GUEST, Prot::RWX);
    w.share(GUEST + 1, Prot::RWX);
    w.done(VcpuPut, &[]);
    w.done(VcpuLoad, &[vm.handle, 1]);
    assert_eq!(second + 2, w.next);
    w.topup(1);
    w.done(VcpuPut, &[]);
    w.refuse(Invalid, ReclaimVmPage, &[vm.handle]);
    w.refuse(Invalid, FinalizeTeardownVm, &[vm.handle]);
    w.done(StartTeardownVm, &[vm.handle]);

    let busy = |x2, x3| Ret { x1: Busy.code(), x2, x3, x4: 0, x5: 0 };
    let before = w.all();
    assert_eq!(w.call(FinalizeTeardownVm, &[vm.handle]), busy(2, 6));
    assert_eq!(w.all(), before);
    // Memcaches first come back; tables in use do not.
    let mut back = vec![];
    for _ in 0..4 {
        back.push(w.ok(ReclaimVmPage, &[vm.handle]));
    }
    w.refuse(NotFound, ReclaimVmPage, &[vm.handle]);
    assert_eq!(w.call(FinalizeTeardownVm, &[vm.handle]), busy(2, 2));
    w.done(UnshareGuest, &[vm.handle, GUEST, 1]);
    assert_eq!(w.call(FinalizeTeardownVm, &[vm.handle]), busy(1, 2));
    w.done(UnshareGuest, &[vm.handle, GUEST + 1, 1]);
    assert_eq!(w.call(FinalizeTeardownVm, &[vm.handle]), busy(0, 2));
    for _ in 0..2 {
        back.push(w.ok(ReclaimVmPage, &[vm.handle]));
    }
    back.sort_unstable();
    let given: Vec<_> = (first..first + 5).chain([second + 2]).collect();
    assert_eq!(back, given);
    for page in &back {
        assert!(w.machine().is_zero(pfn(*page)) && w.machine().is_clean(pfn(*page)), "{page:#x}");
        assert!(w.is_hosts_own(*page));
    }
    let flushes = w.machine().invalidations().vmid;
    w.done(FinalizeTeardownVm, &[vm.handle]);
    assert_eq!(w.machine().invalidations().vmid, flushes + 1);
    for root in [vm.root, vm.root + 1] {
        assert!(w.machine().is_zero(pfn(root)) && w.machine().is_clean(pfn(root)));
    }
    w.refuse(Invalid, FinalizeTeardownVm, &[vm.handle]);
    w.refuse(Invalid, UnreserveVm, &[vm.handle]);
    w.refuse(Invalid, VmStats, &[vm.handle]);
    w.done(Hypercall::UnshareHyp, &[vm.run]);
    w.assert_all_is_the_hosts();
    assert_eq!(w.call(Hypercall::Features, &[]).x4, BOOT_TABLES + 1, "the small region's");
}

#[test]
fn many_lives_leave_nothing_behind() {
    let mut w = World::new();
    let mut handles = vec![];
    for _ in 0..if cfg!(miri) { 2 } else { 100 } {
        w.next = HOST;
        let vm = w.vm();
        w.topup(2);
        w.share(GUEST, Prot::RW);
        w.end(vm, &[GUEST]);
        assert!(!handles.contains(&vm.handle));
        handles.push(vm.handle);
        assert!((HOST..w.next).all(|n| w.is_hosts_own(n)));
    }
    w.assert_all_is_the_hosts();
}

#[test]
fn a_half_built_vm_can_be_ended() {
    let mut w = World::new();
    let h = w.ok(ReserveVm, &[]);
    w.done(InitVm, &[h, 8, HOST, 0]);
    w.done(StartTeardownVm, &[h]);
    w.refuse(NotFound, ReclaimVmPage, &[h]);
    w.done(FinalizeTeardownVm, &[h]);
    w.assert_all_is_the_hosts();
    let next = w.ok(ReserveVm, &[]);
    assert_eq!(next & 0xff, h & 0xff, "the slot is used again");
    assert_ne!(next, h);
}

#[test]
fn vms_have_vmids_of_their_own() {
    let mut w = World::new();
    let (a, b) = (w.vm_of(1), w.vm_of(1));
    assert_eq!(w.regime(a.handle).vmid, Vmid::new(1));
    assert_eq!(w.regime(b.handle).vmid, Vmid::new(2));
}
