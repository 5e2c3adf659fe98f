//! Software-generated interrupts between all pairs (IHI0048 4.3.15, IHI0069 9.6.4 and 12.2.16).

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::crew::{self, counts, only, settles, until};
use crate::console::{read32, write32};
use crate::cpu::CPUS;
use crate::gic::{self, DOORBELL, To, dist};
use crate::{check, check_eq, machine, probe, write};

/// All but the crew's own.
const SGIS: u32 = DOORBELL;

/// All, of one priority.
fn enable_all(_: u64) {
    let gic = gic::get();
    for id in 0..SGIS {
        gic.set_priority(id, 0x80);
        gic.enable(id);
    }
}

pub fn run() {
    crew::all(enable_all, 0);
    // CPU 0 runs the show: it too takes what comes while it waits.
    gic::unmask(true);
    pairs();
    lists();
    if crew::size() > 1 {
        gathered();
        banked();
        asleep();
    }
    gic::unmask(false);
}

/// `arg` is SGI, then a bit for each target.
fn send(arg: u64) {
    gic::get().sgi(arg as u32 & 15, To::List((arg >> 8) as u8));
}

fn send_others(arg: u64) {
    gic::get().sgi(arg as u32 & 15, To::Others);
}

fn send_self(arg: u64) {
    gic::get().sgi(arg as u32 & 15, To::Me);
}

/// The acknowledge value of an SGI: in a v2 it names the sender.
fn iar(from: usize, id: u32) -> u32 {
    if gic::get().is_v3() { id } else { (from as u32) << 10 | id }
}

fn pairs() {
    let mut wrong = 0;
    for from in 0..crew::size() {
        for to in 0..crew::size() {
            let id = (from * 3 + to) as u32 % SGIS;
            gic::forget_all();
            crew::on(from, send, u64::from(id) | 1 << (8 + to));
            let right = settles(only(to, 1)) && gic::seen_by(to).last == iar(from, id);
            if !right {
                let seen = gic::seen_by(to);
                crate::println!("  SGI {id} from {from} to {to}: {:?}, {seen:x?}", counts());
            }
            wrong += u32::from(!right);
        }
    }
    check_eq!(wrong, 0, "an SGI from each CPU to each arrives there, once, from the right sender");
}

fn all_but(cpu: usize, count: u32) -> [u32; CPUS] {
    core::array::from_fn(|n| if n != cpu && n < crew::size() { count } else { 0 })
}

fn lists() {
    let n = crew::size();
    let everybody: [u32; CPUS] = core::array::from_fn(|cpu| u32::from(cpu < n));
    let mut wrong = [0; 4];
    for from in 0..n {
        gic::forget_all();
        crew::on(from, send, 2 | 0xff << 8);
        wrong[0] += u32::from(!settles(everybody));
        gic::forget_all();
        crew::on(from, send_others, 3);
        wrong[1] += u32::from(!settles(all_but(from, 1)));
        gic::forget_all();
        crew::on(from, send_self, 4);
        wrong[2] += u32::from(!settles(only(from, 1)));
        gic::forget_all();
        crew::on(from, send, 5);
        wrong[3] += u32::from(!settles([0; CPUS]));
    }
    check_eq!(wrong[0], 0, "an SGI to a list reaches all of it that exist");
    check_eq!(wrong[1], 0, "an SGI to all others reaches all others");
    check_eq!(wrong[2], 0, "an SGI to oneself reaches nobody else");
    check_eq!(wrong[3], 0, "an SGI to an empty list reaches nobody");
    gic::forget_all();
    if gic::get().is_v3() {
        write!("icc_sgi1r_el1", 1 << 16 | 0xff | 6 << 24);
        write!("icc_sgi1r_el1", 1 << 32 | 0xff | 6 << 24);
        write!("icc_sgi1r_el1", 1 << 48 | 0xff | 6 << 24);
        check!(settles([0; CPUS]), "an SGI to another cluster reaches nobody");
    } else {
        // Filter 3 is reserved; nobody or somebody, but it does not harm.
        write32(gic::get().dist() + dist::SGIR, 3 << 24 | 0xff << 16 | 6);
        until(3, || false);
        check!(read32(gic::get().dist() + dist::CTLR) & 1 == 1, "the reserved filter is survived");
    }
}

/// What many send while the target cannot take it.
fn gathered() {
    let n = crew::size();
    let v3 = gic::get().is_v3();
    gic::forget_all();
    gic::unmask(false);
    for from in crew::others() {
        crew::on(from, send, 7 | 1 << 8);
        crew::on(from, send, 7 | 1 << 8);
    }
    gic::unmask(true);
    // A v3 has one pending bit for each SGI, a v2 one for each SGI and sender.
    let expected = if v3 { 1 } else { n as u32 - 1 };
    check!(
        settles(only(0, expected)),
        "the same SGI from many is taken once (v3), or once each (v2)"
    );
    let mut senders = 0u32;
    for k in 0..expected as usize {
        senders |= 1 << (gic::logged(0, k) >> 10 & 7);
    }
    let right = if v3 { 1 } else { (1 << n) - 2 };
    check_eq!(senders, right, "and each sender is named");
    // All from all, held back by the priority mask this time.
    gic::forget_all();
    gic::get().set_mask(0x40);
    for from in crew::others() {
        for id in 0..u64::from(SGIS) {
            crew::on(from, send, id | 1 << 8);
        }
    }
    until(3, || false);
    let held = gic::seen().count;
    gic::get().set_mask(0xf8);
    let expected = SGIS * expected;
    let all = settles(only(0, expected));
    check!(held == 0 && all, "all SGIs from all are held by the priority mask, then each taken");
    let mut taken = [0u32; SGIS as usize];
    for k in 0..expected as usize {
        taken[(gic::logged(0, k) & 0x3ff).min(SGIS - 1) as usize] += 1;
    }
    check_eq!(taken, [expected / SGIS; SGIS as usize], "none twice, none lost");
    if !v3 {
        pending_by_source();
    }
}

