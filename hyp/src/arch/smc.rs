//! Calls to the firmware, where there is one that answers (PSCI, DEN0022).
//!
//! Without PSCI in the device tree an SMC is never issued: QEMU's raspi4b hangs on it, and the Pi's
//! own stub makes it undefined.

use core::sync::atomic::{AtomicBool, Ordering};

use smccc::Smc;

static PRESENT: AtomicBool = AtomicBool::new(false);

/// Says that the device tree names PSCI, by SMC.
pub fn found() {
    PRESENT.store(true, Ordering::Relaxed);
}

/// Whether the firmware can be called.
pub fn present() -> bool {
    PRESENT.load(Ordering::Relaxed)
}

/// Passes a call on; x0 of the answer. The SMC64 form for all: it says that x4..x17 may change,
/// which firmware older than SMCCC 1.1 makes use of.
pub fn call([function, x1, x2, x3]: [u64; 4]) -> u64 {
    let mut args = [0; 17];
    args[0] = x1;
    args[1] = x2;
    args[2] = x3;
    let [x0, ..] = <Smc as smccc::Call>::call64(function as u32, args);
    x0
}

/// Turns the machine off, if the firmware can; returns otherwise.
pub fn system_off() {
    if present() {
        // An error leaves us where we are, and the caller parks.
        let _ = smccc::psci::system_off::<Smc>();
    }
}
