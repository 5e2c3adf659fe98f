//! What holds for both GIC versions: distributor bits, delivery, priorities, edge and level, the
//! life of an interrupt from pending to inactive, WFI and WFE.

use crate::console::{read32, write32};
use crate::gic::{self, Gic, SPURIOUS, dist};
use crate::{check, check_eq, machine, probe, read, timer, try_insn};

/// SPIs that no device of the machine uses.
pub const SPI: u32 = 60;
const SPI_B: u32 = 61;
const SGI: u32 = 3;

pub fn run() {
    let gic = gic::get();
    gic.init();
    discovery(gic);
    bits(gic);
    life(gic);
    priorities(gic);
    sgis(gic);
    edge_and_level(gic);
    split_eoi(gic);
    waiting(gic);
    reserved(gic);
    gic.init();
}

fn discovery(gic: Gic) {
    let typer = read32(gic.dist() + dist::TYPER);
    let spis = ((typer & 0x1f) + 1) * 32;
    check!((64..=1024).contains(&spis), "GICD_TYPER: at least one word of SPIs");
    if !gic.is_v3() {
        check_eq!(u64::from(typer >> 5 & 7) + 1, machine::get().cpus, "GICD_TYPER: CPU count");
    }
    check_eq!(typer >> 10 & 1, 0, "GICD_TYPER: one security state");
    let pidr2 = gic.dist() + if gic.is_v3() { 0xffe8 } else { 0xfe8 };
    check_eq!(read32(pidr2) >> 4 & 0xf, if gic.is_v3() { 3 } else { 2 }, "PIDR2: architecture");
    check!(probe::load32(gic.dist() + dist::IIDR).is_ok(), "GICD_IIDR is readable");
}

fn bits(gic: Gic) {
    for (name, set, clear) in [
        ("enable", dist::ISENABLER, dist::ICENABLER),
        ("pending", dist::ISPENDR, dist::ICPENDR),
        ("active", dist::ISACTIVER, dist::ICACTIVER),
    ] {
        let (set, clear) = (gic.bit_reg(set, SPI), gic.bit_reg(clear, SPI));
        let bit = 1 << (SPI % 32);
        write32(set, bit);
        let on = (read32(set) & bit, read32(clear) & bit);
        write32(set, 0);
        let still = read32(set) & bit;
        write32(clear, bit);
        let off = read32(set) & bit;
        check_eq!((on, still, off), ((bit, bit), bit, 0), "{name}: set by one, cleared by one");
    }
    let word = gic.frame(SPI) + dist::IPRIORITYR + u64::from(SPI & !3);
    write32(word, 0xf0e0_1000);
    check_eq!(read32(word) & 0xf0f0_f0f0, 0xf0e0_1000, "priorities: a word access writes four");
    let bytes = [0, 1, 2, 3].map(|i| probe::load8(word + i).map(|b| b & 0xf0));
    check_eq!(bytes, [Ok(0), Ok(0x10), Ok(0xe0), Ok(0xf0)], "priorities: byte accesses read one");
    let _ = probe::store8(word + 2, 0xa0);
    check_eq!(read32(word) & 0xf0f0_f0f0, 0xf0a0_1000, "priorities: a byte access writes one");
    write32(word, 0);
    let config = gic.frame(SPI) + dist::ICFGR + u64::from(SPI / 16 * 4);
    gic.set_edge(SPI, true);
    let edge = read32(config) >> (SPI % 16 * 2) & 2;
    gic.set_edge(SPI, false);
    let level = read32(config) >> (SPI % 16 * 2) & 2;
    check_eq!((edge, level), (2, 0), "configuration: an SPI is edge or level");
    let sgi_config = read32(gic.frame(0) + dist::ICFGR);
    check_eq!(sgi_config & 0xaaaa_aaaa, 0xaaaa_aaaa, "configuration: SGIs are edge-triggered");
}

