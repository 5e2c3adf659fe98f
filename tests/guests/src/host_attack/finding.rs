//! The end of a run: nothing found, or the first thing that was.

use core::fmt::Arguments;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::{cpu, machine, println, psci};

/// Hypercalls so far.
pub static CALLS: AtomicU64 = AtomicU64::new(0);
/// The seed.
pub static SEED: AtomicU64 = AtomicU64::new(0);

/// The number after `key` on the command line.
pub fn option(key: &str) -> Option<u64> {
    word(key)?.parse().ok()
}

fn word(key: &str) -> Option<&'static str> {
    machine::bootargs().split(' ').find_map(|w| w.strip_prefix(key))
}

/// Somebody ends the machine already.
static OVER: AtomicBool = AtomicBool::new(false);

/// Something was found: says what, and ends the machine. The first who finds something has the word.
pub fn found(what: Arguments<'_>) -> ! {
    let (calls, seed) = (CALLS.load(Relaxed), SEED.load(Relaxed));
    println!("FOUND at call {calls}, seed {seed}, CPU {}: {what}", cpu::me());
    while OVER.swap(true, Relaxed) {
        core::hint::spin_loop();
    }
    end(format_args!("FAILED {what}"))
}

/// Ends the machine with a verdict that carries the run's nonce (docs/architecture.md).
pub fn end(verdict: Arguments<'_>) -> ! {
    println!("[host] redan {}: {verdict}", word("redan.nonce=").unwrap_or("-"));
    psci::system_off();
    loop {
        core::hint::spin_loop();
    }
}

/// `ensure!(condition, "what was found otherwise", ...)`.
#[macro_export]
macro_rules! ensure {
    ($cond:expr, $($sentence:tt)+) => {
        if !$cond {
            $crate::host_attack::finding::found(format_args!($($sentence)+));
        }
    };
}
