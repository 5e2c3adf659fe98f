//! Stage-2 translation tables (VMSAv8-64, 4 KiB granule, DDI0487 D8): descriptors, geometry, the
//! walker and the operations on it.
//!
//! Knows descriptor bits, levels and the order of stores, barriers and invalidations. Must not
//! know who owns a page, what a VM is, or a pointer.
#![cfg_attr(not(test), no_std)]

pub mod hw;

pub use hw::{Regime, TablePfn, Tables, Tlb};
