//! The smallest guest: says hello, switches its machine off.

use crate::{machine, println};

/// The payload.
pub fn run() {
    let m = machine::get();
    println!("hello from a guest with {} MiB at {:#x}", m.ram.1 >> 20, m.ram.0);
}
