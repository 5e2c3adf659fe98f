//! Hostile instructions: what `host_attack` uses, without those that would close the way back.

use crate::host_attack::insn;
use crate::host_attack::rng::Rng;

const NOP: u32 = 0xd503_201f;

/// One instruction that may stand in the cell (see `cell`, I3).
pub fn any(rng: &mut Rng) -> u32 {
    let insn = insn::any(rng, false);
    if is_msr(insn) && is_lifeline(insn) || is_backwards(insn) || is_wait(insn) {
        NOP
    } else {
        insn
    }
}

/// A system register by its number in an instruction, or a system instruction: bits 20 to 5.
pub fn system(rng: &mut Rng) -> u32 {
    loop {
        let insn = 0xd500_0000 | (rng.bits() >> 20) as u32 & 0x003f_ffff;
        // Bits 20:19 are op0; 0 with Rt 31 are hints, barriers and PSTATE.
        if is_wait(insn) || is_msr(insn) && is_lifeline(insn) {
            continue;
        }
        return insn;
    }
}

/// MSR by register, SYS, or MSR by immediate.
const fn is_msr(insn: u32) -> bool {
    insn & 0xffe0_0000 == 0xd500_0000
}

/// SCTLR, SCTLR2, TTBR, TCR, MAIR and their like, VBAR, ALLINT; and ICC_BPR, with which QEMU aborts.
const fn is_lifeline(insn: u32) -> bool {
    let (op0, op1) = (insn >> 19 & 3, insn >> 16 & 7);
    let (crn, crm, op2) = (insn >> 12 & 15, insn >> 8 & 15, insn >> 5 & 7);
    let el1 = op0 == 3 && op1 == 0;
    let cpacr = crm == 0 && op2 == 2;
    let vbar = crm == 0 && op2 <= 2;
    let bpr = matches!(crm, 8 | 12) && op2 == 3;
    let allint = crn == 4 && (el1 && crm == 3 && op2 == 0 || op0 == 0 && op1 == 1 && op2 == 0);
    allint || el1 && (crn == 1 && !cpacr || crn == 2 || crn == 10 || crn == 12 && (vbar || bpr))
}

/// Branches that could go round and round: to a register, to ELR, or a distance not above zero.
const fn is_backwards(insn: u32) -> bool {
    let to_register = insn & 0xfe00_0000 == 0xd600_0000;
    // First and last bit of the distance.
    let (low, high) = if insn & 0x7c00_0000 == 0x1400_0000 {
        (0, 25) // B, BL
    } else if insn & 0x7e00_0000 == 0x3600_0000 {
        (5, 18) // TBZ, TBNZ
    } else if insn & 0x7e00_0000 == 0x3400_0000 || insn & 0xff00_0000 == 0x5400_0000 {
        (5, 23) // CBZ, CBNZ, B.cond
    } else {
        return to_register;
    };
    let distance = insn >> low & ((2 << (high - low)) - 1);
    distance == 0 || insn >> high & 1 != 0
}

/// WFI, WFE, WFIT, WFET: the attack makes them where it knows what wakes it.
const fn is_wait(insn: u32) -> bool {
    let hint = insn & !0x1f & !0x60;
    hint == 0xd503_2000 && matches!(insn, 0xd503_205f | 0xd503_207f) || insn & !0x3f == 0xd503_1000
}
