//! The PL031 (DDI0224): identification, registers, a match and its interrupt.

use crate::console::{read32, write32};
use crate::{check, check_eq, gic, machine, timer};

const DR: u64 = 0x00;
const MR: u64 = 0x04;
const LR: u64 = 0x08;
const CR: u64 = 0x0c;
const IMSC: u64 = 0x10;
const RIS: u64 = 0x14;
const MIS: u64 = 0x18;
const ICR: u64 = 0x1c;
/// SPI 2, as on QEMU's board.
const SPI: u32 = 34;

pub fn run() {
    let rtc = machine::tree().and_then(|tree| {
        let node = tree.find_compatible(&["arm,pl031"])?;
        Some(node.reg()?.next()?.starting_address as u64)
    });
    check!(rtc.is_some(), "the device tree names a PL031");
    let Some(rtc) = rtc else { return };
    identity(rtc);
    counting(rtc);
    matching(rtc);
}

fn identity(rtc: u64) {
    let ids = [0xfe0, 0xfe4, 0xfe8, 0xfec, 0xff0, 0xff4, 0xff8, 0xffc];
    let right = [0x31, 0x10, 4, 0, 0x0d, 0xf0, 0x05, 0xb1];
    check_eq!(
        ids.map(|at| read32(rtc + at) & if at == 0xfe8 { 0xf } else { 0xff }),
        right,
        "RTC IDs"
    );
    check_eq!(read32(rtc + CR) & 1, 1, "the clock runs");
    for at in [RIS, MIS, 0xfe0, 0xffc] {
        let before = read32(rtc + at);
        write32(rtc + at, 0xdead_beef);
        check_eq!(read32(rtc + at), before, "RTC register {at:#x} is read-only");
    }
}

/// From one second's beginning to the next is a second.
fn counting(rtc: u64) {
    let tick = |from: u32| timer::wait(5000, || read32(rtc + DR) != from);
    let zero = read32(rtc + DR);
    check!(tick(zero), "the clock goes on");
    let (first, begin) = (read32(rtc + DR), timer::now());
    check!(tick(first), "and on");
    let took = timer::now() - begin;
    check_eq!(read32(rtc + DR), first.wrapping_add(1), "by one");
    // Where the machine stands still now and then, the end of the second may be seen late.
    check!(took > timer::ticks(500), "which is not done in half a second");
    write32(rtc + LR, 1_700_000_000);
    let now = read32(rtc + DR);
    check!((1_700_000_000..1_700_000_060).contains(&now), "and it can be set");
}

fn matching(rtc: u64) {
    let gic = gic::get();
    gic.init();
    gic.route_here(SPI);
    gic.set_priority(SPI, 0x80);
    write32(rtc + IMSC, 0);
    write32(rtc + ICR, 1);
    write32(rtc + MR, read32(rtc + DR).wrapping_add(1));
    check!(timer::wait(5000, || read32(rtc + RIS) == 1), "a second later the clock matches");
    check_eq!(read32(rtc + MIS), 0, "masked, it does not show");
    check!(!gic.is_pending(SPI), "nor interrupt");
    write32(rtc + IMSC, 1);
    check_eq!(read32(rtc + MIS), 1, "unmasked, it does");
    check!(timer::wait(200, || gic.is_pending(SPI)), "and SPI 2 pends, though disabled");
    gic.enable(SPI);
    check!(timer::wait(200, gic::irq_line), "enabled, it is signalled");
    let iar = gic.ack();
    write32(rtc + ICR, 1);
    gic.eoi(iar);
    check_eq!(iar & 0x3ff, SPI, "as SPI 2");
    check_eq!((read32(rtc + RIS), read32(rtc + MIS)), (0, 0), "ICR clears it");
    check!(timer::wait(200, || !gic.is_pending(SPI)), "and the SPI with it");
    // Asleep.
    write32(rtc + MR, read32(rtc + DR).wrapping_add(1));
    let mut wakes = 0;
    while read32(rtc + RIS) == 0 && wakes < 1000 {
        let _ = crate::try_insn!("wfi");
        wakes += 1;
    }
    check!(read32(rtc + RIS) == 1 && wakes < 1000, "WFI sleeps until the clock matches");
    write32(rtc + IMSC, 0);
    write32(rtc + ICR, 1);
    gic.disable(SPI);
    gic.init();
}
