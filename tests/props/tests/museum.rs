//! What went wrong in other hypervisors of this kind, tried on this one: the rows of docs/museum.md
//! that no other test covers. Each call is compared with the specification by the rig.

use hyp_abi::hcall::{MAX_VCPUS, MAX_VMS};
use hyp_abi::run::{self, Exit, entry, exit_flags, vgic_hcr};
use hyp_abi::{Handle, Hypercall as H, Ipa, PAGE_SIZE, Pfn, Refusal, Ret, Vmid, lr};
use hyp_core::cpu::ExitKind;
use hyp_core::fake::Access;
use hyp_core::{GuestNext, RawExit};
use props::{Rig, Rng};

use Refusal::{Busy, Invalid, NotFound, NotPermitted, OutOfRange};

/// Where guests have their RAM.
const GUEST: u64 = 0x40000;
const RWX: u64 = 15;

/// The host: calls from one CPU at a time, and pages that nothing has used yet.
struct Host {
    rig: Rig,
    on: usize,
    next: u64,
}

/// A VM whose vCPU 0 exists.
#[derive(Clone, Copy)]
struct Vm {
    handle: u64,
    run: u64,
}

impl Host {
    fn new() -> Self {
        Self { rig: Rig::new(), on: 0, next: 0x40000 }
    }
    /// With a VM of three vCPUs, the first loaded, and tables for the gfns in play.
    fn with_vm() -> (Self, Vm) {
        let mut host = Self::new();
        let vm = host.vm(3);
        host.done(H::VcpuLoad, &[vm.handle, 0]);
        host.topup(4);
        (host, vm)
    }
    fn pages(&mut self, nr: u64) -> u64 {
        self.next += nr;
        self.next - nr
    }
    fn call(&mut self, call: H, args: &[u64]) -> Ret {
        let mut regs = [call.function_id(), 0, 0, 0, 0];
        regs[1..=args.len()].copy_from_slice(args);
        self.rig.call(self.on, regs).expect("an answer")
    }
    /// x1 of a call that is no refusal.
    fn ok(&mut self, call: H, args: &[u64]) -> u64 {
        let x1 = self.call(call, args).x1;
        assert!(x1 >= 0, "{call:?} {args:x?}: {:?}", Refusal::from_code(x1));
        x1 as u64
    }
    fn done(&mut self, call: H, args: &[u64]) {
        assert_eq!(self.ok(call, args), 0, "{call:?} {args:x?}");
    }
    /// The rig sees to it that a refusal changes nothing.
    fn refuse(&mut self, why: Refusal, call: H, args: &[u64]) {
        let found = Refusal::from_code(self.call(call, args).x1);
        assert_eq!(found, Some(why), "{call:?} {args:x?}");
    }
    fn vm(&mut self, vcpus: u64) -> Vm {
        let handle = self.ok(H::ReserveVm, &[]);
        self.next = self.next.next_multiple_of(2);
        let (root, run) = (self.pages(2), self.pages(1));
        self.done(H::InitVm, &[handle, vcpus, root, 0]);
        self.done(H::ShareHyp, &[run]);
        self.done(H::InitVcpu, &[handle, 0, run]);
        Vm { handle, run }
    }
    fn topup(&mut self, nr: u64) {
        for _ in 0..nr {
            let page = self.pages(1);
            self.ok(H::MemcacheTopup, &[page]);
        }
    }
    fn share(&mut self, gfn: u64) -> u64 {
        let page = self.pages(1);
        self.done(H::ShareGuest, &[page, gfn, 1, RWX]);
        page
    }
    /// Ends a VM that nothing is mapped in any more.
    fn end(&mut self, vm: Vm) {
        self.done(H::StartTeardownVm, &[vm.handle]);
        while self.call(H::ReclaimVmPage, &[vm.handle]).x1 >= 0 {}
        self.done(H::FinalizeTeardownVm, &[vm.handle]);
        self.done(H::UnshareHyp, &[vm.run]);
    }
    fn pins(&mut self, page: u64) -> u64 {
        self.call(H::AuditHost, &[page]).x4 >> 32
    }
    fn poke(&self, page: u64, word: usize, value: u64) {
        self.rig.hyp().machine().poke(Pfn::new(page).expect("a frame"), word, value);
    }
}