fn life(gic: Gic) {
    gic.set_edge(SPI, true);
    gic.set_priority(SPI, 0x80);
    gic.route_here(SPI);
    check!(!gic::irq_line(), "no interrupt pends at first");
    check!(gic.ack() & 0x3ff >= SPURIOUS, "acknowledging nothing gives a special INTID");
    gic.pend(SPI);
    check!(!gic::irq_line(), "a disabled interrupt is not signalled");
    gic.enable(SPI);
    check!(gic::irq_line(), "an enabled pending interrupt is signalled");
    check_eq!(gic.highest() & 0x3ff, SPI, "it is the highest pending");
    check!(gic.is_pending(SPI) && !gic.is_active(SPI), "pending, not active");
    check_eq!(gic.running() & 0xff, 0xff, "running priority is idle");
    let iar = gic.ack();
    check_eq!(iar & 0x3ff, SPI, "the acknowledge register names it");
    check!(gic.is_active(SPI) && !gic.is_pending(SPI), "then it is active, not pending");
    check_eq!(gic.running() & 0xf0, 0x80, "running priority is its own");
    check!(!gic::irq_line(), "the line is low while it is active");
    gic.pend(SPI);
    check!(gic.is_active(SPI) && gic.is_pending(SPI), "it can be pending and active");
    check!(!gic::irq_line(), "but is not signalled again before its end");
    gic.eoi(iar);
    check!(!gic.is_active(SPI), "the end of interrupt deactivates it");
    check!(gic::irq_line(), "the second one is signalled after the end");
    gic.unpend(SPI);
    check!(!gic::irq_line(), "clearing the pending bit takes it back");
    check_eq!(gic.running() & 0xff, 0xff, "running priority is idle again");
    // The real way: an exception.
    gic::forget();
    gic.pend(SPI);
    gic::window();
    check_eq!(
        (gic::seen().count, gic::seen().last),
        (1, SPI),
        "unmasked, it arrives at the vector"
    );
    gic.disable(SPI);
    gic.pend(SPI);
    gic::window();
    check_eq!(gic::seen().count, 1, "disabled, it does not");
    gic.unpend(SPI);
}

fn priorities(gic: Gic) {
    for (intid, priority) in [(SPI, 0xa0), (SPI_B, 0x40)] {
        gic.set_edge(intid, true);
        gic.set_priority(intid, priority);
        gic.route_here(intid);
        gic.enable(intid);
        gic.pend(intid);
    }
    gic::forget();
    gic::window();
    let expected = u64::from(SPI_B) << 8 | u64::from(SPI);
    check_eq!(gic::seen().order, expected, "the higher priority comes first");
    gic.set_mask(0x80);
    check_eq!(gic.mask() & 0xf0, 0x80, "the priority mask reads back");
    gic.pend(SPI);
    check!(!gic::irq_line(), "the mask holds back a lower priority");
    gic.pend(SPI_B);
    check!(gic::irq_line(), "and lets a higher one through");
    let iar = gic.ack();
    check_eq!(iar & 0x3ff, SPI_B, "which is acknowledged");
    gic.set_mask(0xf8);
    check!(!gic::irq_line(), "a lower priority does not pre-empt");
    gic.eoi(iar);
    check!(gic::irq_line(), "and comes when the higher one ended");
    let low = gic.ack();
    gic.pend(SPI_B);
    check!(gic::irq_line(), "a higher priority pre-empts");
    let high = gic.ack();
    check_eq!((low & 0x3ff, high & 0x3ff), (SPI, SPI_B), "nested, in that order");
    check_eq!(gic.running() & 0xf0, 0x40, "running priority is the inner one");
    gic.eoi(high);
    check_eq!(gic.running() & 0xf0, 0xa0, "then the outer one");
    gic.eoi(low);
    check_eq!(gic.running() & 0xff, 0xff, "then idle");
    // More pending than any hardware has list registers.
    gic::forget();
    for n in 0..12 {
        let intid = 40 + n;
        if intid == SPI || intid == SPI_B {
            continue;
        }
        gic.set_edge(intid, true);
        gic.set_priority(intid, (n as u8) << 4);
        gic.route_here(intid);
        gic.enable(intid);
    }
    for n in (0..12).rev() {
        gic.pend(40 + n);
    }
    gic::unmask(true);
    let all = timer::wait(100, || gic::seen().count == 12);
    gic::unmask(false);
    check!(all, "twelve interrupts at once all arrive");
    let order = 0x2c2d_2e2f_3031_3233; // the last eight of 40..51, by priority
    check_eq!(gic::seen().order, order, "in the order of their priorities");
    for n in 0..12 {
        gic.disable(40 + n);
    }
    gic.disable(SPI);
    gic.disable(SPI_B);
}

fn sgis(gic: Gic) {
    gic.enable(SGI);
    gic.set_priority(SGI, 0x50);
    gic::forget();
    gic.sgi_self(SGI);
    check!(gic.is_pending(SGI), "an SGI to oneself pends");
    gic::window();
    check_eq!((gic::seen().count, gic::seen().last), (1, SGI), "and arrives, from CPU 0");
    check!(!gic.is_pending(SGI) && !gic.is_active(SGI), "and is gone afterwards");
    for id in 0..16 {
        gic.enable(id);
        gic.set_priority(id, 0x50);
        gic.sgi_self(id);
    }
    gic::unmask(true);
    // The handler takes the doorbell, too, but does not count it.
    let all = timer::wait(100, || gic::seen().count == 16 && !gic.is_pending(gic::DOORBELL));
    gic::unmask(false);
    check!(all, "all sixteen SGIs arrive");
}

