//! The distributor's registers (IHI0048 4.3, IHI0069 12.8 and 12.9).
//!
//! Access sizes: words; bytes too for IPRIORITYR, ITARGETSR, CPENDSGIR and SPENDSGIR; double words
//! for GICD_IROUTER. What else is tried reads as zero and writes nothing.

use super::bank::BitRegister;
use super::route::byte_bank;
use super::sgi::low_byte;
use super::{Access, CTLR_MASK, INTIDS, Version, Vgic, number};
use crate::vcpu_set::VcpuSet;

/// GICD_IIDR and GICR_IIDR: product 'R', revision 0, implementer Arm (the models are Arm's).
pub(super) const IIDR: u32 = 0x5200_043b;
/// GICD_CTLR on a GICv3: one security state (DS), affinity routing for good (ARE).
const CTLR_V3: u32 = (1 << 6) | (1 << 4);
/// GICD_CTLR.RWP.
const CTLR_RWP: u32 = 1 << 31;
/// GICD_TYPER.No1N: no SPI can go to "any".
const NO_1N: u32 = 1 << 25;
/// GICD_TYPER.A3V: affinity level 3 is compared, as the CPU interface does (ICC_CTLR_EL1.A3V).
const A3V: u32 = 1 << 24;
/// Offset of the ID registers in the distributor of a GICv2; they are the last twelve words.
const ID_V2: u64 = 0xfd0;
/// The same in a frame of a GICv3.
const ID_V3: u64 = 0xffd0;
/// PIDR4..7, PIDR0..3, CIDR0..3 (IHI0048 4.3.18, CoreSight as IHI0069 12.1.11 recommends it): Arm's GIC-400,
/// which implements GICv2.
const IDS_V2: [u8; 12] = [4, 0, 0, 0, 0x90, 0xb4, 0x2b, 0, 0x0d, 0xf0, 0x05, 0xb1];
/// The same of Arm's GICv3 distributor; the part number is [`id_v3`]'s.
const IDS_V3: [u8; 12] = [0x44, 0, 0, 0, 0, 0xb4, 0x3b, 0, 0x0d, 0xf0, 0x05, 0xb1];
/// Low byte of the part number of a GICv3 distributor.
const PART_DIST: u8 = 0x92;
/// Low byte of the part number of a redistributor.
pub(super) const PART_REDIST: u8 = 0x93;

