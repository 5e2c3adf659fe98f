//! The architecture: registers, assembly, page tables, the world switch.
//!
//! Everything here runs at EL2 with E2H = 0 and all exceptions masked.

pub mod boot;
pub mod bringup;
pub mod cache;
pub mod cpu;
pub mod debug;
pub mod fp;
pub mod gic;
pub mod idreg;
pub mod mmu;
pub mod percpu;
pub mod pm;
pub mod smc;
pub mod switch;
pub mod sysreg;
pub mod timer;
pub mod tlb;
pub mod vectors;
