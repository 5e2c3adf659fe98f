//! More interrupts at once than any CPU has list registers: each is taken once, the higher priority
//! first. First on one CPU after the other, then on all together.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::crew::{self, until};
use crate::check_eq;
use crate::cpu::CPUS;
use crate::gic::{self, DOORBELL, LOG};

/// SPIs of each CPU; the first is INTID 48, and no device of the machine has them.
const SPIS: u32 = 16;
const FIRST_SPI: u32 = 48;
/// PPIs that neither timers nor a hypervisor's hardware use.
const PPIS: core::ops::Range<u32> = 16..24;

static WRONG: [AtomicU32; CPUS] = [const { AtomicU32::new(0) }; CPUS];

fn spi(cpu: usize, n: u32) -> u32 {
    // The UART, and what QEMU's own machine has there, are below.
    FIRST_SPI + cpu as u32 * SPIS + n
}

/// What this CPU gets: its SGIs, PPIs and SPIs, with a priority for each. Those with one priority
/// may come in any order.
fn mine(cpu: usize) -> impl Iterator<Item = (u32, u8)> {
    let sgis = 0..DOORBELL;
    let spis = (0..SPIS).map(move |n| spi(cpu, n));
    let all = sgis.chain(PPIS).chain(spis);
    // Scattered over the levels below the mask, in steps that every implementation has.
    all.enumerate().map(|(n, intid)| (intid, ((n * 5 + 3) % 15 * 16) as u8))
}

fn prepare(cpu: u64) {
    let gic = gic::get();
    for (intid, priority) in mine(cpu as usize) {
        gic.disable(intid);
        if intid >= 16 {
            gic.set_edge(intid, true);
            gic.unpend(intid);
        }
        if intid >= 32 {
            gic.route(intid, cpu as usize);
        }
        gic.set_priority(intid, priority);
        gic.enable(intid);
    }
}

/// Everything pends before the first is taken.
fn storm(rounds: u64) {
    let cpu = crate::cpu::me();
    let gic = gic::get();
    prepare(cpu as u64);
    let total = mine(cpu).count();
    let mut wrong = 0;
    for _ in 0..rounds {
        gic::forget();
        for (intid, _) in mine(cpu) {
            if intid < 16 {
                gic.sgi_self(intid);
            } else {
                gic.pend(intid);
            }
        }
        gic::unmask(true);
        let all = until(5000, || gic::seen().count as usize >= total);
        gic::unmask(false);
        let mut last = 0;
        let mut taken = [0u8; 256];
        for n in 0..total.min(LOG) {
            let intid = gic::logged(cpu, n) & 0x3ff;
            let priority = mine(cpu).find(|(i, _)| *i == intid).map_or(255, |(_, p)| p);
            wrong += u32::from(priority < last);
            last = priority;
            if let Some(count) = taken.get_mut(intid as usize) {
                *count += 1;
            }
        }
        let once = mine(cpu).all(|(intid, _)| taken.get(intid as usize) == Some(&1));
        wrong += u32::from(!all || !once || gic::seen().count as usize != total);
        let left = mine(cpu).filter(|(i, _)| gic.is_pending(*i) || gic.is_active(*i)).count();
        wrong += u32::from(left != 0);
    }
    for (intid, _) in mine(cpu) {
        gic.disable(intid);
    }
    WRONG[cpu].store(wrong, Relaxed);
}

pub fn run() {
    let wrong = || WRONG.iter().map(|w| w.load(Relaxed)).sum::<u32>();
    for cpu in 0..crew::size() {
        crew::on(cpu, storm, 3);
    }
    let total = mine(0).count();
    check_eq!(wrong(), 0, "{total} at once: each once, by priority, nothing left (one CPU a time)");
    crew::all(storm, 5);
    check_eq!(wrong(), 0, "{total} at once: each once, by priority, nothing left (all CPUs)");
    // What is left is as it was for the other parts.
    crew::all(|_| crew::init_cpu(), 0);
}
