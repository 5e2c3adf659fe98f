//! The timers of a vCPU: the physical one, emulated, and what is known of the virtual one, which is
//! hardware's while the guest runs (DDI0487 D11.2).
//!
//! Both count with the physical counter; there is no offset between them.

/// CNTx_CTL: the timer is on.
const ENABLE: u64 = 1 << 0;
/// CNTx_CTL: it does not interrupt.
const IMASK: u64 = 1 << 1;
/// CNTx_CTL: its condition is met.
const ISTATUS: u64 = 1 << 2;

/// CTL and CVAL of a timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timer {
    ctl: u64,
    cval: u64,
}

impl Timer {
    /// Registers as the hardware had them.
    #[must_use]
    pub const fn new(ctl: u64, cval: u64) -> Self {
        Self { ctl, cval }
    }

    const fn met(&self, now: u64) -> bool {
        self.ctl & ENABLE != 0 && now >= self.cval
    }

    /// Level of the interrupt line.
    #[must_use]
    pub const fn line(&self, now: u64) -> bool {
        self.ctl & IMASK == 0 && self.met(now)
    }

    /// When the line will rise; `None` if it will not, or has.
    #[must_use]
    pub const fn deadline(&self, now: u64) -> Option<u64> {
        let armed = self.ctl & (ENABLE | IMASK) == ENABLE;
        if armed && now < self.cval { Some(self.cval) } else { None }
    }

    /// Reads CTL. ISTATUS is UNKNOWN while the timer is off; zero here.
    #[must_use]
    pub const fn ctl(&self, now: u64) -> u64 {
        self.ctl | if self.met(now) { ISTATUS } else { 0 }
    }

    /// Writes CTL; ISTATUS is read-only.
    pub const fn set_ctl(&mut self, value: u64) {
        self.ctl = value & (ENABLE | IMASK);
    }

    /// Reads CVAL.
    #[must_use]
    pub const fn cval(&self) -> u64 {
        self.cval
    }

    /// Writes CVAL.
    pub const fn set_cval(&mut self, value: u64) {
        self.cval = value;
    }

    /// Reads TVAL: the low half of what is left.
    #[must_use]
    pub const fn tval(&self, now: u64) -> u64 {
        self.cval.wrapping_sub(now) & 0xffff_ffff
    }

    /// Writes TVAL: signed, from now.
    pub const fn set_tval(&mut self, now: u64, value: u64) {
        let low = value & 0xffff_ffff;
        let extended = if low & 0x8000_0000 != 0 { low | 0xffff_ffff_0000_0000 } else { low };
        self.cval = now.wrapping_add(extended);
    }
}

#[cfg(test)]
mod tests;
