//! Exits: what EL2 answers itself, and what the host is told.

use super::*;
use crate::debug::Debug;
use crate::hyp::{ExitKind, GuestNext, RawExit};
use crate::speculation::{Speculation, State};
use crate::sysreg::Enc;
use crate::vcpu::Context;
use Hypercall::TestClearYoung;
use hyp_abi::run::{self, Exit, exit_flags as f};

/// FAR_EL2 of every abort here.
pub(super) const FAR: u64 = 0xffff_8000_0000_1abc;
/// HPFAR_EL2: IPA page 0x40000.
const HPFAR: u64 = GUEST << 4;
const PC: u64 = 0x4000_8000;
const IL: u64 = 1 << 25;
/// The vector for a synchronous exception from EL1h.
const VECTOR: u64 = 0x4001_0000 + 0x200;

pub(super) const IRQ: RawExit = RawExit { kind: ExitKind::Irq, esr: 0, far: 0, hpfar: 0 };

pub(super) fn sync(esr: u64) -> RawExit {
    RawExit { kind: ExitKind::Sync, esr, far: FAR, hpfar: HPFAR }
}

pub(super) fn abort_esr(class: u64, iss: u64) -> u64 {
    class << 26 | IL | iss
}

pub(super) fn exit(w: &mut World, raw: RawExit) -> GuestNext {
    let next = w.hyp.guest_exit(&mut w.cpus[w.on], raw);
    w.machine().settle();
    next
}

/// An exit that goes to the host, so that EL2 remembers it.
pub(super) fn latch(w: &mut World, esr: u64) {
    assert!(matches!(exit(w, sync(esr)), GuestNext::Exit(_)), "{esr:#x}");
}

/// A loaded vCPU about to run at `PC`, EL1h.
fn running() -> (World, TestVm) {
    let mut w = World::new();
    let vm = w.vm();
    at_pc(&mut w);
    (w, vm)
}

fn at_pc(w: &mut World) {
    let ctx = ctx(w);
    *ctx = Context { pc: PC, pstate: 5, ..Context::default() };
    ctx.sys.vbar_el1 = 0x4001_0000;
    for (n, reg) in ctx.gpr.iter_mut().enumerate() {
        *reg = 0x1111_2222_3333_4400 + n as u64;
    }
}

fn ctx(w: &mut World) -> &mut Context {
    w.cpu().context().unwrap()
}

fn left(why: Exit, x2: u64, x3: u64, x4: u64, x5: u64) -> GuestNext {
    GuestNext::Exit(Ret { x1: why as i64, x2, x3, x4, x5 })
}

pub(super) fn mrs(enc: Enc, rt: u64, read: bool) -> u64 {
    let (op0, op1, crn, crm, op2) = enc.parts();
    let field = |value: u8, shift: u32| u64::from(value) << shift;
    abort_esr(0x18, field(op0, 20) | field(op2, 17) | field(op1, 14) | field(crn, 10))
        | rt << 5
        | field(crm, 1)
        | u64::from(read)
}

#[test]
fn interrupts_and_errors_go_to_the_host_at_once() {
    let (mut w, _) = running();
    let before = *ctx(&mut w);
    assert_eq!(exit(&mut w, IRQ), left(Exit::Irq, 0, 0, 0, 0));
    let serror = RawExit { kind: ExitKind::SError, ..sync(0x2f << 26 | 7) };
    assert_eq!(exit(&mut w, serror), left(Exit::SError, 0x2f << 26 | 7, 0, 0, 0));
    assert_eq!(exit(&mut w, sync(0x2f << 26)), left(Exit::SError, 0x2f << 26, 0, 0, 0));
    assert_eq!(*ctx(&mut w), before);
}

#[test]
fn waiting_and_calls_advance_as_the_architecture_does() {
    let (mut w, _) = running();
    for (esr, why, distance) in [
        (0x01 << 26 | IL, Exit::Wfx, 4),
        (0x01 << 26 | IL | 1, Exit::Wfx, 4),
        (0x16 << 26 | IL, Exit::Hvc, 0),
        (0x17 << 26 | IL, Exit::Smc, 4),
    ] {
        at_pc(&mut w);
        assert_eq!(exit(&mut w, sync(esr)), left(why, esr, 0, 0, 0));
        assert_eq!(ctx(&mut w).pc, PC + distance, "{why:?}");
    }
}

