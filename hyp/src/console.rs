//! The console: text to a PL011 or to a Raspberry Pi's mini UART, and the `log` sink.
//!
//! Knows: how to send one byte (Arm DDI0183; BCM2711 ARM Peripherals, 2.2). The UART is the host's as
//! well; EL2 only adds to its transmit queue. Must not know where it is: the device tree says so, or
//! the board.
//!
//! Lock rank: console, a leaf, so that lines do not mix. The panic path takes no lock.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hyp_dtb::UartKind;
use hyp_sync::{Lock, rank};
use log::{LevelFilter, Log, Metadata, Record};
use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

register_bitfields! {
    u32,
    Flags [ TXFF OFFSET(5) NUMBITS(1) [] ],
    Control [ UARTEN OFFSET(0) NUMBITS(1) [], TXE OFFSET(8) NUMBITS(1) [] ],
    LineStatus [ ROOM OFFSET(5) NUMBITS(1) [] ],
    MiniControl [ TXE OFFSET(1) NUMBITS(1) [] ]
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

register_structs! {
    Mini {
        (0x00 => data: ReadWrite<u32>),
        (0x04 => _reserved0),
        (0x14 => status: ReadOnly<u32, LineStatus::Register>),
        (0x18 => _reserved1),
        (0x20 => control: ReadWrite<u32, MiniControl::Register>),
        (0x24 => @END),
    }
}

/// Physical address of the UART; 0: there is none, and text is lost.
static UART: AtomicU64 = AtomicU64::new(0);
/// It is a mini UART. Written before [`UART`].
static MINI: AtomicBool = AtomicBool::new(false);

/// The UART in use.
#[derive(Clone, Copy)]
enum Port {
    Pl011(&'static Pl011),
    Mini(&'static Mini),
}

/// A queue that stays full this long belongs to a UART that does not send: its text is lost.
const PATIENCE: u32 = 1 << 20;

/// Where panics write: straight to the UART.
pub struct Raw;

fn port() -> Option<Port> {
    let pa = UART.load(Ordering::Acquire);
    if pa == 0 {
        return None;
    }
    Some(if MINI.load(Ordering::Relaxed) {
        // SAFETY:
        // 1. `open` or `guess` was given the address of such a UART, mapped as device memory for good.
        // 2. Its registers are only used through volatile cells.
        Port::Mini(unsafe { &*(pa as *const Mini) })
    } else {
        // SAFETY: as above.
        Port::Pl011(unsafe { &*(pa as *const Pl011) })
    })
}

impl Port {
    fn has_room(self) -> bool {
        match self {
            Self::Pl011(uart) => !uart.flags.is_set(Flags::TXFF),
            Self::Mini(uart) => uart.status.is_set(LineStatus::ROOM),
        }
    }

    fn send(self, byte: u8) {
        for _ in 0..PATIENCE {
            if self.has_room() {
                return match self {
                    Self::Pl011(uart) => uart.data.set(byte.into()),
                    Self::Mini(uart) => uart.data.set(byte.into()),
                };
            }
        }
    }

    /// Lets it send. Line settings stay as the firmware left them.
    fn enable(self) {
        match self {
            Self::Pl011(uart) => {
                uart.control.modify(Control::UARTEN::SET + Control::TXE::SET);
            }
            Self::Mini(uart) => uart.control.modify(MiniControl::TXE::SET),
        }
    }
}

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(port) = port() else { return Ok(()) };
        for byte in text.bytes() {
            if byte == b'\n' {
                port.send(b'\r');
            }
            port.send(byte);
        }
        Ok(())
    }
}

/// Uses the UART that may be at `pa`, for errors only.
///
/// # Safety
/// The page is mapped as device memory; nothing bad happens if it holds no UART.
pub unsafe fn guess(kind: UartKind, pa: u64) {
    choose(kind, pa);
    // It fails only if there is a logger already.
    let _ = log::set_logger(&SINK);
    log::set_max_level(LevelFilter::Error);
}

/// Uses the UART at `pa`, for everything.
///
/// # Safety
/// It is one, and mapped as device memory for good.
pub unsafe fn open(kind: UartKind, pa: u64) {
    choose(kind, pa);
    if let Some(port) = port() {
        port.enable();
    }
    log::set_max_level(LevelFilter::Info);
}

fn choose(kind: UartKind, pa: u64) {
    MINI.store(kind == UartKind::Mini, Ordering::Relaxed);
    UART.store(pa, Ordering::Release);
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
