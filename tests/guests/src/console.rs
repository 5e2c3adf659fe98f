//! The PL011 (DDI0183), polled; on a Raspberry Pi 4 the mini UART, which only sends.

use core::fmt::{self, Write};
use core::hint::spin_loop;
use core::ptr;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::cpu;

/// Data register.
pub const DR: u64 = 0x00;
/// Flag register.
pub const FR: u64 = 0x18;
/// Line control.
pub const LCR_H: u64 = 0x2c;
/// Control.
pub const CR: u64 = 0x30;

const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;
const LCR_8BIT_FIFO: u32 = 3 << 5 | 1 << 4;
const CR_ON: u32 = 1 | 1 << 8 | 1 << 9;

static BASE: AtomicU64 = AtomicU64::new(0);
/// Base of the mini UART, if that is the console (BCM2711 ARM Peripherals 2.2); data is at 0.
static MINI: AtomicU64 = AtomicU64::new(0);
/// Its line status: there is room for a byte.
const MINI_STATUS: u64 = 0x14;
const MINI_ROOM: u32 = 1 << 5;

/// Reads a device register.
#[must_use]
pub fn read32(addr: u64) -> u32 {
    // SAFETY:
    // 1. A device register, mapped as Device by the payload's identity map; no Rust object there.
    unsafe { ptr::read_volatile(addr as *const u32) }
}

/// Writes a device register.
pub fn write32(addr: u64, value: u32) {
    // SAFETY:
    // 1. A device register, mapped as Device by the payload's identity map; no Rust object there.
    unsafe { ptr::write_volatile(addr as *mut u32, value) }
}

/// Switches the UART at `base` on.
pub fn init(base: u64) {
    BASE.store(base, Relaxed);
    write32(base + CR, 0);
    write32(base + LCR_H, LCR_8BIT_FIFO);
    write32(base + CR, CR_ON);
}

/// Sends by the mini UART at `base` from now on; whoever started us has switched it on.
pub fn init_mini(base: u64) {
    MINI.store(base, Relaxed);
}

fn put(byte: u8) {
    let mini = MINI.load(Relaxed);
    if mini != 0 {
        while read32(mini + MINI_STATUS) & MINI_ROOM == 0 {}
        return write32(mini, u32::from(byte));
    }
    let base = BASE.load(Relaxed);
    if base == 0 {
        return;
    }
    while read32(base + FR) & FR_TXFF != 0 {}
    write32(base + DR, u32::from(byte));
}

/// A byte that was typed, if there is one.
#[must_use]
pub fn get() -> Option<u8> {
    let base = BASE.load(Relaxed);
    if read32(base + FR) & FR_RXFE != 0 {
        return None;
    }
    Some((read32(base + DR) & 0xff) as u8)
}

struct Console;

impl Write for Console {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

/// Whose line is being printed: CPU + 1, or 0. Not a lock of the usual kind, because an exception or
/// a panic in the midst of a line must be told.
static OWNER: AtomicU64 = AtomicU64::new(0);

/// What `print!` calls.
pub fn print(args: fmt::Arguments<'_>) {
    let me = cpu::me() as u64 + 1;
    let nested = OWNER.load(Relaxed) == me;
    while !nested && OWNER.compare_exchange_weak(0, me, Acquire, Relaxed).is_err() {
        spin_loop();
    }
    // `put` cannot fail, so neither can this.
    let _ = Console.write_fmt(args);
    if !nested {
        OWNER.store(0, Release);
    }
}

/// Prints to the UART.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(format_args!($($arg)*)) };
}

/// Prints a line to the UART.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::print!("{}\n", format_args!($($arg)*)) };
}
