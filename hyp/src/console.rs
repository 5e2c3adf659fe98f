//! The console: text to a PL011, and the `log` sink.
//!
//! Knows: how to send one byte (Arm DDI0183). The UART is the host's as well; EL2 only adds to its
//! transmit queue. Must not know where it is: the device tree says so, or the board.
//!
//! Lock rank: console, a leaf, so that lines do not mix. The panic path takes no lock.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use hyp_sync::{Lock, rank};
use log::{LevelFilter, Log, Metadata, Record};
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

register_bitfields! {
    u32,
    Flags [ TXFF OFFSET(5) NUMBITS(1) [] ],
    Control [ UARTEN OFFSET(0) NUMBITS(1) [], TXE OFFSET(8) NUMBITS(1) [] ]
}

register_structs! {
    Pl011 {
        (0x00 => data: ReadWrite<u32>),
        (0x04 => _reserved0),
        (0x18 => flags: ReadOnly<u32, Flags::Register>),
        (0x1c => _reserved1),
        (0x30 => control: ReadWrite<u32, Control::Register>),
        (0x34 => @END),
    }
}

/// Physical address of the UART; 0: there is none, and text is lost.
static UART: AtomicU64 = AtomicU64::new(0);

/// A queue that stays full this long belongs to a UART that does not send: its text is lost.
const PATIENCE: u32 = 1 << 20;

/// Where panics write: straight to the UART.
pub struct Raw;

fn uart() -> Option<&'static Pl011> {
    match UART.load(Ordering::Relaxed) {
        0 => None,
        // SAFETY:
        // 1. `init` was given the address of a PL011 that is mapped as device memory for good.
        // 2. Its registers are only used through volatile cells.
        pa => Some(unsafe { &*(pa as *const Pl011) }),
    }
}

fn send(uart: &Pl011, byte: u8) {
    for _ in 0..PATIENCE {
        if !uart.flags.is_set(Flags::TXFF) {
            return uart.data.set(byte.into());
        }
    }
}

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(uart) = uart() else { return Ok(()) };
        for byte in text.bytes() {
            if byte == b'\n' {
                send(uart, b'\r');
            }
            send(uart, byte);
        }
        Ok(())
    }
}

/// Uses the PL011 that may be at `pa`, for errors only.
///
/// # Safety
/// The page is mapped as device memory; nothing bad happens if it holds no UART.
pub unsafe fn guess(pa: u64) {
    UART.store(pa, Ordering::Relaxed);
    // It fails only if there is a logger already.
    let _ = log::set_logger(&SINK);
    log::set_max_level(LevelFilter::Error);
}

/// Uses the PL011 at `pa`, for everything.
///
/// # Safety
/// It is one, and mapped as device memory for good.
pub unsafe fn open(pa: u64) {
    UART.store(pa, Ordering::Relaxed);
    if let Some(uart) = uart() {
        // Line settings stay as the firmware left them.
        let settings = uart.control.extract();
        uart.control.modify_no_read(settings, Control::UARTEN::SET + Control::TXE::SET);
    }
    log::set_max_level(LevelFilter::Info);
}

/// There is no UART: text is lost.
pub fn close() {
    UART.store(0, Ordering::Relaxed);
}

struct Sink(Lock<Raw, rank::Console>);

static SINK: Sink = Sink(Lock::new(Raw));

impl Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        self.0.with(|raw| {
            // Writing to the UART cannot fail.
            let _ = match record.level() {
                log::Level::Info => writeln!(raw, "[EL2] {}", record.args()),
                level => writeln!(raw, "[EL2] {level}: {}", record.args()),
            };
        });
    }
    fn flush(&self) {}
}
