//! Operations on what is mapped already: rights, access flags, cache maintenance; and those that
//! this side cannot do.
//!
//! All take the mirror's lock for reading, so several CPUs may run them at once; only a
//! `relax_perms` beyond what a page was granted changes runs, and writes.

use hyp_abi::hcall::YOUNG_MAX;
use hyp_abi::{Gfn, Pfn, Prot, Refusal};

use crate::counters::add;
use crate::hypercalls::{Calls, Hypercalls};
use crate::mirror::Mirror;

impl Mirror {
    /// `wrprotect`: takes the right to write away from every page of the range, and drops the VM's TLB
    /// entries: when this returns, the next write to each page faults. Answers the pages passed.
    ///
    /// # Errors
    /// EL2's refusal; then nothing may be concluded from the pages' rights.
    pub fn wrprotect<H: Hypercalls + ?Sized>(
        &self,
        hyp: &H,
        gfn: Gfn,
        nr: u64,
    ) -> Result<u64, Refusal> {
        let limit = gfn.raw().saturating_add(nr);
        let runs = self.runs.read();
        let mut passed = 0_u64;
        let mut at = Some(gfn);
        while let Some((first, piece)) = at.and_then(|at| runs.next_in(at, limit)) {
            let done = hyp.wrprotect(self.handle, first, piece.nr).or_else(|r| self.refuse(r))?;
            if done == 0 || done > piece.nr {
                return self.refuse(Refusal::Invalid);
            }
            passed = passed.saturating_add(done);
            at = first.add(done);
        }
        if passed > 0 {
            hyp.tlb_flush_vmid(self.handle).or_else(|r| self.refuse(r))?;
        }
        add(&self.counters.wrprotected, passed);
        Ok(passed)
    }

    /// `flush`: hands every mapped piece of the range to `clean`, which makes its content visible to
    /// observers without caches (this needs no hypercall: the pages are the host's too).
    pub fn flush(&self, gfn: Gfn, nr: u64, mut clean: impl FnMut(Pfn, u64)) -> u64 {
        let limit = gfn.raw().saturating_add(nr);
        let runs = self.runs.read();
        let mut pages = 0_u64;
        let mut at = Some(gfn);
        while let Some((first, piece)) = at.and_then(|at| runs.next_in(at, limit)) {
            clean(piece.pfn, piece.nr);
            pages = pages.saturating_add(piece.nr);
            at = first.add(piece.nr);
        }
        add(&self.counters.flushed, pages);
        pages
    }

    /// `test_clear_young`: names every page of the range that was accessed since it was last aged,
    /// and ages it if `mkold`. Answers how many there were. EL2 does not flush the TLB for this.
    ///
    /// # Errors
    /// EL2's refusal; pages named before it stay named.
    pub fn test_clear_young<H: Hypercalls + ?Sized>(
        &self,
        hyp: &H,
        gfn: Gfn,
        nr: u64,
        mkold: bool,
        mut found: impl FnMut(Gfn),
    ) -> Result<u64, Refusal> {
        let limit = gfn.raw().saturating_add(nr);
        let runs = self.runs.read();
        let mut young = 0_u64;
        let mut at = Some(gfn);
        // Holes between runs may lie inside a batch (EL2 reports them as not young); holes before it
        // are skipped here, however wide.
        while let Some((first, _)) = at.and_then(|at| runs.next_in(at, limit)) {
            let batch = limit.saturating_sub(first.raw()).min(YOUNG_MAX);
            let mut bits = hyp
                .test_clear_young(self.handle, first, batch, mkold)
                .or_else(|r| self.refuse(r))?;
            while bits != 0 {
                let bit = u64::from(bits.trailing_zeros());
                bits &= bits.wrapping_sub(1);
                if let Some(page) = first.add(bit).filter(|page| page.raw() < limit) {
                    young = young.saturating_add(1);
                    found(page);
                }
            }
            add(&self.counters.aged, batch);
            at = first.add(batch);
        }
        add(&self.counters.young, young);
        Ok(young)
    }

    /// `relax_perms`: adds rights to a page. Rights that the page was granted at `map` only undo a
    /// write protection; wider ones are granted from here on.
    ///
    /// # Errors
    /// `Raced` if nothing is mapped there (any more); otherwise EL2's refusal.
    pub fn relax_perms<H: Hypercalls + ?Sized>(
        &self,
        hyp: &H,
        gfn: Gfn,
        prot: Prot,
    ) -> Result<(), Refusal> {
        let runs = self.runs.read();
        let page = runs.get(gfn).ok_or(Refusal::Raced)?;
        if page.prot.contains(prot) {
            hyp.relax_perms(gfn, prot).or_else(|r| self.refuse(r))?;
        } else {
            drop(runs);
            self.widen(hyp, gfn, prot)?;
        }
        add(&self.counters.relaxed, 1);
        Ok(())
    }

    fn widen<H: Hypercalls + ?Sized>(&self, hyp: &H, gfn: Gfn, prot: Prot) -> Result<(), Refusal> {
        let mut runs = self.runs.write();
        // Looked up again: between the two locks the page may have gone.
        let page = runs.get(gfn).ok_or(Refusal::Raced)?;
        let next = gfn.raw().saturating_add(1);
        runs.isolate(gfn, next);
        let answer = hyp.relax_perms(gfn, prot).or_else(|r| self.refuse(r));
        if answer.is_ok() {
            runs.set_prot(gfn, page.prot.union(prot));
        }
        runs.join(gfn.raw());
        runs.join(next);
        answer
    }

    /// `mkyoung`: marks a page as accessed; a hole is no error.
    ///
    /// # Errors
    /// EL2's refusal.
    pub fn mkyoung<H: Hypercalls + ?Sized>(&self, hyp: &H, gfn: Gfn) -> Result<(), Refusal> {
        let runs = self.runs.read();
        if runs.get(gfn).is_none() {
            return Ok(());
        }
        hyp.mkyoung(gfn).or_else(|r| self.refuse(r))?;
        add(&self.counters.made_young, 1);
        Ok(())
    }

    /// `split`: there are no blocks to split yet.
    ///
    /// # Errors
    /// Always `Invalid`.
    pub const fn split(&self, _gfn: Gfn, _nr: u64) -> Result<(), Refusal> {
        Err(Refusal::Invalid)
    }

    /// `create_unlinked`: tables are EL2's; this side can build none.
    ///
    /// # Errors
    /// Always `Invalid`.
    pub const fn create_unlinked(&self, _gfn: Gfn) -> Result<(), Refusal> {
        Err(Refusal::Invalid)
    }

    /// `free_unlinked`: see [`Mirror::create_unlinked`].
    ///
    /// # Errors
    /// Always `Invalid`.
    pub const fn free_unlinked(&self, _gfn: Gfn) -> Result<(), Refusal> {
        Err(Refusal::Invalid)
    }
}
