//! What only a GICv3 has (IHI0069).

use crate::arch::interrupts::SPI;
use crate::console::{read32, write32};
use crate::gic::{self, dist};
use crate::{check, check_eq, machine, probe, read, timer, try_read, write};

pub fn run() {
    let gic = gic::get();
    gic.init();
    let (dist, redist) = (gic.dist(), gic.local());
    check_eq!(read!("icc_sre_el1") & 1, 1, "ICC_SRE_EL1.SRE is on");
    write!("icc_sre_el1", 0);
    check_eq!(read!("icc_sre_el1") & 1, 1, "and cannot be switched off");
    check!(read32(dist) & 1 << 6 != 0, "GICD_CTLR.DS: one security state");
    check!(read32(dist) & 1 << 4 != 0, "GICD_CTLR.ARE is on");
    check_eq!(read32(dist) >> 31, 0, "GICD_CTLR.RWP comes down");
    redistributor(dist, redist);
    let spi_route = dist + dist::IROUTER + 8 * u64::from(SPI);
    let me = read!("mpidr_el1") & 0xff_00ff_ffff;
    let _ = probe::store64(spi_route, me);
    check_eq!(probe::load64(spi_route), Ok(me), "GICD_IROUTER takes a doubleword");
    let _ = probe::store32(spi_route, 0x1_0203);
    let _ = probe::store32(spi_route + 4, 0);
    check_eq!(probe::load32(spi_route), Ok(0x1_0203), "and two words");
    let _ = probe::store64(spi_route, me);
    let ctlr = read!("icc_ctlr_el1");
    check!(ctlr >> 8 & 7 >= 3, "ICC_CTLR_EL1: at least four priority bits");
    interface();
    sgi();
    groups();
    // One of N: an SPI routed to "any" comes to this CPU.
    gic.init();
    gic.set_edge(SPI, true);
    let _ = probe::store64(spi_route, 1 << 31);
    gic.enable(SPI);
    gic.pend(SPI);
    gic::forget();
    gic::window();
    let one_of_n = read32(dist + dist::TYPER) & 1 << 25 == 0;
    check_eq!(
        gic::seen().count == 1,
        one_of_n || gic::seen().count == 1,
        "an SPI routed to any CPU"
    );
    gic.unpend(SPI);
    gic.disable(SPI);
    gic.init();
}

fn redistributor(dist: u64, redist: u64) {
    let typer = probe::load64(redist + 8).unwrap_or(0);
    let me = read!("mpidr_el1");
    let affinity = me & 0xff_ffff | (me >> 32 & 0xff) << 24;
    check_eq!(typer >> 32, affinity, "GICR_TYPER: affinity of this CPU");
    check_eq!(
        [probe::load32(redist + 8), probe::load32(redist + 12)],
        [Ok(typer & 0xffff_ffff), Ok(typer >> 32)],
        "GICR_TYPER: the halves agree with the whole"
    );
    if machine::get().cpus == 1 {
        check!(typer & 1 << 4 != 0, "GICR_TYPER: the only one is the last");
    }
    for (name, base) in [("GICR", redist), ("GICD", dist)] {
        check_eq!(read32(base + 0xffe8) >> 4 & 0xf, 3, "{name}_PIDR2: GICv3");
        let cid = [0xfff0, 0xfff4, 0xfff8, 0xfffc].map(|o| read32(base + o) & 0xff);
        // Recommended, not required (IHI0069 12.1.6): nothing, or the right thing.
        check!(
            cid == [0; 4] || cid == [0x0d, 0xf0, 0x05, 0xb1],
            "{name}_CIDR: the CoreSight preamble, if anything"
        );
    }
    write32(redist + 0x14, 0);
    check!(
        timer::wait(100, || read32(redist + 0x14) & 1 << 2 == 0),
        "GICR_WAKER: the children awake"
    );
    check_eq!(read32(redist) & 1 << 3, 0, "GICR_CTLR.RWP is down");
    let sgi = redist + 0x1_0000;
    write32(sgi + dist::IGROUPR, !0);
    check_eq!(read32(sgi + dist::IGROUPR), !0, "GICR_IGROUPR0: all in group 1");
    check!(probe::load32(sgi + 0xc04).is_ok(), "GICR_ICFGR1 is readable");
    let _ = probe::store32(sgi + 0xd00, !0);
    check!(probe::load32(sgi + 0xd00).is_ok(), "GICR_IGRPMODR0 answers");
    // In the distributor the banked words are reserved when ARE is on.
    check_eq!(probe::load32(dist + dist::ISENABLER), Ok(0), "GICD_ISENABLER0 reads as zero");
}

