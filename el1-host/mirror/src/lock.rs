//! The mirror's lock: spin's, and in `--cfg loom` builds one that loom can see.
//!
//! Must not know: what it protects. The explored lock has spin's algorithm and orderings, over
//! loom's atomics, and can be made to do it wrong (`Flaw`), so that the models can show that they
//! would notice.

#[cfg(loom)]
pub(crate) use explored::{Flaw, RwLock};
#[cfg(not(loom))]
pub(crate) use spin::RwLock;

#[cfg(loom)]
mod explored {
    use core::ops::{Deref, DerefMut};
    use std::sync;

    use loom::cell::{ConstPtr, MutPtr, UnsafeCell};
    use loom::sync::atomic::AtomicUsize;
    use loom::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};

    const WRITER: usize = 1;
    const READER: usize = 4;

    /// What a lock does wrong.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Flaw {
        /// Nothing.
        Sound,
        /// Nobody waits: no lock at all.
        Open,
        /// Writers wait for writers only.
        WritersPass,
        /// Readers do not wait.
        ReadersPass,
        /// Nobody acquires what the holder before wrote.
        NoAcquire,
        /// Nobody releases what it wrote.
        NoRelease,
    }

    /// All of loom's threads are one thread of the machine. So the value stands in a lock of std's
    /// that is tried and never waited for; the cell lets loom see an access that does not happen
    /// after the one before it.
    #[derive(Debug)]
    pub(crate) struct RwLock<T> {
        flaw: Flaw,
        state: AtomicUsize,
        access: UnsafeCell<()>,
        value: sync::RwLock<T>,
    }

    /// Gives back what a guard took from the state.
    struct Turn<'a, T> {
        lock: &'a RwLock<T>,
        took: usize,
    }

    /// The fields are given up from top to bottom.
    pub(crate) struct ReadGuard<'a, T> {
        value: sync::RwLockReadGuard<'a, T>,
        _access: ConstPtr<()>,
        _turn: Turn<'a, T>,
    }

    /// The fields are given up from top to bottom.
    pub(crate) struct WriteGuard<'a, T> {
        value: sync::RwLockWriteGuard<'a, T>,
        _access: MutPtr<()>,
        _turn: Turn<'a, T>,
    }

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self::flawed(value, Flaw::Sound)
        }

        pub(crate) fn flawed(value: T, flaw: Flaw) -> Self {
            let state = AtomicUsize::new(0);
            Self { flaw, state, access: UnsafeCell::new(()), value: sync::RwLock::new(value) }
        }

        fn acquire(&self) -> Ordering {
            if self.flaw == Flaw::NoAcquire { Relaxed } else { Acquire }
        }

        #[expect(clippy::panic, reason = "this is how a model fails")]
        pub(crate) fn read(&self) -> ReadGuard<'_, T> {
            let passes = matches!(self.flaw, Flaw::Open | Flaw::ReadersPass);
            while self.state.fetch_add(READER, self.acquire()) & WRITER != 0 && !passes {
                self.state.fetch_sub(READER, Release);
                loom::thread::yield_now();
            }
            let turn = Turn { lock: self, took: READER };
            let access = self.access.get();
            let Ok(value) = self.value.try_read() else { panic!("read while it is written") };
            ReadGuard { value, _access: access, _turn: turn }
        }

        #[expect(clippy::panic, reason = "this is how a model fails")]
        pub(crate) fn write(&self) -> WriteGuard<'_, T> {
            match self.flaw {
                Flaw::Open => {
                    self.state.fetch_add(WRITER, Acquire);
                }
                Flaw::WritersPass => {
                    while self.state.fetch_or(WRITER, Acquire) & WRITER != 0 {
                        loom::thread::yield_now();
                    }
                }
                _ => {
                    while self.state.compare_exchange(0, WRITER, self.acquire(), Relaxed).is_err() {
                        loom::thread::yield_now();
                    }
                }
            }
            let turn = Turn { lock: self, took: WRITER };
            let access = self.access.get_mut();
            let Ok(value) = self.value.try_write() else { panic!("written by two") };
            WriteGuard { value, _access: access, _turn: turn }
        }
    }

    impl<T> Drop for Turn<'_, T> {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                let order = if self.lock.flaw == Flaw::NoRelease { Relaxed } else { Release };
                self.lock.state.fetch_sub(self.took, order);
            }
        }
    }

    impl<T> Deref for ReadGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.value
        }
    }

    impl<T> Deref for WriteGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.value
        }
    }

    impl<T> DerefMut for WriteGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.value
        }
    }
}
