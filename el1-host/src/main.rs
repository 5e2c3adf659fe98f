//! Redan's EL1 host: a small system whose whole work is to run guests by hypercalls.
//!
//! The composition root. On the PC this is an empty program plus the tests of the modules that
//! need no hardware.
//!
//! What the host believes about memory has no authority: EL2 checks every call. A host gone wrong
//! can only harm itself.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]

extern crate alloc;

#[cfg(target_os = "none")]
mod accounts;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "registers, device memory and physical pages")]
mod arch;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(any(target_os = "none", test))]
mod ear;
#[cfg(target_os = "none")]
mod el2;
#[cfg(target_os = "none")]
mod end;
#[cfg(any(target_os = "none", test))]
mod frames;
#[cfg(target_os = "none")]
mod ground;
#[cfg(target_os = "none")]
mod guests;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "the global allocator")]
mod heap;
#[cfg(target_os = "none")]
mod input;
#[cfg(any(target_os = "none", test))]
mod keys;
#[cfg(any(target_os = "none", test))]
mod ledger;
#[cfg(any(target_os = "none", test))]
mod lines;
#[cfg(any(target_os = "none", test))]
mod machine;
#[cfg(target_os = "none")]
mod outcome;
#[cfg(any(target_os = "none", test))]
mod ranges;
#[cfg(any(target_os = "none", test))]
mod shares;
#[cfg(target_os = "none")]
mod shim;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod turn;
#[cfg(target_os = "none")]
mod verdict;
#[cfg(target_os = "none")]
mod vms;
#[cfg(any(target_os = "none", test))]
mod words;

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::emergency_line();
    let here = info.location().map_or(("?", 0), |l| (l.file(), l.line()));
    console::emergency(format_args!(
        "[host] panicked at {}:{}: {}\n",
        here.0,
        here.1,
        info.message()
    ));
    arch::firmware::power_off()
}
