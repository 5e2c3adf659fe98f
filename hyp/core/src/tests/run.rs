//! Entry: what the run page may ask for.

use core::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::exits::{abort_esr, latch, mrs};
use super::*;
use crate::entry::Entry;
use crate::esr::{Esr, SysregAccess};
use crate::hyp::GuestNext;
use crate::vcpu::{Latched, Vcpu, traps};
use Hypercall::{VcpuRun, VcpuSyncState};
use hyp_abi::run::{self, Exit, entry, vgic_hcr};
use hyp_abi::{lr, run::SYSREGS};

/// Writes words of the run page.
fn ask(w: &World, vm: TestVm, words: &[(usize, u64)]) {
    for (word, value) in words {
        w.machine().poke(pfn(vm.run), *word, *value);
    }
}

fn accepted(w: &mut World) {
    assert_eq!(w.outcome(VcpuRun, &[]), Outcome::Run);
}

/// Asks for flags that must be refused, and change nothing.
fn refused(w: &mut World, vm: TestVm, flags: u64) {
    ask(w, vm, &[(run::ENTRY_FLAGS, flags)]);
    w.refuse(Refusal::Invalid, VcpuRun, &[]);
}

const PC: u64 = 0x4000_8000;

/// A run page that its host changes at each moment: what is read again has become something else.
#[derive(Default)]
struct Restless {
    words: BTreeMap<usize, u64>,
    seen: RefCell<BTreeSet<usize>>,
}

impl Frames for Restless {
    fn read(&self, _: Pfn, word: usize) -> u64 {
        assert!(self.seen.borrow_mut().insert(word), "word {word} is read twice");
        self.words.get(&word).copied().unwrap_or(word as u64)
    }
    fn write(&self, _: Pfn, word: usize, _: u64) {
        panic!("word {word} is written at entry");
    }
    fn zero(&self, _: Pfn) {}
    fn clean_to_poc(&self, _: Pfn) {}
    fn sync_icache(&self, _: Pfn) {}
}

#[test]
fn no_word_of_the_run_page_is_read_twice() {
    let w = World::new();
    let enc = sysreg::CNTP_CTL_EL0;
    let access = SysregAccess { enc, rt: 3, read: true };
    let sysreg = Latched::Sysreg { esr: Esr::new(mrs(enc, 3, true)), access };
    let load = Latched::Abort { esr: Esr::new(abort_esr(0x24, 0x04) | 1 << 24), far: 0 };
    let latched = [
        (0, Latched::None),
        (entry::COMPLETE, load),
        (entry::INJECT_ABORT, load),
        (entry::COMPLETE, sysreg),
        (entry::INJECT_UNDEF, sysreg),
        (entry::SET_RESULT, Latched::Call),
    ];
    for (answer, latched) in latched {
        for more in [0, entry::LOAD_CONTEXT, entry::TRAP_WFX, entry::LOAD_CONTEXT | entry::TRAP_WFX]
        {
            let flags = (run::ENTRY_FLAGS, answer | more);
            let words = [flags, (run::VGIC_USED_LRS, u64::MAX)].into();
            let page = Restless { words, ..Restless::default() };
            let mut vcpu = Vcpu { latched, ..Vcpu::new(0, pfn(HOST)) };
            Entry::check(&page, &vcpu).unwrap().commit(&page, &mut vcpu, &w.hyp.board);
            let seen = page.seen.into_inner();
            assert!(seen.contains(&run::VGIC_HCR) && seen.contains(&(run::LR + 3)));
            assert_eq!(seen.contains(&run::CTX_PC), more & entry::LOAD_CONTEXT != 0);
        }
    }
}

fn at_pc(w: &mut World) {
    let ctx = w.cpu().context().unwrap();
    ctx.pc = PC;
    ctx.pstate = 0x3c5;
    ctx.sys.vbar_el1 = 0x4001_0000;
}

#[test]
fn unknown_flags_and_two_answers_are_refused() {
    let mut w = World::new();
    let vm = w.vm();
    for flags in [1 << 6, 1 << 63, u64::MAX] {
        refused(&mut w, vm, flags);
    }
    let answers = [entry::COMPLETE, entry::SET_RESULT, entry::INJECT_ABORT, entry::INJECT_UNDEF];
    let dabt = abort_esr(0x24, 0x04);
    for a in answers {
        for b in answers.into_iter().filter(|b| *b != a) {
            latch(&mut w, dabt);
            refused(&mut w, vm, a | b);
        }
    }
    ask(&w, vm, &[(run::ENTRY_FLAGS, 0)]);
    accepted(&mut w);
}

