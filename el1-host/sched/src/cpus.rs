//! Sets of CPUs: whom to interrupt.

/// A set of CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[must_use]
pub struct CpuSet(u64);

impl CpuSet {
    /// Most CPUs.
    pub const MAX: usize = 64;
    /// None.
    pub const EMPTY: Self = Self(0);

    const fn bit(cpu: usize) -> u64 {
        if cpu < Self::MAX { 1 << cpu } else { 0 }
    }

    /// Adds a CPU.
    pub const fn insert(&mut self, cpu: usize) {
        self.0 |= Self::bit(cpu);
    }

    /// Takes a CPU out; whether it was in.
    pub const fn remove(&mut self, cpu: usize) -> bool {
        let was = self.0 & Self::bit(cpu) != 0;
        self.0 &= !Self::bit(cpu);
        was
    }

    /// This set and one more CPU.
    pub const fn with(mut self, cpu: usize) -> Self {
        self.insert(cpu);
        self
    }

    /// Adds all of `other`.
    pub const fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// The CPUs, in order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::MAX).filter(move |cpu| self.0 & Self::bit(*cpu) != 0)
    }
}