#[test]
fn calls_with_an_immediate_are_not_supported_and_stay_in_el2() {
    let (mut w, _) = running();
    for (class, distance) in [(0x16, 0), (0x17, 4)] {
        at_pc(&mut w);
        assert_eq!(exit(&mut w, sync(abort_esr(class, 1))), GuestNext::Resume);
        let ctx = ctx(&mut w);
        assert_eq!((ctx.gpr[0], ctx.pc), (u64::MAX, PC + distance));
        assert_eq!(ctx.gpr[1], 0x1111_2222_3333_4401);
    }
}

#[test]
fn calls_about_speculation_are_answered_without_the_host() {
    let (mut w, _) = running();
    let not_supported = u64::MAX;
    for (class, distance) in [(0x16, 0), (0x17, 4)] {
        // ARCH_FEATURES of ARCH_WORKAROUND_1, and the call itself: nobody helps this CPU.
        for (x0, x1) in [(0x8000_0001, 0x8000_8000), (0x8000_8000, 0)] {
            at_pc(&mut w);
            (ctx(&mut w).gpr[0], ctx(&mut w).gpr[1]) = (x0, x1);
            assert_eq!(exit(&mut w, sync(abort_esr(class, 0))), GuestNext::Resume);
            let ctx = ctx(&mut w);
            assert_eq!((ctx.gpr[0], ctx.gpr[1], ctx.pc), (not_supported, x1, PC + distance));
        }
        // Other features are the host's.
        at_pc(&mut w);
        (ctx(&mut w).gpr[0], ctx(&mut w).gpr[1]) = (0x8000_0001, 0x8000_0000);
        assert!(matches!(exit(&mut w, sync(abort_esr(class, 0))), GuestNext::Exit(_)));
    }
    let World { hyp, cpus, on, next } = w;
    let known = Speculation { branch_targets: State::Unaffected, ..Speculation::UNKNOWN };
    let mut w = World { hyp: hyp.with_speculation(known), cpus, on, next };
    at_pc(&mut w);
    (ctx(&mut w).gpr[0], ctx(&mut w).gpr[1]) = (0x8000_0001, 0x8000_8000);
    assert_eq!(exit(&mut w, sync(abort_esr(0x16, 0))), GuestNext::Resume);
    assert_eq!(ctx(&mut w).gpr[0], 1);
}

#[test]
fn first_use_of_fp_is_for_the_world_switch() {
    let (mut w, _) = running();
    let before = *ctx(&mut w);
    assert_eq!(exit(&mut w, sync(0x07 << 26 | IL)), GuestNext::Fp);
    assert_eq!(*ctx(&mut w), before, "the instruction is run again");
}

#[test]
fn instructions_of_absent_features_are_undefined() {
    let (mut w, _) = running();
    // Unknown, CP15, pointer authentication, SVE, SME, and a class that nobody knows.
    for class in [0x00, 0x03, 0x09, 0x19, 0x1d, 0x3f] {
        at_pc(&mut w);
        assert_eq!(exit(&mut w, sync(abort_esr(class, 0))), GuestNext::Resume, "{class:#x}");
        let ctx = ctx(&mut w);
        assert_eq!((ctx.pc, ctx.sys.esr_el1, ctx.sys.elr_el1), (VECTOR, IL, PC), "{class:#x}");
    }
}

#[test]
fn a_guest_that_cannot_go_on_is_the_hosts_to_end() {
    let (mut w, _) = running();
    for class in [0x0e, 0x12, 0x21, 0x25] {
        at_pc(&mut w);
        let esr = abort_esr(class, 0);
        assert_eq!(exit(&mut w, sync(esr)), left(Exit::Illegal, esr, 0, 0, 0));
    }
}

#[test]
fn a_trapped_instruction_that_failed_its_condition_is_skipped() {
    let (mut w, _) = running();
    // AArch32 at EL0, WFI under EQ, Z clear.
    ctx(&mut w).pstate = 0x10;
    assert_eq!(exit(&mut w, sync(0x01 << 26 | IL | 1 << 24)), GuestNext::Resume);
    assert_eq!(ctx(&mut w).pc, PC + 4);
    ctx(&mut w).pstate = 0x10 | 1 << 30;
    let esr = 0x01 << 26 | IL | 1 << 24;
    assert_eq!(exit(&mut w, sync(esr)), left(Exit::Wfx, esr, 0, 0, 0));
}

