//! Counts for the summary at a VM's end: exits by kind, hypercalls by kind.

use core::sync::atomic::{AtomicU64, Ordering};

use host_mirror::Hypercalls;
use hyp_abi::run::Exit;
use hyp_abi::{Hypercall, Ret};

const CALLS: usize = Hypercall::ALL.len();
const EXITS: usize = Exit::ALL.len();

/// Exits of one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exits {
    counts: [u64; EXITS],
    /// Of the aborts: those answered by a device model.
    pub mmio: u64,
}

impl Exits {
    pub(crate) fn count(&mut self, exit: Exit) {
        for (kind, count) in Exit::ALL.iter().zip(self.counts.iter_mut()) {
            *count = count.saturating_add(u64::from(*kind == exit));
        }
    }

    /// How many of one kind.
    #[must_use]
    pub fn of(&self, exit: Exit) -> u64 {
        self.iter().find(|(kind, _)| *kind == exit).map_or(0, |(_, count)| count)
    }

    /// All kinds.
    pub fn iter(&self) -> impl Iterator<Item = (Exit, u64)> {
        Exit::ALL.into_iter().zip(self.counts.iter().copied())
    }
}

/// Hypercalls of a host, by kind.
#[derive(Debug)]
pub struct CallCounts([AtomicU64; CALLS]);

impl Default for CallCounts {
    fn default() -> Self {
        Self::new()
    }
}

impl CallCounts {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; CALLS])
    }

    /// Counts one call.
    pub fn record(&self, call: Hypercall) {
        let found = Hypercall::ALL.iter().zip(&self.0).find(|(kind, _)| **kind == call);
        if let Some((_, count)) = found {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many of one kind.
    #[must_use]
    pub fn of(&self, call: Hypercall) -> u64 {
        self.iter().find(|(kind, _)| *kind == call).map_or(0, |(_, count)| count)
    }

    /// All kinds.
    pub fn iter(&self) -> impl Iterator<Item = (Hypercall, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Hypercall::ALL.iter().copied().zip(counts)
    }
}

/// A way to EL2 that counts what goes through it.
#[derive(Debug, Default)]
pub struct Counting<H> {
    inner: H,
    /// The counts.
    pub calls: CallCounts,
}

impl<H> Counting<H> {
    /// Counts the calls made through `inner`.
    pub const fn new(inner: H) -> Self {
        Self { inner, calls: CallCounts::new() }
    }
}

impl<H: Hypercalls> Hypercalls for Counting<H> {
    fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret {
        self.calls.record(call);
        self.inner.call(call, args)
    }
}

#[cfg(test)]
mod tests;