/// pKVM's ownership self-test: one frame in each state, and all that a host can do with it.
#[test]
fn the_ownership_self_test_table_holds_call_by_call() {
    const P: i64 = NotPermitted as i64;
    const N: i64 = NotFound as i64;
    const B: i64 = Busy as i64;
    const G0: u64 = GUEST;
    const G1: u64 = GUEST + 1;
    type Setup = fn(&mut Host, Vm, u64);
    let given: Setup = |h, _, p| assert_eq!(h.ok(H::MemcacheTopup, &[p]), 5);
    let lent: Setup = |h, _, p| h.done(H::ShareHyp, &[p]);
    let pinned: Setup = |h, vm, p| {
        h.done(H::ShareHyp, &[p]);
        h.done(H::InitVcpu, &[vm.handle, 2, p]);
    };
    let one: Setup = |h, _, p| h.done(H::ShareGuest, &[p, G0, 1, RWX]);
    let two: Setup = |h, _, p| {
        h.done(H::ShareGuest, &[p, G0, 1, RWX]);
        h.done(H::ShareGuest, &[p, G1, 1, RWX]);
    };
    let back: Setup = |h, vm, p| {
        h.done(H::ShareGuest, &[p, G0, 1, RWX]);
        h.done(H::UnshareGuest, &[vm.handle, G0, 1]);
        h.done(H::ShareHyp, &[p]);
        h.done(H::UnshareHyp, &[p]);
    };
    // donate_hyp, share_hyp, unshare_hyp, pin, share g0, share g1, unshare g0.
    let rows: [(&str, Setup, [i64; 7]); 7] = [
        ("the host's", |_, _, _| (), [0, 0, P, P, 0, 0, N]),
        ("EL2's", given, [P, P, P, P, P, P, N]),
        ("lent to EL2", lent, [P, P, 0, 0, P, P, N]),
        ("lent to EL2 and pinned", pinned, [P, P, B, 0, P, P, N]),
        ("at one gfn", one, [P, P, P, P, P, 0, 0]),
        ("at two gfns", two, [P, P, P, P, P, P, 0]),
        ("the host's again", back, [0, 0, P, P, 0, 0, N]),
    ];
    for (state, setup, codes) in rows {
        for (column, code) in codes.into_iter().enumerate() {
            let (mut host, vm) = Host::with_vm();
            let page = host.pages(1);
            setup(&mut host, vm, page);
            let (call, args): (H, &[u64]) = match column {
                0 => (H::MemcacheTopup, &[page]),
                1 => (H::ShareHyp, &[page]),
                2 => (H::UnshareHyp, &[page]),
                3 => (H::InitVcpu, &[vm.handle, 1, page]),
                4 => (H::ShareGuest, &[page, G0, 1, RWX]),
                5 => (H::ShareGuest, &[page, G1, 1, RWX]),
                _ => (H::UnshareGuest, &[vm.handle, G0, 1]),
            };
            assert_eq!(host.call(call, args).x1.min(0), code, "{call:?} of a page that is {state}");
            if !cfg!(miri) {
                host.rig.compare();
            }
        }
    }
}

