//! Redan at EL2: the image that owns every stage-2 table and every page's owner.
//!
//! The decisions are in `hyp-core`; here is what touches hardware. `unsafe` is in `arch`, `machine`,
//! `console` and `heap`, and nowhere else. On a PC the crate is an empty program, so that
//! the whole workspace builds and tests there.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "registers, assembly and page tables")]
mod arch;
#[cfg(target_os = "none")]
mod board;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "device registers by address")]
mod console;
#[cfg(target_os = "none")]
mod el2;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "a global allocator is an unsafe trait")]
mod heap;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "memory by physical address")]
mod machine;
#[cfg(all(target_os = "none", feature = "oracle"))]
mod oracle;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod payload;
#[cfg(target_os = "none")]
mod smp;
#[cfg(any(test, target_os = "none"))]
mod stage1;
#[cfg(target_os = "none")]
mod survey;
#[cfg(target_os = "none")]
mod trap;

#[cfg(not(target_os = "none"))]
fn main() {}
