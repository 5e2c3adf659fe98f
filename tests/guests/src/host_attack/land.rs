//! Physical addresses by what they are: EL2's, devices that are EL2's, the host's own, nobody's.

use alloc::vec::Vec;

use hyp_abi::PageState;

use super::rng::Rng;
use crate::machine::{self, GicBases};
use crate::{gic, host};

/// What the machine is made of.
pub struct Land {
    /// EL2's pages at boot, as (first, number).
    el2: Vec<(u64, u64)>,
    ram: (u64, u64),
    gicv2: bool,
}

impl Land {
    /// As the audit and the device tree show it.
    pub fn survey() -> Self {
        let mut el2 = Vec::new();
        host::audit_host(|run| {
            if run.host == PageState::NoPage {
                el2.push((run.pfn, run.nr));
            }
        });
        let (start, size) = machine::get().ram;
        let gicv2 = matches!(machine::get().gic, GicBases::V2 { .. });
        Self { el2, ram: (start >> 12, (start + size) >> 12), gicv2 }
    }

    /// How many pages EL2 had from the start.
    pub fn el2_pages(&self) -> u64 {
        self.el2.iter().map(|(_, nr)| nr).sum()
    }

    /// A page that EL2 had from the start.
    pub fn el2(&self, rng: &mut Rng) -> u64 {
        let mut n = rng.below(self.el2_pages().max(1));
        // Borders are where mistakes are.
        if rng.one_in(4)
            && let Some((first, nr)) = rng.pick(&self.el2)
        {
            return if rng.one_in(2) { first } else { first + nr - 1 };
        }
        for (first, nr) in &self.el2 {
            if n < *nr {
                return first + n;
            }
            n -= nr;
        }
        0
    }

    /// RAM that is not EL2's from the start.
    pub fn is_hosts_ram(&self, pfn: u64) -> bool {
        let el2s = self.el2.iter().any(|(first, nr)| (*first..first + nr).contains(&pfn));
        (self.ram.0..self.ram.1).contains(&pfn) && !el2s
    }

    /// An address of a device that is EL2's alone, if there is one.
    pub fn private_device(&self, rng: &mut Rng) -> Option<u64> {
        // QEMU virt: GICH, and GICV, which is for guests.
        self.gicv2.then(|| 0x0803_0000 + (rng.below(0x1_2000) & !7))
    }

    /// An address at which a load does no harm to the attacker itself, whatever is there.
    pub fn anywhere(&self, rng: &mut Rng) -> u64 {
        let at = match rng.below(6) {
            0 => rng.below(0x4000_0000),
            1 => (self.ram.1 << 12) + (rng.bits() & 0xffff_ffff),
            2 => 1 << rng.below(48),
            3 => (1 << (36 + rng.below(12))) - 8,
            4 => (self.ram.0 << 12) + rng.below((self.ram.1 - self.ram.0) << 12),
            _ => rng.bits() & 0xffff_ffff_ffff,
        } & !7;
        // A load of GICC_IAR acknowledges an interrupt, and the watchdog would be gone.
        let cpu_interface = gic::get().local() & !0xffff;
        if self.gicv2 && at & !0xffff == cpu_interface { 0 } else { at }
    }

    /// An address beyond RAM at which no device is.
    pub fn nowhere(&self, rng: &mut Rng) -> u64 {
        // QEMU virt has nothing from 2^40 on (memory devices end below, PCI is at 2^38 and 2^39).
        (1 << (40 + rng.below(8))) | (rng.bits() & 0xff_ffff_fff8)
    }
}
