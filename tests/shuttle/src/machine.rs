//! Four CPUs with EL2 on them, and a host on each that calls it.

use std::sync::Arc;

use hyp_abi::{Gfn, Handle, Hypercall, Ipa, PageState, Pfn, Prot, Ret, Vmid};
use hyp_core::fake::{Access, FakeMachine, become_cpu};
use hyp_core::hyp::{Config, CpuLocal, Gic, HostAbort, Hyp, Outcome};
use hyp_core::memmap::{MemMap, PageRange};
use hyp_core::sysreg::ID_REGISTERS;
use hyp_model::{Call, Map, Page, State, World};
use hyp_s2::{Regime, TablePfn};

use crate::history::History;

/// How many CPUs there are.
pub const CPUS: usize = 4;
/// RAM: EL2's part first, then the host's.
const RAM: (u64, u64) = (0x40000, 96);
const EL2_PAGES: u64 = 16;

fn pfn(n: u64) -> Pfn {
    Pfn::new(n).expect("a frame")
}

/// EL2 on the fake machine, what was asked of it, and the specification at the start.
#[derive(Debug)]
pub struct Machine {
    hyp: Hyp<FakeMachine>,
    start: State,
    history: History,
}

/// A CPU of the host's.
pub struct Cpu {
    machine: Arc<Machine>,
    local: CpuLocal,
}

impl Machine {
    /// A machine as it is when the host begins.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let range = |first, n| PageRange::of(pfn(first), n).expect("a range");
        let memmap = MemMap::new([range(RAM.0, RAM.1)]).expect("a memory map");
        let machine = FakeMachine::new(&memmap, CPUS);
        let owned = range(RAM.0, EL2_PAGES);
        let config = Config {
            memmap,
            el2_owned: &[owned],
            private_devices: &[],
            host_root: TablePfn::new(pfn(RAM.0)),
            host_ipa_bits: 40,
            guest_ipa_bits: 40,
            pool: &[range(RAM.0 + 2, EL2_PAGES - 2)],
            gic: Gic::V3,
            nr_lrs: 4,
            lr_priority_bits: 5,
            id_values: [0; ID_REGISTERS.len()],
            vtimer_intid: 27,
        };
        let hyp = Hyp::new(machine, config).expect("a hypervisor");
        hyp.machine().watch(hyp.host_regime(), hyp.host_geometry());
        let world = World {
            ram: vec![(pfn(RAM.0), RAM.1)],
            private: vec![],
            host_pages: 1 << 28,
            guest_pages: 1 << 28,
            gicv: None,
            cpus: CPUS,
            memcache: 32,
        };
        let start = State::boot(world, owned.iter());
        Arc::new(Self { hyp, start, history: History::default() })
    }

    /// One CPU more, which this thread becomes when it calls.
    #[must_use]
    pub fn cpu(self: &Arc<Self>, number: usize) -> Cpu {
        Cpu { machine: Arc::clone(self), local: CpuLocal::new(number) }
    }

    /// Page `n` of the host's.
    #[must_use]
    pub fn page(n: u64) -> u64 {
        RAM.0 + EL2_PAGES + n
    }

    /// All is over: some order of the calls explains the answers, and leads to what is there now.
    ///
    /// # Panics
    /// It does not, or the fake machine saw a rule of the architecture broken.
    pub fn judge(self: &Arc<Self>) -> State {
        let machine = self.hyp.machine();
        machine.settle();
        assert_eq!(machine.take_violations(), [""; 0]);
        let state = self.history.explain(&self.start);
        let mut cpu = self.cpu(0);
        for n in RAM.0..RAM.0 + RAM.1 {
            assert_eq!(cpu.audit(n), state.page(pfn(n)), "page {n:#x}: found, expected");
        }
        for vm in state.slots.iter().flatten().filter(|vm| vm.root.is_some()) {
            let expected: Vec<_> = vm.maps.iter().map(|(gfn, map)| (*gfn, *map)).collect();
            assert_eq!(cpu.maps(vm.handle), expected, "{:?}: found, expected", vm.handle);
        }
        state
    }
}

impl Cpu {
    fn outcome(&mut self, call: Hypercall, args: &[u64]) -> Outcome {
        become_cpu(self.local.cpu());
        let mut regs = [call.function_id(), 0, 0, 0, 0];
        regs[1..=args.len()].copy_from_slice(args);
        let begun = self.machine.history.now();
        let outcome = self.machine.hyp.hypercall(&mut self.local, regs);
        self.machine.history.note(begun, Call { cpu: self.local.cpu(), regs, entry: 0 }, outcome);
        outcome
    }

    /// Calls EL2; x1.
    ///
    /// # Panics
    /// It is no call that returns.
    pub fn call(&mut self, call: Hypercall, args: &[u64]) -> i64 {
        match self.outcome(call, args) {
            Outcome::Ret(ret) => ret.x1,
            other => panic!("{call:?} is {other:?}"),
        }
    }

