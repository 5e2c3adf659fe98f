//! Which of the host's firmware calls reach the firmware.
//!
//! The host asks for power services by SMC, which `HCR_EL2.TSC` traps. Firmware would start a CPU,
//! or resume this one, at EL2 and at an address of the caller's choice: those calls never pass.
//! Knows PSCI (DEN0022) and SMCCC (DEN0028) numbers. Must not know how to issue an SMC.

/// PSCI and SMCCC function ids. The 64-bit form of a PSCI call has bit 30 set as well.
pub mod id {
    /// `SMCCC_VERSION`.
    pub const SMCCC_VERSION: u32 = 0x8000_0000;
    /// `SMCCC_ARCH_FEATURES`.
    pub const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
    /// `PSCI_VERSION`.
    pub const VERSION: u32 = 0x8400_0000;
    /// `CPU_SUSPEND`.
    pub const CPU_SUSPEND: u32 = 0x8400_0001;
    /// `CPU_OFF`.
    pub const CPU_OFF: u32 = 0x8400_0002;
    /// `CPU_ON`.
    pub const CPU_ON: u32 = 0x8400_0003;
    /// `AFFINITY_INFO`.
    pub const AFFINITY_INFO: u32 = 0x8400_0004;
    /// `MIGRATE_INFO_TYPE`.
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    /// `SYSTEM_OFF`.
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    /// `SYSTEM_RESET`.
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    /// `PSCI_FEATURES`.
    pub const FEATURES: u32 = 0x8400_000a;
    /// `SYSTEM_RESET2`.
    pub const SYSTEM_RESET2: u32 = 0x8400_0012;
    /// Set in the id of a call with 64-bit arguments (SMC64).
    pub const WIDE: u32 = 1 << 30;
}

/// Return values, as x0 holds them.
pub mod status {
    /// Done.
    pub const SUCCESS: u64 = 0;
    /// Unknown call (the same number in SMCCC).
    pub const NOT_SUPPORTED: u64 = (-1_i64) as u64;
    /// Bad argument.
    pub const INVALID_PARAMETERS: u64 = (-2_i64) as u64;
    /// Not allowed.
    pub const DENIED: u64 = (-3_i64) as u64;
    /// That CPU runs already.
    pub const ALREADY_ON: u64 = (-4_i64) as u64;
    /// SMCCC 1.1.
    pub const SMCCC_1_1: u64 = 0x1_0001;
}

/// Affinity bits of an MPIDR: Aff3 and Aff2..Aff0.
pub const MPIDR_AFFINITY: u64 = 0xff_00ff_ffff;

/// How EL2 can reach the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By SMC.
    Smc,
    /// There is none: an SMC would hang or be undefined (a Raspberry Pi with the default stub).
    None,
}

/// What to do with the call. x1..x3 of the host become 0 in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the firmware with exactly these x0..x3 (x4 and up zero); its x0 is the answer.
    Forward([u64; 4]),
    /// Answer x0 at once.
    Answer(u64),
}

/// Decides an SMC of the host. `args` are its x0..x3; `cpus` the MPIDRs (affinity bits) of the
/// CPUs that EL2 runs on.
#[must_use]
pub fn host_smc(imm: u16, args: [u64; 4], cpus: &[u64], conduit: Conduit) -> Action {
    use Action::Answer;
    // SMCCC defines immediate 0 only.
    if imm != 0 {
        return Answer(status::NOT_SUPPORTED);
    }
    let [x0, x1, x2, x3] = args;
    // SMCCC: the function id is w0; the upper half of x0 is ignored on purpose.
    let function = low32(x0);
    match function {
        id::SMCCC_VERSION => return Answer(status::SMCCC_1_1),
        id::SMCCC_ARCH_FEATURES => return Answer(arch_feature(low32(x1))),
        _ => {}
    }
    if conduit == Conduit::None {
        return Answer(status::NOT_SUPPORTED);
    }
    let wide = function & id::WIDE != 0;
    let width = if wide { u64::MAX } else { 0xffff_ffff };
    let call = [u64::from(function), x1 & width, x2 & width, x3 & width];
    match function & !id::WIDE {
        id::CPU_ON => Answer(cpu_on(x1 & width, cpus)),
        id::AFFINITY_INFO | id::SYSTEM_RESET2 => Action::Forward(call),
        // The rest has no 64-bit form.
        _ if wide => Answer(status::NOT_SUPPORTED),
        // The last CPU cannot go: nobody would be left to start it, nor any other.
        id::CPU_OFF => Answer(status::DENIED),
        id::VERSION | id::MIGRATE_INFO_TYPE | id::SYSTEM_OFF | id::SYSTEM_RESET => {
            Action::Forward([u64::from(function), 0, 0, 0])
        }
        id::FEATURES => match low32(x1) {
            id::SMCCC_VERSION => Answer(status::SUCCESS),
            asked if is_known(asked) => {
                Action::Forward([u64::from(function), u64::from(asked), 0, 0])
            }
            _ => Answer(status::NOT_SUPPORTED),
        },
        // CPU_SUSPEND and SYSTEM_SUSPEND too: powered down, the CPU would resume at EL2.
        _ => Answer(status::NOT_SUPPORTED),
    }
}

