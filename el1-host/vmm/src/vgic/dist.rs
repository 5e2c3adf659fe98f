//! The distributor's registers (IHI0048 4.3, IHI0069 12.8 and 12.9).
//!
//! Access sizes: words; bytes too for IPRIORITYR, ITARGETSR, CPENDSGIR and SPENDSGIR; double words
//! for GICD_IROUTER. What else is tried reads as zero and writes nothing.

use super::bank::BitRegister;
use super::sgi::low_byte;
use super::{Access, CTLR_MASK, INTIDS, Version, Vgic, bank_of, bit_of, bits, number};

/// GICD_IIDR and GICR_IIDR: product 'R', revision 0, implementer Arm (the models are Arm's).
pub(super) const IIDR: u32 = 0x5200_043b;
/// GICD_CTLR on a GICv3: one security state (DS), affinity routing for good (ARE).
const CTLR_V3: u32 = (1 << 6) | (1 << 4);

impl Vgic {
    /// A read of the distributor.
    #[must_use]
    pub fn read_dist(&self, vcpu: usize, access: Access) -> u64 {
        let Access { offset, size } = access;
        match size {
            1 => u64::from(self.dist_byte(vcpu, offset).unwrap_or(0)),
            4 if offset & 3 == 0 => u64::from(self.dist_word(vcpu, offset)),
            8 if offset & 7 == 0 => self.route(offset).unwrap_or(0),
            _ => 0,
        }
    }

    /// A write to the distributor.
    pub fn write_dist(&mut self, vcpu: usize, access: Access, value: u64) {
        let Access { offset, size } = access;
        let word = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        match size {
            1 => self.set_dist_byte(vcpu, offset, low_byte(word)),
            4 if offset & 3 == 0 => self.set_dist_word(vcpu, offset, word),
            8 if offset & 7 == 0 => self.set_route(offset, value, u64::MAX),
            _ => {}
        }
    }

    /// Whether bank `n` is in the distributor: on a GICv3 the private one is in the redistributor.
    fn in_dist(&self, n: usize) -> bool {
        self.version == Version::V2 || n > 0
    }

    fn dist_word(&self, vcpu: usize, offset: u64) -> u32 {
        if let Some((register, n)) = BitRegister::decode(offset) {
            return if self.in_dist(n) { self.read_bits(vcpu, n, register) } else { 0 };
        }
        match offset {
            0x000 => self.ctlr | if self.version == Version::V3 { CTLR_V3 } else { 0 },
            0x004 => self.typer(),
            0x008 => IIDR,
            0xc00..0xd00 => self.config(vcpu, offset),
            0xfe8 if self.version == Version::V2 => 0x2b,
            0xffe8 if self.version == Version::V3 => 0x3b,
            0x6000..0x8000 => self.route_half(offset),
            _ => (0..4).rev().fold(0, |word, n| {
                let byte = self.dist_byte(vcpu, offset.saturating_add(n)).unwrap_or(0);
                (word << 8) | u32::from(byte)
            }),
        }
    }

    fn set_dist_word(&mut self, vcpu: usize, offset: u64, value: u32) {
        if let Some((register, n)) = BitRegister::decode(offset) {
            if self.in_dist(n) {
                self.write_bits(vcpu, n, register, value);
            }
            return;
        }
        match offset {
            0x000 => self.ctlr = value & CTLR_MASK,
            0xc00..0xd00 => self.set_config(vcpu, offset, value),
            0xf00 if self.version == Version::V2 => self.write_sgir(vcpu, value),
            0x6000..0x8000 => {
                let high = offset & 4 != 0;
                let (value, mask) = (u64::from(value), u64::from(u32::MAX));
                let shift = if high { 32 } else { 0 };
                self.set_route(offset & !4, value << shift, mask << shift);
            }
            _ => {
                for (n, byte) in (0..).zip(value.to_le_bytes()) {
                    self.set_dist_byte(vcpu, offset.saturating_add(n), byte);
                }
            }
        }
    }

    /// GICD_TYPER. A GICv3 without legacy support has no CPUNumber (IHI0069 12.9.38); it has 10 INTID
    /// bits, and no SPI can go to "any" (No1N).
    fn typer(&self) -> u32 {
        let lines = (INTIDS >> 5).saturating_sub(1);
        match self.version {
            Version::V2 => lines | (number(self.cpus.len()).saturating_sub(1) << 5),
            Version::V3 => lines | (9 << 19) | (1 << 25),
        }
    }

    pub(super) fn read_bits(&self, vcpu: usize, n: usize, register: BitRegister) -> u32 {
        self.bank(vcpu, n).map_or(0, |bank| bank.read(register))
    }

    pub(super) fn write_bits(&mut self, vcpu: usize, n: usize, register: BitRegister, value: u32) {
        // IHI0048 4.3.7: the pending bits of SGIs are read-only on a GICv2.
        let pending = matches!(register, BitRegister::SetPending | BitRegister::ClearPending);
        let fixed = if self.version == Version::V2 && n == 0 && pending { 0xffff } else { 0 };
        let Some(bank) = self.bank_mut(vcpu, n) else { return };
        bank.write(register, value & !fixed);
        if register == BitRegister::SetActive && n > 0 {
            // An SPI made active by software belongs to who did it.
            for (bit, mask) in (0..32).zip(bits()) {
                if value & mask != 0 {
                    let base = u32::try_from(n).unwrap_or(0).saturating_mul(32);
                    self.own(vcpu, base.saturating_add(bit));
                }
            }
        }
    }