#[test]
fn a_page_number_with_a_high_bit_set_is_never_the_page_below() {
    let (mut host, vm) = Host::with_vm();
    host.share(GUEST);
    let page = host.pages(1);
    for bit in 36..64 {
        let (pfn, gfn) = (page | 1 << bit, GUEST | 1 << bit);
        for call in [H::ShareHyp, H::UnshareHyp, H::MemcacheTopup] {
            host.refuse(Invalid, call, &[pfn]);
        }
        host.refuse(Invalid, H::ShareGuest, &[pfn, GUEST + 1, 1, RWX]);
        host.refuse(Invalid, H::InitVcpu, &[vm.handle, 1, vm.run | 1 << bit]);
        host.refuse(OutOfRange, H::ShareGuest, &[page, gfn + 1, 1, RWX]);
        host.refuse(OutOfRange, H::RelaxPerms, &[gfn, RWX]);
        host.refuse(OutOfRange, H::Mkyoung, &[gfn]);
        host.refuse(OutOfRange, H::MapGicv, &[gfn + 1]);
        for call in [H::UnshareGuest, H::Wrprotect, H::TestClearYoung, H::UnmapGicv] {
            host.refuse(OutOfRange, call, &[vm.handle, gfn, 1, 1]);
        }
    }
    host.rig.compare();
}

#[test]
fn what_a_dead_vm_left_behind_is_out_of_reach_of_its_successor() {
    let (mut host, old) = Host::with_vm();
    host.share(GUEST);
    host.done(H::VcpuPut, &[]);
    host.done(H::StartTeardownVm, &[old.handle]);
    while host.call(H::ReclaimVmPage, &[old.handle]).x1 >= 0 {}
    // Nothing may be left: neither pages nor tables.
    for _ in 0..2 {
        let left = host.call(H::FinalizeTeardownVm, &[old.handle]);
        assert_eq!((left.x1, left.x2, left.x3), (Busy.code(), 1, 2));
    }
    let beside = host.ok(H::ReserveVm, &[]);
    assert_ne!(Handle::from_raw(beside).index(), Handle::from_raw(old.handle).index());
    host.done(H::UnreserveVm, &[beside]);
    host.done(H::UnshareGuest, &[old.handle, GUEST, 1]);
    while host.call(H::ReclaimVmPage, &[old.handle]).x1 >= 0 {}
    host.done(H::FinalizeTeardownVm, &[old.handle]);

    let new = host.vm(1);
    assert_eq!(Handle::from_raw(new.handle).index(), Handle::from_raw(old.handle).index());
    host.done(H::VcpuLoad, &[new.handle, 0]);
    host.topup(2);
    host.share(GUEST);
    for call in [
        H::UnshareGuest,
        H::Wrprotect,
        H::TestClearYoung,
        H::TlbFlushVmid,
        H::UnmapGicv,
        H::AuditVm,
        H::VmStats,
        H::InitVm,
        H::InitVcpu,
        H::UnreserveVm,
        H::StartTeardownVm,
        H::ReclaimVmPage,
        H::FinalizeTeardownVm,
    ] {
        host.refuse(Invalid, call, &[old.handle, GUEST, 1, 1]);
    }
    host.rig.compare();
    host.done(H::VcpuPut, &[]);
    host.refuse(Invalid, H::VcpuLoad, &[old.handle, 0]);
}

#[test]
fn every_vcpu_there_can_be_pins_one_page_and_each_gives_its_pin_back() {
    let mut host = Host::new();
    let run = host.pages(2);
    host.done(H::ShareHyp, &[run]);
    let vms = if cfg!(miri) { 2 } else { MAX_VMS };
    let mut handles = vec![];
    for _ in 0..vms {
        let (handle, root) = (host.ok(H::ReserveVm, &[]), host.pages(2));
        host.done(H::InitVm, &[handle, MAX_VCPUS as u64, root, 0]);
        for idx in 0..MAX_VCPUS as u64 {
            host.done(H::InitVcpu, &[handle, idx, run]);
            host.refuse(Invalid, H::InitVcpu, &[handle, idx, run]);
        }
        handles.push(handle);
    }
    assert_eq!(host.pins(run), (vms * MAX_VCPUS) as u64);
    for handle in handles {
        host.refuse(Busy, H::UnshareHyp, &[run]);
        host.done(H::StartTeardownVm, &[handle]);
        host.done(H::FinalizeTeardownVm, &[handle]);
    }
    assert_eq!(host.pins(run), 0);
    host.done(H::UnshareHyp, &[run]);
    host.rig.compare();
}

