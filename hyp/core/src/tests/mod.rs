//! The core against the fake machine: every call, every refusal, whole lives of VMs.

mod cpus;
mod exits;
mod guest;
mod host;
mod life;
mod observe;
mod pages;
mod run;

use hyp_abi::{Gfn, Handle, Hypercall, Ipa, PAGE_SIZE, Pfn, Prot, Refusal, Ret, Vmid};
use hyp_s2::{TablePfn, Tlb};

use crate::fake::{Access, FakeMachine, Fault, Snapshot, become_cpu};
use crate::hyp::{Config, CpuLocal, Gic, HostAbort, Hyp, Outcome};
use crate::machine::Frames;
use crate::memmap::{MemMap, PageRange};
use crate::owner::Word;
use crate::sysreg::{self, ID_REGISTERS};

/// EL2's memory: 16 pages at the start of the first RAM region, the last 12 its pool.
const EL2: u64 = 0x40000;
const EL2_END: u64 = EL2 + 16;
const POOL: u64 = 12;
/// The first of two adjacent 2 MiB of the host's own memory in the first RAM region.
const HOST: u64 = 0x40200;
/// A second, small RAM region: 16 pages.
const SMALL: u64 = 0x40c00;
/// A third, smaller still, in 2 MiB of its own.
const TINY: u64 = 0x41400;
/// Device pages that are EL2's.
const GICH: u64 = 0x8030;
const GICV: u64 = 0x8040;
/// Where guests have their RAM.
const GUEST: u64 = 0x40000;
/// First page number beyond a guest's 40 bits.
const BEYOND: u64 = 1 << 28;
/// The virtual timer's INTID.
const VTIMER: u32 = 27;
/// Tables in use after boot: two roots, and two each below them for EL2's memory and its devices.
const BOOT_TABLES: u64 = 6;

/// Numbers that no page has, and numbers that look like one.
const HOSTILE: [u64; 5] = [u64::MAX, 1 << 63, 1 << 52 | HOST, 1 << 36 | HOST, 1 << 36];

fn pfn(n: u64) -> Pfn {
    Pfn::new(n).unwrap()
}

fn range(start: u64, pages: u64) -> PageRange {
    PageRange::of(pfn(start), pages).unwrap()
}

/// A machine with EL2 on it, and two CPUs of the host.
struct World {
    hyp: Hyp<FakeMachine>,
    cpus: [CpuLocal; 2],
    on: usize,
    /// Where the next page for whatever is taken from.
    next: u64,
}

/// A VM with vCPU 0 loaded.
#[derive(Clone, Copy)]
struct TestVm {
    handle: u64,
    root: u64,
    run: u64,
}

/// Everything that a refusal must leave as it was.
#[derive(PartialEq, Eq, Debug)]
struct All(Snapshot, String);

fn memmap() -> MemMap {
    MemMap::new([range(EL2, 0x600), range(SMALL, 16), range(TINY, 2)]).unwrap()
}

fn config<'a>(pool: &'a [PageRange], owned: &'a [PageRange]) -> Config<'a> {
    static DEVICES: std::sync::OnceLock<[PageRange; 2]> = std::sync::OnceLock::new();
    let mut id_values = [0; ID_REGISTERS.len()];
    for (enc, value) in ID_REGISTERS.iter().zip(&mut id_values) {
        *value = match *enc {
            sysreg::ID_AA64PFR0_EL1 => 0x11,
            sysreg::ID_AA64MMFR0_EL1 => 5,
            _ => 0,
        };
    }
    Config {
        memmap: memmap(),
        el2_owned: owned,
        private_devices: DEVICES.get_or_init(|| [range(GICH, 1), range(GICV, 2)]),
        host_root: TablePfn::new(pfn(EL2)),
        host_ipa_bits: 40,
        guest_ipa_bits: 40,
        pool,
        gic: Gic::V2 { gicv: Some(pfn(GICV)) },
        nr_lrs: 4,
        lr_priority_bits: 5,
        vtimer_intid: VTIMER,
        id_values,
    }
}

