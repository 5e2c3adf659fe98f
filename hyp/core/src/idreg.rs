//! The ID registers as a guest reads them: an allow-list of fields, each with a cap.
//!
//! A field that is not listed reads as zero, so a CPU's news stays hidden until somebody has
//! thought about its state. Names and meanings: DDI0487 D24.2.52 onwards.

use crate::bits::{flag, union};
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
    /// Breakpoints, as `ID_AA64DFR0_EL1` says: 1 to 16.
    pub breakpoints: u8,
    /// Watchpoints, likewise.
    pub watchpoints: u8,
    /// `OSDLR_EL1` does something (FEAT_DoubleLock).
    pub double_lock: bool,
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
    // PMUVer, PMSVer, TraceVer, TraceFilt and so on stay 0. So does what came to debug after Armv8.0.
    (0, Fixed(DEBUG_V8)),
    (12, Cap(15)),   // BRPs
    (20, Cap(15)),   // WRPs
    (28, Cap(15)),   // CTX_CMPs: the last ones of the breakpoints
    (36, Signed(0)), // DoubleLock: 0 says that it is there
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
    (60, Cap(1)),    // ECV: CNTPCTSS_EL0 and CNTVCTSS_EL0, which EL2 does not trap; not CNTPOFF_EL2
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
            r::ID_AA64PFR0_EL1 => union(&[shown, flag(self.gic_v3, 1 << 24)]),
            r::ID_PFR1_EL1 if self.aarch32_el0 => union(&[shown, flag(self.gic_v3, 1 << 28)]),
            r::ID_AA64MMFR0_EL1 => {
                union(&[shown & !0xf, (shown & 0xf).min(pa_range(self.ipa_bits))])
            }
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
        union(&[shown, u64::from(value).wrapping_shl(shift)])
    })
}

