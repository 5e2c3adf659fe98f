//! Stage-2 translation tables (VMSAv8-64, 4 KiB granule, DDI0487 D8): descriptors, geometry, the
//! walker and the operations on it.
//!
//! Knows descriptor bits, levels and the order of stores, barriers and invalidations. Must not
//! know who owns a page, what a VM is, or a pointer.
//!
//! Reading order: [`desc`] and [`geometry`] (bits and numbers), [`hw`] and [`source`] (what is
//! asked of others), `walk` (finds), `edit` (writes), [`guest`] and [`host`] (the operations).
#![cfg_attr(not(any(test, feature = "fakes")), no_std)]

pub mod desc;
mod edit;
#[cfg(any(test, feature = "fakes"))]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    reason = "it runs in tests only, where an overflow is a finding"
)]
pub mod fake;
pub mod geometry;
pub mod guest;
pub mod host;
pub mod hw;
pub mod source;
#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow in a test fails it")]
mod tests;
mod walk;

pub use desc::{Annotation, Attrs, Rights};
pub use edit::Mmu;
pub use geometry::{Geometry, Level, Span};
pub use guest::{GuestMap, NoTables};
pub use host::HostMap;
pub use hw::{Regime, TablePfn, Tables, Tlb};
pub use source::{Refs, TableSource};
