//! The promises of the architecture, checked from inside a VM: boot protocol, PSCI and SMCCC, ID
//! registers against behaviour, traps, timers, GIC, PL011, PL031, MMIO and memory.
//!
//! It runs on plain QEMU `virt` too (`machine=reference`), the machine whose memory map a Redan VM
//! copies: there it validates the expectations. Where that machine is known to deviate, or where
//! Redan promises more, the check is made on Redan only and says so.

mod boot;
mod calls;
mod clock;
mod debug;
mod distributor;
mod gic2;
mod gic3;
mod ids;
mod interrupts;
mod memory;
mod serial;
mod timers;
mod traps;
mod user;

use crate::machine::GicBases;
use crate::{gic, machine, println, report};

/// The payload.
pub fn run() {
    let reference = machine::get().reference;
    println!("arch: {} machine", if reference { "reference" } else { "Redan" });
    let parts: [(&str, fn()); 14] = [
        ("boot protocol", boot::run),
        ("PSCI and SMCCC", calls::run),
        ("ID registers", ids::run),
        ("traps", traps::run),
        ("EL0", user::run),
        ("debug", debug::run),
        ("memory", memory::run),
        ("interrupts", interrupts::run),
        ("distributor", distributor::run),
        ("GICv2", || only(false, gic2::run)),
        ("GICv3", || only(true, gic3::run)),
        ("timers", timers::run),
        ("PL011", serial::run),
        ("PL031", clock::run),
    ];
    for (name, part) in parts {
        let before = report::failures();
        println!("{name}");
        part();
        gic::unmask(false);
        if report::failures() != before {
            println!("{name}: something is wrong");
        }
    }
}

fn only(v3: bool, part: fn()) {
    if matches!(machine::get().gic, GicBases::V3 { .. }) == v3 {
        part();
    } else {
        println!("  not on this machine");
    }
}
