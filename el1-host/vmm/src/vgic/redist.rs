//! GICv3 redistributors (IHI0069 12.10 and 12.11): one for each vCPU, two 64 KiB frames.
//!
//! No LPIs: GICR_PROPBASER, GICR_PENDBASER and what goes with them are RES0. A redistributor that was
//! not woken forwards all the same: there is no power controller to be told, and the architecture
//! leaves to the implementation when a sleeping one passes interrupts on.

use super::bank::BitRegister;
use super::dist::{IIDR, PART_REDIST, id_v3};
use super::sgi::low_byte;
use super::{Access, Version, Vgic, WAKER_ASLEEP, WAKER_SLEEP};
use crate::memmap::GICR_SIZE;
use crate::vcpu_set::VcpuSet;

/// GICR_CTLR.RWP.
const CTLR_RWP: u32 = 1 << 3;
const SGI_FRAME: u64 = GICR_SIZE / 2;

impl Vgic {
    /// Size of all redistributors.
    #[must_use]
    pub fn redist_size(&self) -> u64 {
        let vcpus = u64::try_from(self.cpus.len()).unwrap_or(0);
        if self.version == Version::V3 { vcpus.saturating_mul(GICR_SIZE) } else { 0 }
    }

    /// A read of the redistributors, by any vCPU: the offset says whose.
    #[must_use]
    pub fn read_redist(&self, access: Access) -> u64 {
        let (of, offset) = split(access.offset);
        let word = |offset| u64::from(self.redist_word(of, offset));
        match access.size {
            1 => u64::from(self.redist_priority(of, offset).unwrap_or(0)),
            4 if offset & 3 == 0 => word(offset),
            // Of the double-word registers only GICR_TYPER is not RES0 here.
            8 if offset == 8 => word(8) | (word(12) << 32),
            _ => 0,
        }
    }

    /// A write to the redistributors.
    pub fn write_redist(&mut self, access: Access, value: u64) {
        let (of, offset) = split(access.offset);
        let word = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        match access.size {
            1 => self.set_redist_priority(of, offset, low_byte(word)),
            4 if offset & 3 == 0 => self.set_redist_word(of, offset, word),
            _ => {}
        }
    }

    /// The vCPU that must leave the guest before another can read this register of the redistributors:
    /// it tells whether interrupts are pending or active that only its list registers know of.
    #[must_use]
    pub fn redist_to_leave_first(&self, access: Access) -> VcpuSet {
        let (of, offset) = split(access.offset);
        match offset.checked_sub(SGI_FRAME).and_then(BitRegister::decode) {
            Some((register, 0)) if register.tells_state() => self.holders(of, 0, u32::MAX),
            _ => VcpuSet::EMPTY,
        }
    }

    fn redist_word(&self, of: usize, offset: u64) -> u32 {
        if let Some((register, 0)) = offset.checked_sub(SGI_FRAME).and_then(BitRegister::decode) {
            return self.read_bits(of, 0, register);
        }
        let Some(cpu) = self.cpus.get(of) else { return 0 };
        match offset {
            0x00 if cpu.disabling.private => CTLR_RWP,
            0x04 => IIDR,
            0x08 => {
                // GICR_TYPER, low half: Processor_Number, Last.
                let last = of.checked_add(1) == Some(self.cpus.len());
                (super::number(of) << 8) | if last { 1 << 4 } else { 0 }
            }
            0x0c => super::number(of), // GICR_TYPER, high half: affinity 0.0.0.n
            0x14 if cpu.asleep => WAKER_SLEEP | WAKER_ASLEEP,
            0xffd0..0x1_0000 => id_v3(offset, PART_REDIST),
            0x1_0c00 => cpu.private.config(0),
            0x1_0c04 => cpu.private.config(1),
            _ => (0..4).rev().fold(0, |word, n| {
                let byte = self.redist_priority(of, offset.saturating_add(n)).unwrap_or(0);
                (word << 8) | u32::from(byte)
            }),
        }
    }

    fn set_redist_word(&mut self, of: usize, offset: u64, value: u32) {
        if let Some((register, 0)) = offset.checked_sub(SGI_FRAME).and_then(BitRegister::decode) {
            self.write_bits(of, 0, register, value);
        } else if offset == 0x14 {
            if let Some(cpu) = self.cpus.get_mut(of) {
                cpu.asleep = value & WAKER_SLEEP != 0;
            }
        } else {
            for (n, byte) in (0..).zip(value.to_le_bytes()) {
                self.set_redist_priority(of, offset.saturating_add(n), byte);
            }
        }
    }

    fn redist_priority(&self, of: usize, offset: u64) -> Option<u8> {
        let bit = priority_bit(offset)?;
        self.cpus.get(of).map(|cpu| cpu.private.priority(bit))
    }

    fn set_redist_priority(&mut self, of: usize, offset: u64, value: u8) {
        if let Some(bit) = priority_bit(offset) {
            self.set_priority(of, 0, bit, value);
        }
    }
}

/// Whose redistributor, and the offset in it.
fn split(offset: u64) -> (usize, u64) {
    (usize::try_from(offset / GICR_SIZE).unwrap_or(usize::MAX), offset % GICR_SIZE)
}

/// Which interrupt's priority the byte at this offset is.
fn priority_bit(offset: u64) -> Option<usize> {
    let bit = offset.checked_sub(SGI_FRAME)?.checked_sub(0x400)?;
    usize::try_from(bit).ok().filter(|bit| *bit < 32)
}
