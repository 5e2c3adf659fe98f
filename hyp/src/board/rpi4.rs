//! The Raspberry Pi 4, 400 and Compute Module 4: the BCM2711 with low peripherals.
//!
//! Source: BCM2711 ARM Peripherals, 1.2 (address map) and 2.2 (mini UART); the power management block is
//! described by the device tree binding `brcm,bcm2835-pm` only.

use hyp_dtb::{Region, UartKind};

use super::Board;

/// The board.
pub struct Rpi4;

impl Board for Rpi4 {
    const RAM: u64 = 0;
    /// The one on the header, pins 8 and 10.
    const FALLBACK_UART: (UartKind, u64) = (UartKind::Mini, 0xfe21_5040);
}

impl Rpi4 {
    /// What its device tree says it is.
    pub const COMPATIBLE: &str = "brcm,bcm2711";
    /// The power management block: watchdog and reset.
    pub const POWER: Region = Region { base: 0xfe10_0000, size: 0x114 };
}
