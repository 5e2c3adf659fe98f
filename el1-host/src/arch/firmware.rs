//! The way down: PSCI to the firmware, hypercalls to Redan's EL2.
//!
//! PSCI goes by the conduit that the device tree names. Under Redan that is SMC, which EL2 relays;
//! HVC is Redan's own.

use core::sync::atomic::{AtomicBool, Ordering};

use hyp_abi::{Hypercall, Ret, hcall};
use smccc::{Hvc, Smc, psci};

use super::barrier;

static CONDUIT_IS_HVC: AtomicBool = AtomicBool::new(false);
static PROBING: AtomicBool = AtomicBool::new(false);

/// What is said when no Redan answers.
pub const NO_EL2: &str = "no Redan EL2 underneath; without it no guest can run: powering off";

/// PSCI goes by HVC instead of SMC, as the device tree says.
pub fn use_hvc_for_psci() {
    CONDUIT_IS_HVC.store(true, Ordering::Relaxed);
}

/// Whether the first hypercall is under way: an Undefined Instruction then only means that HVC is
/// disabled.
pub fn probing() -> bool {
    PROBING.load(Ordering::Relaxed)
}

/// Ends the machine. Where no firmware answers, this CPU stops.
pub fn power_off() -> ! {
    let refused = if CONDUIT_IS_HVC.load(Ordering::Relaxed) {
        psci::system_off::<Hvc>()
    } else {
        psci::system_off::<Smc>()
    };
    if refused.is_err() {
        crate::console::emergency(format_args!("[host] the firmware cannot power off; stopped\n"));
    }
    barrier::park()
}

/// Asks PSCI to start the CPU with this MPIDR at `entry`, MMU off, with `context` in x0.
///
/// # Errors
/// What PSCI says.
pub fn cpu_on(mpidr: u64, entry: u64, context: u64) -> Result<(), psci::Error> {
    // What it will read through its caches must be written first.
    barrier::dsb();
    if CONDUIT_IS_HVC.load(Ordering::Relaxed) {
        psci::cpu_on::<Hvc>(mpidr, entry, context)
    } else {
        psci::cpu_on::<Smc>(mpidr, entry, context)
    }
}

/// A hypercall with its arguments x1..x4. `None`: EL2 does not know it.
pub fn hypercall(call: Hypercall, args: [u64; 4]) -> Option<Ret> {
    let mut x = [0; 17];
    x[..4].copy_from_slice(&args);
    // The id is W0 (SMCCC 1.2): it fits 32 bits by construction.
    let answer = smccc::hvc64(call.function_id() as u32, x);
    (answer[0] != hcall::NOT_SUPPORTED).then_some(Ret {
        x1: answer[1] as i64,
        x2: answer[2],
        x3: answer[3],
        x4: answer[4],
        x5: answer[5],
    })
}

/// The version of the EL2 underneath; `None` if there is no Redan.
pub fn probe() -> Option<u64> {
    PROBING.store(true, Ordering::Relaxed);
    let answer = hypercall(Hypercall::Version, [0; 4]);
    PROBING.store(false, Ordering::Relaxed);
    answer.and_then(|ret| u64::try_from(ret.x1).ok())
}
