//! Barriers and waiting, and the mask bits of PSTATE.

use core::arch::asm;

use aarch64_cpu::asm::barrier;

/// `isb`: register writes before it take effect for what follows.
pub fn isb() {
    barrier::isb(barrier::SY);
}

/// `dsb sy`: memory accesses before it are complete.
pub fn dsb() {
    barrier::dsb(barrier::SY);
}

/// Sleeps until an interrupt is pending, masked or not (DDI0487 D1.6.1).
pub fn wait_for_interrupt() {
    dsb();
    aarch64_cpu::asm::wfi();
}

/// Lets SErrors and debug exceptions in; interrupts stay masked, because they are polled.
pub fn unmask_serror() {
    // SAFETY:
    // 1. The vectors are installed (boot/el1.S), and report an SError instead of returning.
    unsafe { asm!("msr daifclr, #0xc", options(nostack)) };
}

/// Stops this CPU for good.
pub fn park() -> ! {
    loop {
        aarch64_cpu::asm::wfe();
    }
}
