//! What the host may put into list registers.
//!
//! The host's distributor model proposes list registers in the format of [`hyp_abi::lr`]. A bad
//! one could link a guest's end-of-interrupt to a physical interrupt that is not the guest's, or
//! make the CPU interface UNPREDICTABLE; such a proposal is dropped: it becomes an invalid list
//! register, the others stay. Must not know GIC registers' addresses nor how a model works.
//!
//! Both groups are allowed: which one an interrupt is in is between the guest and its model, and
//! each leads to the guest only (HCR_EL2.IMO and FMO are both set).

use hyp_abi::lr::{
    EOI, GROUP1, HW, MAX, PINTID_SHIFT, PRIORITY_SHIFT, SOURCE_SHIFT, STATE_MASK, VINTID_MASK,
    pintid, priority, vintid,
};
use hyp_abi::run::vgic_hcr;

use crate::bits::union;

/// Architecture of the physical GIC, and so of the list registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// GICv2: `GICH_LR`, 32 bits.
    V2,
    /// GICv3: `ICH_LR<n>_EL2`, 64 bits.
    V3,
}

/// Enable bit of `ICH_HCR_EL2` and `GICH_HCR`.
pub const HCR_EN: u64 = 1;
/// INTIDs from here on are special (1020..1023), reserved or LPIs (IHI0069 2.2).
pub const INTID_LIMIT: u32 = 1020;

/// What a list register of this machine may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LrPolicy {
    /// Which GIC.
    pub version: Version,
    /// Priority bits that the list registers implement: 5 on a GICv2, `ICH_VTR_EL2.PRIbits` + 1
    /// on a GICv3. Lower bits read as zero.
    pub priority_bits: u8,
    /// The virtual timer's PPI: the only interrupt that may be linked to a physical one, itself.
    pub vtimer: u32,
}

/// How many list registers are in use: what the host says, clamped to what the hardware has.
#[must_use]
pub fn used_lrs(wanted: u64, hardware: usize) -> usize {
    let most = hardware.min(MAX);
    usize::try_from(wanted).map_or(most, |n| n.min(most))
}

/// `ICH_HCR_EL2` or `GICH_HCR` for a run: enabled, with those of the wanted bits that may be.
#[must_use]
pub const fn hcr(wanted: u64) -> u64 {
    union(&[HCR_EN, wanted & vgic_hcr::MASK])
}

impl LrPolicy {
    /// Checks one list register. `Some(0)`: it is free. `None`: it may not be; use 0.
    #[must_use]
    pub fn check(&self, lr: u64) -> Option<u64> {
        let state = lr & STATE_MASK;
        if state == 0 {
            return Some(0);
        }
        let intid = vintid(lr);
        if intid >= INTID_LIMIT {
            return None;
        }
        let low = if lr & HW != 0 {
            // The physical distributor holds the state of a linked interrupt: "pending and active"
            // is for software's own only (IHI0069 12.4, ICH_LR<n>_EL2.State).
            if state == STATE_MASK || intid != self.vtimer || pintid(lr) != intid {
                return None;
            }
            0x3ff << PINTID_SHIFT
        } else if self.version == Version::V2 && intid < 16 {
            union(&[EOI, 7 << SOURCE_SHIFT])
        } else {
            EOI
        };
        let priority = 0xff << PRIORITY_SHIFT;
        let known = union(&[STATE_MASK, HW, GROUP1, priority, low, VINTID_MASK]);
        if lr & !known != 0 {
            return None;
        }
        Some(union(&[lr & !priority, lr & self.priority_mask()]))
    }

    /// Checks a set in place: a bad one, or a second one for the same virtual interrupt
    /// (UNPREDICTABLE: IHI0048 5.2.2, IHI0069 12.4), becomes free. Answers how many were dropped.
    pub fn check_all(&self, lrs: &mut [u64]) -> usize {
        let mut dropped = 0_usize;
        let mut seen = [0_u64; 16];
        for lr in lrs.iter_mut() {
            let taken = match self.check(*lr) {
                Some(0) => Some(0),
                Some(good) => first_of_its_intid(&mut seen, vintid(good)).then_some(good),
                None => None,
            };
            dropped = dropped.saturating_add(usize::from(taken.is_none()));
            *lr = taken.unwrap_or(0);
        }
        dropped
    }

    fn priority_mask(&self) -> u64 {
        let absent = 8_u32.saturating_sub(u32::from(self.priority_bits));
        let implemented = 0xff_u64.checked_shl(absent).unwrap_or(0) & 0xff;
        implemented << PRIORITY_SHIFT
    }
}

/// Marks an INTID below 1024 in a bit map; `false` if it was marked already.
fn first_of_its_intid(seen: &mut [u64; 16], intid: u32) -> bool {
    let bit = 1_u64.wrapping_shl(intid); // by its low six bits
    let Some(word) = seen.get_mut((intid >> 6) as usize) else { return false };
    let first = *word & bit == 0;
    *word |= bit;
    first
}