    /// Calls EL2, which must not refuse; x1.
    ///
    /// # Panics
    /// It refuses.
    pub fn ok(&mut self, call: Hypercall, args: &[u64]) -> u64 {
        let x1 = self.call(call, args);
        u64::try_from(x1).unwrap_or_else(|_| panic!("{call:?} {args:x?}: {x1}"))
    }

    /// Runs the loaded vCPU; whether EL2 let it.
    pub fn run(&mut self) -> bool {
        self.outcome(Hypercall::VcpuRun, &[]) == Outcome::Run
    }

    /// A VM with `vcpus` vCPUs, whose pages begin with page `first` of the host's; its handle.
    pub fn vm(&mut self, first: u64, vcpus: u64) -> u64 {
        let vm = self.empty_vm(first, vcpus);
        for n in 0..vcpus {
            self.ok(Hypercall::InitVcpu, &[vm, n, Machine::page(first + 2 + n)]);
        }
        vm
    }

    /// The same without vCPUs; their run pages are lent to EL2.
    pub fn empty_vm(&mut self, first: u64, vcpus: u64) -> u64 {
        let vm = self.ok(Hypercall::ReserveVm, &[]);
        self.ok(Hypercall::InitVm, &[vm, vcpus, Machine::page(first), 0]);
        let root = TablePfn::new(pfn(Machine::page(first)));
        let regime = Regime { vmid: self.vmid(vm), root };
        let Machine { hyp, .. } = &*self.machine;
        hyp.machine().watch(regime, hyp.guest_geometry());
        for n in 0..vcpus {
            self.ok(Hypercall::ShareHyp, &[Machine::page(first + 2 + n)]);
        }
        vm
    }

    fn vmid(&self, vm: u64) -> Vmid {
        let above = Handle::from_raw(vm).index() + 1;
        Vmid::new(u8::try_from(above).expect("a slot"))
    }

    /// What this CPU makes of a guest's access: the frame it reaches.
    pub fn guest(&mut self, vm: u64, gfn: u64, kind: Access) -> Option<u64> {
        let ipa = Gfn::new(gfn).expect("a page").ipa();
        let machine = self.machine.hyp.machine();
        let reached = machine.access(self.local.cpu(), self.vmid(vm), ipa, kind);
        reached.ok().map(|pa| pa.frame().raw())
    }

    /// Whether the host reaches one of its pages, with EL2's help if that answers "try again".
    pub fn host(&mut self, page: u64) -> bool {
        become_cpu(self.local.cpu());
        let ipa = Ipa::new(pfn(page).pa().raw()).expect("an address");
        let Machine { hyp, .. } = &*self.machine;
        let reached =
            || hyp.machine().access(self.local.cpu(), Vmid::HOST, ipa, Access::Write).is_ok();
        reached()
            || (hyp.host_abort(&mut self.local, ipa) == HostAbort::Retry
                && reached_again(hyp, &self.local, ipa))
    }

    fn audit(&mut self, page: u64) -> Page {
        let ret = self.reads(Hypercall::AuditHost, &[page]).expect("RAM");
        Page {
            host: PageState::from_bits(ret.x3),
            hyp: PageState::from_bits(ret.x3 >> 8),
            shares: ret.x4 as u32,
            pins: (ret.x4 >> 32) as u16,
        }
    }

    fn maps(&mut self, vm: Handle) -> Vec<(Gfn, Map)> {
        let (mut maps, mut from) = (vec![], 0);
        while let Some(ret) = self.reads(Hypercall::AuditVm, &[vm.raw(), from]) {
            for n in 0..ret.x1 as u64 {
                let prot = Prot::from_bits(ret.x4 & 0xf).expect("rights");
                let (young, device) = (ret.x4 >> 16 & 1 == 1, ret.x4 >> 17 & 1 == 1);
                let map = Map { pfn: pfn(ret.x3 + n), prot, young, device };
                maps.push((Gfn::new(ret.x2 + n).expect("a page"), map));
            }
            from = ret.x5;
        }
        maps
    }

    /// A call that only reads, and is no part of the history.
    fn reads(&mut self, call: Hypercall, args: &[u64]) -> Option<Ret> {
        let mut regs = [call.function_id(), 0, 0, 0, 0];
        regs[1..=args.len()].copy_from_slice(args);
        match self.machine.hyp.hypercall(&mut self.local, regs) {
            Outcome::Ret(ret) if ret.x1 >= 0 => Some(ret),
            _ => None,
        }
    }
}

fn reached_again(hyp: &Hyp<FakeMachine>, cpu: &CpuLocal, ipa: Ipa) -> bool {
    hyp.machine().access(cpu.cpu(), Vmid::HOST, ipa, Access::Write).is_ok()
}