/// Which answers suit which latched trap.
#[test]
fn an_answer_must_suit_the_trap_that_el2_remembers() {
    let mut w = World::new();
    let vm = w.vm();
    let (c, r, a, u) =
        (entry::COMPLETE, entry::SET_RESULT, entry::INJECT_ABORT, entry::INJECT_UNDEF);
    let read = 1 << 24 | 2 << 22 | 3 << 16;
    let rows = [
        (0x16 << 26, vec![r, u]),                       // HVC
        (0x17 << 26, vec![r, u]),                       // SMC
        (0x01 << 26, vec![]),                           // WFI
        (mrs(sysreg::CNTPCT_EL0, 0, true), vec![c, u]), // for the host
        (mrs(sysreg::CNTP_CTL_EL0, 0, false), vec![c, u]),
        (abort_esr(0x24, read | 0x07), vec![c, a]), // decoded load
        (abort_esr(0x24, read | 1 << 6 | 0x0f), vec![c, a]), // decoded store
        (abort_esr(0x24, 0x07), vec![a]),           // no syndrome
        (abort_esr(0x24, 1 << 8 | 1 << 6 | 0x07), vec![c, a]), // cache maintenance
        (abort_esr(0x24, read | 1 << 7 | 0x07), vec![a]), // table walk
        (abort_esr(0x24, 1 << 8 | 1 << 7 | 1 << 6 | 0x07), vec![a]), // of cache maintenance
        (abort_esr(0x20, 0x07), vec![a]),           // fetch
    ];
    for (esr, good) in rows {
        for answer in [c, r, a, u] {
            at_pc(&mut w);
            latch(&mut w, esr);
            if good.contains(&answer) {
                ask(&w, vm, &[(run::ENTRY_FLAGS, answer)]);
                accepted(&mut w);
                // Answered once: the second time there is nothing to answer.
            }
            refused(&mut w, vm, answer);
            ask(&w, vm, &[(run::ENTRY_FLAGS, 0)]);
            accepted(&mut w);
        }
    }
}

#[test]
fn a_completed_load_is_sized_and_extended_as_el2_remembers() {
    let mut w = World::new();
    let vm = w.vm();
    let isv = 1 << 24 | 5 << 16;
    let (sse, sf) = (1 << 21, 1 << 15);
    let value = 0xfedc_ba98_8765_43f0;
    let cases = [
        (isv, 0xf0),
        (isv | sse, 0xffff_fff0),
        (isv | sse | sf, 0xffff_ffff_ffff_fff0),
        (isv | 1 << 22, 0x43f0),
        (isv | 2 << 22, 0x8765_43f0),
        (isv | 2 << 22 | sse | sf, 0xffff_ffff_8765_43f0),
        (isv | 3 << 22 | sf, value),
    ];
    for (iss, expect) in cases {
        at_pc(&mut w);
        w.cpu().context().unwrap().gpr[5] = 0x1111;
        latch(&mut w, abort_esr(0x24, iss | 0x07));
        ask(&w, vm, &[(run::ENTRY_FLAGS, entry::COMPLETE), (run::ENTRY_VALUE, value)]);
        accepted(&mut w);
        let ctx = w.cpu().context().unwrap();
        assert_eq!((ctx.gpr[5], ctx.pc), (expect, PC + 4), "{iss:#x}");
    }
}

#[test]
fn a_completed_store_or_cache_operation_changes_no_register() {
    let mut w = World::new();
    let vm = w.vm();
    for iss in [1 << 24 | 5 << 16 | 1 << 6 | 0x07, 1 << 8 | 1 << 6 | 0x07] {
        at_pc(&mut w);
        latch(&mut w, abort_esr(0x24, iss));
        let before = w.cpu().context().unwrap().gpr;
        ask(&w, vm, &[(run::ENTRY_FLAGS, entry::COMPLETE), (run::ENTRY_VALUE, 0x77)]);
        accepted(&mut w);
        let ctx = w.cpu().context().unwrap();
        assert_eq!((ctx.gpr, ctx.pc), (before, PC + 4));
    }
}

