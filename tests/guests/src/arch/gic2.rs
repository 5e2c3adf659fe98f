//! What only a GICv2 has (IHI0048).

use crate::console::{read32, write32};
use crate::gic::{self, dist};
use crate::{check, check_eq, machine, probe};

pub fn run() {
    let gic = gic::get();
    gic.init();
    let cpu = gic.local();
    let iidr = read32(cpu + 0xfc);
    check!(iidr >> 16 & 0xf == 2 || iidr == 0x43b, "GICC_IIDR says architecture 2");
    // One CPU: all targets read as zero, or as CPU 0.
    let targets = read32(gic.dist() + dist::ITARGETSR);
    check!(matches!(targets, 0 | 0x0101_0101), "GICD_ITARGETSR0 names this CPU");
    write32(gic.dist() + dist::ITARGETSR, 0xffff_ffff);
    check_eq!(read32(gic.dist() + dist::ITARGETSR), targets, "and is read-only");
    if machine::get().cpus > 1 {
        let at = gic.dist() + dist::ITARGETSR + 40;
        write32(at, 0x0101_0101);
        check_eq!(read32(at), 0x0101_0101, "SPI targets are writable");
    }
    write32(cpu + 0x8, 3);
    check_eq!(read32(cpu + 0x8) & 7, 3, "GICC_BPR keeps 3");
    write32(cpu + 0x8, 0);
    check!(read32(cpu + 0x8) & 7 <= 3, "GICC_BPR has a minimum");
    // The three ways to send an SGI, and its source.
    gic.enable(5);
    gic::forget();
    write32(gic.dist() + dist::SGIR, 1 << 16 | 5);
    gic::window();
    check_eq!((gic::seen().count, gic::seen().last), (1, 5), "GICD_SGIR by target list");
    write32(gic.dist() + dist::SGIR, 1 << 24 | 5);
    gic::window();
    check_eq!(gic::seen().count, 1, "GICD_SGIR to all others reaches nobody here");
    check!(
        probe::store8(gic.dist() + dist::SPENDSGIR + 5, 1).is_ok(),
        "GICD_SPENDSGIR is writable"
    );
    check_eq!(probe::load8(gic.dist() + dist::CPENDSGIR + 5), Ok(1), "the SGI pends from CPU 0");
    let _ = probe::store8(gic.dist() + dist::CPENDSGIR + 5, 1);
    check!(!gic.is_pending(5), "GICD_CPENDSGIR takes it back");
    let _ = probe::store8(gic.dist() + dist::SPENDSGIR + 5, 1);
    gic::window();
    check_eq!((gic::seen().count, gic::seen().last), (2, 5), "or it is delivered");
    // The enable bits of both interfaces.
    gic.enable(6);
    gic.sgi_self(6);
    write32(cpu, 0);
    check!(!gic::irq_line(), "a disabled CPU interface signals nothing");
    write32(cpu, 1);
    write32(gic.dist() + dist::CTLR, 0);
    check!(!gic::irq_line(), "a disabled distributor forwards nothing");
    write32(gic.dist() + dist::CTLR, 1);
    check!(gic::irq_line(), "and nothing is lost");
    gic::window();
    check_eq!(gic::seen().last, 6, "it arrives");
}
