//! A PL031 real-time clock (ARM DDI0224C): counts seconds, and interrupts at one of them.
//!
//! A machine of Redan's need not have a clock that knows the date, so this one counts from the start of the
//! physical counter until the guest sets it. It cannot be switched off, as on QEMU's board.

/// Registers (DDI0224C 3.2).
mod register {
    pub const DR: u64 = 0x00;
    pub const MR: u64 = 0x04;
    pub const LR: u64 = 0x08;
    pub const CR: u64 = 0x0c;
    pub const IMSC: u64 = 0x10;
    pub const RIS: u64 = 0x14;
    pub const MIS: u64 = 0x18;
    pub const ICR: u64 = 0x1c;
    pub const ID: u64 = 0xfe0;
}

/// RTCPeriphID0..3 and RTCPCellID0..3.
const IDS: [u32; 8] = [0x31, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// The clock.
#[derive(Clone, Debug)]
pub struct Pl031 {
    /// Counts a second.
    hz: u64,
    /// The count at which it showed `load`.
    began: u64,
    /// The count now, as far as it was told.
    now: u64,
    load: u32,
    matched: u32,
    /// The count at which the match will happen, if one was asked for and has not.
    due: Option<u64>,
    raised: bool,
    unmasked: bool,
}

impl Pl031 {
    /// After reset, by a counter of this frequency.
    #[must_use]
    pub const fn new(hz: u64) -> Self {
        let hz = if hz == 0 { 1 } else { hz };
        Self {
            hz,
            began: 0,
            now: 0,
            load: 0,
            matched: 0,
            due: None,
            raised: false,
            unmasked: false,
        }
    }

    /// Says how late it is. The counter does not go back.
    pub fn tick(&mut self, now: u64) {
        self.now = self.now.max(now);
        if self.due.is_some_and(|due| due <= self.now) {
            self.due = None;
            self.raised = true;
        }
    }

    /// Level of the interrupt line.
    #[must_use]
    pub const fn line(&self) -> bool {
        self.raised && self.unmasked
    }

    /// When the line will rise, by the counter; `None` if it will not, or has.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.due.filter(|_| self.unmasked && !self.raised)
    }

    /// A read: registers are at multiples of 4.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            register::DR => self.seconds(),
            register::MR => self.matched,
            register::LR => self.load,
            register::CR => 1,
            register::IMSC => u32::from(self.unmasked),
            register::RIS => u32::from(self.raised),
            register::MIS => u32::from(self.line()),
            register::ID..=0xffc if offset & 3 == 0 => {
                let at = usize::try_from(offset.wrapping_sub(register::ID) >> 2);
                at.ok().and_then(|at| IDS.get(at)).copied().unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// A write.
    pub fn write(&mut self, offset: u64, value: u32) {
        match offset {
            register::MR => {
                self.matched = value;
                self.arm();
            }
            register::LR => {
                (self.load, self.began) = (value, self.now);
                self.arm();
            }
            register::IMSC => self.unmasked = value & 1 != 0,
            // DDI0224C wants bit 0 set, the Arm926EJ-S's chip any value: software does either.
            register::ICR => self.raised = false,
            _ => {}
        }
    }

    /// Whole seconds since it was set.
    const fn elapsed(&self) -> u64 {
        match self.now.saturating_sub(self.began).checked_div(self.hz) {
            Some(seconds) => seconds,
            None => 0,
        }
    }

    /// The counter, which wraps round after 136 years.
    fn seconds(&self) -> u32 {
        self.load.wrapping_add(low(self.elapsed()))
    }

    /// Finds out when the counter will next be what the match register says.
    fn arm(&mut self) {
        let left = u64::from(self.matched.wrapping_sub(self.seconds()));
        let at = self.elapsed().saturating_add(left);
        self.due = Some(self.began.saturating_add(at.saturating_mul(self.hz)));
        self.tick(self.now);
    }
}

/// The low word.
fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

#[cfg(test)]
mod tests;