#[test]
fn a_completed_mrs_writes_its_register_and_an_msr_none() {
    let mut w = World::new();
    let vm = w.vm();
    for (read, expect) in [(true, 0xabcd_ef01_2345), (false, 0x1111)] {
        at_pc(&mut w);
        w.cpu().context().unwrap().gpr[9] = 0x1111;
        latch(&mut w, mrs(sysreg::CNTP_CTL_EL0, 9, read));
        let words = [(run::ENTRY_FLAGS, entry::COMPLETE), (run::ENTRY_VALUE, 0xabcd_ef01_2345)];
        ask(&w, vm, &words);
        accepted(&mut w);
        let ctx = w.cpu().context().unwrap();
        assert_eq!((ctx.gpr[9], ctx.pc), (expect, PC + 4));
    }
}

#[test]
fn a_call_gets_four_results_and_pc_stays() {
    let mut w = World::new();
    let vm = w.vm();
    at_pc(&mut w);
    w.cpu().context().unwrap().gpr[4] = 0x44;
    latch(&mut w, 0x16 << 26 | 1 << 25);
    ask(&w, vm, &[(run::ENTRY_FLAGS, entry::SET_RESULT)]);
    for n in 0..5 {
        ask(&w, vm, &[(run::ENTRY_RESULT + n, 0x50 + n as u64)]);
    }
    accepted(&mut w);
    let ctx = w.cpu().context().unwrap();
    assert_eq!(ctx.gpr[..5], [0x50, 0x51, 0x52, 0x53, 0x44]);
    assert_eq!(ctx.pc, PC);
}

#[test]
fn injected_exceptions_arrive_at_the_vector_with_their_syndrome() {
    let mut w = World::new();
    let vm = w.vm();
    const SYNC: u64 = 0x4001_0000 + 0x200;
    let il = 1 << 25;
    // ESR of the trap, flag, ESR_EL1, distance of ELR_EL1 behind pc.
    let rows = [
        (abort_esr(0x24, 0x07), entry::INJECT_ABORT, 0x25 << 26 | il | 0x10, 0),
        (abort_esr(0x24, 1 << 6 | 0x07), entry::INJECT_ABORT, 0x25 << 26 | il | 0x50, 0),
        (abort_esr(0x20, 0x07), entry::INJECT_ABORT, 0x21 << 26 | il | 0x10, 0),
        (abort_esr(0x24, 1 << 7 | 0x06), entry::INJECT_ABORT, 0x25 << 26 | il | 0x16, 0),
        (abort_esr(0x20, 1 << 7 | 0x05), entry::INJECT_ABORT, 0x21 << 26 | il | 0x15, 0),
        (0x16 << 26 | il, entry::INJECT_UNDEF, il, 4),
        (0x17 << 26 | il, entry::INJECT_UNDEF, il, 0),
        (mrs(sysreg::CNTPCT_EL0, 0, true), entry::INJECT_UNDEF, il, 0),
    ];
    for (esr, flag, injected, behind) in rows {
        at_pc(&mut w);
        latch(&mut w, esr);
        ask(&w, vm, &[(run::ENTRY_FLAGS, flag)]);
        accepted(&mut w);
        let ctx = *w.cpu().context().unwrap();
        let elr = PC - behind;
        assert_eq!((ctx.pc, ctx.pstate), (SYNC, 0x3c5), "{esr:#x}");
        assert_eq!((ctx.sys.elr_el1, ctx.sys.spsr_el1), (elr, 0x3c5), "{esr:#x}");
        assert_eq!(ctx.sys.esr_el1, injected, "{esr:#x}");
        if flag == entry::INJECT_ABORT {
            assert_eq!(ctx.sys.far_el1, exits::FAR);
        }
    }
}