#[test]
fn an_exit_without_a_guest_is_answered() {
    let mut w = World::new();
    assert_eq!(exit(&mut w, IRQ), left(Exit::Illegal, 0, 0, 0, 0));
}

/// ESR, value, flags; then what the exit says.
#[test]
fn aborts_tell_the_host_all_it_may_know() {
    let ipa = GUEST << 12;
    let exact = ipa | 0xabc;
    let isv = 1 << 24 | 3 << 16;
    let (wnr, s1ptw, cm, fnv) = (1 << 6, 1 << 7, 1 << 8, 1 << 10);
    let rows = [
        // Data: missing at each level, no syndrome.
        (0x24, 0x04, exact, 0, 0),
        (0x24, 0x07, exact, 0, 0),
        (0x24, 0x07 | wnr, exact, 0, f::WRITE),
        // Beyond the IPA space.
        (0x24, 0x00, exact, 0, 0),
        // Permission.
        (0x24, 0x0f | wnr, exact, 0, f::PERMISSION | f::WRITE),
        (0x24, 0x0f, exact, 0, f::PERMISSION),
        // Described: sizes, and the value of a store.
        (0x24, 0x07 | isv, exact, 0, f::DECODED),
        (0x24, 0x07 | isv | 3 << 22, exact, 0, f::DECODED | 3 << f::SIZE_SHIFT),
        (0x24, 0x07 | isv | wnr, exact, 0x03, f::DECODED | f::WRITE),
        (0x24, 0x07 | isv | wnr | 1 << 22, exact, 0x4403, f::DECODED | f::WRITE | 1 << 8),
        (0x24, 0x07 | isv | wnr | 2 << 22, exact, 0x3333_4403, f::DECODED | f::WRITE | 2 << 8),
        (
            0x24,
            0x07 | isv | wnr | 3 << 22,
            exact,
            0x1111_2222_3333_4403,
            f::DECODED | f::WRITE | 3 << 8,
        ),
        // From the zero register.
        (0x24, 0x07 | 1 << 24 | 31 << 16 | wnr | 3 << 22, exact, 0, f::DECODED | f::WRITE | 3 << 8),
        // Cache maintenance.
        (0x24, 0x07 | cm | wnr, exact, 0, f::CACHE_OP),
        (0x24, 0x0f | cm | wnr, exact, 0, f::CACHE_OP | f::WRITE | f::PERMISSION),
        // An address translation, or maintenance, whose table is missing.
        (0x24, 0x07 | cm | s1ptw | wnr, ipa, 0, f::S1PTW),
        // A table walk has no offset; its write is the hardware's.
        (0x24, 0x07 | s1ptw | wnr, ipa, 0, f::S1PTW),
        (0x24, 0x0f | s1ptw, ipa, 0, f::S1PTW | f::PERMISSION | f::WRITE),
        // No FAR.
        (0x24, 0x07 | fnv, ipa, 0, 0),
        // Fetches.
        (0x20, 0x06, exact, 0, f::FETCH),
        (0x20, 0x0f, exact, 0, f::FETCH | f::PERMISSION),
        (0x20, 0x07 | s1ptw, ipa, 0, f::FETCH | f::S1PTW),
    ];
    let (mut w, _) = running();
    for (class, iss, x3, x4, x5) in rows {
        at_pc(&mut w);
        let before = *ctx(&mut w);
        let esr = abort_esr(class, iss);
        assert_eq!(exit(&mut w, sync(esr)), left(Exit::Abort, esr, x3, x4, x5), "{esr:#x}");
        assert_eq!(*ctx(&mut w), before, "pc stays at the instruction");
    }
}

#[test]
fn the_whole_width_of_hpfar_counts() {
    let (mut w, _) = running();
    let raw = RawExit { hpfar: 0xfff_ffff_fff0, ..sync(abort_esr(0x24, 0x04)) };
    let far_out = 0xf_ffff_ffff_f000 | 0xabc;
    assert_eq!(exit(&mut w, raw), left(Exit::Abort, raw.esr, far_out, 0, 0));
}

