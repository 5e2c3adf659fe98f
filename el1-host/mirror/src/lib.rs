//! The host's own picture of its guests' memory, and the hypercalls that change the real one.
//!
//! EL1 may not read a guest's stage-2 tables. It keeps its own map gfn -> pfn instead, one
//! [`Mirror`] a VM, changed in step with each hypercall, and asks it whatever it would have asked
//! the tables.
//!
//! Knows: the hypercall table ([`Calls`]) and what has been mapped. Must not know: where frames
//! come from, what a slot is, registers.
//!
//! Invariants:
//! - I1: outside a write-locked operation, a page is in the mirror exactly if EL2 maps it for this
//!   VM, with this pfn and with at most these rights ([`Mirror::audit`] compares).
//! - I2: after EL2 has said yes, nothing here allocates, so nothing can fail.
//! - I3: two neighbouring runs that could be one, are one.
//!
//! Under `--cfg loom` the lock is one that loom can see (`lock`), and the tests are models of what
//! several CPUs do at once (`models`); `cargo xtask loom` runs them.
#![cfg_attr(not(any(test, loom)), no_std)]
#![cfg_attr(
    test,
    expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "an overflow in a test fails it"
    )
)]
extern crate alloc;

mod answers;
mod attributes;
mod audit;
mod counters;
#[cfg(any(test, feature = "fakes"))]
pub mod fake;
mod hypercalls;
mod lock;
mod mirror;
#[cfg(test)]
#[cfg(loom)]
mod models;
mod runs;

pub use answers::{Features, GuestRun, HostRun, Leftovers, RunExit, VmStats};
pub use audit::{AuditError, AuditReport};
pub use counters::{Counters, Snapshot};
pub use hypercalls::{Calls, Hypercalls};
pub use mirror::{Destroyed, Mirror, Unmapped};
pub use runs::Mapping;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