/// Numbers of breakpoints and of watchpoints, and whether there is a double lock, as
/// `ID_AA64DFR0_EL1` says.
pub(crate) const fn debug_view(dfr0: u64) -> (u8, u8, bool) {
    let breakpoints = ((dfr0 >> 12) & 0xf) as u8;
    let watchpoints = ((dfr0 >> 20) & 0xf) as u8;
    let double_lock = (dfr0 >> 36) & 0xf == 0;
    (breakpoints.saturating_add(1), watchpoints.saturating_add(1), double_lock)
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

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: GuestView = GuestView {
        ipa_bits: 40,
        gic_v3: true,
        aarch32_el0: true,
        breakpoints: 8,
        watchpoints: 8,
        double_lock: true,
    };
    const ONES: u64 = u64::MAX;

    /// Every field of a register at its largest: what a CPU with everything would show. Signed
    /// fields need 7 for that, not 15.
    fn full(enc: Enc) -> u64 {
        VIEW.id_register(enc, 0x7777_7777_7777_7777)
    }

    #[test]
    fn each_register_shows_no_more_than_its_caps() {
        let table = [
            (r::ID_AA64PFR0_EL1, 0x1101_0000_0111_0012),
            (r::ID_AA64PFR1_EL1, 0x0000_0001_0000_0021),
            (r::ID_AA64DFR0_EL1, 0x0000_0000_7070_7006),
            (r::ID_AA64ISAR0_EL1, 0x1221_1111_1021_2120),
            (r::ID_AA64ISAR1_EL1, 0x0011_1111_0031_1002),
            (r::ID_AA64ISAR2_EL1, 0x0011_0000_1010_0010),
            (r::ID_AA64MMFR0_EL1, 0x1000_0000_0011_0122),
            (r::ID_AA64MMFR1_EL1, 0x1001_1030_0030_2002),
            (r::ID_AA64MMFR2_EL1, 0x1021_0011_1011_0111),
            (r::ID_PFR0_EL1, 0x0101_1231),
            (r::ID_PFR1_EL1, 0x1001_0001),
            (r::ID_PFR2_EL1, 0x0000_0011),
            (r::ID_DFR0_EL1, 6),
        ];
        for (enc, shown) in table {
            assert_eq!(full(enc), shown, "{enc:?}");
        }
    }

    #[test]
    fn a_cpu_that_has_nothing_shows_only_what_is_fixed() {
        for enc in ID_REGISTERS {
            let expected = match enc {
                r::ID_AA64PFR0_EL1 => (1 << 24) | 0x10,
                r::ID_PFR1_EL1 => 1 << 28,
                r::ID_AA64DFR0_EL1 => 6,
                r::ID_DFR0_EL1 => 6,
                _ => 0,
            };
            assert_eq!(VIEW.id_register(enc, 0), expected, "{enc:?}");
        }
    }

    #[test]
    fn debug_is_counted_from_one_and_a_double_lock_is_there_unless_denied() {
        // BRPs, WRPs and DoubleLock each at both ends; all other fields full.
        let others = !0x00f0_00f0_f000;
        assert_eq!(debug_view(others & !(0xf << 36)), (1, 1, true));
        assert_eq!(debug_view(0xf << 12), (16, 1, true));
        assert_eq!(debug_view(0xf << 20), (1, 16, true));
        assert_eq!(debug_view(0xf << 36), (1, 1, false));
    }

    #[test]
    fn a_missing_fpu_or_granule_is_shown_as_missing() {
        // 0xf means "not implemented" in these, which is less than 0.
        let pfr0 = |fp: u64| VIEW.id_register(r::ID_AA64PFR0_EL1, fp << 16) >> 16 & 0xff;
        assert_eq!(pfr0(0xff), 0xff);
        assert_eq!(pfr0(0x00), 0x00);
        assert_eq!(pfr0(0x11), 0x11);
        assert_eq!(pfr0(0x22), 0x11);
        let granules = |raw: u64| VIEW.id_register(r::ID_AA64MMFR0_EL1, raw << 20) >> 20;
        assert_eq!(granules(0xff0), 0xff0);
        assert_eq!(granules(0x112), 0x001); // 52 bits are not shown
        assert_eq!(granules(0x001), 0x001);
    }

    #[test]
    fn a_cortex_a72_is_shown_as_it_is_but_for_what_a_guest_has_not() {
        let a72 = |enc, raw| VIEW.id_register(enc, raw);
        // EL3, EL2 and AArch32 at EL1 go; the GIC's interface comes from the guest's GIC.
        assert_eq!(a72(r::ID_AA64PFR0_EL1, 0x0000_2222), 0x0100_0012);
        assert_eq!(a72(r::ID_AA64DFR0_EL1, 0x1030_5106), 0x1030_5006);
        assert_eq!(a72(r::ID_AA64ISAR0_EL1, 0x0001_1120), 0x0001_1120);
        assert_eq!(a72(r::ID_AA64MMFR0_EL1, 0x0000_1124), 0x0000_0122);
        assert_eq!(a72(r::ID_AA64MMFR1_EL1, 0), 0);
    }

    #[test]
    fn the_guests_gic_decides_the_gic_field() {
        let v2 = GuestView { gic_v3: false, ..VIEW };
        for raw in [0, 1 << 24, 3 << 24] {
            assert_eq!(VIEW.id_register(r::ID_AA64PFR0_EL1, raw), 0x0100_0010);
            assert_eq!(v2.id_register(r::ID_AA64PFR0_EL1, raw), 0x10);
        }
        assert_eq!(VIEW.id_register(r::ID_PFR1_EL1, ONES) >> 28, 1);
        assert_eq!(v2.id_register(r::ID_PFR1_EL1, ONES) >> 28, 0);
    }

    #[test]
    fn physical_addresses_do_not_exceed_the_ipa_space_nor_the_cpu() {
        let shown = |ipa_bits, raw| {
            GuestView { ipa_bits, ..VIEW }.id_register(r::ID_AA64MMFR0_EL1, raw) & 0xf
        };
        let widths = [32, 36, 40, 42, 44, 48];
        for bits in 32..=48_u8 {
            let widest = widths.iter().filter(|w| **w <= bits).count() as u64 - 1;
            assert_eq!(shown(bits, 6), widest, "{bits} bits");
            for raw in 0..=6 {
                assert_eq!(shown(bits, raw), raw.min(widest), "{bits} bits, CPU {raw}");
            }
        }
    }

    #[test]
    fn without_aarch32_its_registers_read_as_zero() {
        let view = GuestView { aarch32_el0: false, ..VIEW };
        for enc in ID_REGISTERS {
            let (_, _, _, crm, _) = enc.parts();
            if (1..=3).contains(&crm) {
                assert_eq!(view.id_register(enc, ONES), 0, "{enc:?}");
            } else {
                assert_eq!(view.id_register(enc, ONES), VIEW.id_register(enc, ONES), "{enc:?}");
            }
        }
    }

    #[test]
    fn aarch32_instruction_and_memory_features_are_the_cpus_own() {
        for enc in [
            r::ID_MMFR0_EL1,
            r::ID_MMFR1_EL1,
            r::ID_MMFR2_EL1,
            r::ID_MMFR3_EL1,
            r::ID_MMFR4_EL1,
            r::ID_ISAR0_EL1,
            r::ID_ISAR1_EL1,
            r::ID_ISAR2_EL1,
            r::ID_ISAR3_EL1,
            r::ID_ISAR4_EL1,
            r::ID_ISAR5_EL1,
            r::ID_ISAR6_EL1,
            r::MVFR0_EL1,
            r::MVFR1_EL1,
            r::MVFR2_EL1,
            r::REVIDR_EL1,
        ] {
            assert_eq!(VIEW.id_register(enc, 0x1234_5678), 0x1234_5678, "{enc:?}");
        }
    }

    #[test]
    fn a_register_that_is_not_listed_reads_as_zero() {
        let unlisted = [
            Enc::new(3, 0, 0, 4, 4), // ID_AA64ZFR0_EL1
            Enc::new(3, 0, 0, 4, 5), // ID_AA64SMFR0_EL1
            Enc::new(3, 0, 0, 5, 1), // ID_AA64DFR1_EL1
            Enc::new(3, 0, 0, 5, 4), // ID_AA64AFR0_EL1
            Enc::new(3, 0, 0, 6, 3), // ID_AA64ISAR3_EL1
            Enc::new(3, 0, 0, 7, 3), // ID_AA64MMFR3_EL1
            Enc::new(3, 0, 0, 3, 3), // reserved
            r::AIDR_EL1,
        ];
        for enc in unlisted {
            assert_eq!(VIEW.id_register(enc, ONES), 0, "{enc:?}");
            assert!(!ID_REGISTERS.contains(&enc));
        }
    }

    #[test]
    fn the_list_of_registers_to_read_is_the_table_without_doubles() {
        let distinct: std::collections::BTreeSet<_> = ID_REGISTERS.into_iter().collect();
        assert_eq!(distinct.len(), TABLE.len());
        assert!(TABLE.iter().all(|(enc, _)| distinct.contains(enc)));
    }
}
