//! Shared interrupts: which CPU they go to, what another CPU may do to them meanwhile, pre-emption,
//! EOImode.

use core::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use super::crew::{self, counts, only, settles, until};
use crate::console::{read32, write32};
use crate::cpu::{self, CPUS};
use crate::gic::{self, dist};
use crate::{check, check_eq, machine, probe};

/// No device of the machine has this one, and the next.
const SPI: u32 = 60;
const HIGH: u32 = 61;

/// An edge interrupt of this priority, for one CPU, enabled.
pub fn set_up(intid: u32, priority: u8, cpu: usize) {
    let gic = gic::get();
    gic.disable(intid);
    gic.unpend(intid);
    gic.set_edge(intid, true);
    gic.set_priority(intid, priority);
    gic.route(intid, cpu);
    gic.enable(intid);
}

pub fn run() {
    gic::unmask(true);
    routing();
    any_cpu();
    absent();
    held_back();
    by_others();
    for cpu in 0..crew::size() {
        crew::on(cpu, nested, cpu as u64);
        crew::on(cpu, two_steps, cpu as u64);
    }
    check!(NESTED_WRONG.load(Relaxed) == 0, "on each CPU a higher priority pre-empts a lower one");
    check!(STEPS_WRONG.load(Relaxed) == 0, "on each CPU EOImode 1 ends an interrupt in two steps");
    gic::unmask(true);
    level();
    gic::unmask(false);
    gic::get().disable(SPI);
    gic::get().disable(HIGH);
}

fn routing() {
    let gic = gic::get();
    let mut wrong = 0;
    for intid in [SPI, 62] {
        for to in 0..crew::size() {
            for from in [to, 0, (to + 1) % crew::size()] {
                set_up(intid, 0x80, to);
                gic::forget_all();
                crew::on(from, |intid| gic::get().pend(intid as u32), u64::from(intid));
                let right = settles(only(to, 1)) && gic::seen_by(to).last == intid;
                wrong += u32::from(!right || gic.is_pending(intid) || gic.is_active(intid));
                if !right {
                    crate::println!("  SPI {intid} to {to}, pended by {from}: {:?}", counts());
                }
            }
        }
        gic.disable(intid);
    }
    check_eq!(wrong, 0, "an SPI pended by any CPU goes to the one that it is routed to, once");
}

fn any_cpu() {
    let gic = gic::get();
    if machine::get().reference && !gic.is_v3() {
        // In QEMU's GICv2 two CPUs can win.
        return;
    }
    set_up(SPI, 0x80, 0);
    gic.route_any(SPI);
    gic::forget_all();
    let mut wrong = 0;
    for n in 1..=20u32 {
        gic.pend(SPI);
        let taken = || counts().iter().sum::<u32>();
        wrong += u32::from(!until(2000, || taken() == n));
    }
    until(5, || false);
    let total: u32 = counts().iter().sum();
    check_eq!((wrong, total), (0, 20), "an SPI that may go to any CPU goes to exactly one");
}

/// Where no CPU is nothing arrives, and nothing is lost.
fn absent() {
    let gic = gic::get();
    set_up(SPI, 0x80, 0);
    if gic.is_v3() {
        let _ = probe::store64(gic.dist() + dist::IROUTER + 8 * u64::from(SPI), 0xff_0000);
    } else if crew::size() > 1 {
        let _ = probe::store8(gic.dist() + dist::ITARGETSR + u64::from(SPI), 0);
    } else {
        return;
    }
    gic::forget_all();
    gic.pend(SPI);
    check!(settles([0; CPUS]), "an SPI without a target arrives nowhere");
    gic.route(SPI, crew::size() - 1);
    if machine::get().reference && !gic.is_v3() {
        // QEMU's GICv2 forgets it.
        gic.pend(SPI);
    }
    check!(settles(only(crew::size() - 1, 1)), "and arrives when it has one");
}

