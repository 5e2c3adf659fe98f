//! The generic timer, virtual and physical (DDI0487 D12).

use crate::gic::{self, Gic};
use crate::timer::{self, ENABLE, IMASK, ISTATUS, PHYSICAL_PPI, VIRTUAL_PPI};
use crate::{check, check_eq, read, try_insn, write};

struct Timer {
    name: &'static str,
    ppi: u32,
    ctl: fn() -> u64,
    set_ctl: fn(u64),
    cval: fn() -> u64,
    set_cval: fn(u64),
    tval: fn() -> u64,
    set_tval: fn(u64),
    now: fn() -> u64,
}

pub fn run() {
    let (a, b) = (timer::now(), timer::now());
    check!(a <= b, "the count never goes back");
    check!(timer::wait(100, || timer::now() > b), "the count advances");
    let (virt, phys) = (read!("cntvct_el0"), read!("cntpct_el0"));
    check!(virt <= phys, "the virtual count is the physical one less an offset");
    let gic = gic::get();
    gic.init();
    one(
        gic,
        &Timer {
            name: "CNTV",
            ppi: VIRTUAL_PPI,
            ctl: || read!("cntv_ctl_el0"),
            set_ctl: |v| write!("cntv_ctl_el0", v),
            cval: || read!("cntv_cval_el0"),
            set_cval: |v| write!("cntv_cval_el0", v),
            tval: || read!("cntv_tval_el0"),
            set_tval: |v| write!("cntv_tval_el0", v),
            now: timer::now,
        },
    );
    one(
        gic,
        &Timer {
            name: "CNTP",
            ppi: PHYSICAL_PPI,
            ctl: || read!("cntp_ctl_el0"),
            set_ctl: |v| write!("cntp_ctl_el0", v),
            cval: || read!("cntp_cval_el0"),
            set_cval: |v| write!("cntp_cval_el0", v),
            tval: || read!("cntp_tval_el0"),
            set_tval: |v| write!("cntp_tval_el0", v),
            now: || read!("cntpct_el0"),
        },
    );
    both(gic);
    write!("cntkctl_el1", 3);
    check_eq!(read!("cntkctl_el1") & 3, 3, "CNTKCTL_EL1 keeps EL0's access bits");
    write!("cntkctl_el1", 0);
}

fn one(gic: Gic, t: &Timer) {
    let name = t.name;
    let ms = timer::ticks(1);
    (t.set_ctl)(0);
    gic.enable(t.ppi);
    gic.set_priority(t.ppi, 0x80);
    // Registers.
    (t.set_cval)(0x0123_4567_89ab_cdef);
    check_eq!((t.cval)(), 0x0123_4567_89ab_cdef, "{name}_CVAL keeps 64 bits");
    (t.set_tval)(1000 * ms);
    let (value, at) = ((t.cval)(), (t.now)());
    check!(value > at && value - at <= 1000 * ms, "{name}_TVAL sets CVAL to now + TVAL");
    let left = (t.tval)();
    check!(left <= 1000 * ms && left > 0, "{name}_TVAL counts down");
    (t.set_tval)(0xffff_ffff);
    check!((t.cval)() < (t.now)(), "{name}_TVAL is signed: -1 is in the past");
    check!((t.tval)() >> 31 == 1, "{name}_TVAL reads negative, in 32 bits");
    // Condition and mask.
    (t.set_cval)((t.now)() + 10_000 * ms);
    (t.set_ctl)(ENABLE);
    check_eq!((t.ctl)(), ENABLE, "{name}: ISTATUS is clear before the time");
    (t.set_cval)(0);
    check_eq!((t.ctl)(), ENABLE | ISTATUS, "{name}: ISTATUS is set after it");
    (t.set_ctl)(ENABLE | IMASK);
    check_eq!((t.ctl)(), ENABLE | IMASK | ISTATUS, "{name}: IMASK does not hide ISTATUS");
    (t.set_ctl)(0);
    // Interrupt.
    gic.unpend(t.ppi);
    gic::forget();
    (t.set_cval)(0);
    (t.set_ctl)(ENABLE | IMASK);
    gic::unmask(true);
    timer::sleep(5);
    check_eq!(gic::seen().count, 0, "{name}: masked, it does not interrupt");
    (t.set_ctl)(ENABLE);
    let came = timer::wait(200, || gic::seen().count == 1);
    check!(came && gic::seen().last == t.ppi, "{name}: unmasked, PPI {} arrives", t.ppi);
    check!(gic::seen().istatus, "{name}: ISTATUS is set in the handler");
    timer::sleep(5);
    check_eq!(gic::seen().count, 1, "{name}: quietened by IMASK, it does not come again");
    // A row of ticks, none early.
    let (mut early, mut lost) = (0, 0);
    for _ in 0..10 {
        gic::forget();
        let due = (t.now)() + 2 * ms;
        (t.set_cval)(due);
        (t.set_ctl)(ENABLE);
        // Long, for a machine that stands still now and then: a lost tick never comes.
        lost += u32::from(!timer::wait(5000, || gic::seen().count == 1));
        early += u32::from((t.now)() < due);
    }
    check_eq!((lost, early), (0, 0), "{name}: ten ticks arrive, none early");
    gic::unmask(false);
    // Level: with interrupts masked the PPI is pending exactly as long as the output is high.
    (t.set_cval)(0);
    (t.set_ctl)(ENABLE);
    check!(timer::wait(200, || gic.is_pending(t.ppi)), "{name}: the PPI pends while masked");
    check!(timer::wait(200, gic::irq_line), "{name}: and the CPU sees the line");
    (t.set_ctl)(ENABLE | IMASK);
    check!(
        timer::wait(200, || !gic.is_pending(t.ppi)),
        "{name}: IMASK takes the pending state away"
    );
    check!(timer::wait(200, || !gic::irq_line()), "{name}: and the line falls");
    // A handler that does not quieten the timer gets it again.
    (t.set_ctl)(ENABLE);
    timer::wait(200, gic::irq_line);
    let first = gic.ack();
    gic.eoi(first);
    // QEMU's GICv2 forgets to look at the physical line again after a guest's end of interrupt;
    // any access to the distributor reminds it. So ask the distributor as well.
    let again = timer::wait(200, || gic.is_pending(t.ppi) && gic::irq_line());
    let second = gic.ack();
    check_eq!(
        (first & 0x3ff, again, second & 0x3ff),
        (t.ppi, true, t.ppi),
        "{name}: level-sensitive, it comes again while the condition holds"
    );
    (t.set_ctl)(0);
    gic.eoi(second);
    // The same with the end in two steps.
    gic.set_eoi_split(true);
    let mut lost = 0;
    for _ in 0..5 {
        gic::forget();
        (t.set_cval)((t.now)() + ms);
        (t.set_ctl)(ENABLE);
        gic::unmask(true);
        lost += u32::from(!timer::wait(5000, || gic::seen().count == 1));
        gic::unmask(false);
    }
    check_eq!(lost, 0, "{name}: ticks arrive with EOImode 1 and DIR as well");
    check!(!gic.is_active(t.ppi), "{name}: DIR leaves it inactive");
    gic.set_eoi_split(false);
    (t.set_ctl)(0);
    // WFI.
    let due = (t.now)() + 20 * ms;
    (t.set_cval)(due);
    (t.set_ctl)(ENABLE);
    let mut wakes = 0u32;
    while (t.now)() < due && wakes < 1000 {
        let _ = try_insn!("wfi");
        wakes += 1;
    }
    check!((t.now)() >= due && wakes < 1000, "{name}: WFI sleeps until the timer");
    (t.set_ctl)(0);
    unforwarded(gic, t);
    limits(t);
    one_wait(t);
    gic.disable(t.ppi);
    gic.unpend(t.ppi);
}