#[test]
fn an_abort_whose_address_is_lost_is_tried_again() {
    let (mut w, _) = running();
    let before = *ctx(&mut w);
    let raw = RawExit { hpfar: RawExit::NO_IPA | HPFAR, ..sync(abort_esr(0x24, 0x0f)) };
    assert_eq!(exit(&mut w, raw), GuestNext::Resume);
    assert_eq!(*ctx(&mut w), before);
}

#[test]
fn a_conflict_of_tlb_entries_ends_with_all_entries_of_the_vm() {
    let (mut w, _) = running();
    let before = (*ctx(&mut w), w.machine().invalidations().vmid);
    assert_eq!(exit(&mut w, sync(abort_esr(0x24, 0x30))), GuestNext::Resume);
    assert_eq!((*ctx(&mut w), w.machine().invalidations().vmid), (before.0, before.1 + 1));
}

#[test]
fn errors_of_the_memory_itself_are_the_guests_own() {
    let (mut w, _) = running();
    // External, on a walk, parity, and of stage 2: unaligned to a device, exclusive to one.
    let rows = [(0x10, 0x10), (0x15, 0x10), (0x18, 0x10), (0x21, 0x21), (0x35, 0x35)];
    for (status, shown) in rows {
        at_pc(&mut w);
        let esr = abort_esr(0x24, status | 1 << 6);
        assert_eq!(exit(&mut w, sync(esr)), GuestNext::Resume, "{status:#x}");
        let ctx = ctx(&mut w);
        assert_eq!((ctx.pc, ctx.sys.elr_el1, ctx.sys.far_el1), (VECTOR, PC, FAR));
        assert_eq!(ctx.sys.esr_el1, abort_esr(0x25, 1 << 6 | shown), "{status:#x}");
    }
    let (mut w, _) = running();
    assert_eq!(exit(&mut w, sync(abort_esr(0x20, 0x10))), GuestNext::Resume);
    assert_eq!(ctx(&mut w).sys.esr_el1, abort_esr(0x21, 0x10));
    // Without FAR: the guest's stays, and it is told so.
    at_pc(&mut w);
    assert_eq!(exit(&mut w, sync(abort_esr(0x24, 1 << 10 | 0x10))), GuestNext::Resume);
    let sys = ctx(&mut w).sys;
    assert_eq!((sys.esr_el1, sys.far_el1), (abort_esr(0x25, 1 << 10 | 0x10), 0));
}

#[test]
fn contradictions_in_the_tlb_are_dropped_and_the_access_is_tried_again() {
    let (mut w, _) = running();
    for class in [0x20, 0x24] {
        let (before, flushes) = (*ctx(&mut w), w.machine().invalidations().vmid);
        assert_eq!(exit(&mut w, sync(abort_esr(class, 0x30))), GuestNext::Resume);
        assert_eq!(*ctx(&mut w), before);
        assert_eq!(w.machine().invalidations().vmid, flushes + 1);
    }
}

#[test]
fn access_flags_are_set_without_the_host() {
    let (mut w, vm) = running();
    w.topup(2);
    let page = w.share(GUEST, Prot::RW);
    w.ok(TestClearYoung, &[vm.handle, GUEST, 1, 1]);
    w.machine().publish();
    assert_eq!(w.guest_access(vm, GUEST, Access::Read), Err(Fault::AccessFlag(3)));
    let before = *ctx(&mut w);
    assert_eq!(exit(&mut w, sync(abort_esr(0x24, 0x0b))), GuestNext::Resume);
    assert_eq!(*ctx(&mut w), before);
    assert_eq!(w.guest_access(vm, GUEST, Access::Read), Ok(page));
    assert_eq!(w.ok(TestClearYoung, &[vm.handle, GUEST, 1, 0]), 1);
    // By fetch, and by a table walk.
    for esr in [abort_esr(0x20, 0x0b), abort_esr(0x24, 1 << 7 | 0x0b)] {
        w.ok(TestClearYoung, &[vm.handle, GUEST, 1, 1]);
        assert_eq!(exit(&mut w, sync(esr)), GuestNext::Resume);
        assert_eq!(w.ok(TestClearYoung, &[vm.handle, GUEST, 1, 0]), 1, "{esr:#x}");
    }
}

