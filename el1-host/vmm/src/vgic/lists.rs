//! List registers before a run: what goes in.
//!
//! Active interrupts come first, because the guest's end of one must find it, then pending ones, both by
//! priority (of the active ones that with which they were taken). But one list register at least is
//! for what is pending: an interrupt that pre-empts must not wait for those it pre-empts, nor any
//! for those whose priority was dropped (EOImode 1). The active interrupt that gives way is the one
//! that ends last. Among those pending the best of each group is always there, since the guest may
//! take one group only.
//!
//! If anything did not fit, the host asks for a maintenance interrupt at each end, and when nothing
//! pending is left in the list registers (NPIE). So what did not fit gets there in its turn.

use hyp_abi::lr;
use hyp_abi::run::vgic_hcr;

use super::{BANKS, Version, Vgic, bank_of, bits, change_bank, mask, of_bank};

/// What a list register was given.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given {
    /// The word; 0 if it was not used.
    pub word: u64,
    /// The pending state came from a latch.
    pub latched: bool,
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

/// A candidate: sorts by urgency, then INTID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Its priority; of an active one, that with which it was taken.
    urgency: u8,
    intid: u32,
    priority: u8,
    group1: bool,
}

/// The best few of many, in order.
#[derive(Clone, Copy, Default)]
struct Best {
    keys: [Key; lr::MAX],
    len: usize,
    /// How many there were.
    offered: usize,
}

impl Best {
    /// Insertion sort: shifts what is worse, and drops the last if there is no room.
    fn offer(&mut self, key: Key) {
        self.offered = self.offered.saturating_add(1);
        let mut held = key;
        for slot in self.keys.iter_mut().take(self.len) {
            if held < *slot {
                core::mem::swap(&mut held, slot);
            }
        }
        if let Some(slot) = self.keys.get_mut(self.len) {
            *slot = held;
            self.len = self.len.saturating_add(1);
        }
    }

    /// The first of them.
    fn first(&self, count: usize) -> impl Iterator<Item = Key> {
        self.keys.into_iter().take(self.len.min(count))
    }
}

impl Vgic {
    /// Chooses what `vcpu` sees in its next run. Until [`Vgic::fold`] these interrupts are offered to
    /// nobody else.
    pub fn fill(&mut self, vcpu: usize) -> Filled {
        // Filled before and never run: nothing has become of it.
        let unused = self.cpus.get(vcpu).map(|cpu| cpu.given.map(|given| given.word));
        self.fold(vcpu, &unused.unwrap_or_default());
        let (active, groups) = self.candidates(vcpu);
        let pending = groups.iter().map(|group| group.offered).sum::<usize>();
        let reserved = usize::from(pending > 0 && self.lrs > 1);
        let actives = active.len.min(self.lrs.saturating_sub(reserved));
        let room = self.lrs.saturating_sub(actives);
        let mut filled = Filled::default();
        for key in active.first(actives) {
            self.list(vcpu, key, &mut filled);
        }
        let chosen = mixed(groups, room);
        for key in chosen.first(room) {
            self.list(vcpu, key, &mut filled);
        }
        if active.offered > actives || pending > chosen.len {
            self.ask_for_ends(vcpu, &mut filled);
            filled.hcr = if chosen.len > 0 { vgic_hcr::NPIE } else { 0 };
        }
        filled
    }

    /// The active interrupts of a vCPU, and those pending only, by group.
    fn candidates(&self, vcpu: usize) -> (Best, [Best; 2]) {
        let (mut actives, mut groups) = (Best::default(), [Best::default(); 2]);
        let [group0, group1] = &mut groups;
        for n in 0..BANKS {
            let active = self.active_on(vcpu, n);
            let all = active | self.deliverable(vcpu, n);
            let Some(bank) = self.bank(vcpu, n).filter(|_| all != 0) else { continue };
            for (bit, mask) in bits().enumerate().filter(|(_, mask)| all & mask != 0) {
                let in_group1 = bank.group & mask != 0;
                let is_active = active & mask != 0;
                let priority = bank.priority(bit);
                let key = Key {
                    urgency: if is_active { bank.taken(bit) } else { priority },
                    intid: intid_of(n, bit),
                    priority,
                    group1: in_group1,
                };
                let best = if is_active {
                    &mut actives
                } else if in_group1 {
                    &mut *group1
                } else {
                    &mut *group0
                };
                best.offer(key);
            }
        }
        (actives, groups)
    }

