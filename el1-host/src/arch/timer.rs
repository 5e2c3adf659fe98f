//! The generic timer: time, and one deadline by the host's own physical timer (CNTP).
//!
//! CNTV belongs to guests; only its counter is read here, to compare with a guest's deadline.

use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTPCT_EL0, CNTVCT_EL0, Readable, Writeable,
};

use super::barrier;

/// Ticks of the counter in a second.
pub fn frequency() -> u64 {
    CNTFRQ_EL0.get().max(1)
}

/// The physical counter, in ticks.
pub fn now() -> u64 {
    barrier::isb();
    CNTPCT_EL0.get()
}

/// The virtual counter, which a guest's timer compares with.
pub fn now_virtual() -> u64 {
    barrier::isb();
    CNTVCT_EL0.get()
}

/// Raises the timer interrupt once the physical counter reaches `deadline`.
pub fn set_deadline(deadline: u64) {
    CNTP_CVAL_EL0.set(deadline);
    CNTP_CTL_EL0.write(CNTP_CTL_EL0::ENABLE::SET);
    barrier::isb();
}

/// No deadline: the interrupt line goes low.
pub fn cancel() {
    CNTP_CTL_EL0.write(CNTP_CTL_EL0::ENABLE::CLEAR);
    barrier::isb();
}
