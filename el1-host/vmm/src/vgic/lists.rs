//! List registers: what goes in before a run, what came of it after.
//!
//! Order: active interrupts first, because the guest's deactivation must find them, then pending ones by
//! priority. If more is pending than fits, the host asks for a maintenance interrupt when nothing
//! pending is left in the list registers (NPIE); if active ones fill them all, when one of those ends.

use hyp_abi::lr;
use hyp_abi::run::vgic_hcr;

use super::bank::Bank;
use super::{SPI_BANKS, Version, Vgic, bank_of, bits, mask};

/// What a list register was given.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given {
    /// The word; 0 if it was not used.
    word: u64,
    /// The pending state came from a latch, which is clear meanwhile.
    latched: bool,
}

/// The list registers of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// The words, as many as `used`.
    pub lrs: [u64; lr::MAX],
    /// How many.
    pub used: usize,
    /// Wanted bits of the hypervisor control register.
    pub hcr: u64,
}

/// A candidate: sorts by "pending only" (after the active), then priority, then INTID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    pending_only: bool,
    priority: u8,
    intid: u32,
}

/// The best few of many, in order.
struct Best {
    keys: [Key; lr::MAX],
    len: usize,
    capacity: usize,
    /// Something did not fit.
    overflow: bool,
}

impl Best {
    const fn new(capacity: usize) -> Self {
        let empty = Key { pending_only: false, priority: 0, intid: 0 };
        Self { keys: [empty; lr::MAX], len: 0, capacity, overflow: false }
    }

    /// Insertion sort: shifts what is worse, and drops the last if there is no room.
    fn offer(&mut self, key: Key) {
        let mut held = key;
        for slot in self.keys.iter_mut().take(self.len) {
            if held < *slot {
                core::mem::swap(&mut held, slot);
            }
        }
        if self.len < self.capacity
            && let Some(slot) = self.keys.get_mut(self.len)
        {
            *slot = held;
            self.len = self.len.saturating_add(1);
        } else {
            self.overflow = true;
        }
    }
}

impl Vgic {
    /// Chooses what `vcpu` sees in its next run. Until [`Vgic::fold`] these interrupts are offered to
    /// nobody else.
    pub fn fill(&mut self, vcpu: usize) -> Filled {
        let mut best = Best::new(self.lrs);
        for n in 0..=SPI_BANKS {
            let active = self.active_on(vcpu, n);
            let pending = self.deliverable(vcpu, n);
            let Some(bank) = self.bank(vcpu, n).filter(|_| active | pending != 0) else { continue };
            for (bit, mask) in bits().enumerate() {
                if (active | pending) & mask != 0 {
                    best.offer(Key {
                        pending_only: active & mask == 0,
                        priority: bank.priority(bit),
                        intid: intid_of(n, bit),
                    });
                }
            }
        }
        let mut filled = Filled { used: best.len, ..Filled::default() };
        let mut any_pending = false;
        for at in 0..best.len {
            let Some(key) = best.keys.get(at).copied() else { break };
            let given = self.list(vcpu, key);
            any_pending |= given.word & lr::STATE_PENDING != 0;
            if let Some(word) = filled.lrs.get_mut(at) {
                *word = given.word;
            }
            if let Some(slot) = self.cpus.get_mut(vcpu).and_then(|cpu| cpu.given.get_mut(at)) {
                *slot = given;
            }
        }
        if best.overflow && any_pending {
            filled.hcr = vgic_hcr::NPIE;
        } else if best.overflow {
            self.ask_for_ends(vcpu, &mut filled);
        }
        filled
    }

    /// Active ones fill all list registers: the end of any of them makes room.
    fn ask_for_ends(&mut self, vcpu: usize, filled: &mut Filled) {
        let Some(cpu) = self.cpus.get_mut(vcpu) else { return };
        let used = filled.lrs.iter_mut().take(filled.used);
        for (word, given) in used.zip(cpu.given.iter_mut()) {
            if *word & lr::HW == 0 {
                *word |= lr::EOI;
                given.word = *word;
            }
        }
    }

    /// The active interrupts of bank `n` that `vcpu` has to deactivate.
    pub(super) fn active_on(&self, vcpu: usize, n: usize) -> u32 {
        let Some(bank) = self.bank(vcpu, n) else { return 0 };
        let active = bank.active & !bank.listed;
        let owners = n.checked_sub(1).and_then(|n| self.owner.get(n));
        let Some(owners) = owners.filter(|_| active != 0) else { return active };
        owners.iter().zip(bits()).fold(active, |active, (owner, mask)| {
            if usize::from(*owner) == vcpu { active } else { active & !mask }
        })
    }

