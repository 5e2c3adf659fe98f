//! Calls to the firmware, where there is one that answers (PSCI, DEN0022).
//!
//! Without PSCI in the device tree an SMC is never issued: QEMU's raspi4b hangs on it, and the Pi's
//! own stub makes it undefined.

use hyp_core::psci::{Firmware, SuspendFormat, id};
use hyp_core::speculation::{Answers, Speculation};
use hyp_sync::Once;
use smccc::Smc;

use super::sysreg::dsb_ish;
use super::{boot, cpu, pm};

static FIRMWARE: Once<Firmware> = Once::new();

/// The device tree names PSCI, by SMC: asks it what it can do.
pub fn found() {
    FIRMWARE.call_once(|| {
        let answer = call([id::FEATURES.into(), (id::CPU_SUSPEND | id::WIDE).into(), 0, 0]);
        Firmware::Psci { suspend: SuspendFormat::from_features(answer) }
    });
}

/// The firmware.
pub fn firmware() -> Firmware {
    FIRMWARE.get().copied().unwrap_or_else(|| Firmware::Own { off: pm::present() })
}

/// What this CPU gives away by speculation, and what the firmware can do about it. Mitigations that
/// are on or off are on afterwards.
pub fn speculation() -> Speculation {
    let answers = match firmware() {
        Firmware::Own { .. } => Answers::NONE,
        Firmware::Psci { .. } => Answers::ask(|function, x1| call([function.into(), x1, 0, 0])),
    };
    let speculation = Speculation::of(&cpu::identity(), &answers);
    if let Some(function) = speculation.at_start() {
        call([function.into(), 1, 0, 0]);
    }
    speculation
}

/// Passes a call on; x0 of the answer. The SMC64 form for all: it says that x4..x17 may change,
/// which firmware older than SMCCC 1.1 makes use of.
pub fn call([function, x1, x2, x3]: [u64; 4]) -> u64 {
    let mut args = [0; 17];
    args[0] = x1;
    args[1] = x2;
    args[2] = x3;
    let [x0, ..] = <Smc as smccc::Call>::call64(function as u32, args);
    // What is an int32 may have come without its upper half.
    i64::from(x0 as i32) as u64
}

/// Starts the CPU with this MPIDR, in EL2.
pub fn cpu_on(mpidr: u64) -> u64 {
    dsb_ish(); // what that CPU reads is there
    call([(id::CPU_ON | id::WIDE).into(), mpidr, boot::secondary_entry(), 0])
}

/// Turns this CPU off. Returns only if the firmware refuses, with its reason.
pub fn cpu_off() -> u64 {
    dsb_ish();
    call([id::CPU_OFF.into(), 0, 0, 0])
}

/// Lets this CPU wait in power state `state`. Returns unless its state was lost: then it comes up
/// like one that was off.
pub fn cpu_suspend(state: u32) -> u64 {
    dsb_ish();
    call([(id::CPU_SUSPEND | id::WIDE).into(), state.into(), boot::secondary_entry(), 0])
}

/// What the firmware knows about the CPU with this MPIDR.
pub fn affinity_info(mpidr: u64) -> u64 {
    call([(id::AFFINITY_INFO | id::WIDE).into(), mpidr, 0, 0])
}

/// Turns the machine off, if the firmware can; returns otherwise.
pub fn system_off() {
    if matches!(firmware(), Firmware::Psci { .. }) {
        // An error leaves us where we are, and the caller parks.
        let _ = smccc::psci::system_off::<Smc>();
    }
}
