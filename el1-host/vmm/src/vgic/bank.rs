//! Thirty-two interrupts: their state bits, and what reading and writing the bit registers does.
//!
//! An interrupt is pending by its line (level-sensitive) or by a latch: an edge, a write to ISPENDR, an
//! SGI (IHI0048 4.3.7, IHI0069 12.9.18). Both may hold at once; ICPENDR clears the latch only.
//!
//! While an interrupt is in a list register of a vCPU that runs, only hardware knows whether it was
//! taken. What is done to its pending and active state meanwhile is noted ([`Late`]) and applied at
//! [`Bank::fold`].

/// ICFGR of SGIs and PPIs: SGIs are edge-triggered; PPIs here are level-sensitive (all of them are
/// timers'), and both are fixed.
pub(super) const PRIVATE_EDGE: u32 = 0xffff;
/// Priority bits that exist: the top five, as in the list registers.
const PRIORITY_MASK: u8 = 0xf8;

/// What was done to interrupts while they were in list registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Late {
    /// Made pending again: an edge, a write to ISPENDR, an SGI.
    again: u32,
    /// ICPENDR was written: not pending if it has not been taken.
    unpend: u32,
    /// ISACTIVER was written, and no ICACTIVER after it.
    activate: u32,
    /// ICACTIVER or DIR was written.
    deactivate: u32,
}

/// What became of an interrupt in a list register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// Its pending state when it went in came from the latch.
    pub latched: bool,
    /// It is pending still.
    pub pending: bool,
    /// It is active.
    pub active: bool,
    /// It was taken, with this priority.
    pub taken: Option<u8>,
}

/// State of 32 interrupts, a bit each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bank {
    pub enabled: u32,
    /// Pending by latch.
    pub latched: u32,
    /// Level of the line.
    pub line: u32,
    pub active: u32,
    /// Group 1 rather than group 0.
    pub group: u32,
    /// Edge-triggered rather than level-sensitive.
    pub edge: u32,
    /// In a list register of a vCPU that runs.
    pub listed: u32,
    late: Late,
    pub priority: [u8; 32],
    /// The priority with which an active one was taken; the lowest, if software made it active.
    taken: [u8; 32],
}

/// Lower than any priority there is.
const NOT_TAKEN: u8 = 0xff;

/// A register that holds a bit for each interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BitRegister {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
}

impl BitRegister {
    /// The register file at an offset of the distributor or the SGI frame, and the bank there.
    pub fn decode(offset: u64) -> Option<(Self, usize)> {
        let register = match offset {
            0x080..0x100 => Self::Group,
            0x100..0x180 => Self::SetEnable,
            0x180..0x200 => Self::ClearEnable,
            0x200..0x280 => Self::SetPending,
            0x280..0x300 => Self::ClearPending,
            0x300..0x380 => Self::SetActive,
            0x380..0x400 => Self::ClearActive,
            _ => return None,
        };
        let bank = usize::try_from((offset & 0x7f) >> 2).ok()?;
        Some((register, bank))
    }

    /// It tells what interrupts are doing.
    pub const fn tells_state(self) -> bool {
        matches!(self, Self::SetPending | Self::ClearPending | Self::SetActive | Self::ClearActive)
    }
}

impl Bank {
    pub const fn new(edge: u32) -> Self {
        Self {
            enabled: 0,
            latched: 0,
            line: 0,
            active: 0,
            group: 0,
            edge,
            listed: 0,
            late: Late { again: 0, unpend: 0, activate: 0, deactivate: 0 },
            priority: [0; 32],
            taken: [NOT_TAKEN; 32],
        }
    }

    /// Pending by line or latch.
    pub const fn pending(&self) -> u32 {
        self.latched | (self.line & !self.edge)
    }

    /// Sets lines. Answers those of them in list registers that are wrong there now.
    pub const fn set_line(&mut self, mask: u32, level: bool) -> u32 {
        if level {
            let edges = mask & self.edge & !self.line;
            self.line |= mask;
            self.latch(edges)
        } else {
            let fallen = mask & self.line & !self.edge;
            self.line &= !mask;
            fallen & self.listed
        }
    }

    /// Makes interrupts pending by latch. Answers those that are in list registers.
    pub const fn latch(&mut self, mask: u32) -> u32 {
        self.latched |= mask & !self.listed;
        self.late.again |= mask & self.listed;
        mask & self.listed
    }