#[test]
fn a_whole_context_is_loaded_and_read_back() {
    let mut w = World::new();
    let vm = w.vm();
    for n in 0..34 + SYSREGS.len() {
        ask(&w, vm, &[(run::CTX + n, 0x1000 + n as u64)]);
    }
    ask(&w, vm, &[(run::CTX_PSTATE, 0x3c4), (run::ENTRY_FLAGS, entry::LOAD_CONTEXT)]);
    accepted(&mut w);
    let ctx = *w.cpu().context().unwrap();
    assert_eq!((ctx.gpr[0], ctx.gpr[30]), (0x1000, 0x1000 + 30));
    assert_eq!((ctx.sp_el0, ctx.pc, ctx.pstate), (0x1000 + 31, 0x1000 + 32, 0x3c4));
    assert_eq!((ctx.sys.sctlr_el1, ctx.sys.csselr_el1), (0x1000 + 34, 0x1000 + 56));
    assert_eq!(ctx.sys.mdscr_el1, 0x1035 & 0xb001, "of which a guest has these bits");
    // Another run does not take it again, and sync writes what the vCPU has.
    for n in 0..34 + SYSREGS.len() {
        ask(&w, vm, &[(run::CTX + n, 0)]);
    }
    ask(&w, vm, &[(run::ENTRY_FLAGS, 0)]);
    accepted(&mut w);
    assert_eq!(*w.cpu().context().unwrap(), ctx);
    w.done(VcpuSyncState, &[]);
    let mdscr = 34 + SYSREGS.iter().position(|name| *name == "MDSCR_EL1").unwrap();
    for n in (0..34 + SYSREGS.len()).filter(|n| *n != 33 && *n != mdscr) {
        assert_eq!(w.read(vm.run, run::CTX + n), 0x1000 + n as u64);
    }
    assert_eq!(w.read(vm.run, run::CTX_PSTATE), 0x3c4);
}

#[test]
fn what_a_loaded_context_does_not_say_is_as_after_a_reset() {
    let mut w = World::new();
    let vm = w.vm();
    let fresh = *w.cpu().context().unwrap();
    let ctx = w.cpu().context().unwrap();
    (ctx.timer.ctl, ctx.timer.cval) = (1, 7);
    (ctx.fp.q[3], ctx.fp.fpcr) = ([1, 2], 3);
    (ctx.vgic.vmcr, ctx.vgic.ap0r[0], ctx.vgic.ap1r[0]) = (4, 5, 6);
    ctx.debug.write(crate::debug::Register::OsLockAccess, 0);
    ctx.debug.write(crate::debug::Register::BreakpointControl(0), 7);
    let words = [(run::ENTRY_FLAGS, entry::LOAD_CONTEXT), (run::CTX_PSTATE, 0x3c5)];
    ask(&w, vm, &words);
    accepted(&mut w);
    let ctx = *w.cpu().context().unwrap();
    assert!(ctx.fp_reset, "and the CPU must hear of it");
    assert_eq!(ctx.vmpidr, fresh.vmpidr);
    assert_eq!(ctx.timer, fresh.timer);
    assert_eq!(ctx.fp, fresh.fp);
    assert_eq!(ctx.debug, fresh.debug);
    assert_eq!(ctx.vgic, crate::vcpu::VgicState { hcr: 1, ..fresh.vgic });
    // Any other entry keeps all of it.
    w.cpu().context().unwrap().timer.cval = 8;
    w.cpu().context().unwrap().fp_reset = false;
    ask(&w, vm, &[(run::ENTRY_FLAGS, 0)]);
    accepted(&mut w);
    let ctx = *w.cpu().context().unwrap();
    assert_eq!((ctx.timer.cval, ctx.fp_reset), (8, false));
}

#[test]
fn no_context_can_return_to_a_mode_that_is_not_the_guests() {
    let mut w = World::new();
    let vm = w.vm();
    let masked = 0x3c5;
    let cases = [
        (0, 0),
        (4, 4),
        (5, 5),
        (1, masked),
        (6, masked),
        (8, masked),
        (9, masked),
        (0xd, masked),
        (0x10, masked),
        (0x15, masked),
        (u64::MAX, masked),
        // Flags, TCO, DIT, UAO, PAN, SS, SSBS, BTYPE and the masks; nothing above, nor IL.
        (!0x1f | 5, 0xf3e0_1fc5),
    ];
    for (wanted, expect) in cases {
        let words = [(run::ENTRY_FLAGS, entry::LOAD_CONTEXT), (run::CTX_PSTATE, wanted)];
        ask(&w, vm, &words);
        accepted(&mut w);
        assert_eq!(w.cpu().context().unwrap().pstate, expect, "{wanted:#x}");
    }
}

