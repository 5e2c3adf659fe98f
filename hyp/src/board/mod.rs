//! What a device tree cannot say.

mod qemu_virt;

pub use qemu_virt::QemuVirt;

/// Facts about a board for the case that its device tree is missing or broken.
pub trait Board {
    /// A PL011 that is probably there: the only chance to tell a person what is wrong.
    const FALLBACK_UART: u64;
}