#[test]
fn a_vcpu_that_was_refused_leaves_no_pin_and_a_vm_that_can_be_ended() {
    let mut host = Host::new();
    let (handle, root, run) = (host.ok(H::ReserveVm, &[]), host.pages(2), host.pages(1));
    host.done(H::InitVm, &[handle, 2, root, 0]);
    host.refuse(NotPermitted, H::InitVcpu, &[handle, 0, run]);
    host.done(H::ShareHyp, &[run]);
    for (h, idx) in [(handle, 2), (handle, u64::MAX), (handle + 1, 0), (0, 0)] {
        host.refuse(Invalid, H::InitVcpu, &[h, idx, run]);
    }
    assert_eq!(host.pins(run), 0);
    host.refuse(NotFound, H::VcpuLoad, &[handle, 0]);
    host.refuse(Invalid, H::VcpuRun, &[]);
    host.refuse(Invalid, H::VcpuSyncState, &[]);
    // The other one comes to life in spite of an early load.
    host.refuse(NotFound, H::VcpuLoad, &[handle, 1]);
    host.done(H::InitVcpu, &[handle, 1, run]);
    host.done(H::VcpuLoad, &[handle, 1]);
    host.done(H::VcpuPut, &[]);
    host.done(H::StartTeardownVm, &[handle]);
    host.refuse(Invalid, H::InitVcpu, &[handle, 0, run]);
    assert_eq!(host.pins(run), 1);
    host.done(H::FinalizeTeardownVm, &[handle]);
    host.done(H::UnshareHyp, &[run]);
    host.rig.compare();
}

#[test]
fn half_a_pair_beyond_the_end_of_ram_makes_no_root() {
    // RAM of an odd number of pages: the last pair that begins in it ends outside.
    let mut host = Host { rig: Rig::with_ram([(0x40000, 0x401), (0x80000, 1)]), ..Host::new() };
    let handle = host.ok(H::ReserveVm, &[]);
    for root in [0x40400, 0x80000, 0x403fe | 1 << 28] {
        host.refuse(Refusal::NoMemory, H::InitVm, &[handle, 1, root, 0]);
    }
    host.rig.compare();
    host.done(H::InitVm, &[handle, 1, 0x403fe, 0]);
    host.rig.compare();
}

#[test]
fn a_guest_at_an_unmapped_pc_exits_with_that_address_and_costs_nothing() {
    const PC: u64 = 0xdea_d000;
    let (mut host, vm) = Host::with_vm();
    for (word, value) in
        [(run::ENTRY_FLAGS, entry::LOAD_CONTEXT), (run::CTX_PC, PC), (run::CTX_PSTATE, 0x3c5)]
    {
        host.poke(vm.run, word, value);
    }
    assert!(host.rig.run(0));
    assert_eq!(host.rig.cpu(0).context().map(|ctx| ctx.pc), Some(PC));
    let ipa = Ipa::new(PC).expect("an IPA");
    let fetch = |host: &Host| host.rig.hyp().machine().access(0, Vmid::new(1), ipa, Access::Fetch);
    assert!(fetch(&host).is_err());
    let before = host.call(H::VmStats, &[vm.handle]);
    // Instruction abort from below, 32-bit, translation fault at level 3; HPFAR_EL2 is IPA >> 8.
    let esr = 0x20 << 26 | 1 << 25 | 0x07;
    let raw = RawExit { kind: ExitKind::Sync, esr, far: PC, hpfar: PC >> 8 };
    let GuestNext::Exit(ret) = host.rig.exit(0, raw) else { panic!("the host must see to it") };
    assert_eq!((ret.x1, ret.x3, ret.x5), (Exit::Abort as i64, PC, exit_flags::FETCH));
    assert_eq!(host.call(H::VmStats, &[vm.handle]), before);
    host.rig.compare();
    host.topup(2);
    let page = host.share(PC / PAGE_SIZE);
    assert_eq!(fetch(&host).map(|pa| pa.frame().raw()), Ok(page));
}

