//! Strict device tree reader: what the machine is made of, as plain data.
//!
//! The tree comes from firmware and the `fdt` crate panics on bad ones, so [`Dtb::parse`] first
//! walks every token itself ([`check`]) and accepts only what `fdt`'s generic accessors can read
//! without a panic; numbers are then decoded here, checked. No allocation, no `unsafe`.
//!
//! Knows device tree bindings. Must not know what becomes of the memory or the devices.
//!
//! Invariants:
//! - I1: no bytes make anything here panic, loop for ever or recurse deeper than [`MAX_DEPTH`].
//! - I2: every address handed out is a CPU address (translated through `ranges`) and
//!   `base + size` does not wrap.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    test,
    expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "an overflow in a test fails it, which is what it is for; its trees are small"
    )
)]

pub mod check;
mod compact;
pub mod devices;
pub mod dma;
mod error;
mod list;
mod node;
pub mod system;

pub use check::{HEADER_BYTES, MAX_BYTES, MAX_DEPTH, header_size};
pub use compact::strip_nops;
pub use devices::{Gic, Timer, Uart, UartKind};
pub use error::DtbError;
pub use list::List;
pub use node::Region;
pub use system::{Chosen, Cpu, Enable, Psci, Reserved};

use fdt::Fdt;

/// A checked device tree.
#[derive(Clone, Copy, Debug)]
pub struct Dtb<'a> {
    bytes: &'a [u8],
    fdt: Fdt<'a>,
}

impl<'a> Dtb<'a> {
    /// Checks the whole structure. `bytes` may be longer than the tree.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DtbError> {
        let bytes = check::check(bytes)?;
        let fdt = Fdt::new(bytes).map_err(|_| DtbError::Reader)?;
        Ok(Self { bytes, fdt })
    }

    /// The tree's own bytes, without anything that follows it.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

#[cfg(test)]
mod mutants;
#[cfg(test)]
mod tests;
