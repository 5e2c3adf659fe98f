//! The virtual timer, which is the guest's while it runs, and access to the physical one, which is
//! the host's.

use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTHCTL_EL2, CNTPCT_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVOFF_EL2,
};
use hyp_core::vcpu::Timer;
use tock_registers::interfaces::{Readable, Writeable};

use super::sysreg::isb;

/// The host's rights: physical counter and timer.
pub fn to_host(timer: &mut Timer) {
    timer.ctl = CNTV_CTL_EL0.get();
    timer.cval = CNTV_CVAL_EL0.get();
    // Off before the guest's is forgotten: its line must not reach the host as an interrupt that
    // nobody accounts for.
    CNTV_CTL_EL0.set(0);
    isb();
    CNTHCTL_EL2.write(CNTHCTL_EL2::EL1PCTEN::SET + CNTHCTL_EL2::EL1PCEN::SET);
}

/// The guest's rights: the physical counter, whose difference to the virtual one is zero; not the
/// physical timer.
pub fn to_guest(timer: &Timer) {
    CNTHCTL_EL2.write(CNTHCTL_EL2::EL1PCTEN::SET + CNTHCTL_EL2::EL1PCEN::CLEAR);
    CNTV_CVAL_EL0.set(timer.cval);
    CNTV_CTL_EL0.set(timer.ctl);
}

/// Waits until `done`, at most for so many seconds; whether it was done.
pub fn wait(seconds: u64, mut done: impl FnMut() -> bool) -> bool {
    // A firmware that leaves CNTFRQ unset makes the wait short, not endless.
    let limit = CNTFRQ_EL0.get().max(1_000_000).saturating_mul(seconds);
    let start = CNTPCT_EL0.get();
    while !done() {
        isb();
        if CNTPCT_EL0.get().wrapping_sub(start) > limit {
            return done();
        }
    }
    true
}

/// Before the host first runs.
pub fn init() {
    CNTVOFF_EL2.set(0);
    CNTV_CTL_EL0.set(0);
    CNTHCTL_EL2.write(CNTHCTL_EL2::EL1PCTEN::SET + CNTHCTL_EL2::EL1PCEN::SET);
    isb();
}