/// A checked list register as `GICH_LR` has it (IHI0048 5.3.7).
#[must_use]
pub const fn to_gich(lr: u64) -> u32 {
    let top = ((lr >> 60) & 3) << 30; // HW and group: 61:60 become 31:30
    let state = ((lr >> 62) & 3) << 28;
    let priority = ((priority(lr) >> 3) as u64) << 23;
    // Bits 41:32 become 19:10: the physical INTID, or without HW the source and, on top, EOI.
    let physical = (pintid(lr) as u64) << 10;
    (union(&[top, state, priority, physical, lr & 0x3ff]) & 0xffff_ffff) as u32
}

/// A `GICH_LR` in the format of the ABI; exact inverse of [`to_gich`] on checked registers.
#[must_use]
pub const fn from_gich(gich: u32) -> u64 {
    let g = gich as u64;
    let top = ((g >> 30) & 3) << 60;
    let state = ((g >> 28) & 3) << 62;
    let priority = ((g >> 23) & 0x1f) << (PRIORITY_SHIFT + 3);
    let physical = if top & HW != 0 {
        ((g >> 10) & 0x3ff) << PINTID_SHIFT
    } else {
        union(&[((g >> 10) & 7) << SOURCE_SHIFT, (g & (1 << 19)) << 22])
    };
    union(&[top, state, priority, physical, g & 0x3ff])
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyp_abi::lr::{STATE_ACTIVE, STATE_PENDING};

    const V2: LrPolicy = LrPolicy { version: Version::V2, priority_bits: 5, vtimer: 27 };
    const V3: LrPolicy = LrPolicy { version: Version::V3, priority_bits: 5, vtimer: 27 };
    const PRIORITY: u64 = 0xa0 << PRIORITY_SHIFT;
    /// A pending, group 1, priority 0xa0 SPI.
    const SPI: u64 = STATE_PENDING | GROUP1 | PRIORITY | 33;
    /// The virtual timer, linked.
    const TIMER: u64 = STATE_PENDING | HW | GROUP1 | PRIORITY | (27 << PINTID_SHIFT) | 27;

    #[test]
    fn a_plain_interrupt_passes_unchanged_in_every_state_and_group() {
        for policy in [V2, V3] {
            for state in [STATE_PENDING, STATE_ACTIVE, STATE_MASK] {
                for group in [0, GROUP1] {
                    for extra in [0, EOI] {
                        let lr = state | group | extra | PRIORITY | 33;
                        assert_eq!(policy.check(lr), Some(lr), "{lr:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_register_without_state_is_free_whatever_else_it_says() {
        assert_eq!(V3.check(0), Some(0));
        assert_eq!(V3.check(!STATE_MASK), Some(0));
        // Left alone, an invalid one with EOI would raise a maintenance interrupt at once.
        assert_eq!(V2.check(EOI | 33), Some(0));
    }

    #[test]
    fn intids_end_at_1019() {
        for policy in [V2, V3] {
            assert_eq!(policy.check(STATE_PENDING), Some(STATE_PENDING));
            assert_eq!(policy.check(STATE_PENDING | 1019), Some(STATE_PENDING | 1019));
            for bad in [1020, 1023, 1024, 8192, 0xffff_ffff] {
                assert_eq!(policy.check(STATE_PENDING | bad), None, "{bad}");
            }
        }
    }

    #[test]
    fn only_the_virtual_timer_is_linked_and_only_to_itself() {
        for policy in [V2, V3] {
            assert_eq!(policy.check(TIMER), Some(TIMER));
            let active = TIMER & !STATE_MASK | STATE_ACTIVE;
            assert_eq!(policy.check(active), Some(active));
            assert_eq!(policy.check(TIMER | STATE_MASK), None);
            assert_eq!(policy.check(TIMER ^ 1), None); // virtual 26
            assert_eq!(policy.check(TIMER ^ (1 << PINTID_SHIFT)), None); // physical 26
            let other = STATE_PENDING | HW | (30 << PINTID_SHIFT) | 30;
            assert_eq!(policy.check(other), None);
            assert_eq!(LrPolicy { vtimer: 30, ..policy }.check(other), Some(other));
            // EOI's bit belongs to the physical INTID here.
            assert_eq!(policy.check(TIMER | EOI), None);
        }
    }

    #[test]
    fn every_reserved_bit_makes_a_register_bad() {
        for bit in 0..64 {
            let flipped = SPI ^ (1_u64 << bit);
            let bad = matches!(bit, 10..=40 | 42..=47 | 56..=59 | 61);
            for policy in [V2, V3] {
                assert_eq!(policy.check(flipped).is_none(), bad, "bit {bit}");
            }
            let linked = TIMER ^ (1_u64 << bit);
            let bad = matches!(bit, 0..=47 | 56..=59 | 61 | 63);
            assert_eq!(V3.check(linked).is_none(), bad, "linked, bit {bit}");
        }
    }

    #[test]
    fn only_an_sgi_of_a_gicv2_has_a_source() {
        let from = |intid: u64| STATE_PENDING | (5 << SOURCE_SHIFT) | intid;
        assert_eq!(V2.check(from(0)), Some(from(0)));
        assert_eq!(V2.check(from(15) | EOI), Some(from(15) | EOI));
        assert_eq!(V2.check(from(16)), None);
        assert_eq!(V3.check(from(0)), None);
        assert_eq!(V2.check(from(0) | (8 << SOURCE_SHIFT)), None);
    }

    #[test]
    fn priorities_lose_the_bits_that_the_hardware_lacks() {
        let shown = |bits, value: u64| {
            let policy = LrPolicy { priority_bits: bits, ..V3 };
            let lr = STATE_PENDING | (value << PRIORITY_SHIFT) | 33;
            priority(policy.check(lr).unwrap())
        };
        assert_eq!(shown(5, 0xff), 0xf8);
        assert_eq!(shown(8, 0xff), 0xff);
        assert_eq!(shown(4, 0xab), 0xa0);
        assert_eq!(shown(0, 0xff), 0);
        assert_eq!(shown(9, 0xff), 0xff);
    }

    #[test]
    fn a_second_register_for_an_interrupt_is_dropped_and_the_rest_stays() {
        let pending = |intid: u64| STATE_PENDING | intid;
        let mut lrs = [pending(33), pending(34), STATE_ACTIVE | 33, pending(1020), 0, pending(97)];
        assert_eq!(V3.check_all(&mut lrs), 2);
        assert_eq!(lrs, [pending(33), pending(34), 0, 0, 0, pending(97)]);
        // The same SGI from two sources is the same interrupt.
        let mut sgis = [pending(3), pending(3) | (1 << SOURCE_SHIFT)];
        assert_eq!(V2.check_all(&mut sgis), 1);
        assert_eq!(sgis, [pending(3), 0]);
        // A dropped one does not count as the first; nor do free ones for INTID 0.
        let mut later = [TIMER ^ (1 << PINTID_SHIFT), TIMER, 0, 0, pending(0)];
        assert_eq!(V3.check_all(&mut later), 1);
        assert_eq!(later, [0, TIMER, 0, 0, pending(0)]);
        assert_eq!(V3.check_all(&mut []), 0);
    }

    #[test]
    fn the_number_in_use_is_clamped() {
        assert_eq!(used_lrs(0, 4), 0);
        assert_eq!(used_lrs(3, 4), 3);
        assert_eq!(used_lrs(4, 4), 4);
        assert_eq!(used_lrs(5, 4), 4);
        assert_eq!(used_lrs(u64::MAX, 4), 4);
        assert_eq!(used_lrs(u64::MAX, 64), MAX);
    }

    #[test]
    fn the_host_chooses_two_bits_of_the_control_register() {
        assert_eq!(hcr(0), 1);
        assert_eq!(hcr(u64::MAX), 0b1011);
    }

    #[test]
    fn gich_fields_are_where_the_gicv2_has_them() {
        assert_eq!(to_gich(0), 0);
        assert_eq!(to_gich(STATE_PENDING), 1 << 28);
        assert_eq!(to_gich(STATE_ACTIVE), 1 << 29);
        assert_eq!(to_gich(GROUP1), 1 << 30);
        assert_eq!(to_gich(1019), 1019);
        assert_eq!(to_gich(0xff << PRIORITY_SHIFT), 0x1f << 23);
        assert_eq!(to_gich(0x08 << PRIORITY_SHIFT), 1 << 23);
        assert_eq!(to_gich(EOI), 1 << 19);
        assert_eq!(to_gich(7 << SOURCE_SHIFT), 7 << 10);
        assert_eq!(to_gich(HW), 1 << 31);
        assert_eq!(to_gich(TIMER), 0xda00_6c1b);
    }

    #[test]
    fn gich_round_trips_in_both_directions() {
        for state in 1..4_u64 {
            for rest in (0..1 << 12_u64).step_by(if cfg!(miri) { 61 } else { 1 }) {
                let (group, prio, eoi) = (rest & 1, (rest >> 1) & 0x1f, (rest >> 6) & 1);
                let intid = [0, 1, 15, 16, 31, 32, 1018, 1019][((rest >> 7) & 7) as usize];
                let source = if intid < 16 { rest >> 10 } else { 0 };
                let lr = (state << 62)
                    | (group << 60)
                    | (prio << 51)
                    | (eoi << 41)
                    | (source << SOURCE_SHIFT)
                    | intid;
                assert_eq!(V2.check(lr), Some(lr));
                assert_eq!(from_gich(to_gich(lr)), lr);
            }
        }
        assert_eq!(from_gich(to_gich(TIMER)), TIMER);
        // Bits that GICH_LR does not have come back as zero; nothing else is lost.
        for bit in 0..32 {
            let g = 1_u32 << bit;
            let reserved = matches!(bit, 13..=18 | 20..=22);
            assert_eq!(to_gich(from_gich(g)), if reserved { 0 } else { g }, "bit {bit}");
            assert_eq!(from_gich(g) == 0, reserved, "bit {bit}");
            let linked = (1 << 31) | g;
            let reserved = matches!(bit, 20..=22);
            let expected = if reserved { 1 << 31 } else { linked };
            assert_eq!(to_gich(from_gich(linked)), expected, "linked, bit {bit}");
        }
    }
}
