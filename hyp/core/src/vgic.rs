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

/// Architecture of the physical GIC, and so of the list registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// GICv2: `GICH_LR`, 32 bits.
    V2,
    /// GICv3: `ICH_LR<n>_EL2`, 64 bits.
    V3,
}

/// Enable bit of `ICH_HCR_EL2` and `GICH_HCR`.
pub const HCR_EN: u64 = 1 << 0;
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
    HCR_EN | (wanted & vgic_hcr::MASK)
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
            EOI | (7 << SOURCE_SHIFT)
        } else {
            EOI
        };
        let priority = 0xff << PRIORITY_SHIFT;
        if lr & !(STATE_MASK | HW | GROUP1 | priority | low | VINTID_MASK) != 0 {
            return None;
        }
        Some((lr & !priority) | (lr & self.priority_mask()))
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
    let bit = 1_u64.wrapping_shl(intid & 63);
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
    let physical = if lr & HW != 0 {
        (pintid(lr) as u64) << 10
    } else {
        (((lr >> SOURCE_SHIFT) & 7) << 10) | ((lr & EOI) >> 22) // EOI: 41 becomes 19
    };
    ((top | state | priority | physical | (lr & 0x3ff)) & 0xffff_ffff) as u32
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
        (((g >> 10) & 7) << SOURCE_SHIFT) | ((g & (1 << 19)) << 22)
    };
    top | state | priority | physical | (g & 0x3ff)
}
