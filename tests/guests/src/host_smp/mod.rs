//! A host that uses every CPU of the machine: starts and stops them by PSCI, and lets them race at
//! EL2's hypercalls.
//!
//! At the end the first CPU goes off and is started by another, so whoever finishes is not it.

mod crew;
mod guest;
mod moves;
mod pages;
mod power;
mod sleep;
mod stages;
mod vcpus;

use crate::host::digest;
use crate::{check_eq, cpu, gic, println, start, timer};

/// The payload.
pub fn run() {
    gic::get().init();
    println!("{} CPUs", crew::count());
    let clean = digest(&[]);
    let parts: [(&str, fn()); 12] = [
        ("firmware", power::firmware),
        ("spin table", power::table),
        ("starting", power::starting),
        ("bad starts", power::refusals),
        ("starting one by many", power::rivals),
        ("sleep", sleep::run),
        ("pages", pages::run),
        ("vCPUs", vcpus::run),
        ("stage 2", stages::run),
        ("moving", moves::run),
        ("off and on", power::again),
        ("teardown", vcpus::teardown),
    ];
    for (name, part) in parts {
        println!("{name}");
        part();
        check_eq!(digest(&[]), clean, "{name}: every page is the host's again");
    }
    crew::dismiss();
    println!("the first CPU");
    power::last();
    if crew::count() > 1 {
        let on = start::cpu_on(1, power::finish, 0);
        check_eq!(on, 0, "another CPU takes over");
        // Until that one is on, this one is the last.
        timer::wait(20_000, || crew::is(1, crew::ON));
        cpu::off();
    }
}
