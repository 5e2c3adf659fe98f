//! The ID registers as a guest reads them: an allow-list of fields, each with a cap.
//!
//! A field that is not listed reads as zero, so a CPU's news stays hidden until somebody has
//! thought about its state. Names and meanings: DDI0487 D24.2.52 onwards.

use crate::sysreg::{self as r, Enc};

/// What a guest of this machine sees, beyond what the CPU's own registers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestView {
    /// Width of the IPA space: caps PARange.
    pub ipa_bits: u8,
    /// The guest's GIC is a GICv3: it has the system register interface.
    pub gic_v3: bool,
    /// The CPU runs AArch32 at EL0; else the AArch32 ID registers read as zero.
    pub aarch32_el0: bool,
}

/// How a four-bit field is shown.
#[derive(Clone, Copy)]
enum Field {
    /// As it is, but at most this.
    Cap(u8),
    /// A signed field (0xf: not implemented), at most this (DDI0487 D24.1.3).
    Signed(i8),
    /// Always this.
    Fixed(u8),
}
use Field::{Cap, Fixed, Signed};

/// Fields of one register, by their lowest bit.
type Fields = &'static [(u32, Field)];

const EL1_AARCH64_ONLY: Field = Fixed(1);
/// DebugVer 6: Armv8.0 debug.
const DEBUG_V8: u8 = 6;

const PFR0: Fields = &[
    (0, Cap(2)), // EL0: AArch32 too, where the CPU can
    (4, EL1_AARCH64_ONLY),
    (16, Signed(1)), // FP
    (20, Signed(1)), // AdvSIMD
    (48, Cap(1)),    // DIT
    (56, Cap(1)),    // CSV2, without the registers of CSV2_2
    (60, Cap(1)),    // CSV3
];
const PFR1: Fields = &[
    (0, Cap(1)),  // BT
    (4, Cap(2)),  // SSBS
    (32, Cap(1)), // CSV2_frac, without SCXTNUM
];
const DFR0: Fields = &[
    (0, Fixed(DEBUG_V8)),
    (12, Fixed(r::BREAKPOINTS - 1)), // BRPs
    (20, Fixed(r::BREAKPOINTS - 1)), // WRPs
];
const ISAR0: Fields = &[
    (4, Cap(2)),  // AES
    (8, Cap(1)),  // SHA1
    (12, Cap(2)), // SHA2
    (16, Cap(1)), // CRC32
    (20, Cap(2)), // Atomic
    (28, Cap(1)), // RDM
    (32, Cap(1)), // SHA3
    (36, Cap(1)), // SM3
    (40, Cap(1)), // SM4
    (44, Cap(1)), // DP
    (48, Cap(1)), // FHM
    (52, Cap(2)), // TS
    (56, Cap(2)), // TLB
    (60, Cap(1)), // RNDR
];
const ISAR1: Fields = &[
    // APA, API, GPA, GPI stay 0: the keys are not part of a vCPU's context.
    (0, Cap(2)),  // DPB
    (12, Cap(1)), // JSCVT
    (16, Cap(1)), // FCMA
    (20, Cap(3)), // LRCPC
    (32, Cap(1)), // FRINTTS
    (36, Cap(1)), // SB
    (40, Cap(1)), // SPECRES
    (44, Cap(1)), // BF16
    (48, Cap(1)), // DGH
    (52, Cap(1)), // I8MM
];
const ISAR2: Fields = &[
    // WFxT stays 0: a wait would leave with a timeout that no exit carries.
    (4, Cap(1)),  // RPRES
    (20, Cap(1)), // BC
    (28, Cap(1)), // CLRBHB
    (48, Cap(1)), // RPRFM
    (52, Cap(1)), // CSSC
];
const MMFR0: Fields = &[
    (0, Cap(5)),     // PARange, cut further to the IPA space
    (4, Cap(2)),     // ASIDBits
    (8, Cap(1)),     // BigEnd
    (16, Cap(1)),    // BigEndEL0
    (20, Cap(1)),    // TGran16, without 52 bits
    (24, Signed(0)), // TGran64
    (28, Signed(0)), // TGran4, without 52 bits
];
const MMFR1: Fields = &[
    (0, Cap(2)),  // HAFDBS: stage 1 of the guest's own
    (12, Cap(2)), // HPDS
    (20, Cap(3)), // PAN
    (36, Cap(3)), // ETS
    (44, Cap(1)), // AFP
    (48, Cap(1)), // nTLBPA
    (60, Cap(1)), // ECBHB
];
const MMFR2: Fields = &[
    (0, Cap(1)),  // CnP
    (4, Cap(1)),  // UAO
    (8, Cap(1)),  // LSM
    (16, Cap(1)), // VARange
    (20, Cap(1)), // CCIDX: must agree with CCSIDR_EL1, which is not trapped
    (28, Cap(1)), // ST
    (32, Cap(1)), // AT
    (36, Cap(1)), // IDS
    (48, Cap(1)), // TTL
    (52, Cap(2)), // BBM
    (60, Cap(1)), // E0PD
];

/// AArch32: what an EL0 program could ask its kernel about. No virtualization, security, RAS, AMU,
/// PMU or trace.
const PFR0_32: Fields =
    &[(0, Cap(1)), (4, Cap(3)), (8, Cap(2)), (12, Cap(1)), (16, Cap(1)), (24, Cap(1))];