impl Vgic {
    /// A read of the distributor.
    #[must_use]
    pub fn read_dist(&self, vcpu: usize, access: Access) -> u64 {
        let Access { offset, size } = access;
        match size {
            1 => u64::from(self.dist_byte(vcpu, offset).unwrap_or(0)),
            4 if offset & 3 == 0 => u64::from(self.dist_word(vcpu, offset)),
            8 if offset & 7 == 0 => self.read_route(offset).unwrap_or(0),
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
            0x000 => self.read_ctlr(),
            0x004 => self.typer(),
            0x008 => IIDR,
            0xc00..0xd00 => self.config(vcpu, offset),
            ID_V2..0x1000 if self.version == Version::V2 => id(&IDS_V2, offset, ID_V2),
            ID_V3..0x1_0000 if self.version == Version::V3 => id_v3(offset, PART_DIST),
            0x6000..0x8000 => self.read_route_half(offset),
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
            0x000 => self.write_ctlr(value),
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

    fn read_ctlr(&self) -> u32 {
        let pending = self.cpus.iter().any(|cpu| cpu.disabling.shared);
        match self.version {
            Version::V2 => self.ctlr,
            Version::V3 => self.ctlr | CTLR_V3 | if pending { CTLR_RWP } else { 0 },
        }
    }

    /// A change takes effect on interrupts in list registers when they are folded back.
    fn write_ctlr(&mut self, value: u32) {
        let before = core::mem::replace(&mut self.ctlr, value & CTLR_MASK);
        if before == self.ctlr {
            return;
        }
        let disables = before & !self.ctlr != 0;
        for n in 0..super::BANKS {
            self.touched |= super::bit_of(n);
            for vcpu in 0..self.cpus.len() {
                let holders = self.recall(vcpu, n, u32::MAX);
                self.disabling(if disables { holders } else { VcpuSet::EMPTY }, 1);
            }
        }
    }

    /// Notes that vCPUs hold interrupts that have been disabled in a register of bank `n`.
    fn disabling(&mut self, holders: VcpuSet, n: usize) {
        let private = self.version == Version::V3 && n == 0;
        for (idx, cpu) in self.cpus.iter_mut().enumerate() {
            if holders.contains(idx) {
                cpu.disabling.private |= private;
                cpu.disabling.shared |= !private;
            }
        }
    }

    /// GICD_TYPER. A GICv3 without legacy support has no CPUNumber (IHI0069 12.9.38); it has 10 INTID
    /// bits, and no SPI can go to "any".
    fn typer(&self) -> u32 {
        let lines = (INTIDS >> 5).saturating_sub(1);
        match self.version {
            Version::V2 => lines | (number(self.cpus.len()).saturating_sub(1) << 5),
            Version::V3 => lines | (9 << 19) | A3V | NO_1N,
        }
    }

    /// The vCPUs that must leave the guest before `vcpu` can read this register of the distributor: it
    /// tells whether interrupts are pending or active that only their list registers know of.
    #[must_use]
    pub fn to_leave_first(&self, vcpu: usize, access: Access) -> VcpuSet {
        match BitRegister::decode(access.offset) {
            Some((register, n)) if register.tells_state() && self.in_dist(n) => {
                self.holders(vcpu, n, u32::MAX)
            }
            _ => VcpuSet::EMPTY,
        }
    }

    pub(super) fn read_bits(&self, vcpu: usize, n: usize, register: BitRegister) -> u32 {
        self.bank(vcpu, n).map_or(0, |bank| bank.read(register))
    }

    /// `vcpu` is whose private interrupts are meant, or who writes.
    pub(super) fn write_bits(&mut self, vcpu: usize, n: usize, register: BitRegister, value: u32) {
        // IHI0048 4.3.7: the pending bits of SGIs are read-only on a GICv2.
        let pending = matches!(register, BitRegister::SetPending | BitRegister::ClearPending);
        let fixed = if self.version == Version::V2 && n == 0 && pending { 0xffff } else { 0 };
        let Some(bank) = self.bank_mut(vcpu, n) else { return };
        let before = bank.active;
        let concerned = bank.write(register, value & !fixed);
        let after = bank.active;
        if n > 0 {
            // An SPI made active by software belongs to who did it.
            self.own(vcpu, n, after & !before);
            self.disown(n, before & !after);
        }
        if register == BitRegister::Group {
            self.forget(vcpu, n, u32::MAX);
        }
        let holders = self.recall(vcpu, n, concerned);
        if register == BitRegister::ClearEnable {
            self.disabling(holders, n);
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
            let concerned = bank.set_config(half, value);
            self.recall(vcpu, n, concerned);
        }
    }

    pub(super) fn set_priority(&mut self, vcpu: usize, n: usize, bit: usize, value: u8) {
        if let Some(bank) = self.bank_mut(vcpu, n) {
            let concerned = bank.set_priority(bit, value);
            self.recall(vcpu, n, concerned);
            // It may be among those that did not fit, and urgent now.
            self.forget(vcpu, n, u32::try_from(bit).map_or(0, super::mask));
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
                if here {
                    self.set_priority(vcpu, n, bit, value);
                }
            }
            0x800..0xbfc if v2 => self.set_target(offset & 0x3ff, value),
            0xf10..0xf20 if v2 => self.write_sources(vcpu, low_bits(offset), value, false),
            0xf20..0xf30 if v2 => self.write_sources(vcpu, low_bits(offset), value, true),
            _ => {}
        }
    }
}

/// Bank and half of the GICD_ICFGR at this offset.
fn config_bank(offset: u64) -> (usize, u64) {
    let word = (offset & 0xff) >> 2;
    (usize::try_from(word >> 1).unwrap_or(usize::MAX), word & 1)
}

fn low_bits(offset: u64) -> usize {
    usize::try_from(offset & 15).unwrap_or(0)
}

/// One of the ID registers, which start at `first`.
fn id(ids: &[u8; 12], offset: u64, first: u64) -> u32 {
    let at = offset.checked_sub(first).and_then(|at| usize::try_from(at >> 2).ok());
    at.and_then(|at| ids.get(at)).copied().map_or(0, u32::from)
}

/// One of a GICv3 frame's ID registers.
pub(super) fn id_v3(offset: u64, part: u8) -> u32 {
    if offset == ID_V3.saturating_add(0x10) { u32::from(part) } else { id(&IDS_V3, offset, ID_V3) }
}
