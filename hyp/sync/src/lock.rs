//! The ticket lock and its tokens.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

#[cfg(shuttle)]
use crate::gates::{TicketMutex, TicketMutexGuard};
use crate::rank::{Below, Leaf, Nothing, Rank};
#[cfg(not(any(loom, shuttle)))]
use crate::relax::Waits;
#[cfg(loom)]
use crate::turns::{Flaw, TicketMutex, TicketMutexGuard};

#[cfg(not(any(loom, shuttle)))]
type TicketMutex<T> = spin::mutex::TicketMutex<T, Waits>;
#[cfg(not(any(loom, shuttle)))]
type TicketMutexGuard<'a, T> = spin::mutex::TicketMutexGuard<'a, T, Waits>;

/// Says that this CPU holds a lock of rank `R` and none above it. `'a` is the borrow of the token
/// before it: while this one lives, that one cannot be used.
#[derive(Debug)]
pub struct Held<'a, R: Rank> {
    _borrow: PhantomData<(&'a mut (), R)>,
}

impl Held<'static, Nothing> {
    /// The token of a CPU that holds nothing. One for each CPU, kept in its CPU-local state.
    #[must_use]
    pub const fn root() -> Self {
        Self { _borrow: PhantomData }
    }
}

/// A value that one CPU uses at a time, at rank `R`.
#[derive(Debug)]
pub struct Lock<T, R: Rank> {
    inner: TicketMutex<T>,
    _rank: PhantomData<fn() -> R>,
}

impl<T, R: Rank> Lock<T, R> {
    /// An unlocked value.
    #[cfg(not(any(loom, shuttle)))]
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self { inner: TicketMutex::new(value), _rank: PhantomData }
    }

    /// An unlocked value.
    #[cfg(shuttle)]
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self { inner: TicketMutex::new(value, R::NAME), _rank: PhantomData }
    }

    /// An unlocked value. Not `const`: loom's atomics belong to one run of a model.
    #[cfg(loom)]
    #[must_use]
    pub fn new(value: T) -> Self {
        Self::flawed(value, Flaw::Sound)
    }

    /// A lock that does something wrong, to see that a model notices.
    #[cfg(loom)]
    pub(crate) fn flawed(value: T, flaw: Flaw) -> Self {
        Self { inner: TicketMutex::new(value, flaw), _rank: PhantomData }
    }

    /// Waits for its turn and takes the lock. The second half is the token for locks above it.
    ///
    /// ```compile_fail,E0277
    /// use hyp_sync::{Held, Lock, rank};
    /// let (host, pool) = (Lock::<_, rank::Host>::new(1), Lock::<_, rank::Pool>::new(2));
    /// let mut nothing = Held::root();
    /// let (_pool, mut held) = pool.lock(&mut nothing);
    /// let _wrong = host.lock(&mut held); // Pool is not Below<Host>
    /// ```
    ///
    /// ```compile_fail,E0499
    /// use hyp_sync::{Held, Lock, rank};
    /// let vm = Lock::<_, rank::Vm>::new(1);
    /// let mut nothing = Held::root();
    /// let first = vm.lock(&mut nothing);
    /// let second = vm.lock(&mut nothing); // one VM at a time
    /// drop((first, second));
    /// ```
    pub fn lock<'a, H: Below<R>>(
        &'a self,
        _held: &'a mut Held<'_, H>,
    ) -> (Guard<'a, T>, Held<'a, R>) {
        (Guard { inner: self.inner.lock() }, Held { _borrow: PhantomData })
    }

    /// The value, through an exclusive reference: no lock is needed.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T, R: Leaf> Lock<T, R> {
    /// Uses the value under the lock; `f` takes no other lock.
    pub fn with<X>(&self, f: impl FnOnce(&mut T) -> X) -> X {
        f(&mut self.inner.lock())
    }

    /// As [`Lock::with`], but `None` at once if the lock is held: for the panic path.
    pub fn try_with<X>(&self, f: impl FnOnce(&mut T) -> X) -> Option<X> {
        self.inner.try_lock().map(|mut value| f(&mut value))
    }
}

/// Access to the value of a taken [`Lock`]; dropping it releases the lock.
pub struct Guard<'a, T> {
    inner: TicketMutexGuard<'a, T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use super::*;
    use crate::rank::{Console, Host, Pool, Vm};

    #[test]
    fn locks_nest_upward_and_release_on_drop() {
        let host = Lock::<_, Host>::new(1);
        let vm = Lock::<_, Vm>::new(2);
        let pool = Lock::<_, Pool>::new(3);
        let mut nothing = Held::root();
        for _ in 0..2 {
            let (mut host, mut held) = host.lock(&mut nothing);
            let (mut vm, mut held) = vm.lock(&mut held);
            let (mut pool, _) = pool.lock(&mut held);
            *host += 1;
            *vm += *host;
            *pool += *vm;
        }
        assert_eq!(*host.lock(&mut nothing).0, 3);
        assert_eq!(*vm.lock(&mut nothing).0, 7);
        assert_eq!(*pool.lock(&mut nothing).0, 14);
    }

    #[test]
    fn a_held_leaf_is_not_entered_twice() {
        let console = Lock::<_, Console>::new(0);
        console.with(|n| {
            *n += 1;
            assert_eq!(console.try_with(|n| *n), None);
        });
        assert_eq!(console.try_with(|n| *n), Some(1));
    }

    #[test]
    fn one_thread_at_a_time() {
        let counter = Lock::<u64, Pool>::new(0);
        let rounds = if cfg!(miri) { 20 } else { 10_000 };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut nothing = Held::root();
                    for _ in 0..rounds {
                        let (mut n, _held) = counter.lock(&mut nothing);
                        let seen = *n;
                        std::hint::spin_loop();
                        *n = seen + 1;
                    }
                });
            }
        });
        let mut counter = counter;
        assert_eq!(*counter.get_mut(), 4 * rounds);
    }
}
