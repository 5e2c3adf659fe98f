//! The host's voice: `log` lines with the prefix `[host]` on the console UART.
//!
//! A guest's bytes go out by the same UART, through the UART model. So that a log line starts at
//! the left even if the guest stopped in the middle of a line, the console remembers the last byte.
//! Lock rank: console, the highest. The panic and exception reports take no lock.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Once;
use spin::mutex::TicketMutex;

use crate::arch::pl011::Pl011;

static UART: Once<Pl011> = Once::new();
static TURN: TicketMutex<()> = TicketMutex::new(());
static AT_LINE_START: AtomicBool = AtomicBool::new(true);

struct Sink<'a>(&'a Pl011);

impl Write for Sink<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.0.send(b'\r');
            }
            self.0.send(byte);
        }
        if let Some(last) = text.bytes().last() {
            AT_LINE_START.store(last == b'\n', Ordering::Relaxed);
        }
        Ok(())
    }
}

struct Console;

impl Log for Console {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info | Level::Debug | Level::Trace => "",
        };
        say(format_args!("{level}{}", record.args()));
    }

    fn flush(&self) {}
}

/// Starts the log.
pub fn start(uart: Pl011) {
    UART.call_once(|| uart);
    // Fails only if a logger is set already: there is one call.
    let _ = log::set_logger(&Console);
    log::set_max_level(LevelFilter::Info);
}

/// Writes a line of the host's, whatever the log level is.
pub fn say(line: fmt::Arguments<'_>) {
    let Some(uart) = UART.get() else { return };
    let _turn = TURN.lock();
    let fresh = if AT_LINE_START.load(Ordering::Relaxed) { "" } else { "\n" };
    // The sink never fails.
    let _ = writeln!(Sink(uart), "{fresh}[host] {line}");
}

/// Sends a guest's byte.
pub fn send(byte: u8) {
    if let Some(uart) = UART.get() {
        uart.send(byte);
        AT_LINE_START.store(byte == b'\n', Ordering::Relaxed);
    }
}

/// Writes without a lock: for reports from which nobody returns. Each report is one call or begins
/// with one that starts a line.
pub fn emergency(text: fmt::Arguments<'_>) {
    if let Some(uart) = UART.get() {
        // The sink never fails.
        let _ = Sink(uart).write_fmt(text);
    }
}

/// Ends a line that somebody else left open, without a lock.
pub fn emergency_line() {
    if !AT_LINE_START.load(Ordering::Relaxed) {
        emergency(format_args!("\n"));
    }
}