impl World {
    fn new() -> Self {
        Self::with_pool(POOL)
    }
    fn with_pool(pages: u64) -> Self {
        Self::with(pages, |_| {})
    }
    fn with(pool: u64, change: impl FnOnce(&mut Config<'_>)) -> Self {
        let (pool, owned) = ([range(EL2 + 4, pool)], [range(EL2, 16)]);
        let mut config = config(&pool, &owned);
        change(&mut config);
        let machine = FakeMachine::new(&config.memmap, 2);
        let hyp = Hyp::new(machine, config).unwrap();
        hyp.machine().watch(hyp.host_regime(), hyp.host_geometry());
        Self { hyp, cpus: [CpuLocal::new(0), CpuLocal::new(1)], on: 0, next: HOST }
    }
    fn machine(&self) -> &FakeMachine {
        self.hyp.machine()
    }
    /// Goes on as another CPU.
    fn on(&mut self, cpu: usize) -> &mut Self {
        self.on = cpu;
        become_cpu(cpu);
        self
    }
    fn cpu(&mut self) -> &mut CpuLocal {
        &mut self.cpus[self.on]
    }
    /// A page of the host's that nothing has used yet.
    fn page(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
    fn outcome(&mut self, call: Hypercall, args: &[u64]) -> Outcome {
        let mut regs = [call.function_id(), 0, 0, 0, 0];
        regs[1..=args.len()].copy_from_slice(args);
        let outcome = self.hyp.hypercall(&mut self.cpus[self.on], regs);
        self.machine().settle();
        outcome
    }
    fn call(&mut self, call: Hypercall, args: &[u64]) -> Ret {
        match self.outcome(call, args) {
            Outcome::Ret(ret) => ret,
            other => panic!("{call:?} is {other:?}"),
        }
    }
    /// Calls, expects no refusal, returns x1.
    fn ok(&mut self, call: Hypercall, args: &[u64]) -> u64 {
        let ret = self.call(call, args);
        assert!(ret.x1 >= 0, "{call:?} {args:x?}: {:?}", Refusal::from_code(ret.x1));
        ret.x1 as u64
    }
    /// Calls, expects x1 = 0 and nothing else.
    fn done(&mut self, call: Hypercall, args: &[u64]) {
        assert_eq!(self.call(call, args), Ret::default(), "{call:?} {args:x?}");
    }
    /// Calls, expects this refusal and no other change anywhere.
    fn refuse(&mut self, why: Refusal, call: Hypercall, args: &[u64]) {
        let before = self.all();
        let refused = Ret { x1: why.code(), ..Ret::default() };
        assert_eq!(self.call(call, args), refused, "{call:?} {args:x?}");
        assert_eq!(self.all(), before, "refused {call:?} {args:x?}");
    }
    fn all(&mut self) -> All {
        if cfg!(miri) {
            // Miri looks for undefined behaviour, and would write out every object for minutes.
            return All(self.machine().snapshot(), String::new());
        }
        let mut text = format!("{:?}", *self.hyp.host.lock(&mut CpuLocal::new(9).locks).0);
        for slot in &self.hyp.slots {
            text += &format!("{:?}", *slot.lock(&mut CpuLocal::new(9).locks).0);
        }
        All(self.machine().snapshot(), text + &format!("{:?}", self.cpus))
    }
    /// The metadata of a page.
    fn word(&self, n: u64) -> Word {
        self.hyp.pages().word(pfn(n)).unwrap()
    }
    fn set_word(&self, n: u64, word: Word) {
        self.hyp.pages().set_word(pfn(n), word);
    }
    fn is_hosts_own(&self, n: u64) -> bool {
        self.word(n) == Word::default()
    }

    /// The host's CPU accesses a page; a stage-2 fault is EL2's to answer.
    fn host_access(&mut self, n: u64, kind: Access) -> Result<(), HostAbort> {
        for _ in 0..2 {
            let ipa = Ipa::new(n * PAGE_SIZE).unwrap();
            match self.machine().access(self.on, Vmid::HOST, ipa, kind) {
                Ok(pa) => {
                    assert_eq!(pa.raw(), n * PAGE_SIZE, "the host's map is the identity");
                    return Ok(());
                }
                Err(_) => {
                    let answer = self.hyp.host_abort(&mut self.cpus[self.on], ipa);
                    self.machine().settle();
                    if answer == HostAbort::Inject {
                        return Err(answer);
                    }
                }
            }
        }
        panic!("page {n:#x} was answered with retry and faults again");
    }
    fn host_reaches(&mut self, n: u64) -> bool {
        self.host_access(n, Access::Write).is_ok()
    }

    /// A VM with one vCPU of `vcpus`, not loaded.
    fn vm_of(&mut self, vcpus: u64) -> TestVm {
        let handle = self.ok(Hypercall::ReserveVm, &[]);
        self.next = self.next.next_multiple_of(2);
        let (root, _, run) = (self.page(), self.page(), self.page());
        self.done(Hypercall::InitVm, &[handle, vcpus, root, 0]);
        let regime = self.regime(handle);
        self.machine().watch(regime, self.hyp.guest_geometry());
        self.done(Hypercall::ShareHyp, &[run]);
        self.done(Hypercall::InitVcpu, &[handle, 0, run]);
        TestVm { handle, root, run }
    }
    /// A VM with its only vCPU loaded here.
    fn vm(&mut self) -> TestVm {
        let vm = self.vm_of(1);
        self.done(Hypercall::VcpuLoad, &[vm.handle, 0]);
        vm
    }
    fn regime(&mut self, handle: u64) -> hyp_s2::Regime {
        let handle = Handle::from_raw(handle);
        let slot = &self.hyp.slots[handle.index()];
        let (mut slot, _) = slot.lock(&mut self.cpus[self.on].locks);
        slot.vm(handle).unwrap().map.regime()
    }
    fn topup(&mut self, pages: u64) {
        for _ in 0..pages {
            let page = self.page();
            self.ok(Hypercall::MemcacheTopup, &[page]);
        }
    }
    /// Shares a fresh page at `gfn` with the loaded vCPU's VM.
    fn share(&mut self, gfn: u64, prot: Prot) -> u64 {
        let page = self.page();
        self.done(Hypercall::ShareGuest, &[page, gfn, 1, prot.bits()]);
        page
    }
    /// What the guest's CPU makes of an access.
    fn guest_access(&mut self, vm: TestVm, gfn: u64, kind: Access) -> Result<u64, Fault> {
        let vmid = self.regime(vm.handle).vmid;
        let ipa = Gfn::new(gfn).unwrap().ipa();
        self.machine().access(self.on, vmid, ipa, kind).map(|pa| pa.frame().raw())
    }
    /// Puts, tears down, takes every page back; checks that all is the host's again.
    fn end(&mut self, vm: TestVm, gfns: &[u64]) {
        if self.cpu().loaded.is_some() {
            self.done(Hypercall::VcpuPut, &[]);
        }
        for gfn in gfns {
            self.done(Hypercall::UnshareGuest, &[vm.handle, *gfn, 1]);
        }
        self.done(Hypercall::StartTeardownVm, &[vm.handle]);
        while self.call(Hypercall::ReclaimVmPage, &[vm.handle]).x1 >= 0 {}
        self.done(Hypercall::FinalizeTeardownVm, &[vm.handle]);
        self.done(Hypercall::UnshareHyp, &[vm.run]);
    }
    /// Every page but EL2's is exclusively the host's, by a walk over the table, and can be touched.
    fn assert_all_is_the_hosts(&mut self) {
        for n in (EL2_END..EL2 + 0x600).chain(SMALL..SMALL + 16).chain([TINY, TINY + 1]) {
            assert!(self.is_hosts_own(n), "{n:#x}: {:?}", self.word(n));
        }
        for n in [EL2_END, HOST, self.next - 1, SMALL] {
            assert!(self.host_reaches(n), "{n:#x}");
        }
        assert!(!self.host_reaches(EL2_END - 1));
    }
    fn read(&self, page: u64, word: usize) -> u64 {
        self.machine().read(pfn(page), word)
    }
}

#[test]
fn unknown_numbers_are_not_supported_and_change_nothing() {
    let mut w = World::new();
    let before = w.all();
    for x0 in [0, 1, 0x8400_0000, 0xc600_0000, 0xc600_0008, 0xc600_005d, u64::MAX, 1 << 63] {
        let regs = [x0, HOST, HOST, 1, 15];
        assert_eq!(w.hyp.hypercall(&mut w.cpus[0], regs), Outcome::NotSupported, "{x0:#x}");
    }
    assert_eq!(w.all(), before);
}

#[test]
fn the_upper_half_of_the_function_id_does_not_count() {
    let mut w = World::new();
    let regs = [Hypercall::Version.function_id() | 0xffff_ffff << 32, 0, 0, 0, 0];
    let version = Outcome::Ret(Ret { x1: 1, ..Ret::default() });
    assert_eq!(w.hyp.hypercall(&mut w.cpus[0], regs), version);
}

#[test]
fn features_tell_what_this_machine_has() {
    let mut w = World::new();
    let ret = w.call(Hypercall::Features, &[]);
    assert_eq!(ret, Ret { x1: 1, x2: 40, x3: 4, x4: BOOT_TABLES, x5: 0 });
    let mut w = World::with(POOL, |c| {
        c.gic = Gic::V3;
        c.nr_lrs = 16;
        c.guest_ipa_bits = 39;
    });
    let ret = w.call(Hypercall::Features, &[]);
    assert_eq!(ret, Ret { x1: 2, x2: 39, x3: 16, x4: BOOT_TABLES, x5: 0 });
}

#[test]
fn every_call_with_hostile_arguments_is_refused_and_changes_nothing() {
    use Hypercall::{AuditHost, Features, ReserveVm, VcpuPut, VcpuSyncState, Version};
    let mut w = World::new();
    let vm = w.vm();
    let before = w.all();
    for call in Hypercall::ALL {
        if matches!(call, Version | Features | ReserveVm | AuditHost | VcpuPut | VcpuSyncState)
            || *call == Hypercall::VcpuRun
        {
            continue;
        }
        for bad in [u64::MAX, 1 << 63] {
            let ret = w.call(*call, &[bad, bad, bad, bad]);
            assert!(Refusal::from_code(ret.x1).is_some(), "{call:?}: {ret:?}");
            assert_eq!(w.all(), before, "{call:?}");
        }
    }
    w.end(vm, &[]);
}