#[test]
fn wfx_traps_for_one_run_at_a_time() {
    let mut w = World::new();
    let vm = w.vm();
    for (flags, expect) in [(entry::TRAP_WFX, traps::WFX), (0, 0)] {
        ask(&w, vm, &[(run::ENTRY_FLAGS, flags)]);
        accepted(&mut w);
        assert_eq!(w.cpu().context().unwrap().traps, expect);
    }
}

#[test]
fn list_registers_are_clamped_and_judged() {
    let mut w = World::new();
    let vm = w.vm();
    let good = lr::STATE_PENDING | lr::GROUP1 | 0x80 << lr::PRIORITY_SHIFT | 33;
    let timer = lr::STATE_PENDING | lr::HW | 27 << lr::PINTID_SHIFT | 27;
    let foreign = lr::STATE_PENDING | lr::HW | 33 << lr::PINTID_SHIFT | 34;
    let words = [good, foreign, timer, good, good | 1 << 8];
    for (n, value) in words.into_iter().enumerate() {
        ask(&w, vm, &[(run::LR + n, value)]);
    }
    let flags = [(run::VGIC_USED_LRS, 0xffff), (run::VGIC_HCR, u64::MAX)];
    ask(&w, vm, &flags);
    accepted(&mut w);
    let vgic = w.cpu().context().unwrap().vgic;
    assert_eq!(vgic.used, 4);
    assert_eq!(vgic.lr[..5], [good, 0, timer, 0, 0]);
    assert_eq!(vgic.hcr, vgic_hcr::MASK | 1);
    ask(&w, vm, &[(run::VGIC_USED_LRS, 1), (run::VGIC_HCR, 0)]);
    accepted(&mut w);
    let vgic = w.cpu().context().unwrap().vgic;
    assert_eq!((vgic.used, vgic.lr[..2].to_vec(), vgic.hcr), (1, vec![good, 0], 1));
    // With 16 list registers all 16 are taken.
    let mut w = World::with(POOL, |c| c.nr_lrs = 16);
    let vm = w.vm();
    for n in 0..17 {
        ask(&w, vm, &[(run::LR + n, good + n as u64)]);
    }
    ask(&w, vm, &[(run::VGIC_USED_LRS, u64::MAX)]);
    accepted(&mut w);
    assert_eq!(w.cpu().context().unwrap().vgic.lr[15], good + 15);
}

#[test]
fn the_exit_words_tell_what_the_registers_cannot() {
    let mut w = World::new();
    let vm = w.vm();
    ask(&w, vm, &[(run::VGIC_USED_LRS, 2)]);
    accepted(&mut w);
    let ctx = w.cpu().context().unwrap();
    for (n, reg) in ctx.gpr.iter_mut().enumerate() {
        *reg = 0x900 + n as u64;
    }
    (ctx.pc, ctx.pstate) = (PC, 0x8000_0005);
    (ctx.timer.ctl, ctx.timer.cval) = (5, 0x1234);
    (ctx.vgic.misr, ctx.vgic.lr[0], ctx.vgic.lr[1], ctx.vgic.lr[2]) = (3, 0xa, 0xb, 0xc);
    let GuestNext::Exit(ret) = exits::exit(&mut w, exits::IRQ) else { panic!() };
    assert_eq!(ret, Ret { x1: Exit::Irq as i64, ..Ret::default() });
    let words = |from: usize, n: usize| -> Vec<u64> {
        (from..from + n).map(|word| w.read(vm.run, word)).collect()
    };
    assert_eq!(words(run::LR, 3), [0xa, 0xb, 0]);
    assert_eq!(words(run::VGIC_MISR, 5), [3, 5, 0x1234, PC, 0x8000_0005]);
    assert_eq!(words(run::EXIT_GPR, 8), [0; 8], "no call, no arguments");
    for class in [0x16, 0x17] {
        (0..8).for_each(|n| ask(&w, vm, &[(run::EXIT_GPR + n, 0)]));
        exits::exit(&mut w, exits::sync(class << 26));
        let gprs: Vec<_> = (0..8).map(|n| w.read(vm.run, run::EXIT_GPR + n)).collect();
        assert_eq!(gprs, (0x900..0x908).collect::<Vec<_>>());
    }
    assert_eq!(w.read(vm.run, run::EXIT_GPR + 8), 3, "no more than eight");
}
