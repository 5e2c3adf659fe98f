//! Which vCPU an SPI goes to: GICD_ITARGETSR (IHI0048 4.3.12), GICD_IROUTER (IHI0069 12.9.22).
//!
//! On a GICv2 an SPI may have several targets, and one of them takes it (the 1-N model, IHI0048
//! 3.2.3). A list register is one vCPU's, so one target is chosen: the first that is on. If that one
//! leaves the guest without having taken the interrupt - it masks interrupts, say - the next one is
//! offered it, so that it gets to a vCPU that will take it, as if all had been signalled.

use super::sgi::low_byte;
use super::{SPI_BANKS, Version, Vgic, bank_of, bit_of, change_bank, mask, of_bank};

/// MPIDR_EL1's and GICD_IROUTER's affinity fields. Interrupt_Routing_Mode is RES0 (No1N).
const AFFINITY: u64 = 0xff_00ff_ffff;

impl Vgic {
    /// Whom each SPI goes to, anew.
    pub(super) fn route_all(&mut self) {
        for n in 1..=SPI_BANKS {
            (0..32).for_each(|bit| self.route(n, bit, None));
        }
    }

    /// Whom SPI `bit` of bank `n` goes to, anew. Not to the one who has just `declined` it, if another
    /// can have it.
    fn route(&mut self, n: usize, bit: usize, declined: Option<usize>) {
        let to = match self.version {
            Version::V2 => self.one_of(n, bit, declined),
            Version::V3 => self.affinity(n, bit),
        };
        let mask = u32::try_from(bit).map_or(0, mask);
        let mut moved = false;
        for (idx, cpu) in self.cpus.iter_mut().enumerate() {
            let (before, now) =
                (of_bank(&cpu.to, n) & mask, if to == Some(idx) { mask } else { 0 });
            moved |= before != now;
            change_bank(&mut cpu.to, n, now, mask);
        }
        if moved {
            self.touched |= bit_of(n);
            self.recall(0, n, mask);
        }
    }

    /// The vCPU that GICD_IROUTER names.
    fn affinity(&self, n: usize, bit: usize) -> Option<usize> {
        let route = self.routes.get(n.checked_sub(1)?)?.get(bit)?;
        usize::try_from(*route).ok().filter(|idx| *idx < self.cpus.len())
    }

    /// One of the targets.
    fn one_of(&self, n: usize, bit: usize, declined: Option<usize>) -> Option<usize> {
        if self.cpus.len() == 1 {
            return Some(0); // IHI0048 4.3.12: a uniprocessor has no targets to choose from
        }
        let targets = *self.targets.get(n.checked_sub(1)?)?.get(bit)?;
        let meant = |idx: &usize| u32::from(targets) & bit_of(*idx) != 0;
        let on = |idx: &usize| self.cpus.get(*idx).is_some_and(|cpu| cpu.on);
        let mask = u32::try_from(bit).map_or(0, mask);
        let chosen =
            |idx: &usize| self.cpus.get(*idx).is_some_and(|cpu| of_bank(&cpu.to, n) & mask != 0);
        let all = || (0..self.cpus.len()).filter(meant);
        if let Some(from) = declined {
            let (after, before) = (all().filter(|idx| *idx > from), all().filter(|i| *i < from));
            if let Some(next) = after.chain(before).find(on) {
                return Some(next);
            }
        }
        all().filter(on).find(chosen).or_else(|| all().find(on)).or_else(|| all().next())
    }

    /// A vCPU has left the guest without taking an SPI that others may take.
    pub(super) fn pass_on(&mut self, vcpu: usize, intid: u32) {
        let (n, bit) = (bank_of(intid), (intid & 31) as usize);
        let targets = n.checked_sub(1).and_then(|n| self.targets.get(n)).and_then(|t| t.get(bit));
        if targets.is_some_and(|targets| targets.count_ones() > 1) {
            self.route(n, bit, Some(vcpu));
        }
    }

    /// GICD_ITARGETSR: of the private interrupts, the reader itself; with one CPU, zero (IHI0048
    /// 4.3.12).
    pub(super) fn target(&self, vcpu: usize, intid: u64) -> Option<u8> {
        if self.cpus.len() == 1 {
            return None;
        }
        let (n, bit) = byte_bank(intid);
        match n.checked_sub(1) {
            None => Some(low_byte(bit_of(vcpu))),
            Some(n) => self.targets.get(n).and_then(|targets| targets.get(bit)).copied(),
        }
    }

    pub(super) fn set_target(&mut self, intid: u64, value: u8) {
        let exist = self.cpu_mask();
        let (n, bit) = byte_bank(intid);
        let targets = n.checked_sub(1).and_then(|n| self.targets.get_mut(n));
        if let Some(target) = targets.and_then(|targets| targets.get_mut(bit)) {
            *target = value & exist;
            self.route(n, bit, None);
        }
    }

    /// `GICD_IROUTER<n>` at this offset, SPIs only.
    pub(super) fn read_route(&self, offset: u64) -> Option<u64> {
        let intid = self.spi_of_route(offset)?;
        let n = bank_of(intid).checked_sub(1)?;
        self.routes.get(n)?.get((intid & 31) as usize).copied()
    }

    /// One word of it.
    pub(super) fn read_route_half(&self, offset: u64) -> u32 {
        let both = self.read_route(offset & !4).unwrap_or(0);
        let half = if offset & 4 != 0 { both >> 32 } else { both & 0xffff_ffff };
        u32::try_from(half).unwrap_or(0)
    }

    /// Writes the bits of `mask`.
    pub(super) fn set_route(&mut self, offset: u64, value: u64, mask: u64) {
        let Some(intid) = self.spi_of_route(offset) else { return };
        let (n, bit) = (bank_of(intid), (intid & 31) as usize);
        let routes = n.checked_sub(1).and_then(|n| self.routes.get_mut(n));
        if let Some(route) = routes.and_then(|routes| routes.get_mut(bit)) {
            *route = ((*route & !mask) | (value & mask)) & AFFINITY;
            self.route(n, bit, None);
        }
    }

    /// The SPI that GICD_IROUTER at this offset routes.
    fn spi_of_route(&self, offset: u64) -> Option<u32> {
        let intid = u32::try_from(offset.checked_sub(0x6000)? >> 3).ok()?;
        let exists = (32..super::INTIDS).contains(&intid) && self.version == Version::V3;
        exists.then_some(intid)
    }
}

/// Bank and bit of an INTID.
pub(super) fn byte_bank(intid: u64) -> (usize, usize) {
    let bank = usize::try_from(intid >> 5).unwrap_or(usize::MAX);
    (bank, usize::try_from(intid & 31).unwrap_or(0))
}
