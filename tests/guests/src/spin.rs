//! A guest that spins with interrupts masked, for ever: the host must get its CPU back by its own
//! timer, and end the VM when its time is over.

use crate::{gic, println};

/// The payload.
pub fn run() {
    println!("spinning with interrupts masked");
    gic::unmask(false);
    loop {
        core::hint::spin_loop();
    }
}