#[test]
fn an_access_flag_fault_where_nothing_is_mapped_any_more_is_tried_again() {
    let (mut w, _) = running();
    for hpfar in [HPFAR, BEYOND << 4, ((1 << 36) - 1) << 4] {
        let raw = RawExit { hpfar, ..sync(abort_esr(0x24, 0x0b)) };
        assert_eq!(exit(&mut w, raw), GuestNext::Resume, "{hpfar:#x}");
    }
    // No address of ours at all: the host is told.
    let raw = RawExit { hpfar: 1 << 40, ..sync(abort_esr(0x24, 0x0b)) };
    assert_eq!(exit(&mut w, raw), left(Exit::Abort, raw.esr, 1 << 48 | 0xabc, 0, 0));
}

#[test]
fn id_registers_are_shown_as_the_view_says() {
    let (mut w, _) = running();
    let view = w.hyp.board.view;
    for (enc, raw) in
        [(sysreg::ID_AA64PFR0_EL1, 0x11), (sysreg::ID_AA64MMFR0_EL1, 5), (sysreg::REVIDR_EL1, 0)]
    {
        at_pc(&mut w);
        assert_eq!(exit(&mut w, sync(mrs(enc, 7, true))), GuestNext::Resume);
        let ctx = ctx(&mut w);
        assert_eq!((ctx.gpr[7], ctx.pc), (view.id_register(enc, raw), PC + 4), "{enc:?}");
    }
    // The view is of this machine.
    assert_eq!((view.ipa_bits, view.gic_v3, view.aarch32_el0), (40, false, false));
    assert_eq!(view.id_register(sysreg::ID_AA64MMFR0_EL1, 5) & 0xf, 2, "40 bits");
    assert_eq!(exit(&mut w, sync(mrs(sysreg::ID_AA64PFR0_EL1, 7, false))), GuestNext::Resume);
    assert_eq!(ctx(&mut w).sys.esr_el1, IL, "a write is undefined");
}

#[test]
fn the_board_is_read_from_the_configuration() {
    let mut w = World::with(POOL, |c| {
        c.gic = Gic::V3;
        for (enc, value) in ID_REGISTERS.iter().zip(&mut c.id_values) {
            match *enc {
                sysreg::ID_AA64PFR0_EL1 => *value = 0x12,
                sysreg::ID_AA64PFR1_EL1 => *value = 1 << 4,
                sysreg::ID_AA64MMFR1_EL1 => *value = 1 << 20,
                _ => {}
            }
        }
    });
    let board = &w.hyp.board;
    assert!(board.view.gic_v3 && board.view.aarch32_el0);
    assert!(board.features.pan && board.features.ssbs && !board.features.mte);
    assert_eq!(board.lr_policy.version, crate::vgic::Version::V3);
    assert_eq!((board.lr_policy.priority_bits, board.lr_policy.vtimer), (5, VTIMER));
    assert_eq!(board.id_value(sysreg::ID_AA64PFR0_EL1), 0x12);
    assert_eq!(board.id_value(sysreg::CNTPCT_EL0), 0);
    let board = &World::new().hyp.board;
    assert_eq!(board.lr_policy.version, crate::vgic::Version::V2);
    // A machine without GICv2 maps no GICV, and its SGI registers are the host's.
    w.vm();
    at_pc(&mut w);
    let sgi = mrs(sysreg::ICC_SGI1R_EL1, 3, false);
    let x4 = 0x1111_2222_3333_4403;
    assert_eq!(exit(&mut w, sync(sgi)), left(Exit::Sysreg, sgi, 0, x4, 0));
}

#[test]
fn registers_for_the_hosts_models_leave_with_their_value() {
    let (mut w, _) = running();
    let before = *ctx(&mut w);
    let write = mrs(sysreg::CNTP_CVAL_EL0, 3, false);
    let x4 = 0x1111_2222_3333_4403;
    assert_eq!(exit(&mut w, sync(write)), left(Exit::Sysreg, write, 0, x4, 0));
    let zero = mrs(sysreg::CNTP_CVAL_EL0, 31, false);
    assert_eq!(exit(&mut w, sync(zero)), left(Exit::Sysreg, zero, 0, 0, 0));
    let read = mrs(sysreg::CNTP_CVAL_EL0, 3, true);
    assert_eq!(exit(&mut w, sync(read)), left(Exit::Sysreg, read, 0, 0, f::SYSREG_READ));
    assert_eq!(*ctx(&mut w), before, "pc stays at the instruction");
}