    /// Takes one interrupt back from its list register.
    pub fn fold(&mut self, mask: u32, outcome: Outcome) {
        let Late { again, unpend, activate, deactivate } = self.late;
        // What was pending by latch when it went in, the list register tells; what was not, and is
        // now, was latched before and did not go in.
        let kept = if outcome.latched {
            outcome.pending && unpend & mask == 0
        } else {
            self.latched & mask != 0
        };
        let latched = kept || again & mask != 0;
        let active = (outcome.active && deactivate & mask == 0) || activate & mask != 0;
        self.latched = if latched { self.latched | mask } else { self.latched & !mask };
        if let Some(priority) = outcome.taken {
            self.set_taken(mask, priority);
        }
        self.active = if active { self.active | mask } else { self.active & !mask };
        self.late = Late {
            again: again & !mask,
            unpend: unpend & !mask,
            activate: activate & !mask,
            deactivate: deactivate & !mask,
        };
        self.listed &= !mask;
    }

    pub const fn read(&self, register: BitRegister) -> u32 {
        match register {
            BitRegister::Group => self.group,
            BitRegister::SetEnable | BitRegister::ClearEnable => self.enabled,
            BitRegister::SetPending | BitRegister::ClearPending => self.pending(),
            BitRegister::SetActive | BitRegister::ClearActive => self.active,
        }
    }

    /// Writes a register. Answers the interrupts in list registers that this concerns: what is there
    /// is wrong now.
    pub fn write(&mut self, register: BitRegister, value: u32) -> u32 {
        let listed = value & self.listed;
        match register {
            BitRegister::Group => {
                let changed = (self.group ^ value) & self.listed;
                self.group = value;
                return changed;
            }
            BitRegister::SetEnable => {
                // There because it is active, and now to be pending there, too.
                let changed = !self.enabled & listed & self.pending();
                self.enabled |= value;
                return changed;
            }
            BitRegister::ClearEnable => {
                let changed = self.enabled & listed;
                self.enabled &= !value;
                return changed;
            }
            BitRegister::SetPending => return self.latch(value),
            BitRegister::ClearPending => {
                self.latched &= !value;
                self.late.again &= !value;
                self.late.unpend |= listed;
            }
            BitRegister::SetActive => {
                self.set_taken(value & !self.active, NOT_TAKEN);
                self.active |= value & !self.listed;
                self.late.activate |= listed;
            }
            BitRegister::ClearActive => {
                self.active &= !(value & !self.listed);
                self.late.activate &= !value;
                self.late.deactivate |= listed;
            }
        }
        listed
    }

    /// ICFGR half `half`: two bits an interrupt, the upper one says edge.
    pub fn config(&self, half: u64) -> u32 {
        let edge = if half & 1 == 0 { self.edge } else { self.edge >> 16 };
        edge_fields()
            .fold(0, |word, (mask, field)| if edge & mask != 0 { word | field } else { word })
    }

    /// Writes it. Answers the interrupts in list registers that are otherwise configured now.
    pub fn set_config(&mut self, half: u64, value: u32) -> u32 {
        let before = self.edge;
        let edge = edge_fields()
            .fold(0, |edge, (mask, field)| if value & field != 0 { edge | mask } else { edge });
        self.edge = if half & 1 == 0 {
            (self.edge & 0xffff_0000) | edge
        } else {
            (self.edge & 0xffff) | (edge << 16)
        };
        (before ^ self.edge) & self.listed
    }

    /// How urgently an active interrupt must be where its end finds it: those taken with a high
    /// priority end first.
    pub fn taken(&self, bit: usize) -> u8 {
        self.taken.get(bit).copied().unwrap_or(NOT_TAKEN)
    }

    fn set_taken(&mut self, which: u32, priority: u8) {
        for (taken, mask) in self.taken.iter_mut().zip(super::bits()) {
            if which & mask != 0 {
                *taken = priority;
            }
        }
    }

    pub fn priority(&self, bit: usize) -> u8 {
        self.priority.get(bit).copied().unwrap_or(0)
    }

    /// Sets a priority. Answers the interrupt if it is in a list register, with another one.
    pub fn set_priority(&mut self, bit: usize, value: u8) -> u32 {
        let value = value & PRIORITY_MASK;
        let Some(priority) = self.priority.get_mut(bit) else { return 0 };
        let before = core::mem::replace(priority, value);
        let mask = u32::try_from(bit).map_or(0, super::mask);
        if before == value { 0 } else { mask & self.listed }
    }
}

/// Of each of 16 interrupts its bit in a bank's half and its edge bit in ICFGR.
fn edge_fields() -> impl Iterator<Item = (u32, u32)> {
    super::bits().zip((1..32).step_by(2).map(super::mask))
}