    /// Each interrupt tells its end: that makes room. A linked one could not, so it has no link in this
    /// run (its physical side stays active until the end is seen). One that is active and pending
    /// would not, for its end leaves it pending: it is active only, until then.
    fn ask_for_ends(&mut self, vcpu: usize, filled: &mut Filled) {
        const LINK: u64 = lr::HW | (0x3ff << lr::PINTID_SHIFT);
        let Some(cpu) = self.cpus.get_mut(vcpu) else { return };
        let used = filled.lrs.iter_mut().take(filled.used);
        for (word, given) in used.zip(cpu.given.iter_mut()) {
            if *word & lr::HW != 0 {
                *word &= !LINK;
            }
            *word |= lr::EOI;
            if *word & lr::STATE_MASK == lr::STATE_MASK {
                *word &= !lr::STATE_PENDING;
                given.latched = false;
            }
            given.word = *word;
        }
    }

    /// The active interrupts of bank `n` that `vcpu` has to deactivate.
    fn active_on(&self, vcpu: usize, n: usize) -> u32 {
        let (Some(bank), Some(cpu)) = (self.bank(vcpu, n), self.cpus.get(vcpu)) else { return 0 };
        let owned = if n == 0 { u32::MAX } else { of_bank(&cpu.owned, n) };
        bank.active & owned
    }

    /// Moves one interrupt into the next list register.
    fn list(&mut self, vcpu: usize, key: Key, filled: &mut Filled) {
        let given = self.word_of(vcpu, key);
        let Some(cpu) = self.cpus.get_mut(vcpu) else { return };
        let slots = (cpu.given.get_mut(filled.used), filled.lrs.get_mut(filled.used));
        let (Some(slot), Some(word)) = slots else { return };
        (*slot, *word) = (given, given.word);
        filled.used = filled.used.saturating_add(1);
        let (n, mask) = (bank_of(key.intid), mask(key.intid));
        change_bank(&mut cpu.listed, n, mask, 0);
        if let Some(bank) = self.bank_mut(vcpu, n) {
            bank.listed |= mask;
        }
    }

    fn word_of(&mut self, vcpu: usize, key: Key) -> Given {
        let intid = key.intid;
        let sgi_v2 = intid < 16 && self.version == Version::V2;
        let mask = mask(intid);
        let deliverable = self.deliverable(vcpu, bank_of(intid)) & mask != 0;
        let Some(bank) = self.bank(vcpu, bank_of(intid)) else { return Given::default() };
        let active = bank.active & mask != 0;
        let level = bank.edge & mask == 0;
        // Set pending by software while active, its end must be told, which a link cannot.
        let linked = intid == self.hardware && !(active && bank.latched & mask != 0);
        // Pending and active at once: never where hardware holds the pending state (IHI0069
        // ICH_LR<n>_EL2.State), nor where the line will tell after the end (the EOI bit).
        let pending = deliverable && !(active && (level || linked || sgi_v2));
        let latched = pending && bank.latched & mask != 0;
        let mut word = u64::from(intid)
            | (u64::from(key.priority) << lr::PRIORITY_SHIFT)
            | if key.group1 { lr::GROUP1 } else { 0 };
        if active {
            word |= lr::STATE_ACTIVE;
        }
        if pending {
            word |= lr::STATE_PENDING;
        }
        if linked {
            word |= lr::HW | (u64::from(intid) << lr::PINTID_SHIFT);
        } else if level || (active && !pending && bank.pending() & mask != 0) {
            // Its end must be told: the line is to be looked at, or it is pending for another vCPU.
            word |= lr::EOI;
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
}

/// The best of both groups; if they do not all fit, the best of each is among them.
fn mixed([group0, group1]: [Best; 2], room: usize) -> Best {
    let mut both = group0;
    group1.first(lr::MAX).for_each(|key| both.offer(key));
    both.len = both.len.min(room);
    let mut heads = [group0, group1].into_iter().filter_map(|group| group.first(1).next());
    let missing = heads.find(|head| !both.first(room).any(|key| key == *head));
    if let (Some(head), true) = (missing, room > 1)
        && let Some(last) = both.len.checked_sub(1).and_then(|last| both.keys.get_mut(last))
    {
        *last = head;
    }
    both
}

fn intid_of(bank: usize, bit: usize) -> u32 {
    u32::try_from(bank.saturating_mul(32).saturating_add(bit)).unwrap_or(u32::MAX)
}