fn edge_and_level(gic: Gic) {
    // A level-sensitive interrupt pended by software stays pending until acknowledged, and no
    // device holds its line, so it must not come twice.
    gic.set_edge(SPI, false);
    gic.set_priority(SPI, 0x80);
    gic.enable(SPI);
    gic::forget();
    gic.pend(SPI);
    gic::window();
    gic::window();
    check_eq!(gic::seen().count, 1, "a software-pended level interrupt comes once");
    // The UART's line is level: it is pending as long as the condition holds.
    let uart = machine::get().uart;
    let line = 33;
    gic.route_here(line);
    gic.set_priority(line, 0x80);
    gic.enable(line);
    write32(uart + 0x38, 1 << 5); // UARTIMSC: transmit
    write32(uart, u32::from(b' '));
    write32(uart, u32::from(b'\r'));
    // Nothing may be printed meanwhile: that raises it again.
    let pends = timer::wait(100, || gic.is_pending(line));
    let line_up = timer::wait(100, gic::irq_line);
    let first = gic.ack();
    gic.eoi(first);
    let again = timer::wait(100, gic::irq_line);
    let second = gic.ack();
    write32(uart + 0x44, 1 << 5); // UARTICR
    gic.eoi(second);
    let down = timer::wait(100, || !gic::irq_line());
    let quiet = !gic.is_pending(line);
    check!(pends && line_up, "the UART's transmit interrupt pends and is signalled");
    check!(again, "not quietened, it comes again after its end");
    check_eq!((first & 0x3ff, second & 0x3ff), (line, line), "both times as SPI 1");
    check!(down && quiet, "cleared in the UART, it does not come a third time");
    write32(uart, u32::from(b'\r'));
    gic::forget();
    gic::window();
    check_eq!((gic::seen().count, gic::seen().last), (1, line), "and arrives, as SPI 1");
    check!(!gic.is_pending(line), "and is low when the UART's mask is");
    write32(uart + 0x38, 0);
    write32(uart + 0x44, 0x7ff);
    gic.disable(line);
    gic.disable(SPI);
}

fn split_eoi(gic: Gic) {
    gic.set_edge(SPI, true);
    gic.enable(SPI);
    gic.set_eoi_split(true);
    gic.pend(SPI);
    let iar = gic.ack();
    gic.eoi(iar);
    check!(gic.is_active(SPI), "EOImode 1: the end of interrupt does not deactivate");
    check_eq!(gic.running() & 0xff, 0xff, "EOImode 1: but drops the priority");
    gic.pend(SPI);
    check!(!gic::irq_line(), "EOImode 1: active still holds it back");
    gic.deactivate(iar);
    check!(!gic.is_active(SPI), "EOImode 1: DIR deactivates");
    check!(gic::irq_line(), "EOImode 1: and the next one is signalled");
    gic::forget();
    gic::window();
    check_eq!(gic::seen().count, 1, "EOImode 1: delivered once");
    gic.set_eoi_split(false);
    gic.disable(SPI);
}

fn waiting(gic: Gic) {
    gic.set_edge(SPI, true);
    gic.enable(SPI);
    gic.pend(SPI);
    let begin = timer::now();
    check!(try_insn!("wfi").is_ok(), "WFI with an interrupt pending does not wait");
    check!(timer::now() - begin < timer::ticks(500), "though PSTATE masks it");
    gic.unpend(SPI);
    gic.disable(SPI);
    check!(try_insn!("sevl\nwfe").is_ok(), "WFE after SEVL does not wait");
    check!(try_insn!("sev\nwfe").is_ok(), "WFE after SEV does not wait");
    check!(try_insn!("yield").is_ok(), "YIELD goes on");
    check_eq!(read!("isr_el1") & 0x1c0, 0, "nothing pends afterwards");
}

fn reserved(gic: Gic) {
    // Reserved space is RAZ/WI (IHI0048 4.1.2, IHI0069 12.1.3); banked words of absent SPIs too.
    let lines = (read32(gic.dist() + dist::TYPER) & 0x1f) + 1;
    for offset in [0x0cc, 0xde0] {
        let at = gic.dist() + offset;
        let _ = probe::store32(at, !0);
        check_eq!(probe::load32(at), Ok(0), "GICD+{offset:#x} is reserved: reads as zero");
    }
    if lines < 32 {
        let at = gic.dist() + dist::ISENABLER + u64::from(lines * 4);
        let _ = probe::store32(at, !0);
        check_eq!(probe::load32(at), Ok(0), "an absent SPI cannot be enabled");
    }
    for special in 1020u32..1024 {
        gic.eoi(special);
    }
    check_eq!(gic.running() & 0xff, 0xff, "ending a special INTID does nothing");
}
