//! What changes in a guest's mappings while they stay: write protection, ageing, more rights.
//!
//! None of these needs break-before-make (DDI0487 D8 asks for it when address, size or memory type
//! change), and none may lose an access flag that the hardware sets meanwhile. A device is not
//! logged and does not age: it is nobody's memory to copy or to reclaim.

use hyp_abi::Gfn;

use super::GuestMap;
use crate::desc::{Desc, Rights};
use crate::edit::Mmu;
use crate::geometry::Span;
use crate::hw::{Tables, Tlb};
use crate::source::Refs;

/// Most pages that one ageing call answers for: the bits of its bitmap.
pub const AGE_PAGES: u64 = 64;

/// Why rights cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelaxRefusal {
    /// The gfn is beyond the IPA space.
    OutOfRange,
    /// Nothing is mapped there: the caller lost a race.
    Absent,
}

impl GuestMap {
    /// Takes the right to write away from all memory that reaches into the span, visiting at most
    /// `budget` entries. Returns how many pages of the span are done. TLBs keep what they have:
    /// flush the VMID before trusting that nothing is written.
    pub fn wrprotect<H, R>(&mut self, mmu: Mmu<'_, H, R>, span: Span, budget: usize) -> u64
    where
        H: Tables + Tlb,
        R: Refs,
    {
        let mut done = 0u64;
        for visit in self.space.walk(mmu.hw, span).take(budget) {
            if !visit.is_device() {
                mmu.amend(visit.slot, visit.desc, Desc::read_only);
            }
            done = done.saturating_add(visit.pages());
        }
        done
    }
    /// Which of the first 64 pages of the span were accessed since they were last aged: bit i is
    /// page i. `mkold` ages them, without invalidation: a stale "young" is allowed.
    pub fn age<H, R>(&mut self, mmu: Mmu<'_, H, R>, span: Span, mkold: bool) -> u64
    where
        H: Tables + Tlb,
        R: Refs,
    {
        let mut bitmap = 0;
        for visit in self.space.walk(mmu.hw, span.truncated(AGE_PAGES)) {
            if visit.is_device() {
                continue;
            }
            let change = if mkold { Desc::old } else { |desc| desc };
            let before = mmu.amend(visit.slot, visit.desc, change);
            if before.is_some_and(|desc| desc != desc.old()) {
                bitmap |= bits(visit.start.saturating_sub(span.start()), visit.pages());
            }
        }
        bitmap
    }
    /// Adds rights to the leaf at `gfn`; this CPU sees them at once, others may fault once more.
    ///
    /// # Errors
    /// See [`RelaxRefusal`].
    pub fn relax<H, R>(
        &mut self,
        mmu: Mmu<'_, H, R>,
        gfn: Gfn,
        more: Rights,
    ) -> Result<(), RelaxRefusal>
    where
        H: Tables + Tlb,
        R: Refs,
    {
        if !self.geometry().contains(gfn) {
            return Err(RelaxRefusal::OutOfRange);
        }
        let path = self.space.descend(mmu.hw, gfn);
        mmu.amend(path.last, path.desc, |desc| desc.relaxed(more)).ok_or(RelaxRefusal::Absent)?;
        mmu.hw.publish();
        let level = Some(path.last.level.number());
        mmu.hw.inval_ipa_local(self.regime(), gfn.ipa(), level);
        Ok(())
    }
    /// Sets the access flag of the leaf at `gfn`; returns whether there is one.
    pub fn mkyoung<H, R>(&mut self, mmu: Mmu<'_, H, R>, gfn: Gfn) -> bool
    where
        H: Tables + Tlb,
        R: Refs,
    {
        let Some(visit) = self.visit(mmu.hw, gfn) else { return false };
        let leaf = mmu.amend(visit.slot, visit.desc, Desc::young);
        // A leaf without access flag is in no TLB (D8, "The Access flag"): visible is enough.
        mmu.hw.publish();
        leaf.is_some()
    }
}

/// `n` bits from bit `first` on; those beyond 63 fall off.
fn bits(first: u64, n: u64) -> u64 {
    let ones = if n >= 64 { u64::MAX } else { (1u64 << n).wrapping_sub(1) };
    u32::try_from(first).ok().and_then(|first| ones.checked_shl(first)).unwrap_or(0)
}
