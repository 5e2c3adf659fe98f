//! The host's voice: `log` lines with the prefix `[host]` on the console UART.
//!
//! Guests' bytes go out by the same UART, through the UART model; `lines` says when and with which
//! prefix. A log line always starts at the left. Lock rank: console, the highest. The panic and
//! exception reports take no lock.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Once;
use spin::mutex::SpinMutex;

use crate::arch::timer;
use crate::arch::uart::Uart;
use crate::lines::Lines;

/// How long a piece of a guest's line waits for its next byte.
const PATIENCE_MS: u64 = 150;

static UART: Once<Uart> = Once::new();
static LINES: SpinMutex<Lines> = SpinMutex::new(Lines::new());
/// For reports that take no lock.
static AT_LINE_START: AtomicBool = AtomicBool::new(true);

struct Sink<'a>(&'a Uart);

impl Write for Sink<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.0.send(b'\r');
            }
            self.0.send(byte);
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
pub fn start(uart: Uart) {
    UART.call_once(|| uart);
    // Fails only if a logger is set already: there is one call.
    let _ = log::set_logger(&Console);
    log::set_max_level(LevelFilter::Info);
}

/// Writes a line of the host's, whatever the log level is.
pub fn say(line: fmt::Arguments<'_>) {
    with_lines(|lines, uart| {
        lines.fresh(&mut |bytes| send(uart, bytes));
        // The sink never fails.
        let _ = writeln!(Sink(uart), "[host] {line}");
    });
}

/// A guest of this name writes from now on.
pub fn enter(guest: usize, name: &str) {
    with_lines(|lines, _| lines.enter(guest, name));
}

/// A guest is no more.
pub fn leave(guest: usize) {
    with_lines(|lines, uart| lines.leave(guest, &mut |bytes| send(uart, bytes)));
}

/// Sends a guest's byte, now or, if it is held back, at the answered time by `tend`.
pub fn put(guest: usize, byte: u8) -> Option<u64> {
    let now = timer::now();
    let mut held = false;
    with_lines(|lines, uart| held = lines.put(guest, byte, now, &mut |bytes| send(uart, bytes)));
    held.then(|| now.saturating_add(patience()))
}

/// Sends what guests began to write a while ago. Answers when there will be more to send.
pub fn tend() -> Option<u64> {
    let mut next = None;
    with_lines(|lines, uart| {
        let before = timer::now().saturating_sub(patience());
        next = lines.release_old(before, &mut |bytes| send(uart, bytes));
    });
    next.map(|since| since.saturating_add(patience()))
}

fn patience() -> u64 {
    timer::frequency() / 1000 * PATIENCE_MS
}

fn with_lines(f: impl FnOnce(&mut Lines, &Uart)) {
    let Some(uart) = UART.get() else { return };
    let mut lines = LINES.lock();
    f(&mut lines, uart);
    AT_LINE_START.store(lines.at_start(), Ordering::Relaxed);
}

fn send(uart: &Uart, bytes: &[u8]) {
    bytes.iter().for_each(|byte| uart.send(*byte));
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
