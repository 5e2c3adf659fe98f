//! QEMU's `virt` machine.

use hyp_dtb::UartKind;

use super::Board;

/// QEMU's `virt` machine.
pub struct QemuVirt;

impl Board for QemuVirt {
    const RAM: u64 = 0x4000_0000;
    const FALLBACK_UART: (UartKind, u64) = (UartKind::Pl011, 0x0900_0000);
}
