//! Accesses of every size to the GIC's registers (IHI0048 4.1.4, IHI0069 12.1.3): bytes where they
//! are allowed; where a size is not, an abort, nothing, or just the bytes named. Never more.

use crate::gic::{self, dist};
use crate::probe::{self, Outcome};
use crate::{check, check_eq};

const SPI: u64 = 96;

pub fn run() {
    let gic = gic::get();
    let at = gic.dist() + dist::IPRIORITYR + SPI;
    let _ = probe::store32(at, 0);
    for byte in 0..4 {
        let _ = probe::store8(at + byte, 0x10 << byte);
    }
    check_eq!(probe::load32(at), Ok(0x8040_2010), "priorities: four bytes make a word");
    let bytes: [Outcome; 4] = core::array::from_fn(|byte| probe::load8(at + byte as u64));
    check_eq!(bytes, [Ok(0x10), Ok(0x20), Ok(0x40), Ok(0x80)], "priorities: and it has four bytes");
    let signed = probe::load8s(at + 3);
    check_eq!(signed, Ok(0xffff_ffff_ffff_ff80), "priorities: a byte can be loaded signed");
    odd("priorities", at, 0x8040_2010, 0x1010_1010);
    let _ = probe::store32(at, 0);
    let set = gic.dist() + dist::ISENABLER + SPI / 8;
    let clear = gic.dist() + dist::ICENABLER + SPI / 8;
    let _ = probe::store32(clear, !0);
    let _ = probe::store32(set, 0x0102_0408);
    check_eq!(probe::load32(clear), Ok(0x0102_0408), "enables: what a word sets is set");
    odd("enables", set, 0x0102_0408, 0x1010_1010);
    let _ = probe::store32(clear, !0);
    check_eq!(probe::load32(set), Ok(0), "enables: what a word clears is clear");
    let config = gic.dist() + dist::ICFGR + SPI / 4;
    let _ = probe::store32(config, 0x0202_0202);
    odd("configuration", config, 0x0202_0202, 0x2020_2020);
    let _ = probe::store32(config, 0);
    odd("GICD_TYPER", gic.dist() + dist::TYPER, word(gic.dist() + dist::TYPER), 0);
    if gic.is_v3() {
        let route = gic.dist() + dist::IROUTER + 8 * SPI;
        let _ = probe::store64(route, 0);
        let _ = probe::store32(route, 1);
        check_eq!(probe::load64(route), Ok(1), "GICD_IROUTER: the lower word alone");
        let _ = probe::store32(route + 4, 0);
        check_eq!(probe::load64(route), Ok(1), "GICD_IROUTER: the upper word alone");
        let _ = probe::store64(route, 0);
        let typer = gic.local() + 8;
        let whole = probe::load64(typer).unwrap_or(0);
        check!(
            [probe::load32(typer), probe::load32(typer + 4)]
                == [Ok(whole & 0xffff_ffff), Ok(whole >> 32)],
            "GICR_TYPER: in two words or one doubleword"
        );
        odd("GICR_ISENABLER0", gic.frame(0) + dist::ISENABLER, 0, 0);
    } else {
        let targets = gic.dist() + dist::ITARGETSR + SPI;
        let _ = probe::store32(targets, 0x0101_0101);
        odd("targets", targets, word(targets), 0);
        odd("GICC_PMR", gic.local() + 4, 0xf8, 0);
        gic.set_mask(0xf8);
    }
}

fn word(at: u64) -> u64 {
    probe::load32(at).unwrap_or(0)
}

/// Loads and stores of other sizes at a word that reads as `value`; `extra` are bits that a store
/// may add where it is not refused.
fn odd(name: &str, at: u64, value: u64, extra: u64) {
    let masked = |outcome: Outcome, mask: u64| {
        outcome.is_err() || outcome.is_ok_and(|got| got == 0 || got == value & mask)
    };
    let mut right = value == 0 || masked(probe::load8(at), 0xff);
    right &= value == 0 || masked(probe::load16(at), 0xffff);
    let double = probe::load64(at);
    let low = |got: u64| got & 0xffff_ffff;
    right &= value == 0 || double.is_err() || double.is_ok_and(|g| [0, value].contains(&low(g)));
    check!(right, "{name}: a load of another size aborts, reads as zero or as what is there");
    let _ = probe::store8(at, extra & 0xff);
    let _ = probe::store16(at + 2, extra >> 16);
    let _ = probe::load_pair(at);
    let now = word(at);
    let bytes = |one: u64, other: u64, byte: u32| {
        let pick = |w: u64| w >> (8 * byte) & 0xff;
        [pick(one), pick(other), pick(one | other)].contains(&pick(now))
    };
    let kept =
        (0..4).all(|byte| bytes(value, extra, byte)) && (value != 0 || now == 0 || extra != 0);
    check!(kept || value == 0, "{name}: a store of another size does nothing, or its bytes only");
}
