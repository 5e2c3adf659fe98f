//! What several CPUs promise each other, one by one: power, SGIs, SPIs, timers, memory.
//!
//! It runs on plain QEMU `virt` too (`machine=reference`), where its expectations are validated.
//! With `smp=reset` on the command line it asks at its end on the console whether to reset the
//! machine or to switch it off, all CPUs busy.

mod crew;
mod memory;
mod order;
mod power;
mod reset;
mod sgi;
mod sizes;
mod spi;
mod storm;
mod timers;

use crate::{check, gic, machine, println, report, timer};

/// The payload.
pub fn run() {
    println!("smp: {} CPUs", machine::get().cpus);
    if machine::bootargs().split(' ').any(|w| w == "smp=reset") {
        return reset::run();
    }
    part("power", power::run);
    gic::get().init();
    check!(crew::muster(), "all CPUs are on");
    let parts: [(&str, fn()); 8] = [
        ("SGIs", sgi::run),
        ("SPIs", spi::run),
        ("access sizes", sizes::run),
        ("many at once", storm::run),
        ("timers", timers::run),
        ("translations and code", memory::run),
        ("order and atomicity", order::run),
        ("tables of their own", memory::own_tables),
    ];
    for (name, run) in parts {
        part(name, run);
    }
    crew::dismiss();
}

fn part(name: &str, run: fn()) {
    let (before, began) = (report::failures(), timer::now());
    println!("{name}");
    run();
    gic::unmask(false);
    println!("  ({} ms)", (timer::now() - began) / timer::ticks(1).max(1));
    if report::failures() != before {
        println!("{name}: something is wrong");
    }
}
