//! CPU_SUSPEND: with and without the loss of state, and where it is refused.

use super::crew;
use super::guest::Guest;
use crate::host::el2_pfn;
use crate::timer::{self, ENABLE, PHYSICAL_PPI};
use crate::{check, check_eq, gic, machine, psci, read, start, write};

const DENIED: i32 = -3;
const INVALID_ADDRESS: i32 = -9;
/// Power states in the original format (DEN0022 5.4.2), which is QEMU's.
const STANDBY: u64 = 0;
const POWER_DOWN: u64 = 1 << 16;

fn suspend(state: u64, entry: u64) -> i32 {
    psci::status(psci::CPU_SUSPEND, state, entry, 0)
}

/// Sleeps in `state` until the timer rings; answers PSCI's status, and whether it took the time.
fn nap(state: u64) -> (i32, bool) {
    let gic = gic::get();
    gic.enable(PHYSICAL_PPI);
    let wake = read!("cntpct_el0") + timer::ticks(5);
    write!("cntp_cval_el0", wake);
    write!("cntp_ctl_el0", ENABLE);
    // It may end early, and an interrupt that is masked here must end it.
    let mut status = suspend(state, start::secondary_entry());
    while status == 0 && read!("cntpct_el0") < wake {
        status = suspend(state, start::secondary_entry());
    }
    let late = read!("cntpct_el0") >= wake;
    write!("cntp_ctl_el0", 0);
    gic.eoi(gic.ack());
    (status, late)
}

/// As a job: 1 if both kinds of sleep go well.
fn naps(_: u64) -> u64 {
    u64::from(nap(STANDBY) == (0, true) && nap(POWER_DOWN) == (0, true))
}

/// The part.
pub fn run() {
    let slept = crew::all(naps, 0);
    for (n, slept) in slept.iter().enumerate().take(crew::count()) {
        check_eq!(*slept, 1, "CPU {n} sleeps until an interrupt comes, in either depth");
        check!(crew::is(n, crew::ON), "CPU {n} is on all the while");
    }
    let nowhere = [el2_pfn() << 12, machine::get().uart, u64::MAX, 2];
    for entry in nowhere {
        check_eq!(suspend(POWER_DOWN, entry), INVALID_ADDRESS, "nobody resumes at {entry:#x}");
    }
    let guest = Guest::new(1);
    guest.load(0);
    let entry = start::secondary_entry();
    check_eq!(suspend(POWER_DOWN, entry), DENIED, "no power-down with a vCPU loaded");
    check_eq!(psci::status(psci::CPU_OFF, 0, 0, 0), DENIED, "nor off");
    Guest::put();
    guest.end();
}