/// Where CPU 0 sees it pend while the target cannot take it.
fn held_back() {
    let gic = gic::get();
    if crew::size() < 2 {
        return;
    }
    fn deaf(_: u64) {
        DEAF.store(true, Release);
        while !LISTEN.load(Acquire) {
            cpu::relax();
        }
        LISTEN.store(false, Release);
        DEAF.store(false, Release);
    }
    static DEAF: AtomicBool = AtomicBool::new(false);
    static LISTEN: AtomicBool = AtomicBool::new(false);
    let deafen = || {
        gic::forget_all();
        crew::begin(1, deaf, 0);
        until(1000, || DEAF.load(Acquire));
        gic.pend(SPI);
        until(2, || false);
    };
    let listen = || {
        LISTEN.store(true, Release);
        cpu::signal();
        crew::finish(1);
    };
    set_up(SPI, 0x80, 1);
    deafen();
    check!(gic.is_pending(SPI) && !gic.is_active(SPI), "an SPI pends while its CPU is masked");
    gic.disable(SPI);
    listen();
    check!(settles([0; CPUS]), "disabled by another CPU meanwhile, it does not arrive");
    check!(gic.is_pending(SPI), "but still pends");
    gic.enable(SPI);
    check!(settles(only(1, 1)), "and arrives when it is enabled again");
    deafen();
    gic.unpend(SPI);
    listen();
    check!(settles([0; CPUS]), "taken back by another CPU meanwhile, it does not arrive");
    deafen();
    gic.route(SPI, 0);
    if !machine::get().reference || gic.is_v3() {
        check!(settles(only(0, 1)), "routed anew meanwhile, it arrives at the new CPU");
    }
    listen();
    gic.unpend(SPI);
    set_up(SPI, 0x80, 1);
    deafen();
    gic.set_priority(SPI, 0xf8);
    listen();
    check!(settles([0; CPUS]), "its priority lowered below the mask meanwhile, it does not arrive");
    gic.set_priority(SPI, 0x80);
    check!(settles(only(1, 1)), "raised again it does");
}

static HOLD: AtomicBool = AtomicBool::new(false);
static HELD: AtomicBool = AtomicBool::new(false);

/// In the handler: stays there until it is told.
fn hold(iar: u32) {
    if iar & 0x3ff == SPI && HOLD.load(Acquire) {
        HELD.store(true, Release);
        while HOLD.load(Acquire) {
            cpu::relax();
        }
        HELD.store(false, Release);
    }
}

/// What CPU 0 sees of, and does to, an interrupt that is active on another.
fn by_others() {
    let gic = gic::get();
    if crew::size() < 2 {
        return;
    }
    let active_on_1 = || {
        gic::forget_all();
        HOLD.store(true, Release);
        gic.pend(SPI);
        until(2000, || HELD.load(Acquire))
    };
    let release = || {
        HOLD.store(false, Release);
        cpu::signal();
    };
    set_up(SPI, 0x80, 1);
    crew::on(1, |_| gic::set_hook(Some(hold)), 0);
    check!(active_on_1(), "an SPI is being handled by another CPU");
    check!(gic.is_active(SPI) && !gic.is_pending(SPI), "it is active, and this CPU sees it");
    gic.pend(SPI);
    check!(gic.is_pending(SPI) && gic.is_active(SPI), "it can be pended meanwhile");
    check!(!until(5, || gic::seen_by(1).count > 1), "which does not interrupt its own handler");
    HOLD.store(false, Release);
    cpu::signal();
    check!(settles(only(1, 2)), "and comes after the end, once");
    check!(!gic.is_active(SPI) && !gic.is_pending(SPI), "then it is over");
    if !machine::get().reference || gic.is_v3() {
        check!(active_on_1(), "again it is being handled");
        gic.route(SPI, 0);
        gic.pend(SPI);
        let here = until(20, || gic::seen_by(0).count > 0);
        check!(!here, "routed elsewhere while active, it is not delivered before its end");
        release();
        check!(
            until(2000, || counts() == core::array::from_fn(|n| u32::from(n < 2))),
            "and is after it"
        );
        gic.route(SPI, 1);
    }
    check!(active_on_1(), "and once more it is being handled");
    write32(gic.bit_reg(dist::ICACTIVER, SPI), 1 << (SPI % 32));
    check!(until(1000, || !gic.is_active(SPI)), "ICACTIVER of another CPU ends its active state");
    release();
    crew::on(1, |_| gic::set_hook(None), 0);
    gic.pend(SPI);
    check!(settles(only(1, 2)), "and the next one arrives");
    // EOImode 1: only DIR or ICACTIVER is the end.
    crew::on(1, drop_only, 0);
    check!(gic.is_active(SPI), "EOImode 1: after the priority drop it is active for all to see");
    write32(gic.bit_reg(dist::ICACTIVER, SPI), 1 << (SPI % 32));
    gic::forget_all();
    gic.pend(SPI);
    check!(settles(only(1, 1)), "EOImode 1: ended by another CPU's ICACTIVER, the next arrives");
}

/// Takes the SPI by hand with EOImode 1, without deactivating it.
fn drop_only(_: u64) {
    let gic = gic::get();
    gic.set_eoi_split(true);
    gic.pend(SPI);
    let iar = loop {
        let iar = gic.ack();
        if iar & 0x3ff < gic::SPURIOUS {
            break iar;
        }
    };
    gic.eoi(iar);
    gic.set_eoi_split(false);
}