/// GICD_SPENDSGIR and GICD_CPENDSGIR: a bit for each sender (IHI0048 4.3.16).
fn pending_by_source() {
    let dist = gic::get().dist();
    gic::forget_all();
    gic::unmask(false);
    crew::on(1, send, 9 | 1 << 8);
    let pends = until(1000, || probe::load8(dist + dist::CPENDSGIR + 9) == Ok(2));
    check!(pends, "GICD_CPENDSGIR: an SGI of CPU 1 pends");
    let _ = probe::store8(dist + dist::SPENDSGIR + 9, 1);
    check_eq!(probe::load8(dist + dist::SPENDSGIR + 9), Ok(3), "GICD_SPENDSGIR adds one of CPU 0");
    let _ = probe::store8(dist + dist::CPENDSGIR + 9, 2);
    check_eq!(probe::load8(dist + dist::SPENDSGIR + 9), Ok(1), "that of CPU 1 can be taken back");
    gic::unmask(true);
    check!(settles(only(0, 1)), "and one arrives");
    check_eq!(gic::seen().last, iar(0, 9), "the other one");
}

/// Enable and priority of an SGI are each CPU's own.
fn banked() {
    fn disable(_: u64) {
        gic::get().disable(8);
        gic::get().set_priority(8, 0x30);
    }
    fn enable(_: u64) {
        gic::get().enable(8);
        gic::get().set_priority(8, 0x80);
    }
    crew::on(1, disable, 0);
    // A v2 may have them enabled for ever (IHI0048 4.3.5).
    static FIXED: AtomicBool = AtomicBool::new(false);
    crew::on(1, |_| FIXED.store(gic::get().read_bit(dist::ISENABLER, 8), Relaxed), 0);
    let fixed = FIXED.load(Relaxed);
    check!(!(fixed && gic::get().is_v3()), "an SGI can be disabled");
    let mine = probe::load8(gic::get().priority_addr(8)).unwrap_or(0);
    check_eq!(mine & 0xf0, 0x80, "another CPU's priority of an SGI is not this one's");
    gic::forget_all();
    crew::on(0, send, 8 | 0xff << 8);
    let expected: [u32; CPUS] =
        core::array::from_fn(|cpu| u32::from((cpu != 1 || fixed) && cpu < crew::size()));
    check!(settles(expected), "one CPU's disabling of an SGI does not disable another's");
    crew::on(1, enable, 0);
    let right: [u32; CPUS] = core::array::from_fn(|cpu| u32::from(cpu < crew::size()));
    check!(settles(right), "enabled, it arrives there too");
    if gic::get().is_v3() {
        // Every CPU may look into another's redistributor.
        let other = gic::of(1);
        let typer = probe::load64(other.local() + 8).unwrap_or(0);
        check_eq!(typer >> 32, machine::mpidr(1), "GICR_TYPER of another names it");
        let last = gic::of(crew::size() - 1);
        let ends = probe::load64(last.local() + 8).unwrap_or(0) >> 4 & 1;
        check_eq!(
            (typer >> 4 & 1, ends),
            (u64::from(crew::size() == 2), 1),
            "and the last is the last"
        );
        other.disable(8);
        gic::forget_all();
        crew::on(0, send, 8 | 2 << 8);
        check!(settles([0; CPUS]), "an SGI can be disabled through another's redistributor");
        check!(other.is_pending(8), "it pends there");
        other.enable(8);
        check!(settles(only(1, 1)), "and arrives when it is enabled the same way");
        other.pend(8);
        check!(settles(only(1, 2)), "or pended there");
    }
}

/// A CPU in WFI, masked or not, is woken.
fn asleep() {
    // The look at the count and the WFI must not be interrupted in between: a wake-up would be lost.
    fn doze(stay_masked: u64) {
        while gic::seen().count == 0 {
            if !gic::irq_line() {
                let _ = crate::try_insn!("wfi");
            }
            if stay_masked == 0 || gic::irq_line() {
                gic::window();
            }
        }
    }
    let mut wrong = 0;
    for round in 0..4u64 {
        for cpu in crew::others() {
            gic::forget_all();
            crew::begin(cpu, doze, round & 1);
            if round & 2 != 0 {
                until(1, || false);
            }
            crew::on(0, send, 10 | 1 << (8 + cpu));
            crew::finish(cpu);
            wrong += u32::from(!settles(only(cpu, 1)));
        }
    }
    check_eq!(wrong, 0, "an SGI ends another CPU's WFI, masked or not, early or late");
}