#[test]
fn no_privilege_comes_out_of_a_run_page_whatever_stands_in_it() {
    let (mut host, vm) = Host::with_vm();
    let mut rng = Rng::new(0x64287);
    let mut accepted = 0;
    let rounds = if cfg!(miri) { 4 } else { 400 };
    // The entry words, and the whole context.
    let words = (0..run::EXIT_GPR).chain(run::CTX..run::CTX_SYSREGS + run::SYSREGS.len());
    for round in 0..rounds {
        for word in words.clone() {
            let value = match rng.below(5) {
                0 => u64::MAX,
                1 => 1 << rng.below(64),
                2 => 0xffff,
                3 => lr::STATE_PENDING | lr::HW | rng.below(64) << lr::PINTID_SHIFT | rng.below(64),
                _ => rng.bits(),
            };
            host.poke(vm.run, word, value);
        }
        if round % 2 == 0 {
            host.poke(vm.run, run::ENTRY_FLAGS, entry::LOAD_CONTEXT);
            host.poke(vm.run, run::VGIC_USED_LRS, 0xffff);
        }
        let before = *host.rig.cpu(0).context().expect("a loaded vCPU");
        let runs = host.rig.run(0);
        let ctx = *host.rig.cpu(0).context().expect("a loaded vCPU");
        if !runs {
            assert_eq!(ctx, before, "a refused run changed the vCPU");
            continue;
        }
        accepted += 1;
        assert!(matches!(ctx.pstate & 0x1f, 0 | 4 | 5), "pstate {:#x}", ctx.pstate);
        assert!(ctx.vgic.used <= 4 && ctx.vgic.hcr & !(vgic_hcr::MASK | 1) == 0);
        assert!(ctx.vgic.lr[4..].iter().all(|lr| *lr == 0));
        // A physical interrupt is linked to its own virtual one, and only the virtual timer's.
        let linked = ctx.vgic.lr.iter().filter(|reg| **reg & lr::HW != 0);
        for reg in linked.filter(|reg| **reg & lr::STATE_MASK != 0) {
            assert_eq!((reg & 0xffff_ffff, reg >> lr::PINTID_SHIFT & 0x3ff), (27, 27), "{reg:#x}");
        }
    }
    assert!(accepted >= rounds / 2, "only {accepted} ran");
    host.rig.compare();
}

#[test]
fn a_thousand_lives_of_two_vms_leave_no_page_no_pin_and_no_table_behind() {
    let mut host = Host::new();
    let mut tables = None;
    for life in 0..if cfg!(miri) { 2 } else { 1000 } {
        host.next = 0x40000;
        let vms = [host.vm(1), host.vm(2)];
        let shared = host.pages(1);
        for (cpu, vm) in vms.into_iter().enumerate() {
            host.on = cpu;
            host.done(H::VcpuLoad, &[vm.handle, 0]);
            host.topup(4);
            host.done(H::ShareGuest, &[shared, GUEST, 1, RWX]);
            host.share(GUEST + 0x200 + life);
            host.refuse(NotPermitted, H::ShareGuest, &[shared, GUEST, 1, RWX]);
            host.refuse(Invalid, H::StartTeardownVm, &[vm.handle]);
        }
        for (cpu, vm) in vms.into_iter().enumerate().rev() {
            host.on = cpu;
            host.done(H::VcpuPut, &[]);
            for gfn in [GUEST + 0x200 + life, GUEST] {
                host.done(H::UnshareGuest, &[vm.handle, gfn, 1]);
            }
            host.end(vm);
        }
        // EL2's memory splits the region; all else is one run of the host's own pages again.
        let run = host.call(H::AuditHost, &[0x40000]);
        assert_eq!((run.x1, run.x2, run.x3, run.x4), (0x200, 0x40000, 3 << 8, 0), "life {life}");
        let used = host.call(H::Features, &[]).x4;
        assert_eq!(*tables.get_or_insert(used), used, "the host's tables grew in life {life}");
    }
    host.rig.compare();
}
