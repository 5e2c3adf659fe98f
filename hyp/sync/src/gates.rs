//! The lock of `--cfg shuttle` builds: one that shuttle's scheduler sees, and that can be left open.
//!
//! Knows: which rank's locks do not exclude ([`open`]), so that a model can show that it would notice.
//! Must not know: how spin takes turns; loom looks at that (`turns`). Plain builds do not have it.
//!
//! All of shuttle's threads are one thread of the machine. So the value stands in a lock of std's that
//! is tried and never waited for: a second holder is a failed try.

use core::ops::{Deref, DerefMut};
use std::cell::Cell;
use std::sync::{Mutex, TryLockError};

use crate::rank::Rank;

std::thread_local! {
    /// The rank whose locks are open, in this test.
    static OPEN: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// From now on the locks of rank `R` exclude nobody, in models that this thread runs.
pub fn open<R: Rank>() {
    OPEN.set(Some(R::NAME));
}

/// Stands in for spin's lock of this name.
#[derive(Debug)]
pub(crate) struct TicketMutex<T> {
    rank: &'static str,
    gate: shuttle::sync::Mutex<()>,
    value: Mutex<T>,
}

/// A turn. The value is given up first, then the gate.
pub(crate) struct TicketMutexGuard<'a, T> {
    value: std::sync::MutexGuard<'a, T>,
    _gate: Option<shuttle::sync::MutexGuard<'a, ()>>,
}

impl<T> TicketMutex<T> {
    pub(crate) const fn new(value: T, rank: &'static str) -> Self {
        Self { rank, gate: shuttle::sync::Mutex::new(()), value: Mutex::new(value) }
    }

    pub(crate) fn lock(&self) -> TicketMutexGuard<'_, T> {
        let gate = (OPEN.get() != Some(self.rank))
            .then(|| self.gate.lock().unwrap_or_else(|_| panic!("a holder panicked")));
        self.enter(gate)
    }

    pub(crate) fn try_lock(&self) -> Option<TicketMutexGuard<'_, T>> {
        let gate = self.gate.try_lock().ok()?;
        Some(self.enter(Some(gate)))
    }

    fn enter<'a>(
        &'a self,
        gate: Option<shuttle::sync::MutexGuard<'a, ()>>,
    ) -> TicketMutexGuard<'a, T> {
        match self.value.try_lock() {
            Ok(value) => TicketMutexGuard { value, _gate: gate },
            Err(TryLockError::WouldBlock) => panic!("two hold one lock"),
            Err(TryLockError::Poisoned(_)) => panic!("a holder panicked"),
        }
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut().unwrap_or_else(|_| panic!("a holder panicked"))
    }
}

impl<T> Deref for TicketMutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for TicketMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
