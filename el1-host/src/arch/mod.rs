//! What only an Arm CPU at EL1 can do: registers, barriers, device memory, physical pages.
//!
//! The only modules of the host, beside the heap, that contain `unsafe`. They decide nothing: each
//! offers a safe function whose safety facts are written down here and nowhere else.

pub mod barrier;
pub mod boot;
pub mod exception;
pub mod firmware;
pub mod gic;
pub mod mini_uart;
pub mod mmio;
pub mod mmu;
pub mod phys;
pub mod pl011;
pub mod timer;
pub mod uart;