    fn config(&self, vcpu: usize, offset: u64) -> u32 {
        let (n, half) = config_bank(offset);
        if !self.in_dist(n) {
            return 0;
        }
        self.bank(vcpu, n).map_or(0, |bank| bank.config(half))
    }

    fn set_config(&mut self, vcpu: usize, offset: u64, value: u32) {
        let (n, half) = config_bank(offset);
        // SGIs are always edge-triggered; whether PPIs can be set is a choice (IHI0048 4.3.13).
        if n > 0
            && let Some(bank) = self.bank_mut(vcpu, n)
        {
            bank.set_config(half, value);
        }
    }

    /// The registers that bytes may read.
    fn dist_byte(&self, vcpu: usize, offset: u64) -> Option<u8> {
        let v2 = self.version == Version::V2;
        match offset {
            0x400..0x7fc => {
                let (n, bit) = byte_bank(offset & 0x3ff);
                self.bank(vcpu, n).filter(|_| self.in_dist(n)).map(|bank| bank.priority(bit))
            }
            0x800..0xbfc if v2 => self.target(vcpu, offset & 0x3ff),
            0xf10..0xf30 if v2 => Some(self.pending_sources(vcpu, low_bits(offset))),
            _ => None,
        }
    }

    fn set_dist_byte(&mut self, vcpu: usize, offset: u64, value: u8) {
        let v2 = self.version == Version::V2;
        match offset {
            0x400..0x7fc => {
                let (n, bit) = byte_bank(offset & 0x3ff);
                let here = self.in_dist(n);
                if let Some(bank) = self.bank_mut(vcpu, n).filter(|_| here) {
                    bank.set_priority(bit, value);
                }
            }
            0x800..0xbfc if v2 => self.set_target(offset & 0x3ff, value),
            0xf10..0xf20 if v2 => self.write_sources(vcpu, low_bits(offset), value, false),
            0xf20..0xf30 if v2 => self.write_sources(vcpu, low_bits(offset), value, true),
            _ => {}
        }
    }

    /// GICD_ITARGETSR: of the private interrupts, the reader itself; with one CPU, zero (IHI0048
    /// 4.3.12).
    fn target(&self, vcpu: usize, intid: u64) -> Option<u8> {
        if self.cpus.len() == 1 {
            return None;
        }
        let (n, bit) = byte_bank(intid);
        match n.checked_sub(1) {
            None => Some(low_byte(bit_of(vcpu))),
            Some(n) => self.targets.get(n).and_then(|targets| targets.get(bit)).copied(),
        }
    }

    fn set_target(&mut self, intid: u64, value: u8) {
        let exist = self.cpu_mask();
        let (n, bit) = byte_bank(intid);
        let targets = n.checked_sub(1).and_then(|n| self.targets.get_mut(n));
        if let Some(target) = targets.and_then(|targets| targets.get_mut(bit)) {
            *target = value & exist;
        }
    }

    /// `GICD_IROUTER<n>`, SPIs only. Interrupt_Routing_Mode is RAZ/WI: No1N.
    fn route(&self, offset: u64) -> Option<u64> {
        let intid = spi_of_route(offset).filter(|_| self.version == Version::V3)?;
        let n = bank_of(intid).checked_sub(1)?;
        self.routes.get(n)?.get((intid & 31) as usize).copied()
    }

    fn route_half(&self, offset: u64) -> u32 {
        let both = self.route(offset & !4).unwrap_or(0);
        let half = if offset & 4 != 0 { both >> 32 } else { both & 0xffff_ffff };
        u32::try_from(half).unwrap_or(0)
    }

    fn set_route(&mut self, offset: u64, value: u64, mask: u64) {
        const AFFINITY: u64 = 0xff_00ff_ffff;
        let Some(intid) = spi_of_route(offset).filter(|_| self.version == Version::V3) else {
            return;
        };
        let routes = bank_of(intid).checked_sub(1).and_then(|n| self.routes.get_mut(n));
        if let Some(route) = routes.and_then(|routes| routes.get_mut((intid & 31) as usize)) {
            *route = ((*route & !mask) | (value & mask)) & AFFINITY;
        }
    }
}

/// The SPI that GICD_IROUTER at this offset routes.
fn spi_of_route(offset: u64) -> Option<u32> {
    let intid = u32::try_from(offset.checked_sub(0x6000)? >> 3).ok()?;
    (32..INTIDS).contains(&intid).then_some(intid)
}

/// Bank and half of the GICD_ICFGR at this offset.
fn config_bank(offset: u64) -> (usize, u64) {
    let word = (offset & 0xff) >> 2;
    (usize::try_from(word >> 1).unwrap_or(usize::MAX), word & 1)
}

/// Bank and bit of an INTID.
fn byte_bank(intid: u64) -> (usize, usize) {
    let bank = usize::try_from(intid >> 5).unwrap_or(usize::MAX);
    (bank, usize::try_from(intid & 31).unwrap_or(0))
}

fn low_bits(offset: u64) -> usize {
    usize::try_from(offset & 15).unwrap_or(0)
}
