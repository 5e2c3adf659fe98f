//! The host: CPUs, frames, a clock; and EL2 below.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use host_mirror::{Calls, Hypercalls};
use host_vmm::host::{Clock, Console, Frames, RunPage, RunPages};
use hyp_abi::{Handle, Hypercall, PageState, Pfn, Refusal, Ret, Vmid};
use hyp_core::board::Config;
use hyp_core::cpu::{CpuLocal, Outcome};
use hyp_core::fake::{FakeMachine, become_cpu};
use hyp_core::hyp::{Gic, Hyp};
use hyp_core::memmap::{MemMap, PageRange};
use hyp_core::sysreg::ID_REGISTERS;
use hyp_s2::{Geometry, Regime, TablePfn};

use crate::Tape;

/// CPUs of the machine.
pub const CPUS: usize = 2;
const RAM: u64 = 0x4_0000;
const EL2_PAGES: u64 = 64;
/// First of the frames that the allocator hands out.
const FRAMES: u64 = RAM + EL2_PAGES;
const GICV: u64 = 0x8040;

/// The host.
pub struct Host<'a> {
    pub hyp: Rc<Hyp<FakeMachine>>,
    pub cpu: Cell<usize>,
    cpus: [RefCell<CpuLocal>; CPUS],
    pub tape: RefCell<Tape<'a>>,
    pub now: Cell<u64>,
    frames: u64,
    used: RefCell<BTreeSet<u64>>,
    /// An allocation failed.
    short: Cell<bool>,
    /// Regimes that the fake machine knows of.
    watched: RefCell<BTreeSet<(Vmid, u64)>>,
    /// Run pages of the VM that lives, by vCPU.
    run_pages: RefCell<BTreeMap<u64, Pfn>>,
    /// Guest pages written in the last run.
    pub written: RefCell<Vec<u64>>,
}

impl<'a> Host<'a> {
    pub fn new(gicv2: bool, frames: u64, tape: Tape<'a>) -> Self {
        let pfn = |n: u64| Pfn::new(n).expect("a frame");
        let range = |first, n| PageRange::of(pfn(first), n).expect("a range");
        let memmap = MemMap::new([range(RAM, EL2_PAGES + frames)]).expect("a memory map");
        let gicv = gicv2.then(|| [range(GICV, 2)]);
        let gic = if gicv2 { Gic::V2 { gicv: Some(pfn(GICV)) } } else { Gic::V3 };
        let host_root = TablePfn::new(pfn(RAM));
        let config = Config {
            memmap: memmap.clone(),
            el2_owned: &[range(RAM, EL2_PAGES)],
            private_devices: gicv.as_ref().map_or(&[], |pages| pages.as_slice()),
            host_root,
            host_ipa_bits: 40,
            guest_ipa_bits: 40,
            pool: &[range(RAM + 2, EL2_PAGES - 2)],
            gic,
            nr_lrs: 4,
            lr_priority_bits: 5,
            id_values: [0x1111_1111_1111_1111; ID_REGISTERS.len()],
            vtimer_intid: 27,
        };
        let hyp = Hyp::new(FakeMachine::new(&memmap, CPUS), config).expect("a hypervisor");
        let geometry = Geometry::new(40).expect("40 bits");
        hyp.machine().watch(Regime { vmid: Vmid::HOST, root: host_root }, geometry);
        Self {
            hyp: Rc::new(hyp),
            cpu: Cell::new(0),
            cpus: [0, 1].map(|n| RefCell::new(CpuLocal::new(n))),
            tape: RefCell::new(tape),
            now: Cell::new(1000),
            frames,
            used: RefCell::default(),
            short: Cell::new(false),
            watched: RefCell::default(),
            run_pages: RefCell::default(),
            written: RefCell::default(),
        }
    }

    pub fn more(&self) -> bool {
        self.tape.borrow().more()
    }

    pub fn byte(&self) -> u8 {
        self.tape.borrow_mut().byte()
    }

    /// What follows happens on this CPU.
    pub fn on(&self, cpu: usize) {
        self.cpu.set(cpu);
        become_cpu(cpu);
    }

    /// A VM lives from now on.
    pub fn start(&self, vm: Handle) {
        self.short.set(false);
        self.written.borrow_mut().clear();
        assert!(self.vm_stats(vm).is_ok());
    }

    /// Whether frames ran out, or tables of EL2's with them.
    pub fn is_short(&self) -> bool {
        self.short.get()
    }

    pub fn page_of(&self, idx: usize) -> Pfn {
        self.run_pages.borrow()[&(idx as u64)]
    }

    pub fn time(&self) -> u64 {
        self.now.get()
    }

    pub fn pass_time(&self) {
        let ticks = self.tape.borrow_mut().number();
        self.now.set(self.now.get().saturating_add(ticks));
    }

    pub fn take_writes(&self) -> Vec<u64> {
        self.written.take()
    }

