//! The specification of the host's power calls: PSCI 1.1 (DEN0022) and SMCCC 1.1 (DEN0028), as EL2
//! offers them to a host that it does not trust.
//!
//! Knows what each CPU does and what each SMC must come to; no more than a table and a map. Must not
//! know: locks, entry code, in which order two CPUs' calls come. Written from the two documents, with
//! none of `hyp_core::psci`'s or `hyp_core::power`'s code.

use alloc::collections::BTreeMap;

/// What a CPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// Off, or on its way.
    Off,
    /// Somebody has asked for it; it has not come yet.
    Pending,
    /// Runs.
    On,
    /// Sleeps, and may have lost its state.
    Asleep,
    /// Has come up and cannot be used.
    Unfit,
}

/// The CPUs, by the affinity bits of their MPIDRs.
pub type Cpus = BTreeMap<u64, Cpu>;

/// What is not the CPUs' own state.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    /// There is firmware with PSCI; otherwise EL2 is all there is.
    pub firmware: bool,
    /// Its `CPU_SUSPEND`, if it has one: `true` for the extended format of the power state.
    pub suspend: Option<bool>,
    /// Without firmware: the board can be switched off and reset.
    pub board_off: bool,
    /// The host could fetch from the entry point itself.
    pub reachable: bool,
    /// A vCPU is loaded on the calling CPU.
    pub loaded: bool,
}

/// What a call must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Must {
    /// This answer, and nothing else.
    Return(i64),
    /// The firmware hears exactly this, and answers.
    Relay([u64; 4]),
    /// That CPU is started. If the firmware will not, its code is the answer and the CPU stays off.
    Start(u64),
    /// The caller goes off.
    Stop,
    /// The caller waits; its state may be lost.
    Sleep {
        /// Whether it may.
        down: bool,
    },
    /// The board is switched off, or reset.
    End {
        /// And starts again.
        reset: bool,
    },
    /// Who switched it off knows whether that CPU, which is not running, has arrived there.
    Ask(u64),
}

const NOT_SUPPORTED: Must = Must::Return(-1);
const INVALID_PARAMETERS: Must = Must::Return(-2);
const DENIED: Must = Must::Return(-3);
const ALREADY_ON: Must = Must::Return(-4);
const ON_PENDING: Must = Must::Return(-5);
const INTERNAL_FAILURE: Must = Must::Return(-6);
const INVALID_ADDRESS: Must = Must::Return(-9);

/// The calls there are, by the low half of their numbers: with a 32-bit form, with a 64-bit form. What is not
/// here (`SYSTEM_SUSPEND`, `MIGRATE`, vendors' calls …) would resume or start at EL2, or is nobody's.
const CALLS: [(u64, bool, bool); 10] = [
    (0x0, true, false),
    (0x1, true, true),
    (0x2, true, false),
    (0x3, true, true),
    (0x4, true, true),
    (0x6, true, false),
    (0x8, true, false),
    (0x9, true, false),
    (0xa, true, false),
    (0x12, true, true),
];

/// Which call a function id is: its low half, and whether its arguments have 64 bits.
fn call(id: u64) -> Option<(u64, bool)> {
    let wide = match id >> 16 {
        0x8400 => false,
        0xc400 => true,
        _ => return None,
    };
    let known = |&&(low, narrow, both): &&(u64, bool, bool)| {
        low == id & 0xffff && if wide { both } else { narrow }
    };
    CALLS.iter().find(known).map(|(low, ..)| (*low, wide))
}

impl Around {
    /// Whether a call that exists exists here.
    fn has(&self, low: u64) -> bool {
        match low {
            0x1 => !self.firmware || self.suspend.is_some(),
            0x8 | 0x9 => self.firmware || self.board_off,
            0x12 => self.firmware,
            _ => true,
        }
    }

    /// Whether this power state may lose the CPU's: bit 16, or 30 in the extended format (5.4.2).
    fn loses_state(&self, state: u64) -> bool {
        let extended = self.firmware && self.suspend == Some(true);
        state >> if extended { 30 } else { 16 } & 1 == 1
    }
}

