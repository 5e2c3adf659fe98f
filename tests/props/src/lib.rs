//! Runs hyp-core and its specification side by side, on the fake machine.
//!
//! After each call: the same answer, the same abstract state — the tables by a walk of our own
//! over raw descriptors, the ownership by the audit stream and by touching pages as the host —, a
//! refused call left RAM and metadata equal bit for bit, and the fake saw no break-before-make,
//! invalidate, barrier or re-use mistake.

mod host;
mod rig;
mod rng;
pub mod tiny;

pub use rig::Rig;
pub use rng::Rng;
