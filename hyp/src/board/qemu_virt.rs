//! QEMU's `virt` machine.

use super::Board;

/// QEMU's `virt` machine.
pub struct QemuVirt;

impl Board for QemuVirt {
    const FALLBACK_UART: u64 = 0x0900_0000;
}
