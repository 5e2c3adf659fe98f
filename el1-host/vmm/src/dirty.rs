//! The dirty log and the ageing of a guest's memory, and the hypercalls by which a guest with the
//! `dirty-log` service uses both on itself.
//!
//! Starting the log clears it first and write-protects afterwards: a write in between is logged,
//! and if its page is then protected, the next write is logged again. No write is in neither log.
//! Both protecting and ageing drop the VM's TLB entries before they return, so the answers are exact: a
//! page is named if and only if it was written (touched) since.

use alloc::collections::BTreeMap;

use host_mirror::{Calls, Hypercalls};
use hyp_abi::{Gfn, Refusal};
use spin::mutex::SpinMutex;

use crate::fault::Memory;

/// Guest hypercalls of the `dirty-log` service.
pub mod function {
    /// Clears the log and protects all memory. Answers 0.
    pub const START: u64 = 0xc600_00f0;
    /// x1 = gfn: the first page at or after it written since START, or -1.
    pub const COLLECT: u64 = 0xc600_00f1;
    /// Makes all memory old. Answers 0.
    pub const AGE_START: u64 = 0xc600_00f2;
    /// x1 = gfn: the first page at or after it accessed since AGE_START, or -1.
    pub const AGE_NEXT: u64 = 0xc600_00f3;
}

/// "There is none": -1 in a register.
const NONE: u64 = u64::MAX;
/// Every gfn there can be.
const EVERYTHING: u64 = 1 << 36;

/// Pages written since the log was started: 64 in a word, words by gfn / 64.
#[derive(Debug)]
pub(crate) struct DirtyLog(SpinMutex<Option<BTreeMap<u64, u64>>>);

impl DirtyLog {
    pub const fn new() -> Self {
        Self(SpinMutex::new(None))
    }

    /// Whether anybody wants to know.
    pub fn is_on(&self) -> bool {
        self.0.lock().is_some()
    }

    fn restart(&self) {
        *self.0.lock() = Some(BTreeMap::new());
    }

    /// Notes a write; nothing happens while the log is off.
    pub fn mark(&self, gfn: Gfn) {
        if let Some(words) = self.0.lock().as_mut() {
            *words.entry(gfn.raw() >> 6).or_insert(0) |= 1_u64.wrapping_shl(low_bits(gfn));
        }
    }

    /// The first written page at or after `at`.
    pub fn next(&self, at: Gfn) -> Option<Gfn> {
        let log = self.0.lock();
        let words = log.as_ref()?;
        let first = at.raw() >> 6;
        let early = u64::MAX.wrapping_shl(low_bits(at));
        words.range(first..).find_map(|(index, word)| {
            let word = if *index == first { word & early } else { *word };
            let bit = u64::from(word.trailing_zeros());
            (word != 0).then(|| Gfn::new((index << 6) | bit)).flatten()
        })
    }
}

/// `gfn` modulo 64.
fn low_bits(gfn: Gfn) -> u32 {
    u32::try_from(gfn.raw() & 63).unwrap_or(0)
}

impl Memory<'_> {
    /// Starts the log afresh: from now on every page's first write is noted.
    ///
    /// # Errors
    /// EL2's refusal.
    pub fn start_log<H: Hypercalls + ?Sized>(&self, host: &H) -> Result<(), Refusal> {
        self.log.restart();
        for slot in self.slots().iter() {
            self.mirror().wrprotect(host, slot.start(), slot.nr())?;
        }
        Ok(())
    }

    /// The first page at or after `at` written since the log was started.
    #[must_use]
    pub fn next_dirty(&self, at: Gfn) -> Option<Gfn> {
        self.log.next(at)
    }

    /// Makes every page old, also in the TLBs.
    ///
    /// # Errors
    /// EL2's refusal.
    pub fn start_ageing<H: Hypercalls + ?Sized>(&self, host: &H) -> Result<(), Refusal> {
        for slot in self.slots().iter() {
            self.mirror().test_clear_young(host, slot.start(), slot.nr(), true, |_| {})?;
        }
        // EL2 does not flush for ageing (a stale "young" is allowed there). Here a page that is used
        // through a TLB entry older than the sweep must not be missed.
        host.tlb_flush_vmid(self.mirror().handle())
    }

    /// The first page at or after `at` accessed since it was made old. Looks at 64 pages a call, and
    /// stops at the first batch with an answer.
    ///
    /// # Errors
    /// EL2's refusal.
    pub fn next_young<H: Hypercalls + ?Sized>(
        &self,
        host: &H,
        at: Gfn,
    ) -> Result<Option<Gfn>, Refusal> {
        let mut at = Some(at);
        while let Some(from) = at {
            let Some((first, _)) = self.mirror().next_in(from, EVERYTHING) else { break };
            let mut young = None;
            self.mirror().test_clear_young(host, first, 64, false, |gfn| {
                young.get_or_insert(gfn);
            })?;
            if young.is_some() {
                return Ok(young);
            }
            at = first.add(64);
        }
        Ok(None)
    }

    /// A guest's call to the service: the value for x0, or `None` if it is no such call.
    pub fn service<H: Hypercalls + ?Sized>(&self, host: &H, id: u64, x1: u64) -> Option<u64> {
        let done = |result: Result<(), Refusal>| result.map_or_else(code, |()| 0);
        let name = |gfn: Option<Gfn>| gfn.map_or(NONE, Gfn::raw);
        Some(match id {
            function::START => done(self.start_log(host)),
            function::COLLECT => name(Gfn::new(x1).and_then(|at| self.next_dirty(at))),
            function::AGE_START => done(self.start_ageing(host)),
            function::AGE_NEXT => match Gfn::new(x1) {
                Some(at) => self.next_young(host, at).map_or_else(code, name),
                None => NONE,
            },
            _ => return None,
        })
    }
}

/// A refusal as a guest reads it.
fn code(refusal: Refusal) -> u64 {
    u64::from_ne_bytes(refusal.code().to_ne_bytes())
}

#[cfg(test)]
mod tests;
