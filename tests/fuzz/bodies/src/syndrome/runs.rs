//! A vCPU that runs: what the host writes beforehand, and how it ends.

use hyp_abi::run::{self, Exit, entry, exit_flags, vgic_hcr};
use hyp_abi::{Hypercall, Pfn, Refusal, Ret, lr};
use hyp_core::board::Config;
use hyp_core::cpu::{CpuLocal, ExitKind, GuestNext, Outcome, RawExit};
use hyp_core::fake::{FakeMachine, become_cpu};
use hyp_core::hyp::{Gic, Hyp};
use hyp_core::inject::pstate;
use hyp_core::memmap::{MemMap, PageRange};
use hyp_core::sysreg::ID_REGISTERS;
use hyp_core::vcpu::{Context, Fp, Timer};
use hyp_s2::TablePfn;

use crate::Tape;

const RAM: u64 = 0x40000;
const EL2_PAGES: u64 = 40;
const LRS: usize = 4;
const VTIMER: u64 = 27;
/// Words of the run page that an exit may change.
const EXIT_WORDS: [core::ops::Range<usize>; 2] = [run::LR..run::LR + LRS, run::EXIT_GPR..run::CTX];

struct Bench {
    hyp: Hyp<FakeMachine>,
    cpu: CpuLocal,
    page: Pfn,
}

pub fn all(tape: &mut Tape<'_>) {
    if !tape.more() {
        return;
    }
    let mut bench = Bench::new(tape.flag());
    // What may answer the last exit.
    let mut answers = 0;
    while tape.more() {
        for _ in 0..tape.below(8) {
            let at = usize::from(tape.byte()) * 2 + usize::from(tape.flag());
            bench.hyp.machine().poke(bench.page, at, tape.number());
        }
        if tape.flag() {
            let flags = u64::from(tape.byte());
            bench.hyp.machine().poke(bench.page, run::ENTRY_FLAGS, flags);
        }
        if !bench.enter(answers) {
            continue;
        }
        bench.guest(tape);
        answers = bench.leave(tape);
    }
    bench.end();
}

impl Bench {
    /// A VM with one vCPU, loaded; its IPA space is empty.
    fn new(gicv2: bool) -> Self {
        become_cpu(0);
        let pfn = |n: u64| Pfn::new(RAM + n).expect("a frame");
        let range = |first, n| PageRange::of(pfn(first), n).expect("a range");
        let memmap = MemMap::new([range(0, 64)]).expect("a memory map");
        let gic = if gicv2 { Gic::V2 { gicv: None } } else { Gic::V3 };
        let config = Config {
            el2_owned: &[range(0, EL2_PAGES)],
            private_devices: &[],
            host_root: TablePfn::new(pfn(0)),
            host_ipa_bits: 40,
            guest_ipa_bits: 40,
            pool: &[range(2, EL2_PAGES - 2)],
            gic,
            nr_lrs: LRS,
            lr_priority_bits: 5,
            id_values: [0x2222_2222_2222_2222; ID_REGISTERS.len()],
            vtimer_intid: VTIMER as u32,
            memmap: memmap.clone(),
        };
        let hyp = Hyp::new(FakeMachine::new(&memmap, 1), config).expect("a hypervisor");
        let mut bench = Self { hyp, cpu: CpuLocal::new(0), page: pfn(EL2_PAGES + 2) };
        let run_page = bench.page.raw();
        let handle = bench.done(Hypercall::ReserveVm, [0; 4]);
        bench.done(Hypercall::InitVm, [handle, 1, RAM + EL2_PAGES, 0]);
        bench.done(Hypercall::ShareHyp, [run_page, 0, 0, 0]);
        bench.done(Hypercall::InitVcpu, [handle, 0, run_page, 0]);
        bench.done(Hypercall::VcpuLoad, [handle, 0, 0, 0]);
        bench
    }

    fn call(&mut self, call: Hypercall, [a, b, c, d]: [u64; 4]) -> Outcome {
        self.hyp.hypercall(&mut self.cpu, [call.function_id(), a, b, c, d])
    }

    fn done(&mut self, call: Hypercall, args: [u64; 4]) -> u64 {
        match self.call(call, args) {
            Outcome::Ret(Ret { x1, .. }) if x1 >= 0 => x1 as u64,
            other => panic!("{call:?}: {other:?}"),
        }
    }

