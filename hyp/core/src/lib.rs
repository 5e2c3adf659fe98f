//! The hypervisor as a state machine.
//!
//! Knows: who owns each page, which VMs and vCPUs exist, what each hypercall, trap and guest exit
//! does. Must not know: registers, pointers, assembly. The hardware is [`machine::Machine`], values
//! in and values out, so the same code runs at EL2, under Miri and against the fake machine.
#![cfg_attr(not(any(test, feature = "fakes")), no_std)]
#![cfg_attr(
    test,
    expect(
        clippy::arithmetic_side_effects,
        reason = "an overflow in a test fails it, which is what it is for"
    )
)]

extern crate alloc;

mod bits;
pub mod board;
mod boxed;
pub mod cpu;
pub mod debug;
pub mod devices;
mod entry;
pub mod esr;
mod exit;
#[cfg(any(test, feature = "fakes"))]
pub mod fake;
mod guest;
pub mod hcall;
mod host;
pub mod hyp;
mod idreg;
pub mod inject;
mod life;
pub mod machine;
pub mod memmap;
pub mod observe;
pub mod owner;
pub mod plan;
mod pool;
pub mod power;
pub mod psci;
pub mod speculation;
pub mod sysreg;
pub mod vcpu;
pub mod vgic;
mod vm;
pub mod word;

#[cfg(test)]
mod tests;

pub use hyp::{Config, CpuLocal, Gic, GuestNext, HostAbort, Hyp, Outcome, RawExit};
pub use vm::MAX_CPUS;
