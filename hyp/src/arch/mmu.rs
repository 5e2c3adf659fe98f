//! EL2's own stage 1: virtual = physical, 48 bits, 4 KiB granule (DDI0487 D8).
//!
//! Knows: a fixed store of table pages and how to map ranges with the largest leaves. Two sets exist:
//! [`Map::early`], begun by entry.S with the image's block, lives until [`Map::activate`] of the
//! final one. A map only ever grows; nothing is unmapped, so no TLB maintenance is needed but at
//! activation.
//!
//! Invariants:
//! - I1: no leaf is both writable and executable, but the early one of the image.
//! - I2: a table descriptor points into the same store.

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{SCTLR_EL2, TTBR0_EL2};
use tock_registers::interfaces::Readable;

use super::boot;
use super::sysreg::{dsb_ishst, isb};

/// Attribute 0 is Device-nGnRE, 1 is Normal, write-back, allocating.
pub const MAIR: u64 = 0xff04;
/// TCR_EL2 without PS: RES1, inner shareable write-back walks, T0SZ = 16.
pub const TCR: u64 = (1 << 31) | (1 << 23) | (3 << 12) | (1 << 10) | (1 << 8) | 16;
/// The image's block until the final map: Normal, writable and executable.
pub const EARLY_BLOCK: u64 = leaf_bits(Kind::Text) & !READ_ONLY | BLOCK;

const VALID: u64 = 1;
const BLOCK: u64 = 0b01;
const TABLE_OR_PAGE: u64 = 0b11;
const READ_ONLY: u64 = 1 << 7;
const NEVER_EXECUTE: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const PAGE: u64 = 4096;
const LAST_LEVEL: u32 = 3;

/// How a range is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Executable, read-only.
    Text,
    /// Read-only.
    RoData,
    /// Writable.
    Data,
    /// Device registers, writable.
    Device,
}

const fn leaf_bits(kind: Kind) -> u64 {
    const NORMAL: u64 = 1 << 2 | 3 << 8; // attribute 1, inner shareable
    let common = 1 << 10 | 1 << 6; // AF; AP[1] is RES1 at EL2
    common
        | match kind {
            Kind::Text => NORMAL | READ_ONLY,
            Kind::RoData => NORMAL | READ_ONLY | NEVER_EXECUTE,
            Kind::Data => NORMAL | NEVER_EXECUTE,
            Kind::Device => NEVER_EXECUTE,
        }
}

/// One translation table.
#[repr(C, align(4096))]
pub struct Table([AtomicU64; 512]);

impl Table {
    const fn empty() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }
}

/// Tables that entry.S begins with: three for the image, then for the device tree (one for each
/// level, two of the last two when it crosses a boundary) and the UART.
pub static EARLY: [Table; EARLY_TABLES] = [const { Table::empty() }; EARLY_TABLES];
const EARLY_TABLES: usize = 16;
/// Tables that entry.S has used.
const EARLY_USED: usize = 3;

/// Each end of a RAM region or device can cost one table of each lower level.
static FINAL: [Table; FINAL_TABLES] = [const { Table::empty() }; FINAL_TABLES];
const FINAL_TABLES: usize = 128;

/// Why a range could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No table is left.
    NoTable,
    /// Part of it is mapped already, differently.
    Overlap,
    /// Not whole pages, or beyond 48 bits.
    Range,
}

/// A set of tables; the first is the root.
pub struct Map {
    tables: &'static [Table],
    used: usize,
}

impl Map {
    /// The tables in use since entry.S. Call once.
    pub fn early() -> Self {
        Self { tables: &EARLY, used: EARLY_USED }
    }

    /// An empty set. Call once.
    pub fn last() -> Self {
        Self { tables: &FINAL, used: 1 }
    }

    /// Maps `start..end`, which may be empty; a range that is mapped already in the same way is no error. In the map
    /// in use the range can be accessed at once.
    pub fn add(&mut self, (start, end): (u64, u64), kind: Kind) -> Result<(), MapError> {
        if !start.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) || end > 1 << 48 {
            return Err(MapError::Range);
        }
        let tables = self.tables;
        let root = tables.first().ok_or(MapError::NoTable)?;
        self.fill(root, 0, start, end, leaf_bits(kind))?;
        dsb_ishst();
        isb();
        Ok(())
    }

    /// Fills the part of `table` (of `level`) that translates `start..end`.
    fn fill(
        &mut self,
        table: &'static Table,
        level: u32,
        start: u64,
        end: u64,
        bits: u64,
    ) -> Result<(), MapError> {
        let shift = 39 - 9 * level;
        let size = 1 << shift;
        let mut at = start;
        while at < end {
            let next = (at / size + 1).saturating_mul(size).min(end);
            let slot = table.0.get((at >> shift) as usize % 512).ok_or(MapError::Range)?;
            let old = slot.load(Ordering::Relaxed);
            let whole = next - at == size;
            let leaf_level = level != 0 && (level == LAST_LEVEL || whole);
            if leaf_level && old & TABLE_OR_PAGE != TABLE_OR_PAGE || level == LAST_LEVEL {
                let kind = if level == LAST_LEVEL { TABLE_OR_PAGE } else { BLOCK };
                let new = at | bits | kind;
                if old & VALID != 0 && old != new {
                    return Err(MapError::Overlap);
                }
                slot.store(new, Ordering::Relaxed);
            } else {
                let below = self.descend(slot, old)?;
                self.fill(below, level + 1, at, next, bits)?;
            }
            at = next;
        }
        Ok(())
    }

    /// The table that `slot` points to, made if there is none.
    fn descend(&mut self, slot: &AtomicU64, old: u64) -> Result<&'static Table, MapError> {
        let first = self.tables.as_ptr() as u64;
        if old & TABLE_OR_PAGE == TABLE_OR_PAGE {
            let n = ((old & ADDRESS) - first) / PAGE;
            return self.tables.get(n as usize).ok_or(MapError::NoTable);
        }
        if old & VALID != 0 {
            return Err(MapError::Overlap);
        }
        let table = self.tables.get(self.used).ok_or(MapError::NoTable)?;
        self.used += 1;
        // The table is empty already; a walker that sees the descriptor sees zeros.
        dsb_ishst();
        slot.store(table as *const Table as u64 | TABLE_OR_PAGE, Ordering::Relaxed);
        Ok(table)
    }

    /// Puts this map in place of the early one, and turns WXN on.
    ///
    /// # Safety
    /// It maps what EL2 uses from now on: the image, both stacks, RAM, its devices.
    pub unsafe fn activate(self) {
        unsafe extern "C" {
            fn hyp_switch_tables(ttbr0: u64, sctlr: u64);
        }
        let root = self.tables.as_ptr() as u64;
        // SAFETY:
        // 1. The routine is in the image's text, uses no memory and runs with the MMU off for a
        //    moment, at virtual = physical (boot/entry.S).
        // 2. The caller vouches for the new map.
        unsafe { hyp_switch_tables(root, boot::SCTLR_FINAL) };
        debug_assert!(TTBR0_EL2.get() == root && SCTLR_EL2.get() & 1 == 1);
    }
}
