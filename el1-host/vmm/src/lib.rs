//! Virtual machines, seen from the host: manifests, bundles, memory slots, the fault path, device
//! models, guest device trees. Runs at EL1 and on a PC.
//!
//! Knows: what a guest expects of its machine (Arm ARM, PSCI, GIC architecture, boot protocol), and the
//! hypercalls by which EL2 makes it so. Must not know: registers, where frames come from, who
//! schedules. Those come in by the traits of [`host`].
//!
//! Invariants:
//! - I1: nothing a guest writes can panic this crate or make it loop.
//! - I2: what a guest reads back is what the specification of the device says, not what one kernel
//!   happens to need.
//! - I3: a page is in the mirror, at EL2 and in the account of frames, or in none of them.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    test,
    expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "an overflow in a test fails it"
    )
)]

extern crate alloc;

pub mod bundle;
pub mod dirty;
pub mod fault;
pub mod fdt;
pub mod host;
pub mod image;
pub mod manifest;
pub mod memmap;
pub mod pl011;
pub mod pl031;
pub mod psci;
pub mod slots;
pub mod stats;
#[cfg(test)]
mod testing;
pub mod timer;
pub mod vcpu_set;
pub mod vgic;
pub mod vm;