    fn word(&self, at: usize) -> u64 {
        self.hyp.machine().peek(self.page, at)
    }

    fn context(&mut self) -> &mut Context {
        self.cpu.context().expect("a vCPU is loaded")
    }

    /// `vcpu_run`. An entry is accepted exactly if its flags exist and it has at most one answer, of
    /// those that suit the last exit; then the guest's state is one that EL2 may return to.
    fn enter(&mut self, answers: u64) -> bool {
        let all = entry::COMPLETE | entry::SET_RESULT | entry::INJECT_ABORT | entry::INJECT_UNDEF;
        let (flags, before) = (self.word(run::ENTRY_FLAGS), *self.context());
        let answer = flags & all;
        let known = flags & !entry::MASK == 0;
        let suits = answer == 0 || (answer.is_power_of_two() && answer & answers != 0);
        let memory = self.hyp.machine().snapshot();
        match self.call(Hypercall::VcpuRun, [0; 4]) {
            Outcome::Run => assert!(known && suits, "{flags:#x} was accepted, not {answers:#x}"),
            other => {
                let refused = Ret { x1: Refusal::Invalid.code(), ..Ret::default() };
                assert_eq!(other, Outcome::Ret(refused));
                assert!(!known || !suits, "{flags:#x} was refused");
                assert_eq!(*self.context(), before, "a refused run changed the context");
            }
        }
        assert!(self.hyp.machine().snapshot() == memory, "a run wrote to memory");
        let runs = known && suits;
        if runs {
            let words: Vec<u64> = (0..LRS).map(|n| self.word(run::LR + n)).collect();
            enterable(self.context(), &before, flags, &words);
        }
        runs
    }

    /// The guest changes what a guest can change.
    fn guest(&mut self, tape: &mut Tape<'_>) {
        let ctx = self.context();
        for _ in 0..tape.below(4) {
            let (at, value) = (tape.byte(), tape.number());
            match at {
                0..31 => ctx.set_gpr(at, value),
                31 => ctx.pc = value,
                // EL2's entry has seen to it that no other mode can be reached.
                32 => ctx.pstate = value & !pstate::MODE | [0, 4, 5, 0x10][(value & 3) as usize],
                33 => ctx.sys.vbar_el1 = value,
                34 => ctx.timer.cval = value,
                _ => {}
            }
        }
    }

    /// The guest exits, and again while EL2 deals with it alone. Answers the flags by which the host may
    /// deal with the last exit.
    fn leave(&mut self, tape: &mut Tape<'_>) -> u64 {
        loop {
            let kind = match tape.below(8) {
                6 => ExitKind::Irq,
                7 => ExitKind::SError,
                _ => ExitKind::Sync,
            };
            // The end of the tape is an interrupt: undefined instructions would go on for ever.
            let kind = if tape.more() { kind } else { ExitKind::Irq };
            let esr = u64::from(tape.byte()) << 26 | u64::from(tape.word()) & 0x3ff_ffff;
            let raw = RawExit { kind, esr, far: tape.number(), hpfar: tape.number() };
            let page: Vec<u64> = (0..512).map(|n| self.word(n)).collect();
            let before = *self.context();
            let next = self.hyp.guest_exit(&mut self.cpu, raw);
            let may = |at: usize| EXIT_WORDS.iter().any(|words| words.contains(&at));
            let told = matches!(next, GuestNext::Exit(_));
            for (at, old) in page.iter().enumerate() {
                assert!(self.word(at) == *old || (told && may(at)), "word {at} of the run page");
            }
            match next {
                GuestNext::Exit(ret) => return self.told(&before, raw, ret),
                GuestNext::Resume => self.resumed(&before),
                GuestNext::Fp => assert_eq!(*self.context(), before),
            }
        }
    }

