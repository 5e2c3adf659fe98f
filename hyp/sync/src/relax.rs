//! How a CPU waits for its turn.
//!
//! By YIELD as well as by the pause of `spin_loop`: hardware with a thread beside this one, or an emulator
//! that runs all CPUs in turn, may let that CPU go on at once that has the lock. Without, such an emulator
//! runs the one that waits for milliseconds, and then, because a ticket lock is handed over in turn, the
//! other one that waits by now.

use spin::relax::{RelaxStrategy, Spin};

/// Pauses, and says that it only waits.
#[derive(Debug)]
pub(crate) struct Waits;

impl RelaxStrategy for Waits {
    #[inline(always)]
    fn relax() {
        Spin::relax();
        #[cfg(target_arch = "aarch64")]
        #[cfg(not(miri))]
        // SAFETY:
        // 1. YIELD is a hint: it changes nothing (DDI0487 C6, YIELD).
        unsafe {
            core::arch::asm!("yield", options(nomem, nostack, preserves_flags));
        };
    }
}
