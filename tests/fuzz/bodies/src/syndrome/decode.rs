//! Syndromes, injected exceptions and trapped registers, against the architecture's tables.

use hyp_core::esr::{Access, DataAbort, Esr, Fault, Syndrome};
use hyp_core::inject::{self, Before, Cause, Features, Status, pstate};
use hyp_core::sysreg::{Enc, GuestView, SysregAction};

use crate::Tape;

pub fn all(tape: &mut Tape<'_>) {
    let (esr, far, hpfar) = (Esr::new(tape.long()), tape.long(), tape.long());
    let (pc, spsr, vbar) = (tape.long(), tape.long(), tape.long());
    let (sctlr, value, bits) = (tape.long(), tape.long(), tape.byte());
    let flag = |n: u32| bits & (1 << n) != 0;
    let features = Features { pan: flag(0), ssbs: flag(1), mte: flag(2), nmi: flag(3) };
    let before = Before { pc, pstate: spsr, vbar, sctlr, features };
    match esr.decode() {
        Syndrome::DataAbort(data) => {
            data_abort(esr, &data, hpfar, far, value);
            taken(&before, Cause::Refused { esr, far }, Some(far));
        }
        Syndrome::InstructionAbort(_) => taken(&before, Cause::Refused { esr, far }, Some(far)),
        Syndrome::Sysreg(access) => register(access.enc, access.read, value, bits),
        Syndrome::Hvc(imm) | Syndrome::Smc(imm) => assert_eq!(u64::from(imm), esr.raw() & 0xffff),
        _ => {}
    }
    assert!([2, 4].contains(&esr.instruction_bytes()));
    if spsr & pstate::NRW == 0 {
        assert!(esr.condition_passed(spsr), "A64 has no condition");
    }
    let status = match bits >> 4 & 3 {
        0 => Status::External,
        1 => Status::ExternalOnWalk(bits & 3),
        2 => Status::Alignment,
        _ => Status::Unsupported,
    };
    let known = (!flag(7)).then_some(far);
    let (write, cache_op) = (flag(5), flag(6));
    taken(&before, Cause::Undefined, None);
    taken(&before, Cause::DataAbort { far: known, write, cache_op, status }, known);
    taken(&before, Cause::InstructionAbort { far: known, status }, known);
    let (next, state) = inject::skip(pc, spsr, esr.instruction_bytes());
    let narrow = if spsr & pstate::NRW == 0 { u64::MAX } else { 0xffff_ffff };
    assert_eq!(next, pc.wrapping_add(esr.instruction_bytes()) & narrow);
    assert_eq!(state & pstate::MODE, spsr & pstate::MODE);
    assert_eq!(state & pstate::SS, 0, "a step is over");
}

/// An access is described only where the architecture describes it (ISS of a data abort, DDI0487).
fn data_abort(esr: Esr, data: &DataAbort, hpfar: u64, far: u64, value: u64) {
    let iss = esr.raw();
    let bit = |n: u32| iss >> n & 1 != 0;
    let code = iss & 0x3f;
    let stage2 = matches!(code, 0x00..=0x0f | 0x29 | 0x2b);
    assert_eq!(data.access.is_some(), bit(24) && !bit(8) && !bit(7) && stage2);
    assert_eq!(Fault::decode(code as u8), data.abort.fault);
    match data.abort.ipa(hpfar, far) {
        Some(ipa) => {
            assert_eq!(ipa >> 12, hpfar >> 4 & 0xff_ffff_ffff);
            assert!(ipa & 0xfff == 0 || ipa & 0xfff == far & 0xfff);
        }
        None => assert!(hpfar >> 63 == 1),
    }
    let Some(access) = data.access else { return };
    assert_eq!(u64::from(access.rt), iss >> 16 & 31);
    assert_eq!(u64::from(access.size_log2), iss >> 22 & 3);
    assert_eq!(access.loaded(value), loaded(&access, value));
    let mask = u64::MAX >> (64 - (8 << access.size_log2));
    assert_eq!(access.stored(value), value & mask);
}

/// What LDR, LDRSW and the like do, by the types that a compiler would use for them.
fn loaded(access: &Access, value: u64) -> u64 {
    let extended = match (access.size_log2, access.sign_extend) {
        (0, true) => i64::from(value as i8) as u64,
        (1, true) => i64::from(value as i16) as u64,
        (2, true) => i64::from(value as i32) as u64,
        (0, false) => u64::from(value as u8),
        (1, false) => u64::from(value as u16),
        (2, false) => u64::from(value as u32),
        _ => value,
    };
    if access.wide { extended } else { u64::from(extended as u32) }
}

/// AArch64.TakeException: where it goes, what is saved, what is masked.
fn taken(before: &Before, cause: Cause, far: Option<u64>) {
    let entry = inject::take(before, cause);
    let vector = before.vbar & !0x7ff;
    let old = before.pstate;
    let offset = match (old & pstate::NRW != 0, old & 0xf) {
        (true, _) => 0x600,
        (false, 0b0000..=0b0011) => 0x400,
        (false, mode) => (mode & 1) * 0x200,
    };
    assert_eq!(entry.pc, vector.wrapping_add(offset));
    assert_eq!((entry.spsr, entry.elr), (old, before.pc));
    assert_eq!(entry.pstate & (pstate::MODE | pstate::DAIF), pstate::EL1H | pstate::DAIF);
    assert_eq!(entry.pstate & (pstate::IL | pstate::SS | pstate::BTYPE), 0);
    assert_eq!(entry.pstate & pstate::NZCV, old & pstate::NZCV);
    assert_eq!(entry.esr >> 32, 0);
    assert!(entry.far.is_none() || entry.far == far);
    // A class of "same level" is for exceptions from EL1 itself.
    let class = entry.esr >> 26;
    assert!(class == 0 || (entry.esr >> 10 & 1 == 1) == entry.far.is_none(), "FnV");
    assert!(class == 0 || (class & 1 == 1) == (offset < 0x400), "class {class:#x}");
    assert!([0, 0x20, 0x21, 0x24, 0x25].contains(&class));
}

fn register(enc: Enc, read: bool, value: u64, bits: u8) {
    let (op0, op1, crn, crm, op2) = enc.parts();
    assert_eq!(Enc::new(op0, op1, crn, crm, op2), enc);
    let ipa_bits = [32, 36, 40, 42, 44, 48][usize::from(bits >> 4) % 6];
    let view = GuestView {
        ipa_bits,
        gic_v3: bits & 1 != 0,
        aarch32_el0: bits & 2 != 0,
        breakpoints: 1 + (value & 15) as u8,
        watchpoints: 1 + (value >> 4 & 15) as u8,
        double_lock: bits & 4 != 0,
    };
    let action = view.trap(enc, read);
    assert!(action != SysregAction::Id || read, "an ID register was written");
    let shown = view.id_register(enc, value);
    assert_eq!(view.id_register(enc, shown), shown, "{enc:?} hides something of what it shows");
}
