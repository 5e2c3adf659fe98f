//! A set of the vCPUs of one VM.

use core::sync::atomic::{AtomicU8, Ordering};

use hyp_abi::hcall::MAX_VCPUS;

const _: () = assert!(MAX_VCPUS == 8, "a bit of a byte each");

/// vCPUs, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuSet(u8);

impl VcpuSet {
    /// Nobody.
    pub const EMPTY: Self = Self(0);

    /// This vCPU alone; nobody if there can be no such vCPU.
    #[must_use]
    pub fn only(idx: usize) -> Self {
        let bit = u32::try_from(idx).ok().and_then(|idx| 1_u8.checked_shl(idx));
        Self(bit.unwrap_or(0))
    }

    /// Those whose bits are set.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// A bit each.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether it is nobody.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn contains(self, idx: usize) -> bool {
        self.0 & Self::only(idx).0 != 0
    }

    /// These and those.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These without those.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Their numbers, in order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..MAX_VCPUS).filter(move |idx| self.contains(*idx))
    }
}

/// A set to which several CPUs add, and from which each takes all there is.
#[derive(Debug, Default)]
pub(crate) struct SharedSet(AtomicU8);

impl SharedSet {
    /// Adds these. What was done before is visible to whoever takes them.
    pub fn add(&self, these: VcpuSet) {
        if !these.is_empty() {
            self.0.fetch_or(these.0, Ordering::Release);
        }
    }

    /// Takes all: each that was added is taken once.
    pub fn take(&self) -> VcpuSet {
        if self.0.load(Ordering::Relaxed) == 0 {
            return VcpuSet::EMPTY;
        }
        VcpuSet(self.0.swap(0, Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let set = VcpuSet::only(0).union(VcpuSet::only(7));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 7]);
        assert_eq!((set.bits(), set), (0x81, VcpuSet::from_bits(0x81)));
        assert!(set.contains(7) && !set.contains(1) && !set.contains(8) && !set.is_empty());
        assert_eq!(set.without(VcpuSet::only(0)), VcpuSet::only(7));
        assert_eq!((VcpuSet::only(8), VcpuSet::only(usize::MAX)), Default::default());
        assert!(VcpuSet::EMPTY.is_empty());
    }

    #[test]
    fn what_was_added_is_taken_once() {
        let shared = SharedSet::default();
        assert_eq!(shared.take(), VcpuSet::EMPTY);
        shared.add(VcpuSet::only(3));
        shared.add(VcpuSet::EMPTY);
        shared.add(VcpuSet::only(1));
        assert_eq!(shared.take(), VcpuSet::from_bits(0b1010));
        assert_eq!(shared.take(), VcpuSet::EMPTY);
    }
}
