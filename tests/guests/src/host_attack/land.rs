//! Physical addresses by what they are: EL2's, devices that are EL2's, the host's own, nobody's.

use alloc::vec::Vec;

use hyp_abi::PageState;

use super::rng::Rng;
use crate::{gic, host, machine};

/// What the machine is made of.
#[derive(Clone)]
pub struct Land {
    /// EL2's pages at boot, as (first, number).
    el2: Vec<(u64, u64)>,
    /// All others, likewise.
    hosts: Vec<(u64, u64)>,
    /// First page of RAM and the page after its last, whatever is between.
    ram: (u64, u64),
    /// Devices of a GICv2 that are no host's, as (address, bytes).
    private: Option<[(u64, u64); 2]>,
}

impl Land {
    /// As the audit and the device tree show it.
    pub fn survey() -> Self {
        let (mut el2, mut hosts) = (Vec::new(), Vec::new());
        let mut ram = (u64::MAX, 0);
        host::audit_host(|run| {
            let whose = if run.host == PageState::NoPage { &mut el2 } else { &mut hosts };
            whose.push((run.pfn, run.nr));
            ram = (ram.0.min(run.pfn), run.pfn + run.nr);
        });
        Self { el2, hosts, ram, private: machine::virtual_interface() }
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
        self.hosts.iter().any(|(first, nr)| (*first..first + nr).contains(&pfn))
    }

    /// An address of a device that is EL2's alone, if there is one.
    pub fn private_device(&self, rng: &mut Rng) -> Option<u64> {
        // GICH, and GICV, which is for guests.
        let (base, bytes) = rng.pick(&self.private?)?;
        Some(base + (rng.below(bytes) & !7))
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
        if self.private.is_some() && at & !0xffff == cpu_interface { 0 } else { at }
    }

    /// An address beyond RAM at which no device is.
    pub fn nowhere(&self, rng: &mut Rng) -> u64 {
        // QEMU virt has nothing from 2^40 on (memory devices end below, PCI is at 2^38 and 2^39), and
        // a Raspberry Pi 4 not even from 2^36 on.
        (1 << (40 + rng.below(8))) | (rng.bits() & 0xff_ffff_fff8)
    }
}