static NESTED_WRONG: AtomicU32 = AtomicU32::new(0);
static STEPS_WRONG: AtomicU32 = AtomicU32::new(0);

/// Handlers that are themselves interrupted: three levels deep.
fn nested(me: u64) {
    const LEVELS: [(u32, u8); 3] = [(SPI, 0xa0), (HIGH, 0x60), (62, 0x20)];
    fn deeper(iar: u32) {
        let gic = gic::get();
        let level = LEVELS.iter().position(|(intid, _)| *intid == iar & 0x3ff);
        let next = level.and_then(|level| LEVELS.get(level + 1));
        let running = gic.running() & 0xf0;
        let right = level.is_some_and(|l| running == u32::from(LEVELS[l].1));
        NESTED_WRONG.fetch_add(u32::from(!right), Relaxed);
        let before = gic::seen().count;
        if let Some((intid, _)) = next.filter(|_| before <= 3) {
            // The same one must wait for its end, the higher one must not.
            gic.pend(iar & 0x3ff);
            gic.pend(*intid);
            crate::write!("daif", 0x340);
            until(1000, || gic::seen().count != before);
            crate::write!("daif", 0x3c0);
            NESTED_WRONG.fetch_add(u32::from(gic::seen().count == before), Relaxed);
        }
    }
    for (intid, priority) in LEVELS {
        set_up(intid, priority, me as usize);
    }
    gic::forget();
    gic::set_hook(Some(deeper));
    gic::get().pend(SPI);
    gic::unmask(true);
    // Two come again, for they were pended in their handlers.
    let all = until(1000, || gic::seen().count >= 5);
    gic::unmask(false);
    gic::set_hook(None);
    let order = [0, 1, 2, 3, 4].map(|n| gic::logged(me as usize, n) & 0x3ff);
    let right = all && order == [SPI, HIGH, 62, HIGH, SPI];
    let right = right && gic::get().running() & 0xff == 0xff;
    NESTED_WRONG.fetch_add(u32::from(!right), Relaxed);
    for (intid, _) in LEVELS {
        gic::get().disable(intid);
        gic::get().unpend(intid);
    }
}

fn two_steps(me: u64) {
    let gic = gic::get();
    set_up(SPI, 0x80, me as usize);
    set_up(HIGH, 0x80, me as usize);
    gic.set_eoi_split(true);
    let mut right = true;
    gic.pend(SPI);
    right &= until(1000, gic::irq_line);
    let first = gic.ack();
    gic.eoi(first);
    right &= gic.is_active(SPI) && gic.running() & 0xff == 0xff;
    // Dropped, it holds back nobody but itself.
    gic.pend(SPI);
    gic.pend(HIGH);
    right &= until(1000, gic::irq_line);
    let second = gic.ack();
    gic.eoi(second);
    right &= !gic::irq_line() && gic.is_active(HIGH) && gic.is_active(SPI);
    // In the order in which they came, not the reverse.
    gic.deactivate(first);
    right &= until(1000, gic::irq_line) && !gic.is_active(SPI);
    let third = gic.ack();
    gic.eoi(third);
    gic.deactivate(third);
    gic.deactivate(second);
    gic.set_eoi_split(false);
    right &= [first, second, third].map(|iar| iar & 0x3ff) == [SPI, HIGH, SPI];
    right &= !gic.is_active(SPI) && !gic.is_active(HIGH) && !gic::irq_line();
    STEPS_WRONG.fetch_add(u32::from(!right), Relaxed);
    gic.disable(SPI);
    gic.disable(HIGH);
}

/// The UART's line, level-sensitive, goes to each CPU in turn. Nothing may be printed meanwhile.
fn level() {
    const LINE: u32 = 33;
    let (gic, uart) = (gic::get(), machine::get().uart);
    let mut wrong = 0;
    for cpu in 0..crew::size() {
        gic.route(LINE, cpu);
        gic.set_edge(LINE, false);
        gic.set_priority(LINE, 0x80);
        gic.enable(LINE);
        gic::forget_all();
        write32(uart + 0x38, 1 << 5); // UARTIMSC: transmit
        write32(uart, u32::from(b'\r'));
        wrong += u32::from(!settles(only(cpu, 1)));
        wrong += u32::from(read32(uart + 0x38) != 0 || gic.is_pending(LINE));
        write32(uart + 0x44, 0x7ff); // UARTICR
        gic.disable(LINE);
    }
    check_eq!(wrong, 0, "a device's level-sensitive interrupt goes to each CPU, once");
}
