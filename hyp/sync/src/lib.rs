//! Locks with ranks, behind one facade.
//!
//! Knows: which lock may be taken while which is held. The order is a fact of types: a lock is
//! taken with a [`Held`] token and gives out the token of its own rank, so taking locks in the wrong
//! order does not compile. Must not know: what a lock protects.
//!
//! Ranks, outermost first: [`rank::Host`] < [`rank::Vm`] < [`rank::Pool`] < the leaves
//! ([`rank::Heap`], [`rank::Power`], [`rank::Console`]), under which nothing is taken at all.
//!
//! Invariants:
//! - I1: a CPU has one root token ([`Held::root`]), made when the CPU enters EL2 for the first time;
//!   every other token borrows from it, for as long as the guard that came with it lives.
//! - I2: mutual exclusion is a ticket lock: first come, first served, so that no CPU starves, however many
//!   calls a hostile host makes on the others: it waits for as many holders as there are CPUs at most.
//!   The price is that a lock is handed to a CPU that an emulator is not running; `relax` says how a
//!   waiting CPU makes way for it.
//! - I3: EL2 runs with exceptions masked, so a holder is never interrupted; no lock is held across
//!   guest entry or console output.
//!
//! Under `--cfg loom` the ticket lock is one that loom can see (`turns`), and the tests are models
//! of it (`models`); `cargo xtask loom` runs them. Under `--cfg shuttle` it is one that waits where shuttle's
//! scheduler decides (`gates`), for models of the whole core (tests/shuttle; `cargo xtask shuttle`).
#![cfg_attr(not(any(test, loom, shuttle)), no_std)]
#![deny(unsafe_code)]

#[cfg(shuttle)]
pub mod gates;
mod lock;
#[cfg(test)]
#[cfg(loom)]
mod models;
pub mod rank;
#[cfg(not(any(loom, shuttle)))]
#[cfg_attr(
    all(target_arch = "aarch64", not(miri)),
    expect(unsafe_code, reason = "an instruction that is only a hint")
)]
mod relax;
#[cfg(loom)]
mod turns;

pub use lock::{Guard, Held, Lock};
pub use spin::{Once, RwLock};
