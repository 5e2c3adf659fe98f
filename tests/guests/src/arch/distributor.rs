//! The distributor from all sides: words that are read-only, priority bits that exist, bytes, what
//! lies past the last interrupt; and active states that software sets and ends itself.

use crate::arch::interrupts::SPI;
use crate::console::{read32, write32};
use crate::gic::{self, Gic, dist};
use crate::{check, check_eq, machine, probe};

const SGI: u32 = 1;
const FIRST_SPI: u64 = 32;

pub fn run() {
    let gic = gic::get();
    gic.init();
    constants(gic);
    priorities(gic);
    targets(gic);
    configuration(gic);
    ended_by_hand(gic);
    made_by_hand(gic);
    gic.init();
}

/// Whether no write changes the word there.
fn is_constant(at: u64) -> bool {
    let old = read32(at);
    [!0, 0xa5a5_5a5a, 0].into_iter().all(|pattern| {
        write32(at, pattern);
        read32(at) == old
    })
}

fn is_absent(at: u64) -> bool {
    read32(at) == 0 && is_constant(at)
}

/// How many interrupts GICD_TYPER promises, the private ones included.
fn interrupts(gic: Gic) -> u64 {
    u64::from((read32(gic.dist() + dist::TYPER) & 0x1f) + 1) * 32
}

fn constants(gic: Gic) {
    let pidr2 = if gic.is_v3() { 0xffe8 } else { 0xfe8 };
    let dist_words = [("GICD_TYPER", dist::TYPER), ("GICD_IIDR", dist::IIDR), ("PIDR2", pidr2)];
    for (name, offset) in dist_words {
        check!(is_constant(gic.dist() + offset), "{name} is read-only");
    }
    if gic.is_v3() {
        for (name, offset) in [("GICR_IIDR", 4), ("GICR_TYPER", 8), ("GICR_PIDR2", 0xffe8)] {
            check!(is_constant(gic.local() + offset), "{name} is read-only");
        }
    } else {
        check!(is_constant(gic.local() + 0xfc), "GICC_IIDR is read-only");
    }
}

fn priorities(gic: Gic) {
    let count = interrupts(gic);
    for (name, at) in [
        ("SGI", gic.frame(0) + dist::IPRIORITYR),
        ("SPI", gic.dist() + dist::IPRIORITYR + FIRST_SPI),
        ("last", gic.dist() + dist::IPRIORITYR + count.min(1020) - 4),
    ] {
        write32(at, !0);
        let mask = read32(at);
        let [one, rest @ ..] = mask.to_le_bytes();
        check!(
            one.leading_ones() >= 4 && one.count_ones() == one.leading_ones(),
            "priorities ({name}): at least the upper four bits of each exist"
        );
        check_eq!(rest, [one; 3], "priorities ({name}): the same bits of all");
        write32(at, 0);
        check_eq!(read32(at), 0, "priorities ({name}): all of them can be cleared");
        write32(at, 0xff7f_bf3f);
        check_eq!(read32(at), 0xff7f_bf3f & mask, "priorities ({name}): each keeps its own");
        let byte = u64::from(0xbf & mask >> 8 & 0xff);
        check_eq!(probe::load8(at + 1), Ok(byte), "priorities ({name}): a byte reads alone");
        let _ = probe::store8(at + 2, 0x1f);
        check_eq!(read32(at), 0xff1f_bf3f & mask, "priorities ({name}): a byte writes alone");
        write32(at, 0);
    }
    if count < 1020 {
        let beyond = gic.dist() + dist::IPRIORITYR + count;
        check!(is_absent(beyond), "priorities past the last SPI are RAZ/WI");
    }
}

/// IHI0048 4.3.12: a bit for each CPU there is; nothing at all where there is one CPU only.
fn targets(gic: Gic) {
    if gic.is_v3() {
        let at = gic.dist() + dist::ITARGETSR + FIRST_SPI;
        check!(is_absent(at), "GICD_ITARGETSR is RAZ/WI with affinity routing");
        return;
    }
    let cpus = match machine::get().cpus {
        1 => 0,
        several => (1u32 << several.min(8)) - 1,
    };
    let mask = cpus * 0x0101_0101;
    let at = gic.dist() + dist::ITARGETSR + FIRST_SPI;
    write32(at, 0x0103_020f);
    check_eq!(read32(at), 0x0103_020f & mask, "targets: the bits of CPUs that exist are kept");
    check_eq!(probe::load8(at + 1), Ok(u64::from(2 & cpus)), "targets: a byte reads alone");
    let _ = probe::store8(at + 2, 0x1f);
    check_eq!(read32(at), 0x011f_020f & mask, "targets: a byte writes alone");
    write32(at, mask & 0x0101_0101);
    let count = interrupts(gic);
    if count < 1020 {
        let beyond = gic.dist() + dist::ITARGETSR + count;
        check!(is_absent(beyond), "targets past the last SPI are RAZ/WI");
    }
}

fn configuration(gic: Gic) {
    check!(is_constant(gic.frame(0) + dist::ICFGR), "the configuration of SGIs is fixed");
    if !gic.is_v3() {
        gic.pend(SGI);
        check!(!gic.is_pending(SGI), "GICD_ISPENDR does not pend SGIs (IHI0048 4.3.7)");
        return;
    }
    gic.enable(SGI);
    gic.pend(SGI);
    gic::forget();
    gic::window();
    check_eq!((gic::seen().count, gic::seen().last), (1, SGI), "GICR_ISPENDR0 pends SGIs");
}

/// Deactivation by ICACTIVER: the state is gone, the running priority is not.
fn ended_by_hand(gic: Gic) {
    gic.enable(SGI);
    gic.set_priority(SGI, 0x50);
    gic.sgi_self(SGI);
    let iar = gic.ack();
    check_eq!(iar, SGI, "an SGI to oneself is acknowledged, from CPU 0");
    write32(gic.bit_reg(dist::ICACTIVER, SGI), 1 << SGI);
    check!(!gic.is_active(SGI), "ICACTIVER ends an active SGI");
    check_eq!(gic.running() & 0xf0, 0x50, "but its priority still runs");
    gic.sgi_self(SGI);
    check!(gic.is_pending(SGI) && !gic::irq_line(), "and holds the next one back");
    gic.eoi(iar);
    check_eq!(gic.running() & 0xff, 0xff, "until the end of interrupt");
    check!(gic::irq_line(), "then the next one is signalled");
    gic::forget();
    gic::window();
    check_eq!((gic::seen().count, gic::seen().last), (1, SGI), "and arrives, once");
    check!(!gic.is_active(SGI) && !gic.is_pending(SGI), "and is over");
    gic.disable(SGI);
}

/// An active state that ISACTIVER made holds the interrupt back as a real one does.
fn made_by_hand(gic: Gic) {
    gic.set_edge(SPI, true);
    gic.set_priority(SPI, 0x80);
    gic.route_here(SPI);
    gic.enable(SPI);
    write32(gic.bit_reg(dist::ISACTIVER, SPI), 1 << (SPI % 32));
    gic.pend(SPI);
    check!(gic.is_active(SPI) && gic.is_pending(SPI), "ISACTIVER makes an SPI active");
    check!(!gic::irq_line(), "which is not signalled then");
    write32(gic.bit_reg(dist::ICACTIVER, SPI), 1 << (SPI % 32));
    check!(gic::irq_line(), "but after ICACTIVER");
    gic::forget();
    gic::window();
    check_eq!((gic::seen().count, gic::seen().last), (1, SPI), "and arrives, once");
    gic.disable(SPI);
}
