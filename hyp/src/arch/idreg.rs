//! The feature ID registers, by encoding.

use core::arch::asm;

use hyp_core::sysreg::{Enc, ID_AA64DFR0_EL1, ID_AA64ISAR1_EL1, ID_AA64PFR0_EL1, ID_AA64PFR1_EL1};

macro_rules! by_encoding {
    ($($op1:literal $crm:literal: $($op2:literal)*;)*) => {
        /// An ID register: op0 = 3, CRn = 0. Zero for any other encoding.
        pub fn read(enc: Enc) -> u64 {
            match enc.parts() {
                $($(
                    (3, $op1, 0, $crm, $op2) => {
                        let value: u64;
                        // SAFETY:
                        // 1. Reading an ID register has no side effect, and this space is all
                        //    readable: what is not allocated reads as zero (DDI0487 C5.1.2).
                        unsafe {
                            asm!(
                                concat!("mrs {}, s3_", $op1, "_c0_c", $crm, "_", $op2),
                                out(reg) value, options(nomem, nostack, preserves_flags)
                            );
                        }
                        value
                    }
                )*)*
                _ => 0,
            }
        }
    };
}

by_encoding! {
    0 0: 6; // REVIDR_EL1
    0 1: 0 1 2 3 4 5 6 7;
    0 2: 0 1 2 3 4 5 6 7;
    0 3: 0 1 2 3 4 5 6 7;
    0 4: 0 1 2 3 4 5 6 7;
    0 5: 0 1 2 3 4 5 6 7;
    0 6: 0 1 2 3 4 5 6 7;
    0 7: 0 1 2 3 4 5 6 7;
    1 0: 7; // AIDR_EL1
}

/// Fields that the host does not see: state that the world switch does not know, and registers that
/// trap by default where fine-grained traps exist.
const HIDDEN: [(Enc, u64); 8] = [
    (ID_AA64PFR0_EL1, field(32) | field(40)), // SVE, MPAM
    (ID_AA64PFR1_EL1, field(16) | field(24) | field(44) | field(48)), // MPAM_frac, SME, GCS, THE
    (Enc::new(3, 0, 0, 4, 2), field(32)),     // PFR2: FPMR
    (Enc::new(3, 0, 0, 4, 4), u64::MAX),      // ZFR0: SVE
    (Enc::new(3, 0, 0, 4, 5), u64::MAX),      // SMFR0: SME
    (ID_AA64DFR0_EL1, field(32) | field(44) | field(52)), // PMSVer, TraceBuffer, BRBE
    (ID_AA64ISAR1_EL1, field(60)),            // LS64
    // MMFR3: S1PIE, S2PIE, S1POE, S2POE, AIE, D128, D128_2
    (
        ID_AA64MMFR3_EL1,
        field(8) | field(12) | field(16) | field(20) | field(24) | field(32) | field(36),
    ),
];

/// `ID_AA64MMFR3_EL1`.
pub const ID_AA64MMFR3_EL1: Enc = Enc::new(3, 0, 0, 7, 3);

const fn field(shift: u32) -> u64 {
    0xf << shift
}

/// Whether this CPU has any of what the host must not see.
pub fn hides_something() -> bool {
    HIDDEN.iter().any(|(enc, fields)| read(*enc) & fields != 0)
}

/// The register as the host reads it.
pub fn for_host(enc: Enc) -> u64 {
    let hidden = HIDDEN.iter().find(|(e, _)| *e == enc).map_or(0, |(_, fields)| *fields);
    read(enc) & !hidden
}
