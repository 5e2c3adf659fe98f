//! A virtual machine monitor in miniature: it makes a VM by hypercalls, runs a guest of a few
//! instructions, and looks at each exit in turn.

mod aborts;
mod code;
mod cpu;
mod debug;
mod ends;
mod hostile;
mod interrupts;
mod logging;
mod state;
mod traps;

use crate::host::digest;
use crate::{check_eq, gic, println};

/// The payload.
pub fn run() {
    gic::get().init();
    let clean = digest(&[]);
    let parts: [(&str, fn()); 9] = [
        ("calls and traps", traps::run),
        ("aborts", aborts::run),
        ("register state", state::run),
        ("debug registers", debug::run),
        ("write protection and age", logging::run),
        ("interrupts", interrupts::run),
        ("hostile run page", hostile::run),
        ("teardown", ends::run),
        ("once more", traps::run),
    ];
    for (name, part) in parts {
        println!("{name}");
        part();
        check_eq!(digest(&[]), clean, "{name}: every page is the host's again");
    }
}
