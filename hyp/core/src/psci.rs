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
