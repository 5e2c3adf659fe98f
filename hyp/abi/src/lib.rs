//! What EL2 and EL1 must agree on: number types, the hypercall table, the refusal codes, the
//! run page and the list-register format.
//!
//! Knows numbers only. Must not know: hardware registers, locks, memory, or which side it is
//! compiled for. No dependency, no `unsafe`.
//!
//! Invariants:
//! - I1: a hypercall number is written in one place, the table in [`hcall`].
//! - I2: a [`Refusal`] code never changes meaning.
//! - I3: `Pfn`, `Gfn`, `Pa` and `Ipa` never mix, and exist only in range; what a caller *claims* is
//!   a [`Claimed`] until somebody has checked it.
#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod bits;
pub mod hcall;
pub mod lr;
pub mod prot;
pub mod refusal;
pub mod run;

pub use addr::{Claimed, Gfn, Handle, Ipa, PAGE_SHIFT, PAGE_SIZE, Pa, Pfn, Vmid};
pub use hcall::{Hypercall, Ret};
pub use prot::{PageState, Prot};
pub use refusal::Refusal;
