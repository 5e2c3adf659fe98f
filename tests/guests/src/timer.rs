//! The generic timer (DDI0487 D12).

use core::arch::asm;

use crate::read;

/// PPI of the virtual timer.
pub const VIRTUAL_PPI: u32 = 27;
/// PPI of the non-secure physical timer.
pub const PHYSICAL_PPI: u32 = 30;

/// CTL: the timer is on.
pub const ENABLE: u64 = 1;
/// CTL: its interrupt is masked.
pub const IMASK: u64 = 2;
/// CTL: the condition is met.
pub const ISTATUS: u64 = 4;

/// The virtual count, not speculated.
#[must_use]
pub fn now() -> u64 {
    let count: u64;
    // SAFETY:
    // 1. Reads a counter. ISB: the count must not be read early (DDI0487 D12.1.2).
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nostack)) }
    count
}

/// Ticks in `ms` milliseconds.
#[must_use]
pub fn ticks(ms: u64) -> u64 {
    read!("cntfrq_el0").wrapping_mul(ms) / 1000
}

/// Waits until `done` or `ms` have passed; answers whether it was done.
pub fn wait(ms: u64, mut done: impl FnMut() -> bool) -> bool {
    let (start, limit) = (now(), ticks(ms));
    loop {
        if done() {
            return true;
        }
        if now().wrapping_sub(start) > limit {
            return done();
        }
        core::hint::spin_loop();
    }
}

/// Lets `ms` milliseconds pass.
pub fn sleep(ms: u64) {
    wait(ms, || false);
}
