//! What a guest gets for an HVC or SMC: PSCI 1.1 (DEN0022) and SMCCC 1.1 (DEN0028).
//!
//! Knows function numbers, arguments and answers, and which vCPUs are on. Must not know how a vCPU is
//! started or stopped: it says what to do ([`Answer`]). Unknown functions are NOT_SUPPORTED, never
//! "success".

use alloc::vec::Vec;

const SMC64: u64 = 1 << 30;
const VERSION: u64 = 0x8400_0000;
const CPU_SUSPEND: u64 = 0x8400_0001;
const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0x8400_0003;
const AFFINITY_INFO: u64 = 0x8400_0004;
const MIGRATE_INFO_TYPE: u64 = 0x8400_0006;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;
const FEATURES: u64 = 0x8400_000a;
const SMCCC_VERSION: u64 = 0x8000_0000;
const ARCH_FEATURES: u64 = 0x8000_0001;
/// The hint "no SVE state is live" (DEN0028 1.3) is no part of a function number.
const SVE_HINT: u64 = 1 << 16;

const SUCCESS: u64 = 0;
/// NOT_SUPPORTED, of SMCCC as well. What SMCCC says of ARCH_WORKAROUND_1, 2 and 3 EL2 answers itself,
/// before the host is asked.
pub const NOT_SUPPORTED: u64 = u64::MAX;
const INVALID_PARAMETERS: u64 = NOT_SUPPORTED.wrapping_sub(1);
const ALREADY_ON: u64 = NOT_SUPPORTED.wrapping_sub(3);
const INVALID_ADDRESS: u64 = NOT_SUPPORTED.wrapping_sub(8);
/// MIGRATE_INFO_TYPE: no Trusted OS to migrate.
const NO_TRUSTED_OS: u64 = 2;

/// Affinity fields of MPIDR_EL1.
const AFFINITY: u64 = 0xff_00ff_ffff;
/// power_state, original format: StateType, powerdown rather than standby.
const POWERDOWN: u64 = 1 << 16;
/// power_state: reserved bits, and power levels above the CPU itself.
const POWER_STATE_BAD: u64 = 0xfffe_0000;

/// What to do for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// x0 is this.
    Value(u64),
    /// Wait for an interrupt; then x0 is 0.
    Standby,
    /// This vCPU is off.
    CpuOff,
    /// Start a vCPU; x0 of the caller is 0.
    CpuOn {
        /// Which.
        vcpu: usize,
        /// Where.
        start: Start,
    },
    /// The VM ends.
    SystemOff,
    /// The VM starts anew.
    SystemReset,
    /// Not a function of PSCI or SMCCC.
    Unknown,
}

/// How a vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// pc.
    pub entry: u64,
    /// x0.
    pub context: u64,
}

/// A call: function and arguments, as far as PSCI has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    id: u64,
    args: [u64; 3],
}

impl Call {
    /// Reads x0..x3. The number is w0; a call of the 32-bit convention has 32-bit arguments.
    #[must_use]
    pub fn new(x: [u64; 4]) -> Self {
        let [x0, x1, x2, x3] = x;
        let id = x0 & 0xffff_ffff & !SVE_HINT;
        let mask = if id & SMC64 != 0 { u64::MAX } else { 0xffff_ffff };
        Self { id, args: [x1 & mask, x2 & mask, x3 & mask] }
    }

    /// The function number.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }
}

/// The functions there are, with the number of their 64-bit form if they have one.
fn is_function(id: u64) -> bool {
    let only32 = [VERSION, CPU_OFF, MIGRATE_INFO_TYPE, SYSTEM_OFF, SYSTEM_RESET, FEATURES];
    let both = [CPU_SUSPEND, CPU_ON, AFFINITY_INFO];
    only32.contains(&id) || both.contains(&(id & !SMC64))
}

/// Answers a call. `on` says of each vCPU whether it is on; `is_ram` whether a vCPU can start there.
#[must_use]
pub fn answer(call: Call, on: &[bool], is_ram: impl Fn(u64) -> bool) -> Answer {
    let [a1, a2, a3] = call.args;
    match call.id {
        SMCCC_VERSION => return Answer::Value(0x1_0001),
        ARCH_FEATURES => {
            let known = a1 == SMCCC_VERSION || a1 == ARCH_FEATURES;
            return Answer::Value(if known { SUCCESS } else { NOT_SUPPORTED });
        }
        id if !is_function(id) => return Answer::Unknown,
        _ => {}
    }
    let start = |entry: u64, context| {
        if entry & 3 == 0 && is_ram(entry) {
            Ok(Start { entry, context })
        } else {
            Err(Answer::Value(INVALID_ADDRESS))
        }
    };
    match call.id & !SMC64 {
        VERSION => Answer::Value(0x1_0001),
        CPU_SUSPEND if a1 & POWER_STATE_BAD != 0 => Answer::Value(INVALID_PARAMETERS),
        CPU_SUSPEND if a1 & POWERDOWN == 0 => Answer::Standby,
        // A state that would lose nothing is as good (DEN0022 5.4: power_state names the deepest that is
        // allowed): QEMU and KVM do so, and the timers stay on, as the device tree says.
        CPU_SUSPEND => start(a2, a3).map_or_else(|refusal| refusal, |_| Answer::Standby),
        CPU_OFF => Answer::CpuOff,
        CPU_ON => {
            let Some(vcpu) = vcpu_of(a1, on.len()) else {
                return Answer::Value(INVALID_PARAMETERS);
            };
            if on.get(vcpu).copied().unwrap_or(false) {
                return Answer::Value(ALREADY_ON);
            }
            start(a2, a3).map_or_else(|refusal| refusal, |start| Answer::CpuOn { vcpu, start })
        }
        AFFINITY_INFO => Answer::Value(affinity_info(a1, a2, on)),
        MIGRATE_INFO_TYPE => Answer::Value(NO_TRUSTED_OS),
        SYSTEM_OFF => Answer::SystemOff,
        SYSTEM_RESET => Answer::SystemReset,
        FEATURES => {
            let known = is_function(a1) || a1 == SMCCC_VERSION;
            Answer::Value(if known { SUCCESS } else { NOT_SUPPORTED })
        }
        _ => Answer::Unknown,
    }
}

/// The vCPU with this affinity: 0.0.0.n.
fn vcpu_of(mpidr: u64, vcpus: usize) -> Option<usize> {
    usize::try_from(mpidr).ok().filter(|n| *n < vcpus)
}

/// 0 if any vCPU of the affinity instance is on, else 1.
fn affinity_info(target: u64, level: u64, on: &[bool]) -> u64 {
    let ignored = match level {
        0 => 0,
        1 => 0xff,
        2 => 0xffff,
        3 => 0xff_ffff,
        _ => return INVALID_PARAMETERS,
    };
    if target & !AFFINITY != 0 {
        return INVALID_PARAMETERS;
    }
    let of_it = |vcpu: u64| vcpu & !ignored == target & !ignored;
    let members: Vec<bool> =
        (0..).zip(on).filter(|(vcpu, _)| of_it(*vcpu)).map(|(_, on)| *on).collect();
    match members.as_slice() {
        [] => INVALID_PARAMETERS,
        some => u64::from(!some.contains(&true)),
    }
}

#[cfg(test)]
mod tests;