/// What an SMC of the CPU `caller` must come to: `args` are its x0 to x3, `imm` the instruction's.
#[must_use]
pub fn smc(cpus: &Cpus, caller: u64, around: Around, imm: u16, args: [u64; 4]) -> Must {
    let [id, x1, x2, x3] = args;
    let id = id & 0xffff_ffff;
    if imm != 0 {
        return NOT_SUPPORTED;
    }
    match id {
        0x8000_0000 => return Must::Return(0x1_0001),
        0x8000_0001 => return arch_features(x1 & 0xffff_ffff),
        _ => {}
    }
    let Some((low, wide)) = call(id).filter(|(low, _)| around.has(*low)) else {
        return NOT_SUPPORTED;
    };
    let cut = |x: u64| if wide { x } else { x & 0xffff_ffff };
    match low {
        0x0 if !around.firmware => Must::Return(0x1_0001),
        0x6 if !around.firmware => Must::Return(2),
        0x8 | 0x9 if !around.firmware => Must::End { reset: low == 0x9 },
        0x0 | 0x6 | 0x8 | 0x9 => Must::Relay([id, 0, 0, 0]),
        0x12 => Must::Relay([id, cut(x1), cut(x2), cut(x3)]),
        0x1 => suspend(around, x1),
        0x2 => off(cpus, caller, around),
        0x3 => on(cpus, cut(x1), around),
        0x4 => affinity_info(cpus, cut(x1), cut(x2)),
        _ => features(around, x1 & 0xffff_ffff),
    }
}

fn arch_features(asked: u64) -> Must {
    match asked {
        0x8000_0000 | 0x8000_0001 => Must::Return(0),
        _ => NOT_SUPPORTED,
    }
}

/// 5.4; a CPU with a vCPU keeps its state, for the vCPU could run nowhere else.
fn suspend(around: Around, state: u64) -> Must {
    match around.loses_state(state) {
        true if around.loaded => DENIED,
        true if !around.reachable => INVALID_ADDRESS,
        down => Must::Sleep { down },
    }
}

/// 5.5; the last one stays, for nobody could start it again.
fn off(cpus: &Cpus, caller: u64, around: Around) -> Must {
    let runs =
        |(mpidr, cpu): (&u64, &Cpu)| *mpidr != caller && matches!(cpu, Cpu::On | Cpu::Asleep);
    if around.loaded || !cpus.iter().any(runs) { DENIED } else { Must::Stop }
}

/// 5.6.
fn on(cpus: &Cpus, target: u64, around: Around) -> Must {
    match cpus.get(&target) {
        None => INVALID_PARAMETERS,
        Some(Cpu::On | Cpu::Asleep) => ALREADY_ON,
        Some(Cpu::Pending) => ON_PENDING,
        Some(Cpu::Unfit) => INTERNAL_FAILURE,
        Some(Cpu::Off) if !around.reachable => INVALID_ADDRESS,
        Some(Cpu::Off) => Must::Start(target),
    }
}

/// 5.7: fields below the level are ignored; a level is on if one of its CPUs is.
fn affinity_info(cpus: &Cpus, target: u64, level: u64) -> Must {
    let ignored = match level {
        0 => 0,
        1 => 0xff,
        2 => 0xffff,
        3 => 0xff_ffff,
        _ => return INVALID_PARAMETERS,
    };
    if target & !0xff_00ff_ffff != 0 {
        return INVALID_PARAMETERS;
    }
    let of = |mpidr: &u64| mpidr | ignored == target | ignored;
    let here = || cpus.iter().filter(|(mpidr, _)| of(mpidr)).map(|(_, cpu)| *cpu);
    if here().next().is_none() {
        INVALID_PARAMETERS
    } else if here().any(|cpu| matches!(cpu, Cpu::On | Cpu::Asleep)) {
        Must::Return(0)
    } else if here().any(|cpu| cpu == Cpu::Pending) {
        Must::Return(2)
    } else if level == 0 && here().any(|cpu| cpu == Cpu::Off) {
        Must::Ask(target)
    } else {
        Must::Return(1)
    }
}

/// 5.14: what is relayed the firmware answers for.
fn features(around: Around, asked: u64) -> Must {
    match call(asked).filter(|(low, _)| around.has(*low)) {
        _ if asked == 0x8000_0000 => Must::Return(0),
        None => NOT_SUPPORTED,
        // Bit 1: the format of the power state; never bit 0, which offers OS-initiated mode.
        Some((0x1, _)) => Must::Return(if around.loses_state(1 << 30) { 2 } else { 0 }),
        Some(_) if around.firmware => Must::Relay([0x8400_000a, asked, 0, 0]),
        Some(_) => Must::Return(0),
    }
}
