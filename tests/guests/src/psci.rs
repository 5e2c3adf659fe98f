//! PSCI (DEN0022) and SMCCC (DEN0028) calls by the conduit that the device tree names.

use core::arch::asm;

use crate::machine;

/// `PSCI_VERSION`.
pub const VERSION: u64 = 0x8400_0000;
/// `CPU_SUSPEND`, 64-bit.
pub const CPU_SUSPEND: u64 = 0xc400_0001;
/// `CPU_OFF`.
pub const CPU_OFF: u64 = 0x8400_0002;
/// `CPU_ON`, 64-bit.
pub const CPU_ON: u64 = 0xc400_0003;
/// `AFFINITY_INFO`, 64-bit.
pub const AFFINITY_INFO: u64 = 0xc400_0004;
/// `MIGRATE`, 64-bit.
pub const MIGRATE: u64 = 0xc400_0005;
/// `MIGRATE_INFO_TYPE`.
pub const MIGRATE_INFO_TYPE: u64 = 0x8400_0006;
/// `SYSTEM_OFF`.
pub const SYSTEM_OFF: u64 = 0x8400_0008;
/// `SYSTEM_RESET`.
pub const SYSTEM_RESET: u64 = 0x8400_0009;
/// `PSCI_FEATURES`.
pub const FEATURES: u64 = 0x8400_000a;
/// `SMCCC_VERSION`.
pub const SMCCC_VERSION: u64 = 0x8000_0000;

/// NOT_SUPPORTED, in 32 bits.
pub const NOT_SUPPORTED: i32 = -1;
/// INVALID_PARAMETERS.
pub const INVALID: i32 = -2;
/// ALREADY_ON.
pub const ALREADY_ON: i32 = -4;

/// x0..x17 before or after a call.
pub type Regs = [u64; 18];

macro_rules! conduit {
    ($(#[$doc:meta])* $name:ident, $insn:literal) => {
        $(#[$doc])*
        pub fn $name(regs: &mut Regs) {
            // SAFETY:
            // 1. The call returns here with x18..x30 and sp preserved (SMCCC 2.6); x0..x17 are
            //    loaded from and stored to `regs`.
            // 2. Where the instruction is undefined the trap, if armed, steps over it.
            unsafe {
                asm!(
                    "stp x29, x30, [sp, #-16]!",
                    "mov x29, x20",
                    "ldp x0, x1, [x29]",
                    "ldp x2, x3, [x29, #16]",
                    "ldp x4, x5, [x29, #32]",
                    "ldp x6, x7, [x29, #48]",
                    "ldp x8, x9, [x29, #64]",
                    "ldp x10, x11, [x29, #80]",
                    "ldp x12, x13, [x29, #96]",
                    "ldp x14, x15, [x29, #112]",
                    "ldp x16, x17, [x29, #128]",
                    $insn,
                    "stp x0, x1, [x29]",
                    "stp x2, x3, [x29, #16]",
                    "stp x4, x5, [x29, #32]",
                    "stp x6, x7, [x29, #48]",
                    "stp x8, x9, [x29, #64]",
                    "stp x10, x11, [x29, #80]",
                    "stp x12, x13, [x29, #96]",
                    "stp x14, x15, [x29, #112]",
                    "stp x16, x17, [x29, #128]",
                    "ldp x29, x30, [sp], #16",
                    in("x20") regs.as_mut_ptr(),
                    clobber_abi("C"),
                );
            }
        }
    };
}

conduit! { /// HVC #0.
hvc, "hvc #0" }
conduit! { /// HVC with another immediate.
hvc_imm, "hvc #0x1234" }
conduit! { /// SMC #0.
smc, "smc #0" }
conduit! { /// SMC with another immediate.
smc_imm, "smc #0x1234" }

/// A call by the machine's conduit; answers x0..x17.
pub fn call_regs(mut regs: Regs) -> Regs {
    if machine::get().hvc {
        hvc(&mut regs);
    } else {
        smc(&mut regs);
    }
    regs
}

/// A call by the machine's conduit; answers x0.
pub fn call(id: u64, x1: u64, x2: u64, x3: u64) -> u64 {
    let mut regs = [0; 18];
    regs[..4].copy_from_slice(&[id, x1, x2, x3]);
    call_regs(regs)[0]
}

/// As [`call`], read as the 32-bit status that SMC32 and PSCI codes are.
#[expect(clippy::cast_possible_truncation, reason = "the status is w0")]
pub fn status(id: u64, x1: u64, x2: u64, x3: u64) -> i32 {
    call(id, x1, x2, x3) as i32
}

/// Switches the machine off; returns only if that is refused.
pub fn system_off() {
    call(SYSTEM_OFF, 0, 0, 0);
}
