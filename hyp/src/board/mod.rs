//! What a device tree cannot say, and what only one board can do.
//!
//! Knows the boards. Must not know registers but by name in [`crate::arch`].

mod qemu_virt;
mod rpi4;

use hyp_dtb::{Dtb, Region, UartKind};

pub use qemu_virt::QemuVirt;
pub use rpi4::Rpi4;

/// Facts about a board for the case that its device tree is missing or broken.
pub trait Board {
    /// Where its RAM begins, which tells boards from each other before anything else does.
    const RAM: u64;
    /// A UART that is probably there: the only chance to tell a person what is wrong.
    const FALLBACK_UART: (UartKind, u64);
}

/// The UART to try before the device tree has been read, for an image that was loaded at `base`.
pub fn fallback_uart(base: u64) -> (UartKind, u64) {
    if base < QemuVirt::RAM { Rpi4::FALLBACK_UART } else { QemuVirt::FALLBACK_UART }
}

/// Registers by which EL2 itself turns this machine off, where no firmware does.
pub fn power(tree: &Dtb<'_>) -> Option<Region> {
    tree.is_machine(Rpi4::COMPATIBLE).then_some(Rpi4::POWER)
}
