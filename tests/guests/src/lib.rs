//! Small EL1 payloads. Two kinds: *hosts*, which EL2 boots instead of the shim and which attack
//! it by hypercall and by access; and *guests*, which the shim boots as a VM's kernel. Each is an
//! arm64 Image with an identity map and caches on; each judges itself by `check!` and ends with a
//! verdict that a test can trust.
//!
//! The payloads live here as modules; `src/bin/NAME.rs` only names one. On a PC everything but an
//! empty `main` is configured away, so `cargo test --workspace` needs no cross compiler.
//!
//! This crate is the attacker: a "safe" function here may touch any address. That is sound only in
//! the sense that a payload owns its machine at EL1, is alone on it, and catches its own faults.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
pub mod busy;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod fp;
#[cfg(target_os = "none")]
pub mod gic;
#[cfg(target_os = "none")]
pub mod halt;
#[cfg(target_os = "none")]
pub mod hcall;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
pub mod machine;
#[cfg(target_os = "none")]
pub mod memory;
#[cfg(target_os = "none")]
pub mod mmu;
#[cfg(target_os = "none")]
pub mod probe;
#[cfg(target_os = "none")]
pub mod psci;
#[cfg(target_os = "none")]
pub mod report;
#[cfg(target_os = "none")]
pub mod reset;
#[cfg(target_os = "none")]
pub mod spin;
#[cfg(target_os = "none")]
pub mod start;
#[cfg(target_os = "none")]
pub mod timer;
#[cfg(target_os = "none")]
pub mod trap;
#[cfg(target_os = "none")]
pub mod wild;

#[cfg(target_os = "none")]
pub mod arch;
#[cfg(target_os = "none")]
pub mod demo;
#[cfg(target_os = "none")]
pub mod dirty;
#[cfg(target_os = "none")]
pub mod guest_attack;
#[cfg(target_os = "none")]
pub mod hello;
#[cfg(target_os = "none")]
pub mod host;
#[cfg(target_os = "none")]
pub mod host_attack;
#[cfg(target_os = "none")]
pub mod host_dma;
#[cfg(target_os = "none")]
pub mod host_firmware;
#[cfg(target_os = "none")]
pub mod host_memory;
#[cfg(target_os = "none")]
pub mod host_refusals;
#[cfg(target_os = "none")]
pub mod host_smp;
#[cfg(target_os = "none")]
pub mod host_vm;
#[cfg(target_os = "none")]
pub mod smp;

/// Makes a binary of one payload module that EL2 boots in the shim's place.
#[macro_export]
macro_rules! host_payload {
    ($name:ident) => {
        /// Called by boot/guest.S with the MMU on.
        #[cfg(target_os = "none")]
        #[unsafe(no_mangle)]
        extern "C" fn guest_main(dtb: u64) -> ! {
            $crate::start::init(dtb);
            $crate::machine::assume_smc();
            $crate::report::by_exit_status();
            $crate::$name::run();
            $crate::report::finish(stringify!($name))
        }

        #[cfg(not(target_os = "none"))]
        fn main() {}
    };
}

/// Makes a binary of one payload module: `guests::payload!(hello);`.
#[macro_export]
macro_rules! payload {
    ($name:ident) => {
        /// Called by boot/guest.S with the MMU on.
        #[cfg(target_os = "none")]
        #[unsafe(no_mangle)]
        extern "C" fn guest_main(dtb: u64) -> ! {
            $crate::start::init(dtb);
            $crate::$name::run();
            $crate::report::finish(stringify!($name))
        }

        #[cfg(not(target_os = "none"))]
        fn main() {}
    };
}
