//! The generic timer: time, and one deadline by the host's own physical timer (CNTP).
//!
//! CNTV belongs to guests. Their counter is this one: EL2 keeps no offset between the two.

use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTPCT_EL0, Readable, Writeable,
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