    /// The guest goes on: past an instruction, at a vector, or at the same place.
    fn resumed(&mut self, before: &Context) {
        let ctx = self.context();
        let narrow = if before.pstate & pstate::NRW == 0 { u64::MAX } else { 0xffff_ffff };
        let past = [0, 2, 4].map(|bytes| before.pc.wrapping_add(bytes) & narrow);
        let vector = ctx.pc.wrapping_sub(before.sys.vbar_el1 & !0x7ff);
        let injected = [0, 0x200, 0x400, 0x600].contains(&vector)
            && ctx.sys.elr_el1 == before.pc
            && ctx.sys.spsr_el1 == before.pstate;
        let same = ctx.pc == before.pc;
        assert!(same || injected || past.contains(&ctx.pc), "{:#x}: {:#x}", before.pc, ctx.pc);
        assert_eq!((ctx.vgic, ctx.timer), (before.vgic, before.timer));
    }

    fn told(&mut self, before: &Context, raw: RawExit, ret: Ret) -> u64 {
        let exit = Exit::from_raw(ret.x1 as u64).expect("a reason that exists");
        assert_eq!(exit == Exit::Irq, raw.kind == ExitKind::Irq);
        let ctx = *self.context();
        assert_eq!((self.word(run::EXIT_PC), self.word(run::EXIT_PSTATE)), (ctx.pc, ctx.pstate));
        let flag = |bit| ret.x5 & bit != 0;
        match exit {
            Exit::Abort => {
                assert_eq!((ctx.pc, ret.x2), (before.pc, raw.esr));
                assert_eq!(ret.x3 >> 12, raw.hpfar >> 4 & 0xff_ffff_ffff);
                let described = flag(exit_flags::DECODED) || flag(exit_flags::CACHE_OP);
                assert!(!(flag(exit_flags::FETCH) && described));
                entry::INJECT_ABORT | if described { entry::COMPLETE } else { 0 }
            }
            Exit::Hvc | Exit::Smc => {
                for n in 0..8 {
                    assert_eq!(self.word(run::EXIT_GPR + n), ctx.gpr[n]);
                }
                entry::SET_RESULT | entry::INJECT_UNDEF
            }
            Exit::Sysreg => {
                assert_eq!((ctx.pc, ret.x2), (before.pc, raw.esr));
                entry::COMPLETE | entry::INJECT_UNDEF
            }
            Exit::Irq | Exit::Wfx | Exit::SError | Exit::Illegal => 0,
        }
    }

    /// All that the VM had comes back.
    fn end(&mut self) {
        self.done(Hypercall::VcpuPut, [0; 4]);
        self.hyp.machine().settle();
        let violations = self.hyp.machine().take_violations();
        assert!(violations.is_empty(), "{violations:?}");
    }
}

/// EL2 may enter the guest with this context.
fn enterable(ctx: &Context, before: &Context, flags: u64, proposed: &[u64]) {
    let mut timer = before.timer;
    if flags & entry::LOAD_CONTEXT != 0 {
        let mode = ctx.pstate & pstate::MODE;
        assert!([pstate::EL0T, pstate::EL1T, pstate::EL1H].contains(&mode), "{mode:#x}");
        assert_eq!(ctx.pstate & pstate::IL, 0);
        // What the page does not have is as after a reset.
        timer = Timer::default();
        assert_eq!(ctx.fp, Fp::default());
    }
    assert_eq!((ctx.vmpidr, ctx.timer), (before.vmpidr, timer));
    let vgic = &ctx.vgic;
    assert_eq!(vgic.hcr & !(vgic_hcr::MASK | 1), 0);
    assert_eq!(vgic.hcr & 1, 1, "the virtual interface is off");
    assert!(vgic.used as usize <= LRS);
    let mut seen = Vec::new();
    for (at, word) in vgic.lr.iter().enumerate().filter(|(_, word)| **word != 0) {
        assert!(at < vgic.used as usize);
        let (state, intid) = (word & lr::STATE_MASK, word & lr::VINTID_MASK);
        assert!(state != 0 && intid < 1020 && !seen.contains(&intid), "{:x?}", vgic.lr);
        seen.push(intid);
        if word & lr::HW != 0 {
            assert!(intid == VTIMER && u64::from(lr::pintid(*word)) == VTIMER);
            assert_ne!(state, lr::STATE_MASK, "pending and active at the distributor");
        }
        let priority = 7_u64 << lr::PRIORITY_SHIFT;
        assert_eq!(word & !priority, proposed[at] & !priority, "not what was proposed");
    }
}
