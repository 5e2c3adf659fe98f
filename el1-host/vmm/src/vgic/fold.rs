//! List registers after a run: what became of the interrupts in them.

use hyp_abi::lr;

use super::bank::Outcome;
use super::lists::Given;
use super::sgi::sync_sgi;
use super::{BANKS, Disabling, Version, Vgic, bank_of, change_bank, mask};

impl Vgic {
    /// Takes back what became of the list registers of [`Vgic::fill`] in the run.
    pub fn fold(&mut self, vcpu: usize, lrs: &[u64]) {
        if let Some(cpu) = self.cpus.get_mut(vcpu) {
            cpu.listed = [0; BANKS];
            cpu.disabling = Disabling::default();
        }
        for at in 0..lr::MAX {
            let Some(slot) = self.cpus.get_mut(vcpu).and_then(|cpu| cpu.given.get_mut(at)) else {
                return;
            };
            let given = core::mem::take(slot);
            if given.word != 0 {
                self.fold_one(vcpu, given, lrs.get(at).copied().unwrap_or(0));
            }
        }
    }

    fn fold_one(&mut self, vcpu: usize, given: Given, now: u64) {
        let intid = lr::vintid(given.word);
        let (n, mask) = (bank_of(intid), mask(intid));
        let pending = now & lr::STATE_PENDING != 0;
        let active = now & lr::STATE_ACTIVE != 0;
        let was_taken = active && !pending && given.word & lr::STATE_PENDING != 0;
        let taken = was_taken.then_some(lr::priority(given.word));
        let outcome = Outcome { latched: given.latched, pending, active, taken };
        let Some(bank) = self.bank_mut(vcpu, n) else { return };
        bank.fold(mask, outcome);
        let active = bank.active & mask != 0;
        if n > 0 {
            self.disown(n, mask);
            self.own(vcpu, n, if active { mask } else { 0 });
            if outcome.pending && !outcome.active {
                self.pass_on(vcpu, intid);
            }
        } else if intid < 16 && self.version == Version::V2 {
            self.fold_sender(vcpu, given, outcome);
        }
    }

    /// A GICv2 SGI that was not taken has its sender waiting again.
    fn fold_sender(&mut self, vcpu: usize, given: Given, outcome: Outcome) {
        let intid = lr::vintid(given.word);
        let sender = u32::try_from((given.word >> lr::SOURCE_SHIFT) & 7).unwrap_or(0);
        let Some(cpu) = self.cpus.get_mut(vcpu) else { return };
        if let Some(waiting) = cpu.sources.get_mut(intid as usize) {
            if outcome.latched && outcome.pending {
                *waiting |= 1_u8.wrapping_shl(sender);
            }
            sync_sgi(&mut cpu.private, mask(intid), *waiting);
        }
    }

    /// Notes that SPIs of bank `n` are active on a vCPU.
    pub(super) fn own(&mut self, vcpu: usize, n: usize, which: u32) {
        if let Some(cpu) = self.cpus.get_mut(vcpu) {
            change_bank(&mut cpu.owned, n, which, 0);
        }
    }

    /// Notes that SPIs of bank `n` are active nowhere.
    pub(super) fn disown(&mut self, n: usize, which: u32) {
        for cpu in &mut self.cpus {
            change_bank(&mut cpu.owned, n, 0, which);
        }
    }
}
