//! The PL011 (DDI0183): identification, FIFO flags, registers, interrupts.

use crate::console::{CR, FR, LCR_H, read32, write32};
use crate::{check, check_eq, machine, timer};

const IMSC: u64 = 0x38;
const RIS: u64 = 0x3c;
const MIS: u64 = 0x40;
const ICR: u64 = 0x44;
const IFLS: u64 = 0x34;
const TX: u32 = 1 << 5;

pub fn run() {
    let uart = machine::get().uart;
    let ids = [0xfe0, 0xfe4, 0xfe8, 0xfec].map(|o| read32(uart + o) & 0xff);
    check_eq!((ids[0], ids[1], ids[2] & 0xf, ids[3]), (0x11, 0x10, 4, 0), "PeriphID says PL011");
    let cell = [0xff0, 0xff4, 0xff8, 0xffc].map(|o| read32(uart + o) & 0xff);
    check_eq!(cell, [0x0d, 0xf0, 0x05, 0xb1], "PCellID says PrimeCell");
    check!(timer::wait(100, || read32(uart + FR) & 0x88 == 0x80), "FR: transmit FIFO runs empty");
    check_eq!(read32(uart + FR) & 1 << 4, 1 << 4, "FR: nothing received");
    let saved = [LCR_H, CR, 0x24, 0x28, IFLS].map(|o| (o, read32(uart + o)));
    write32(uart + 0x24, 26);
    write32(uart + 0x28, 3);
    check_eq!((read32(uart + 0x24), read32(uart + 0x28)), (26, 3), "baud rate divisors read back");
    write32(uart + LCR_H, 0x60);
    check_eq!(read32(uart + LCR_H), 0x60, "LCR_H reads back");
    write32(uart + IFLS, 0x12);
    check_eq!(read32(uart + IFLS), 0x12, "IFLS reads back");
    for (offset, value) in saved {
        write32(uart + offset, value);
    }
    write32(uart + IMSC, 0);
    write32(uart, u32::from(b'\r'));
    check!(
        timer::wait(100, || read32(uart + RIS) & TX != 0),
        "RIS: transmit is raised when the FIFO drains"
    );
    check_eq!(read32(uart + MIS), 0, "MIS: masked, it does not show");
    write32(uart + IMSC, TX);
    check_eq!(read32(uart + IMSC), TX, "IMSC reads back");
    check_eq!(read32(uart + MIS), TX, "MIS: unmasked, it does");
    write32(uart + ICR, TX);
    check_eq!((read32(uart + RIS) & TX, read32(uart + MIS)), (0, 0), "ICR clears it");
    write32(uart + IMSC, 0);
}
