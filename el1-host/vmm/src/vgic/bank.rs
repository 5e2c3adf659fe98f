//! Thirty-two interrupts: their state bits, and what reading and writing the bit registers does.
//!
//! An interrupt is pending by its line (level-sensitive) or by a latch: an edge, a write to ISPENDR, an
//! SGI (IHI0048 4.3.7, IHI0069 12.9.18). Both may hold at once; ICPENDR clears the latch only.

/// ICFGR of SGIs and PPIs: SGIs are edge-triggered; PPIs here are level-sensitive (all of them are
/// timers'), and both are fixed.
pub(super) const PRIVATE_EDGE: u32 = 0xffff;
/// Priority bits that exist: the top five, as in the list registers.
const PRIORITY_MASK: u8 = 0xf8;

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
    pub priority: [u8; 32],
}

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
            priority: [0; 32],
        }
    }

    /// Pending by line or latch.
    pub const fn pending(&self) -> u32 {
        self.latched | (self.line & !self.edge)
    }

    pub fn set_line(&mut self, mask: u32, level: bool) {
        if level {
            self.latched |= mask & self.edge & !self.line;
            self.line |= mask;
        } else {
            self.line &= !mask;
        }
    }

    pub const fn read(&self, register: BitRegister) -> u32 {
        match register {
            BitRegister::Group => self.group,
            BitRegister::SetEnable | BitRegister::ClearEnable => self.enabled,
            BitRegister::SetPending | BitRegister::ClearPending => self.pending(),
            BitRegister::SetActive | BitRegister::ClearActive => self.active,
        }
    }

    pub const fn write(&mut self, register: BitRegister, value: u32) {
        match register {
            BitRegister::Group => self.group = value,
            BitRegister::SetEnable => self.enabled |= value,
            BitRegister::ClearEnable => self.enabled &= !value,
            BitRegister::SetPending => self.latched |= value,
            BitRegister::ClearPending => self.latched &= !value,
            BitRegister::SetActive => self.active |= value,
            BitRegister::ClearActive => self.active &= !value,
        }
    }

    /// ICFGR half `half`: two bits an interrupt, the upper one says edge.
    pub fn config(&self, half: u64) -> u32 {
        let edge = if half & 1 == 0 { self.edge } else { self.edge >> 16 };
        edge_fields()
            .fold(0, |word, (mask, field)| if edge & mask != 0 { word | field } else { word })
    }

    pub fn set_config(&mut self, half: u64, value: u32) {
        let edge = edge_fields()
            .fold(0, |edge, (mask, field)| if value & field != 0 { edge | mask } else { edge });
        self.edge = if half & 1 == 0 {
            (self.edge & 0xffff_0000) | edge
        } else {
            (self.edge & 0xffff) | (edge << 16)
        };
    }

    pub fn priority(&self, bit: usize) -> u8 {
        self.priority.get(bit).copied().unwrap_or(0)
    }

    pub fn set_priority(&mut self, bit: usize, value: u8) {
        if let Some(priority) = self.priority.get_mut(bit) {
            *priority = value & PRIORITY_MASK;
        }
    }
}

/// Of each of 16 interrupts its bit in a bank's half and its edge bit in ICFGR.
fn edge_fields() -> impl Iterator<Item = (u32, u32)> {
    super::bits().zip((1..32).step_by(2).map(super::mask))
}
