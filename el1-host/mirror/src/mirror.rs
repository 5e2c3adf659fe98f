//! One VM's mirror and its operations: those that a hypervisor's generic memory code expects of a
//! page table, each with the hypercalls that make it true.
//!
//! Knows: what is mapped, and how each refusal of EL2 reads from here. Must not know: slots,
//! frames' owners, vCPUs. `map`, `relax_perms` and `mkyoung` act on the vCPU that is loaded on this
//! CPU, which must be this VM's; all others name the VM by handle.
//!
//! Lock: one `RwLock` a mirror, held across the hypercall so that the mirror is never behind EL2.
//! `map` and `unmap` take it for writing, whatever lock the fault path holds around them: two vCPUs
//! may fault on one gfn. `wrprotect`, `flush` and ageing read. Callbacks run with the lock
//! held: they must not use the same mirror. Interrupt handlers must not use mirrors at all.
//!
//! How nothing fails after EL2 said yes: a `BTreeMap` cannot be given nodes in advance. So an operation
//! that needs a node makes it *before* the call, under the write lock, where nobody can see it:
//! `map` inserts the page (unless it just lengthens a run), `unmap` and `relax_perms` cut runs at the
//! range's ends. If EL2 then says no, the node is removed or the cut joined again; removing
//! never allocates. The usual `map`, the next page of a run, needs no node at all.

use hyp_abi::{Gfn, Handle, Pfn, Prot, Refusal};

use crate::counters::{Counters, Snapshot, add};
use crate::hypercalls::{Calls, Hypercalls};
use crate::lock::RwLock;
use crate::runs::{Mapping, Runs};

/// The memory of one VM, as this host has arranged it.
#[derive(Debug)]
pub struct Mirror {
    pub(crate) handle: Handle,
    pub(crate) runs: RwLock<Runs>,
    pub(crate) counters: Counters,
}

/// What `unmap` did before it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmapped {
    /// Pages taken back.
    pub pages: u64,
    /// Why it stopped early; everything below the refused page is still mapped.
    pub refused: Option<(Gfn, Refusal)>,
}

/// What `destroy` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destroyed {
    /// Pages taken back.
    pub pages: u64,
    /// Pages that EL2 would not give back; they are still in the mirror.
    pub stuck: u64,
    /// The first refusal.
    pub refused: Option<(Gfn, Refusal)>,
}

impl Mirror {
    /// `init`: the empty mirror of a VM.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self { handle, runs: RwLock::new(Runs::new()), counters: Counters::default() }
    }

    /// The VM.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }

    /// `destroy`: unshares every page, also of a VM that is half built or dying. Goes on past a refusal,
    /// so that no page stays shared that could be had back.
    pub fn destroy<H: Hypercalls + ?Sized>(
        &self,
        hyp: &H,
        mut freed: impl FnMut(Gfn, Pfn),
    ) -> Destroyed {
        let mut runs = self.runs.write();
        let mut done = Destroyed::default();
        let mut limit = u64::MAX;
        while let Some((gfn, page)) = runs.last_in(0, limit) {
            limit = gfn.raw();
            match hyp.unshare_guest(self.handle, gfn, 1) {
                Ok(()) => {
                    runs.take_last(gfn);
                    done.pages = done.pages.saturating_add(1);
                    freed(gfn, page.pfn);
                }
                Err(refusal) => {
                    // Its own run, so that the pages before it can be taken from their run's end.
                    let next = gfn.raw().saturating_add(1);
                    runs.isolate(gfn, next);
                    runs.join(next);
                    done.stuck = done.stuck.saturating_add(1);
                    done.refused.get_or_insert((gfn, refusal));
                    add(&self.counters.refused, 1);
                }
            }
        }
        add(&self.counters.unmapped, done.pages);
        done
    }

    /// `map`: shares one page into the loaded vCPU's VM.
    ///
    /// # Errors
    /// `Raced` if the mirror has a page there already (EL2 is not asked): the guest should try
    /// again. Anything else is EL2's own refusal and will not go away by trying again, except
    /// `NoMemory`, which asks for a memcache top-up. Refused, nothing has changed.
    pub fn map<H: Hypercalls + ?Sized>(
        &self,
        hyp: &H,
        gfn: Gfn,
        pfn: Pfn,
        prot: Prot,
    ) -> Result<(), Refusal> {
        let page = Mapping { pfn, nr: 1, prot };
        let mut runs = self.runs.write();
        if runs.get(gfn).is_some() {
            add(&self.counters.raced, 1);
            return Err(Refusal::Raced);
        }
        let continues = runs.continues(gfn, page);
        if !continues {
            runs.insert(gfn, page);
        }
        if let Err(refusal) = hyp.share_guest(pfn, gfn, 1, prot) {
            if !continues {
                runs.remove(gfn);
            }
            return self.refuse(refusal);
        }
        if continues {
            runs.extend(gfn);
        }
        runs.join(gfn.raw().saturating_add(1));
        add(&self.counters.mapped, 1);
        Ok(())
    }

    /// `unmap`: takes back every page of the range, from its end to its start. `freed` gets each page
    /// once EL2 has let go of it. The first refusal stops.
    pub fn unmap<H: Hypercalls + ?Sized>(
        &self,
        hyp: &H,
        gfn: Gfn,
        nr: u64,
        mut freed: impl FnMut(Gfn, Pfn),
    ) -> Unmapped {
        let limit = gfn.raw().saturating_add(nr);
        let mut runs = self.runs.write();
        runs.isolate(gfn, limit);
        let mut done = Unmapped { pages: 0, refused: None };
        while let Some((at, page)) = runs.last_in(gfn.raw(), limit) {
            if let Err(refusal) = hyp.unshare_guest(self.handle, at, 1) {
                done.refused = Some((at, refusal));
                add(&self.counters.refused, 1);
                break;
            }
            runs.take_last(at);
            done.pages = done.pages.saturating_add(1);
            freed(at, page.pfn);
        }
        runs.join(gfn.raw());
        runs.join(limit);
        add(&self.counters.unmapped, done.pages);
        done
    }

    /// What is mapped at `gfn`: one page.
    #[must_use]
    pub fn get(&self, gfn: Gfn) -> Option<Mapping> {
        self.runs.read().get(gfn)
    }

    /// The first piece of a run inside the range, also of one that starts before it. Taken out under
    /// a lock held for this one look: the mirror may have changed when the caller asks again.
    #[must_use]
    pub fn next_in(&self, gfn: Gfn, nr: u64) -> Option<(Gfn, Mapping)> {
        self.runs.read().next_in(gfn, gfn.raw().saturating_add(nr))
    }

    /// Pages mapped.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.runs.read().pages()
    }

    /// Entries that stand for them.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.runs.read().len()
    }

    /// What has been done so far.
    #[must_use]
    pub fn counters(&self) -> Snapshot {
        self.counters.snapshot()
    }

    pub(crate) fn refuse<T>(&self, refusal: Refusal) -> Result<T, Refusal> {
        add(&self.counters.refused, 1);
        Err(refusal)
    }
}
