//! The ticket lock of `--cfg loom` builds: spin's algorithm and orderings, over loom's atomics.
//!
//! Knows: how spin's `TicketMutex` takes turns, and the ways to do it wrong ([`Flaw`]), so that the
//! models can show that they would notice. Must not know: ranks. Plain builds do not have it.
//!
//! All of loom's threads are one thread of the machine. So the value stands in a lock of std's that
//! is tried and never waited for: a second holder is a failed try. The cell beside it lets loom see
//! what that cannot: an access that does not happen after the one before it.

use core::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, TryLockError};

use loom::cell::{MutPtr, UnsafeCell};
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

/// What a lock does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Nothing.
    Sound,
    /// It does not wait for its turn: no lock at all.
    Open,
    /// It waits without acquiring what the holder before it wrote.
    NoAcquire,
    /// It serves the next without releasing what it wrote.
    NoRelease,
}

/// Stands in for spin's lock of this name.
#[derive(Debug)]
pub(crate) struct TicketMutex<T> {
    flaw: Flaw,
    next_ticket: AtomicUsize,
    next_serving: AtomicUsize,
    access: UnsafeCell<()>,
    value: Mutex<T>,
}

/// A turn. The fields are given up from top to bottom, then the next is served.
pub(crate) struct TicketMutexGuard<'a, T> {
    value: Option<MutexGuard<'a, T>>,
    access: Option<MutPtr<()>>,
    lock: &'a TicketMutex<T>,
    ticket: usize,
}

impl<T> TicketMutex<T> {
    pub(crate) fn new(value: T, flaw: Flaw) -> Self {
        Self {
            flaw,
            next_ticket: AtomicUsize::new(0),
            next_serving: AtomicUsize::new(0),
            access: UnsafeCell::new(()),
            value: Mutex::new(value),
        }
    }

    pub(crate) fn lock(&self) -> TicketMutexGuard<'_, T> {
        let ticket = self.next_ticket.fetch_add(1, Relaxed);
        let order = if self.flaw == Flaw::NoAcquire { Relaxed } else { Acquire };
        while self.flaw != Flaw::Open && self.next_serving.load(order) != ticket {
            loom::thread::yield_now();
        }
        self.enter(ticket)
    }

    pub(crate) fn try_lock(&self) -> Option<TicketMutexGuard<'_, T>> {
        let ticket = self.next_ticket.load(SeqCst);
        if self.flaw != Flaw::Open && self.next_serving.load(Acquire) != ticket {
            return None;
        }
        self.next_ticket
            .compare_exchange(ticket, ticket.wrapping_add(1), SeqCst, SeqCst)
            .ok()
            .map(|ticket| self.enter(ticket))
    }

    fn enter(&self, ticket: usize) -> TicketMutexGuard<'_, T> {
        let access = Some(self.access.get_mut());
        let value = match self.value.try_lock() {
            Ok(value) => Some(value),
            Err(TryLockError::WouldBlock) => panic!("two hold one lock"),
            Err(TryLockError::Poisoned(_)) => panic!("a holder panicked"),
        };
        TicketMutexGuard { value, access, lock: self, ticket }
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut().unwrap_or_else(|_| panic!("a holder panicked"))
    }
}

impl<T> Deref for TicketMutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value.as_ref().unwrap_or_else(|| unreachable!("present until dropped"))
    }
}

impl<T> DerefMut for TicketMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().unwrap_or_else(|| unreachable!("present until dropped"))
    }
}

impl<T> Drop for TicketMutexGuard<'_, T> {
    fn drop(&mut self) {
        self.value = None;
        self.access = None;
        if !std::thread::panicking() {
            let order = if self.lock.flaw == Flaw::NoRelease { Relaxed } else { Release };
            self.lock.next_serving.store(self.ticket.wrapping_add(1), order);
        }
    }
}