const PFR1_32: Fields = &[(0, Cap(1)), (16, Cap(1))];
const PFR2_32: Fields = &[(0, Cap(1)), (4, Cap(1))];
const DFR0_32: Fields = &[(0, Fixed(DEBUG_V8))];

/// How a whole register is shown.
#[derive(Clone, Copy)]
enum Rule {
    /// Listed fields only.
    Fields(Fields),
    /// As it is; it describes instructions or stage 1 only.
    Raw,
    /// Listed fields, if the CPU has AArch32 at EL0.
    Fields32(Fields),
    /// As it is, if the CPU has AArch32 at EL0.
    Raw32,
}
use Rule::{Fields32, Raw, Raw32};

const TABLE: [(Enc, Rule); 29] = [
    (r::ID_PFR0_EL1, Fields32(PFR0_32)),
    (r::ID_PFR1_EL1, Fields32(PFR1_32)),
    (r::ID_DFR0_EL1, Fields32(DFR0_32)),
    (r::ID_MMFR0_EL1, Raw32),
    (r::ID_MMFR1_EL1, Raw32),
    (r::ID_MMFR2_EL1, Raw32),
    (r::ID_MMFR3_EL1, Raw32),
    (r::ID_ISAR0_EL1, Raw32),
    (r::ID_ISAR1_EL1, Raw32),
    (r::ID_ISAR2_EL1, Raw32),
    (r::ID_ISAR3_EL1, Raw32),
    (r::ID_ISAR4_EL1, Raw32),
    (r::ID_ISAR5_EL1, Raw32),
    (r::ID_MMFR4_EL1, Raw32),
    (r::ID_ISAR6_EL1, Raw32),
    (r::MVFR0_EL1, Raw32),
    (r::MVFR1_EL1, Raw32),
    (r::MVFR2_EL1, Raw32),
    (r::ID_PFR2_EL1, Fields32(PFR2_32)),
    (r::ID_AA64PFR0_EL1, Rule::Fields(PFR0)),
    (r::ID_AA64PFR1_EL1, Rule::Fields(PFR1)),
    (r::ID_AA64DFR0_EL1, Rule::Fields(DFR0)),
    (r::ID_AA64ISAR0_EL1, Rule::Fields(ISAR0)),
    (r::ID_AA64ISAR1_EL1, Rule::Fields(ISAR1)),
    (r::ID_AA64ISAR2_EL1, Rule::Fields(ISAR2)),
    (r::ID_AA64MMFR0_EL1, Rule::Fields(MMFR0)),
    (r::ID_AA64MMFR1_EL1, Rule::Fields(MMFR1)),
    (r::ID_AA64MMFR2_EL1, Rule::Fields(MMFR2)),
    // Which fixes of errata a core carries. AIDR_EL1 is not here: it is IMPLEMENTATION DEFINED.
    (r::REVIDR_EL1, Raw),
];

/// Every ID register whose real value matters: the EL2 image reads these once. All others that are
/// trapped read as zero whatever the CPU has.
pub const ID_REGISTERS: [Enc; TABLE.len()] = {
    let mut out = [r::REVIDR_EL1; TABLE.len()];
    let (mut to, mut from): (&mut [Enc], &[(Enc, Rule)]) = (&mut out, &TABLE);
    while let ([slot, slots @ ..], [(enc, _), rest @ ..]) = (to, from) {
        *slot = *enc;
        (to, from) = (slots, rest);
    }
    out
};

impl GuestView {
    /// An ID register as a guest reads it; `raw` is the CPU's own (0 for one that is not in
    /// [`ID_REGISTERS`]).
    #[must_use]
    pub fn id_register(&self, enc: Enc, raw: u64) -> u64 {
        let Some((_, rule)) = TABLE.iter().find(|(e, _)| *e == enc) else { return 0 };
        let shown = match *rule {
            Raw => raw,
            Rule::Fields(fields) => show(fields, raw),
            Raw32 if self.aarch32_el0 => raw,
            Fields32(fields) if self.aarch32_el0 => show(fields, raw),
            Raw32 | Fields32(_) => 0,
        };
        match enc {
            r::ID_AA64PFR0_EL1 => shown | (u64::from(self.gic_v3) << 24),
            r::ID_PFR1_EL1 if self.aarch32_el0 => shown | (u64::from(self.gic_v3) << 28),
            r::ID_AA64MMFR0_EL1 => (shown & !0xf) | (shown & 0xf).min(pa_range(self.ipa_bits)),
            _ => shown,
        }
    }
}

fn show(fields: Fields, raw: u64) -> u64 {
    fields.iter().fold(0, |shown, &(shift, field)| {
        let value = (raw.wrapping_shr(shift) & 0xf) as u8;
        let value = match field {
            Cap(most) => value.min(most),
            Signed(most) => signed(value).min(most) as u8 & 0xf,
            Fixed(value) => value & 0xf,
        };
        shown | u64::from(value).wrapping_shl(shift)
    })
}

/// A four-bit number in two's complement.
const fn signed(value: u8) -> i8 {
    ((value << 4) as i8) >> 4
}

/// The widest PARange that lies within an IPA space (DDI0487, ID_AA64MMFR0_EL1.PARange).
const fn pa_range(ipa_bits: u8) -> u64 {
    match ipa_bits {
        0..=35 => 0,
        36..=39 => 1,
        40 | 41 => 2,
        42 | 43 => 3,
        44..=47 => 4,
        _ => 5,
    }
}