    /// Moves one interrupt into a list register.
    fn list(&mut self, vcpu: usize, key: Key) -> Given {
        let intid = key.intid;
        let linked = intid == self.hardware;
        let sgi_v2 = intid < 16 && self.version == Version::V2;
        let mask = mask(intid);
        let deliverable = self.deliverable(vcpu, bank_of(intid)) & mask != 0;
        let Some(bank) = self.bank_mut(vcpu, bank_of(intid)) else { return Given::default() };
        let active = bank.active & mask != 0;
        let level = bank.edge & mask == 0;
        // Pending and active at once: never where hardware holds the pending state (IHI0069
        // ICH_LR<n>_EL2.State), nor where the line will tell after the end (the EOI bit).
        let pending = deliverable && !(active && (level || linked || sgi_v2));
        let latched = pending && bank.latched & mask != 0;
        let mut word = u64::from(intid)
            | (u64::from(key.priority) << lr::PRIORITY_SHIFT)
            | if bank.group & mask != 0 { lr::GROUP1 } else { 0 };
        if active {
            word |= lr::STATE_ACTIVE;
        }
        if pending {
            word |= lr::STATE_PENDING;
        }
        if linked {
            word |= lr::HW | (u64::from(intid) << lr::PINTID_SHIFT);
        } else if level || (active && deliverable && !pending) {
            word |= lr::EOI;
        }
        bank.listed |= mask;
        if latched {
            bank.latched &= !mask;
        }
        if sgi_v2 {
            word |= self.take_source(vcpu, intid, active);
        }
        Given { word, latched }
    }

    /// The source field of a GICv2 SGI: of the active one its sender, otherwise the first that
    /// waits, which is taken off the list. If more wait the end must be told.
    fn take_source(&mut self, vcpu: usize, intid: u32, active: bool) -> u64 {
        let Some(cpu) = self.cpus.get_mut(vcpu) else { return 0 };
        let at = intid as usize;
        let (Some(waiting), Some(sender)) =
            (cpu.sources.get_mut(at), cpu.active_source.get_mut(at))
        else {
            return 0;
        };
        if !active {
            let first = waiting.trailing_zeros();
            *waiting &= waiting.wrapping_sub(1);
            *sender = u8::try_from(first & 7).unwrap_or(0);
        }
        let more = if *waiting != 0 { lr::EOI } else { 0 };
        (u64::from(*sender) << lr::SOURCE_SHIFT) | more
    }

    /// Takes back what became of the list registers of [`Vgic::fill`] in the run.
    pub fn fold(&mut self, vcpu: usize, lrs: &[u64]) {
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
        let mask = mask(intid);
        let pending = now & lr::STATE_PENDING != 0;
        let active = now & lr::STATE_ACTIVE != 0;
        let Some(bank) = self.bank_mut(vcpu, bank_of(intid)) else { return };
        bank.listed &= !mask;
        bank.active = if active { bank.active | mask } else { bank.active & !mask };
        if given.latched && pending {
            bank.latched |= mask;
        }
        if active {
            self.own(vcpu, intid);
        }
        if intid < 16 && self.version == Version::V2 {
            let sender = u32::try_from((given.word >> lr::SOURCE_SHIFT) & 7).unwrap_or(0);
            let Some(cpu) = self.cpus.get_mut(vcpu) else { return };
            if let Some(waiting) = cpu.sources.get_mut(intid as usize) {
                if given.latched && pending {
                    *waiting |= 1_u8.wrapping_shl(sender);
                }
                sync_sgi(&mut cpu.private, mask, *waiting);
            }
        }
    }

    /// Notes on which vCPU an SPI is active.
    pub(super) fn own(&mut self, vcpu: usize, intid: u32) {
        let owner = bank_of(intid)
            .checked_sub(1)
            .and_then(|n| self.owner.get_mut(n))
            .and_then(|owners| owners.get_mut((intid & 31) as usize));
        if let (Some(owner), Ok(vcpu)) = (owner, u8::try_from(vcpu)) {
            *owner = vcpu;
        }
    }
}

/// A GICv2 SGI is pending as long as any sender waits.
pub(super) const fn sync_sgi(private: &mut Bank, mask: u32, waiting: u8) {
    if waiting == 0 {
        private.latched &= !mask;
    } else {
        private.latched |= mask;
    }
}

fn intid_of(bank: usize, bit: usize) -> u32 {
    u32::try_from(bank.saturating_mul(32).saturating_add(bit)).unwrap_or(u32::MAX)
}