/// The distributor sees the line whether or not it forwards the interrupt.
fn unforwarded(gic: Gic, t: &Timer) {
    let name = t.name;
    let state = || (gic.is_pending(t.ppi), gic.is_active(t.ppi));
    let past = (t.now)() - 1;
    gic.disable(t.ppi);
    (t.set_cval)(past + timer::ticks(10_000));
    (t.set_ctl)(ENABLE);
    check_eq!(state(), (false, false), "{name}: a disabled PPI is idle before the time");
    (t.set_cval)(past);
    check_eq!((t.ctl)(), ENABLE | ISTATUS, "{name}: the condition does not need the PPI");
    check_eq!(state(), (true, false), "{name}: a disabled PPI pends after the time");
    (t.set_ctl)(0);
    gic::forget();
    gic::unmask(true);
    gic.enable(t.ppi);
    check_eq!(state(), (false, false), "{name}: switched off, the timer leaves nothing pending");
    (t.set_ctl)(ENABLE | IMASK);
    check_eq!((t.ctl)(), ENABLE | IMASK | ISTATUS, "{name}: masked, the condition is met");
    check_eq!(state(), (false, false), "{name}: masked, the PPI does not pend");
    gic::unmask(false);
    check_eq!(gic::seen().count, 0, "{name}: neither interrupts");
    (t.set_ctl)(0);
}

/// The longest times.
fn limits(t: &Timer) {
    let name = t.name;
    gic::forget();
    gic::unmask(true);
    (t.set_cval)(u64::MAX);
    (t.set_ctl)(ENABLE);
    timer::sleep(5);
    check_eq!(((t.ctl)(), gic::seen().count), (ENABLE, 0), "{name}: CVAL ~0 does not come");
    (t.set_tval)(0x7fff_ffff);
    check_eq!((t.ctl)(), ENABLE, "{name}: the largest TVAL is ahead");
    check_eq!(gic::seen().count, 0, "{name}: and does not come");
    gic::unmask(false);
    (t.set_ctl)(0);
}

/// One WFI and no loop around it. The architecture lets WFI end early for no reason
/// (DDI0487, Wait for Interrupt), but nothing interrupts this CPU, and small kernels rely on that.
fn one_wait(t: &Timer) {
    let (name, mut slept) = (t.name, 0);
    for _ in 0..5 {
        gic::forget();
        (t.set_tval)(timer::ticks(15));
        (t.set_ctl)(ENABLE);
        let _ = try_insn!("wfi");
        gic::window();
        let left = (t.tval)() as u32 as i32;
        slept += u32::from(gic::seen().count == 1 && left < 0);
        (t.set_ctl)(0);
    }
    check_eq!(slept, 5, "{name}: each single WFI sleeps until the interrupt");
}

fn both(gic: Gic) {
    let ms = timer::ticks(1);
    gic.enable(VIRTUAL_PPI);
    gic.enable(PHYSICAL_PPI);
    gic::forget();
    write!("cntv_cval_el0", timer::now() + 5 * ms);
    write!("cntp_cval_el0", read!("cntpct_el0") + 15 * ms);
    write!("cntv_ctl_el0", ENABLE);
    write!("cntp_ctl_el0", ENABLE);
    gic::unmask(true);
    let two = timer::wait(500, || gic::seen().count == 2);
    gic::unmask(false);
    let expected = u64::from(VIRTUAL_PPI) << 8 | u64::from(PHYSICAL_PPI);
    check!(two && gic::seen().order == expected, "both timers run side by side");
    write!("cntv_ctl_el0", 0);
    write!("cntp_ctl_el0", 0);
    gic.disable(VIRTUAL_PPI);
    gic.disable(PHYSICAL_PPI);
}
