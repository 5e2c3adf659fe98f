//! Which vCPU runs on which CPU, and until when: a state machine without hardware.
//!
//! Knows: tasks (a task is one vCPU of one VM), CPUs, time in ticks of one counter. Must not know: what
//! a vCPU does, how a CPU is interrupted, what a timer is. Decisions come back as values: run this
//! task until then, be idle until then, end that VM, interrupt those CPUs.
//!
//! The image around it keeps one [`Scheduler`] behind one lock, and every CPU runs the same loop: ask
//! [`Scheduler::next`]; run the task, asking [`Scheduler::check`] after each interrupt; unload the vCPU
//! *first*, then [`Scheduler::block`] or [`Scheduler::release`] it, and ask again.
//!
//! Invariants (`Scheduler::audit` checks them in tests, after every step):
//! - I1: a task is in exactly one place: blocked, in the queue of one CPU, or running on one CPU.
//! - I2: no task is in a queue while a CPU idles that has not been told.
//! - I3: a wake-up is never lost. Waking a task that runs is remembered, and its next `block` puts it
//!   back into the queue instead; the memory is cleared only when the task is about to look again.
//! - I4: a VM is handed out to be ended exactly once, and only when no CPU runs any of its vCPUs.
//! - I5: no deadline of a blocked task is forgotten: a CPU has been told it, or will look before it sleeps.
//!
//! Fairness is per vCPU: every vCPU that wants to run gets the same time, so a busy VM with two gets
//! twice the time of a busy VM with one, unless there are CPUs enough for all.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    test,
    expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "whatever goes wrong in a test fails it"
    )
)]

extern crate alloc;

mod audit;
mod cpus;
mod queues;
mod scheduler;
#[cfg(test)]
mod tests;

pub use cpus::CpuSet;
pub use scheduler::{Next, Scheduler, Stay};

/// One vCPU of one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    /// The VM, by whatever number the caller gives it.
    pub vm: usize,
    /// The index of the vCPU.
    pub vcpu: usize,
}
