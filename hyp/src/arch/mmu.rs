//! EL2's own stage 1 in force.
//!
//! Two maps exist: the early one, begun by entry.S with the image's block, and the last one, with which
//! every CPU but the first begins.

use super::boot;
use super::sysreg::{dsb_ishst, isb};
use crate::stage1::{Map, Table};

/// MAIR_EL2: attribute 0 is Device-nGnRE, 1 is Normal, write-back, allocating.
pub const MAIR: u64 = 0xff04;
/// TCR_EL2 without PS: RES1, inner shareable write-back walks, T0SZ = 16.
pub const TCR: u64 = (1 << 31) | (1 << 23) | (3 << 12) | (1 << 10) | (1 << 8) | 16;

/// Tables that entry.S begins with: three for the image, then for the device tree, the payload's
/// header and the UARTs (one for each level, two of the last two when it crosses a boundary).
pub static EARLY: [Table; EARLY_TABLES] = [const { Table::empty() }; EARLY_TABLES];
const EARLY_TABLES: usize = 16;
/// Tables that entry.S has used.
const EARLY_USED: usize = 3;

/// Each end of a RAM region or device can cost one table of each lower level.
pub static LAST: [Table; LAST_TABLES] = [const { Table::empty() }; LAST_TABLES];
const LAST_TABLES: usize = 128;

/// The tables in use since entry.S. Call once.
pub fn early() -> Map {
    Map::new(&EARLY, EARLY_USED)
}

/// An empty map. Call once.
pub fn last() -> Map {
    Map::new(&LAST, 1)
}

/// What was added to the map in use can be accessed.
pub fn publish() {
    dsb_ishst();
    isb();
}

/// Puts `map` in place of the early one, and turns WXN on.
///
/// # Safety
/// It maps what EL2 uses from now on: the image, both stacks, RAM, its devices.
pub unsafe fn activate(map: &Map) {
    unsafe extern "C" {
        fn hyp_switch_tables(ttbr0: u64, sctlr: u64);
    }
    // SAFETY:
    // 1. The routine is in the image's text, uses no memory and runs with the MMU off for a moment,
    //    at virtual = physical (boot/entry.S).
    // 2. The caller vouches for the new map.
    unsafe { hyp_switch_tables(map.root(), boot::SCTLR_FINAL) };
}
