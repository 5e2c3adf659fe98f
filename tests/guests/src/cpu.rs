//! Several CPUs: which one this is, waiting for each other, switching off.
//!
//! A CPU is known by MPIDR_EL1.Aff0, which on QEMU `virt` and in our VMs counts them from 0 as long
//! as there are no more than eight.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::{psci, read};

/// The most that a payload uses.
pub const CPUS: usize = 8;

/// This CPU.
#[must_use]
pub fn me() -> usize {
    read!("mpidr_el1") as usize % CPUS
}

/// Something of which every CPU has its own, shared in name only.
pub struct PerCpu<T: 'static>(pub [T; CPUS]);

impl<T> Deref for PerCpu<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // `me` is below CPUS.
        &self.0[me()]
    }
}

/// All that was written before is seen by a CPU that is switched on afterwards.
pub fn publish() {
    // SAFETY:
    // 1. A barrier; touches nothing.
    unsafe { asm!("dsb ish", options(nostack)) }
}

/// Waits for an event, such as [`signal`] makes. Where a hypervisor traps it another CPU gets to run.
pub fn relax() {
    // SAFETY:
    // 1. Waits; touches nothing.
    unsafe { asm!("wfe", options(nostack)) }
}

/// Wakes all who [`relax`].
pub fn signal() {
    // SAFETY:
    // 1. A barrier and an event; touches nothing.
    unsafe { asm!("dsb ish", "sev", options(nostack)) }
}

/// Switches this CPU off; if that is refused, it sleeps for ever.
pub fn off() -> ! {
    psci::call(psci::CPU_OFF, 0, 0, 0);
    loop {
        // SAFETY:
        // 1. Waits; touches nothing.
        unsafe { asm!("wfi", options(nomem, nostack)) }
    }
}

/// A lock. A CPU that takes it twice waits for ever; exception handlers take none but the console's.
pub struct Lock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY:
// 1. `held` lets one CPU at a time to the value.
unsafe impl<T: Send> Sync for Lock<T> {}

/// A lock that is held.
pub struct Guard<'a, T>(&'a Lock<T>);

impl<T> Lock<T> {
    /// A free one.
    pub const fn new(value: T) -> Self {
        Self { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Waits for it.
    pub fn lock(&self) -> Guard<'_, T> {
        while self.held.swap(true, Ordering::Acquire) {
            spin_loop();
        }
        Guard(self)
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY:
        // 1. We hold the lock.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY:
        // 1. We hold the lock, and this guard is borrowed alone.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.0.held.store(false, Ordering::Release);
    }
}

/// Where CPUs wait for each other, again and again.
pub struct Barrier {
    arrived: AtomicU32,
    round: AtomicU64,
}

impl Default for Barrier {
    fn default() -> Self {
        Self::new()
    }
}

impl Barrier {
    /// One that nobody waits at.
    #[must_use]
    pub const fn new() -> Self {
        Self { arrived: AtomicU32::new(0), round: AtomicU64::new(0) }
    }

    /// Waits until `n` CPUs are here; `idle` is called over and over meanwhile.
    pub fn wait_with(&self, n: usize, mut idle: impl FnMut()) {
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) as usize + 1 == n {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.store(round + 1, Ordering::Release);
            signal();
            return;
        }
        while self.round.load(Ordering::Acquire) == round {
            idle();
        }
    }

    /// Waits until `n` CPUs are here.
    pub fn wait(&self, n: usize) {
        self.wait_with(n, relax);
    }
}