#[test]
fn registers_that_read_as_something_fixed_need_no_host() {
    let (mut w, _) = running();
    for (enc, expect) in [(sysreg::MDRAR_EL1, 0), (sysreg::ACTLR_EL1, 0)] {
        at_pc(&mut w);
        assert_eq!(exit(&mut w, sync(mrs(enc, 7, true))), GuestNext::Resume);
        assert_eq!((ctx(&mut w).gpr[7], ctx(&mut w).pc), (expect, PC + 4), "{enc:?}");
    }
    at_pc(&mut w);
    let before = *ctx(&mut w);
    assert_eq!(exit(&mut w, sync(mrs(sysreg::ACTLR_EL1, 7, false))), GuestNext::Resume);
    assert_eq!(*ctx(&mut w), Context { pc: PC + 4, ..before }, "a write is ignored");
}

#[test]
fn the_guests_own_debug_control_is_kept_within_its_mask() {
    let (mut w, _) = running();
    ctx(&mut w).gpr[7] = u64::MAX;
    assert_eq!(exit(&mut w, sync(mrs(sysreg::MDSCR_EL1, 7, false))), GuestNext::Resume);
    assert_eq!(ctx(&mut w).sys.mdscr_el1, crate::debug::MDSCR_MASK);
    assert_eq!((ctx(&mut w).gpr[7], ctx(&mut w).pc), (u64::MAX, PC + 4));
    assert_eq!(exit(&mut w, sync(mrs(sysreg::MDSCR_EL1, 8, true))), GuestNext::Resume);
    assert_eq!((ctx(&mut w).gpr[8], ctx(&mut w).pc), (crate::debug::MDSCR_MASK, PC + 8));
}

#[test]
fn debug_registers_are_the_guests_own_and_need_no_host() {
    let mut w = World::with(POOL, |c| {
        for (enc, value) in ID_REGISTERS.iter().zip(&mut c.id_values) {
            if *enc == sysreg::ID_AA64DFR0_EL1 {
                *value = 0x0f << 36 | 1 << 28 | 3 << 20 | 5 << 12 | 6;
            }
        }
    });
    w.vm();
    let mut access = |enc, value: Option<u64>| {
        at_pc(&mut w);
        ctx(&mut w).debug = Debug::reset();
        ctx(&mut w).gpr[7] = value.unwrap_or(0);
        assert_eq!(exit(&mut w, sync(mrs(enc, 7, value.is_none()))), GuestNext::Resume, "{enc:?}");
        let ctx = ctx(&mut w);
        (ctx.pc == PC + 4).then_some((ctx.gpr[7], ctx.debug))
    };
    assert_eq!(access(sysreg::OSLSR_EL1, None), Some((0b1010, Debug::reset())));
    assert!(access(sysreg::OSLAR_EL1, Some(0)).is_some_and(|(_, debug)| !debug.os_lock()));
    // Six breakpoints and four watchpoints, no more; and no double lock.
    for (n, op2, there) in [(5, 5, true), (6, 5, false), (3, 7, true), (4, 7, false)] {
        let found = access(Enc::new(2, 0, 0, n, op2), Some(7));
        assert_eq!(found.is_some_and(|(_, debug)| debug != Debug::reset()), there, "{n} {op2}");
    }
    assert_eq!(access(sysreg::OSDLR_EL1, Some(1)), Some((1, Debug::reset())));
}

#[test]
fn unknown_registers_are_undefined() {
    let (mut w, _) = running();
    for read in [true, false] {
        at_pc(&mut w);
        let before = ctx(&mut w).gpr;
        assert_eq!(exit(&mut w, sync(mrs(Enc::new(3, 0, 15, 7, 7), 7, read))), GuestNext::Resume);
        let ctx = ctx(&mut w);
        assert_eq!((ctx.pc, ctx.sys.esr_el1, ctx.sys.elr_el1), (VECTOR, IL, PC));
        assert_eq!(ctx.gpr, before);
    }
}

#[test]
fn the_exit_words_of_a_resumed_guest_stay_as_they_were() {
    let (mut w, vm) = running();
    exit(&mut w, sync(0x07 << 26));
    exit(&mut w, sync(mrs(sysreg::ACTLR_EL1, 7, true)));
    assert_eq!(w.read(vm.run, run::EXIT_PC), 0);
}