fn interface() {
    for (name, outcome) in [
        ("ICC_PMR_EL1", try_read!("icc_pmr_el1")),
        ("ICC_BPR0_EL1", try_read!("icc_bpr0_el1")),
        ("ICC_BPR1_EL1", try_read!("icc_bpr1_el1")),
        ("ICC_IGRPEN0_EL1", try_read!("icc_igrpen0_el1")),
        ("ICC_IGRPEN1_EL1", try_read!("icc_igrpen1_el1")),
        ("ICC_AP0R0_EL1", try_read!("icc_ap0r0_el1")),
        ("ICC_AP1R0_EL1", try_read!("icc_ap1r0_el1")),
        ("ICC_RPR_EL1", try_read!("icc_rpr_el1")),
        ("ICC_HPPIR0_EL1", try_read!("icc_hppir0_el1")),
        ("ICC_HPPIR1_EL1", try_read!("icc_hppir1_el1")),
        ("ICC_IAR0_EL1", try_read!("icc_iar0_el1")),
    ] {
        check!(outcome.is_ok(), "{name} is readable");
    }
    write!("icc_igrpen1_el1", 0);
    let gic = gic::get();
    gic.enable(7);
    gic.sgi_self(7);
    check!(!gic::irq_line(), "a disabled group is not signalled");
    write!("icc_igrpen1_el1", 1);
    check!(gic::irq_line(), "and is, once enabled");
    gic::window();
    write!("icc_bpr1_el1", 5);
    check_eq!(read!("icc_bpr1_el1") & 7, 5, "ICC_BPR1_EL1 keeps 5");
    write!("icc_bpr1_el1", 0);
}

fn sgi() {
    let gic = gic::get();
    gic.enable(9);
    gic::forget();
    write!("icc_sgi1r_el1", 1 << 40 | 9 << 24);
    gic::window();
    check_eq!(gic::seen().count, 0, "ICC_SGI1R_EL1 to all others reaches nobody here");
    write!("icc_sgi1r_el1", 9 << 24);
    gic::window();
    check_eq!(gic::seen().count, 0, "ICC_SGI1R_EL1 with an empty list reaches nobody");
    write!("icc_sgi1r_el1", 1 << 16 | 1 | 9 << 24);
    gic::window();
    check_eq!(gic::seen().count, 0, "ICC_SGI1R_EL1 to an absent cluster reaches nobody");
    gic.sgi_self(9);
    gic::window();
    check_eq!((gic::seen().count, gic::seen().last), (1, 9), "ICC_SGI1R_EL1 to oneself");
}

fn groups() {
    let gic = gic::get();
    let group = gic.bit_reg(dist::IGROUPR, SPI);
    gic.set_edge(SPI, true);
    gic.route_here(SPI);
    gic.set_priority(SPI, 0x60);
    write32(group, read32(group) & !(1 << (SPI % 32)));
    check_eq!(read32(group) >> (SPI % 32) & 1, 0, "an SPI can be put into group 0");
    write32(gic.dist() + dist::CTLR, 1 << 4 | 1 << 1 | 1);
    write!("icc_igrpen0_el1", 1);
    gic.enable(SPI);
    gic.pend(SPI);
    check_eq!(read!("isr_el1") & 0xc0, 0x40, "a group 0 interrupt is signalled as FIQ");
    check!(gic.ack() & 0x3ff >= 1020, "group 1's acknowledge register does not name it");
    gic::forget();
    gic::window();
    check_eq!(
        (gic::seen().count, gic::seen().fiqs, gic::seen().last),
        (1, 1, SPI),
        "and arrives at the FIQ vector"
    );
    gic.disable(SPI);
    write!("icc_igrpen0_el1", 0);
    gic.init();
}