    /// No VM is left, and every page that is not EL2's is the host's alone.
    pub fn all_is_back(&self) {
        assert!(self.used.borrow().is_empty(), "frames are missing: {:x?}", self.used);
        let mut at = 0;
        while let Some(run) = self.audit_host(at).expect("an audit") {
            let own = run.pfn.raw() < FRAMES;
            let state = if own { PageState::NoPage } else { PageState::Owned };
            assert_eq!((run.host, run.shares, run.pins), (state, 0, 0), "{run:?}");
            at = run.next;
        }
        self.run_pages.borrow_mut().clear();
    }

    fn take(&self, frame: u64) -> bool {
        let free = frame < FRAMES + self.frames && self.used.borrow_mut().insert(frame);
        if free {
            // What the last owner left there.
            self.hyp.machine().poke(pfn(frame), 7, 0xaaaa_aaaa);
        }
        free
    }

    /// Writes a page. The fake machine takes its time for each word.
    fn write(&self, frame: Pfn, words: &[u64; 512]) {
        let machine = self.hyp.machine();
        for (n, word) in words.iter().enumerate().filter(|(n, w)| machine.peek(frame, *n) != **w) {
            machine.poke(frame, n, *word);
        }
    }

    /// A regime that a CPU enters is one whose tables walkers may use.
    fn watch(&self, cpu: &CpuLocal) {
        let Some(regime) = cpu.regime() else { return };
        if self.watched.borrow_mut().insert((regime.vmid, regime.root.pfn().raw())) {
            self.hyp.machine().watch(regime, self.hyp.guest_geometry());
        }
    }
}

impl Hypercalls for Host<'_> {
    fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret {
        let mut cpu = self.cpus[self.cpu.get()].borrow_mut();
        let [a, b, c, d] = args;
        let outcome = self.hyp.hypercall(&mut cpu, [call.function_id(), a, b, c, d]);
        let machine = self.hyp.machine();
        machine.settle();
        let ret = match outcome {
            Outcome::Ret(ret) => ret,
            Outcome::Run => self.guest(&mut cpu),
            Outcome::NotSupported => panic!("{call:?} is not supported"),
        };
        match call {
            Hypercall::VcpuLoad if ret.x1 == 0 => self.watch(&cpu),
            Hypercall::InitVcpu => {
                self.run_pages.borrow_mut().insert(b, pfn(c));
            }
            Hypercall::FinalizeTeardownVm => self.watched.borrow_mut().clear(),
            _ if ret.x1 == Refusal::NoMemory.code() => self.short.set(true),
            _ => {}
        }
        machine.settle();
        let violations = machine.take_violations();
        assert!(violations.is_empty(), "{call:?}: {violations:?}");
        ret
    }
}

impl Frames for Host<'_> {
    fn alloc_frame(&self) -> Option<Pfn> {
        let found = (FRAMES..FRAMES + self.frames).find(|n| self.take(*n));
        self.short.set(self.short.get() || found.is_none());
        found.map(pfn)
    }
    fn alloc_pair(&self) -> Option<Pfn> {
        let used = |n: &u64| self.used.borrow().contains(n);
        let mut pairs = (FRAMES..FRAMES + self.frames - 1).step_by(2);
        let first = pairs.find(|n| !used(n) && !used(&(n + 1)));
        self.short.set(self.short.get() || first.is_none());
        first.filter(|n| self.take(*n) && self.take(n + 1)).map(pfn)
    }
    fn free_frame(&self, frame: Pfn) {
        assert!(self.used.borrow_mut().remove(&frame.raw()), "{frame:?} was free");
        let run = self.audit_host(frame.raw()).expect("an audit").expect("RAM");
        let exclusive = run.host == PageState::Owned && run.shares == 0 && run.pins == 0;
        assert!(run.pfn == frame && exclusive, "{frame:?} is not ours to give back: {run:?}");
    }
    fn zero(&self, frame: Pfn) {
        self.write(frame, &[0; 512]);
    }
    fn fill(&self, frame: Pfn, offset: usize, bytes: &[u8]) {
        let mut words: [u64; 512] = core::array::from_fn(|n| self.hyp.machine().peek(frame, n));
        for (at, byte) in (offset..).zip(bytes) {
            let shift = at % 8 * 8;
            words[at / 8] = words[at / 8] & !(0xff << shift) | u64::from(*byte) << shift;
        }
        self.write(frame, &words);
    }
}

/// A run page.
pub struct Page(Rc<Hyp<FakeMachine>>, Pfn);

impl RunPages for Host<'_> {
    type Page = Page;
    fn run_page(&self, frame: Pfn) -> Page {
        assert!(self.used.borrow().contains(&frame.raw()), "{frame:?} is free");
        Page(Rc::clone(&self.hyp), frame)
    }
}

impl RunPage for Page {
    fn read(&self, index: usize) -> u64 {
        if index < 512 { self.0.machine().peek(self.1, index) } else { 0 }
    }
    fn write(&self, index: usize, value: u64) {
        if index < 512 {
            self.0.machine().poke(self.1, index, value);
        }
    }
}

impl Clock for Host<'_> {
    fn now(&self) -> u64 {
        self.now.get()
    }
    fn frequency(&self) -> u64 {
        1000
    }
}

impl Console for Host<'_> {
    fn put(&self, _byte: u8) {}
}

fn pfn(n: u64) -> Pfn {
    Pfn::new(n).expect("a frame")
}
