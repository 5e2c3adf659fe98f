//! The feature ID registers, by encoding.

use core::arch::asm;

use hyp_core::sysreg::{Enc, ID_AA64PFR0_EL1, ID_AA64PFR1_EL1};

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

const ID_AA64ZFR0_EL1: Enc = Enc::new(3, 0, 0, 4, 4);
const ID_AA64SMFR0_EL1: Enc = Enc::new(3, 0, 0, 4, 5);
const SVE: u64 = 0xf << 32;
const SME: u64 = 0xf << 24;

/// The register as the host reads it: the CPU's, without SVE and SME.
pub fn for_host(enc: Enc) -> u64 {
    match enc {
        ID_AA64PFR0_EL1 => read(enc) & !SVE,
        ID_AA64PFR1_EL1 => read(enc) & !SME,
        ID_AA64ZFR0_EL1 | ID_AA64SMFR0_EL1 => 0,
        _ => read(enc),
    }
}
