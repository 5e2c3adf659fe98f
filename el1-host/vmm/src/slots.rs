//! Memory slots: which guest frames are memory, what the guest may do there, and what the pages hold
//! when it first touches them.
//!
//! A slot costs nothing until it is touched. Content is either zero or copied, page by page, from byte
//! sources laid over the slot (kernel, initrd, device tree, region files).
//!
//! Invariants: slots do not overlap; a source lies inside one slot and overlaps no other source.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use hyp_abi::{Gfn, Ipa, PAGE_SIZE, Pfn, Prot};

use crate::host::Frames;

/// Why a slot or source was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSlot {
    /// Not page-aligned, empty, or beyond the address space.
    Malformed,
    /// Overlaps one that is there.
    Overlap,
    /// A source that no slot contains.
    Outside,
}

/// Bytes that lie in guest memory from the start.
#[derive(Clone, Debug)]
struct Source<'a> {
    at: u64,
    bytes: Cow<'a, [u8]>,
}

impl Source<'_> {
    fn end(&self) -> u64 {
        self.at.saturating_add(u64::try_from(self.bytes.len()).unwrap_or(u64::MAX))
    }
}

/// A range of guest memory.
#[derive(Clone, Debug)]
pub struct Slot<'a> {
    start: Gfn,
    nr: u64,
    prot: Prot,
    sources: Vec<Source<'a>>,
}

impl Slot<'_> {
    /// First frame.
    #[must_use]
    pub const fn start(&self) -> Gfn {
        self.start
    }
    /// Number of frames.
    #[must_use]
    pub const fn nr(&self) -> u64 {
        self.nr
    }
    /// What the guest may do.
    #[must_use]
    pub const fn prot(&self) -> Prot {
        self.prot
    }

    fn contains(&self, gfn: Gfn) -> bool {
        gfn.since(self.start).is_some_and(|offset| offset < self.nr)
    }

    fn end(&self) -> u64 {
        self.start.raw().saturating_add(self.nr)
    }

    /// Writes into `frame` what the guest is to find at `gfn`.
    pub fn fill<F: Frames + ?Sized>(&self, frames: &F, gfn: Gfn, frame: Pfn) {
        let page = gfn.ipa().raw();
        let whole = |source: &Source<'_>| {
            source.at <= page && source.end() >= page.saturating_add(PAGE_SIZE)
        };
        if !self.sources.iter().any(whole) {
            frames.zero(frame);
        }
        for source in &self.sources {
            let skip = page.saturating_sub(source.at);
            let offset = source.at.saturating_sub(page);
            let room = PAGE_SIZE.saturating_sub(offset);
            let parts = (usize::try_from(skip), usize::try_from(offset), usize::try_from(room));
            let (Ok(skip), Ok(offset), Ok(room)) = parts else { continue };
            let Some(rest) = source.bytes.get(skip..).filter(|_| room > 0) else { continue };
            frames.fill(frame, offset, rest.get(..room).unwrap_or(rest));
        }
    }
}

/// All memory of a guest.
#[derive(Clone, Debug, Default)]
pub struct Slots<'a>(Vec<Slot<'a>>);

impl<'a> Slots<'a> {
    /// A guest without memory.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds `size` bytes of memory at `base`.
    ///
    /// # Errors
    /// Malformed, or overlapping a slot that is there.
    pub fn add(&mut self, base: u64, size: u64, prot: Prot) -> Result<(), BadSlot> {
        let aligned = base.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE) && size > 0;
        let start = Ipa::new(base).filter(|_| aligned).ok_or(BadSlot::Malformed)?.frame();
        let nr = size / PAGE_SIZE;
        let slot = Slot { start, nr, prot, sources: Vec::new() };
        // The last frame must exist.
        start.add(nr.saturating_sub(1)).ok_or(BadSlot::Malformed)?;
        let clash = |other: &Slot<'_>| other.start.raw() < slot.end() && start.raw() < other.end();
        if self.0.iter().any(clash) {
            return Err(BadSlot::Overlap);
        }
        self.0.push(slot);
        Ok(())
    }

    /// Lays bytes over the slot that contains `at`.
    ///
    /// # Errors
    /// They reach beyond the slot, or overlap a source that is there.
    pub fn put(&mut self, at: u64, bytes: Cow<'a, [u8]>) -> Result<(), BadSlot> {
        let source = Source { at, bytes };
        let first = Ipa::new(at).ok_or(BadSlot::Outside)?.frame();
        let slot = self.0.iter_mut().find(|slot| slot.contains(first)).ok_or(BadSlot::Outside)?;
        if source.end() > slot.end().saturating_mul(PAGE_SIZE) {
            return Err(BadSlot::Outside);
        }
        if slot.sources.iter().any(|other| other.at < source.end() && at < other.end()) {
            return Err(BadSlot::Overlap);
        }
        slot.sources.push(source);
        Ok(())
    }

    /// The slot of a frame.
    #[must_use]
    pub fn find(&self, gfn: Gfn) -> Option<&Slot<'a>> {
        self.0.iter().find(|slot| slot.contains(gfn))
    }

    /// All slots.
    pub fn iter(&self) -> impl Iterator<Item = &Slot<'a>> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests;
