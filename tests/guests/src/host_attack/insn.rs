//! Instructions for hostile guests: noise, and such as a guest that means harm would use.

use super::rng::Rng;

/// What the generator starts from, with the bits that it may choose freely.
const FORMS: [(u32, u32); 42] = [
    (0x0000_0000, 0xffff_ffff), // noise
    (0xd510_0000, 0x002f_ffff), // MRS and MSR of any register
    (0xd518_0000, 0x0027_ffff), // those of op0 = 3
    (0xd538_0000, 0x0000_ffff), // reads of EL1's
    (0xd508_0000, 0x0007_ffff), // system instructions: DC, IC, AT, TLBI
    (0xd508_7000, 0x0000_0fff),
    (0xd508_8000, 0x0000_0fff),
    (0xd518_1000, 0x0000_005f), // SCTLR_EL1, ACTLR_EL1, CPACR_EL1
    (0xd518_2000, 0x0000_005f), // TTBR0_EL1, TTBR1_EL1, TCR_EL1
    (0xd518_c000, 0x0000_001f), // VBAR_EL1
    (0xd518_a200, 0x0000_001f), // MAIR_EL1
    (0xd51b_e300, 0x0000_007f), // CNTV_*
    (0xd51b_e200, 0x0000_007f), // CNTP_*
    (0xd518_c800, 0x0000_07ff), // ICC_*
    (0xd518_cc00, 0x0000_00ff),
    (0xd538_cc00, 0x0000_00ff),
    (0xd400_0002, 0x0000_0000), // HVC #0
    (0xd400_0003, 0x0000_0000), // SMC #0
    (0xd400_0002, 0x001f_ffe0), // HVC
    (0xd400_0003, 0x001f_ffe0), // SMC
    (0xd400_0001, 0x001f_ffe0), // SVC
    // x0 to x15 hold addresses; few instructions change them.
    (0xf940_0010, 0x0000_01ef), // LDR Xt
    (0xf940_0010, 0x0003_fdef),
    (0xf900_0000, 0x0000_01ff), // STR Xt
    (0xf900_0000, 0x0000_01ff),
    (0xf900_0000, 0x0003_fdff),
    (0xb940_0010, 0x0003_fdef), // LDR Wt
    (0x3900_0000, 0x0003_fdff), // STRB
    (0xa900_0010, 0x007f_fdff), // LDP, STP
    (0xc800_0000, 0x00ff_ffff), // exclusives, acquire, release, CAS
    (0xf820_0010, 0x00df_fdef), // atomics
    (0x3dc0_0000, 0x0003_fdff), // LDR Qt
    (0x3d80_0000, 0x0003_fdff), // STR Qt
    (0xd280_0010, 0x607f_ffef), // MOVZ, MOVK
    (0x8b00_0010, 0x401f_ffef), // ADD, SUB
    (0x1400_0000, 0x0000_000f), // B, a little forward
    (0xd61f_0000, 0x0000_03e0), // BR
    (0xd69f_03e0, 0x0000_0000), // ERET
    (0xd503_201f, 0x0000_0fe0), // hints: WFI, WFE and others
    (0xd503_205f, 0x0000_0020), // WFE, WFI
    (0xd503_309f, 0x0000_0f60), // barriers
    (0xd420_0000, 0x001f_ffe0), // BRK
];

/// `MSR ICC_BPR1_EL1`: QEMU 10.0 keeps the low three bits of a value like 8, that is 0, and aborts
/// by an assertion (`icv_gprio_mask`) at the next interrupt. No fault of EL2's; it ends our machine.
const ICC_BPR1: u32 = 0xd518_cc60;
const NOP: u32 = 0xd503_201f;
/// `MSR SCTLR_EL1` and `MSR VBAR_EL1`.
const SCTLR: u32 = 0xd518_1000;
const VBAR: u32 = 0xd518_c000;

/// One instruction. Where time is `counted` in instructions it leaves the vectors where they are, and
/// the MMU off: a CPU that takes an exception at its vector, and again, executes none, so no timer of
/// QEMU's would ever end that.
pub fn any(rng: &mut Rng, counted: bool) -> u32 {
    let (form, free) = rng.pick(&FORMS).unwrap_or((0, 0));
    let insn = form | (rng.bits() >> 16) as u32 & free;
    let register = insn & !0x1f;
    let stops = register == ICC_BPR1 || (counted && [SCTLR, VBAR].contains(&register));
    if stops { NOP } else { insn }
}

/// The words at which the vectors of a page, or of its second half, begin.
pub const VECTORS: [usize; 32] = {
    let mut words = [0; 32];
    let mut n = 0;
    while n < words.len() {
        words[n] = n * 16;
        n += 1;
    }
    words
};
/// What a vector begins with that is to take time.
pub const TWO_NOPS: u64 = (NOP as u64) << 32 | NOP as u64;

/// Steps over what caused a synchronous exception: two words of a page, from each of these on, are
/// where one from EL1 arrives with the page, or its second half, in `VBAR_EL1`.
pub const HANDLER_AT: [usize; 2] = [0x200 / 8, 0xa00 / 8];
/// `MRS x30, ELR_EL1`, `ADD x30, x30, #4`, `MSR ELR_EL1, x30`, `ERET`.
pub const HANDLER: [u64; 2] = [0x9100_13de_d538_403e, 0xd69f_03e0_d518_403e];

/// Takes an interrupt from the virtual CPU interface and ends it: by the registers of a GICv3, and
/// by those of a GICv2 at x1. Two instructions a word, the first in the low half.
pub const TAKE_INTERRUPT: [u64; 9] = [
    0xd280_00f1_d280_1ff0, // MOV x16, #255; MOV x17, #7
    0xd518_ccf1_d518_4610, // MSR ICC_PMR_EL1, x16; MSR ICC_IGRPEN1_EL1, x17
    0xd538_cc12_d503_3fdf, // ISB; MRS x18, ICC_IAR1_EL1
    0xd503_3fdf_d518_cc32, // MSR ICC_EOIR1_EL1, x18; ISB
    0xb900_0031_b900_0430, // STR w16, [x1, #4]; STR w17, [x1]: GICV_PMR, GICV_CTLR
    0xd503_3f9f_b900_0031, // STR w17, [x1]; DSB SY
    0xd503_3f9f_b940_0c32, // LDR w18, [x1, #12]; DSB SY: GICV_IAR
    0xd503_3f9f_b900_1032, // STR w18, [x1, #16]; DSB SY: GICV_EOIR
    0xd400_0002_d503_201f, // NOP; HVC #0
];