/// May the host hear the firmware's opinion of this function? Only if the call itself is known.
const fn is_known(function: u32) -> bool {
    match function & !id::WIDE {
        id::CPU_ON | id::AFFINITY_INFO | id::SYSTEM_RESET2 => true,
        _ => matches!(
            function,
            id::VERSION
                | id::CPU_OFF
                | id::MIGRATE_INFO_TYPE
                | id::SYSTEM_OFF
                | id::SYSTEM_RESET
                | id::FEATURES
        ),
    }
}

/// Every CPU that EL2 knows is running, for EL2 started it; one it does not know must stay off,
/// because it would come up at EL2 in the host's hands.
fn cpu_on(target: u64, cpus: &[u64]) -> u64 {
    let only_affinity = target & !MPIDR_AFFINITY == 0;
    if only_affinity && cpus.iter().any(|cpu| cpu & MPIDR_AFFINITY == target) {
        status::ALREADY_ON
    } else {
        status::INVALID_PARAMETERS
    }
}

const fn arch_feature(function: u32) -> u64 {
    match function {
        id::SMCCC_VERSION | id::SMCCC_ARCH_FEATURES => status::SUCCESS,
        _ => status::NOT_SUPPORTED,
    }
}

const fn low32(x: u64) -> u32 {
    (x & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::Action::{Answer, Forward};
    use super::*;

    const CPUS: &[u64] = &[0x8000_0000, 0x8000_0101];

    fn smc(args: [u64; 4]) -> Action {
        host_smc(0, args, CPUS, Conduit::Smc)
    }

    fn call(function: u32, x1: u64) -> Action {
        smc([u64::from(function), x1, 2, 3])
    }

    #[test]
    fn calls_about_the_whole_system_are_forwarded_with_nothing_else() {
        for function in [0x8400_0000, 0x8400_0006, 0x8400_0008, 0x8400_0009] {
            assert_eq!(call(function, 1), Forward([u64::from(function), 0, 0, 0]));
        }
    }

    #[test]
    fn affinity_info_and_reset2_keep_their_arguments_in_their_width() {
        let args = [0x1_0000_0001, 0x2_0000_0002, 0x3_0000_0003];
        for function in [0x8400_0004_u64, 0x8400_0012] {
            let [x1, x2, x3] = args;
            assert_eq!(smc([function, x1, x2, x3]), Forward([function, 1, 2, 3]));
            let wide = function | 0x4000_0000;
            assert_eq!(smc([wide, x1, x2, x3]), Forward([wide, x1, x2, x3]));
        }
    }

    #[test]
    fn nothing_that_starts_or_resumes_a_cpu_is_ever_forwarded() {
        for low in (0..=0xffff_u64).step_by(if cfg!(miri) { 511 } else { 1 }) {
            for base in [0x8400_0000, 0xc400_0000] {
                let function = base | low;
                let forwarded = matches!(smc([function, 0, 0, 0]), Forward(_));
                let allowed = match low {
                    0x04 | 0x12 => true,
                    0x00 | 0x06 | 0x08 | 0x09 => base == 0x8400_0000,
                    // FEATURES of function 0 is not known.
                    _ => false,
                };
                assert_eq!(forwarded, allowed, "{function:#x}");
            }
        }
    }

    #[test]
    fn a_running_cpu_is_already_on_and_an_unknown_one_does_not_exist() {
        for function in [0x8400_0003, 0xc400_0003] {
            assert_eq!(call(function, 0), Answer(-4_i64 as u64));
            assert_eq!(call(function, 0x101), Answer(-4_i64 as u64));
            assert_eq!(call(function, 1), Answer(-2_i64 as u64));
            // Bits that are no affinity: MPIDR's own bit 31, or bit 24.
            assert_eq!(call(function, 0x8000_0000), Answer(-2_i64 as u64));
            assert_eq!(call(function, 0x100_0000), Answer(-2_i64 as u64));
        }
        // Aff3 exists in the 64-bit call only.
        assert_eq!(call(0xc400_0003, 1 << 32), Answer(-2_i64 as u64));
        assert_eq!(call(0x8400_0003, 1 << 32), Answer(-4_i64 as u64));
        let far = &[0x12_8034_5678];
        let on = |cpu| host_smc(0, [0xc400_0003, cpu, 0, 0], far, Conduit::Smc);
        assert_eq!(on(0x12_0034_5678), Answer(-4_i64 as u64));
        assert_eq!(on(0x34_5678), Answer(-2_i64 as u64));
    }

    #[test]
    fn off_is_denied_and_suspend_is_not_there() {
        assert_eq!(call(0x8400_0002, 0), Answer(-3_i64 as u64));
        for function in [0x8400_0001, 0xc400_0001, 0x8400_000e, 0xc400_000e, 0x8400_000f] {
            assert_eq!(call(function, 0), Answer(u64::MAX), "{function:#x}");
        }
        // No 64-bit form.
        for function in [0xc400_0000, 0xc400_0002, 0xc400_0008, 0xc400_000a] {
            assert_eq!(call(function, 0), Answer(u64::MAX), "{function:#x}");
        }
    }

    #[test]
    fn features_are_asked_for_what_is_relayed_and_for_nothing_else() {
        let features = |asked| call(0x8400_000a, asked);
        let relayed = [
            0x8400_0000,
            0x8400_0002,
            0x8400_0003,
            0xc400_0003,
            0x8400_0004,
            0xc400_0004,
            0x8400_0006,
            0x8400_0008,
            0x8400_0009,
            0x8400_000a,
            0x8400_0012,
            0xc400_0012,
        ];
        for asked in relayed {
            assert_eq!(features(asked), Forward([0x8400_000a, asked, 0, 0]));
            assert_eq!(features(asked | 1 << 32), Forward([0x8400_000a, asked, 0, 0]));
        }
        for asked in [0x8400_0001, 0xc400_0001, 0xc400_0002, 0xc400_0008, 0x8400_000e, 0] {
            assert_eq!(features(asked), Answer(u64::MAX), "{asked:#x}");
        }
        assert_eq!(features(0x8000_0000), Answer(0));
    }

    #[test]
    fn smccc_is_ours_with_or_without_firmware() {
        for conduit in [Conduit::Smc, Conduit::None] {
            let ask = |x0, x1| host_smc(0, [x0, x1, 0, 0], CPUS, conduit);
            assert_eq!(ask(0x8000_0000, 0), Answer(0x1_0001));
            assert_eq!(ask(0x8000_0001, 0x8000_0000), Answer(0));
            assert_eq!(ask(0x8000_0001, 0x8000_0001), Answer(0));
            assert_eq!(ask(0x8000_0001, 0x8000_8000), Answer(u64::MAX));
            assert_eq!(ask(0x8000_8000, 0), Answer(u64::MAX));
        }
    }

    #[test]
    fn without_firmware_there_is_no_psci() {
        for function in [0x8400_0000, 0x8400_0003, 0xc400_0003, 0x8400_0008, 0x8400_000a] {
            let answer = host_smc(0, [function, 0, 0, 0], CPUS, Conduit::None);
            assert_eq!(answer, Answer(u64::MAX));
        }
    }

    #[test]
    fn only_immediate_zero_is_a_call() {
        for imm in [1, 0x8000, 0xffff] {
            let answer = host_smc(imm, [0x8400_0008, 0, 0, 0], CPUS, Conduit::Smc);
            assert_eq!(answer, Answer(u64::MAX));
        }
    }

    #[test]
    fn the_upper_half_of_x0_is_ignored_and_not_passed_on() {
        assert_eq!(smc([0xdead_beef_8400_0008, 0, 0, 0]), Forward([0x8400_0008, 0, 0, 0]));
    }

    #[test]
    fn other_owners_calls_are_unknown() {
        for function in [0, 1, 0x8200_0000, 0x8300_0000, 0x8400_0060, 0xbf00_0000, 0xffff_ffff] {
            assert_eq!(call(function, 0), Answer(u64::MAX), "{function:#x}");
        }
    }
}
