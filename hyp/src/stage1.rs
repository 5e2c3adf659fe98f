//! Tables of EL2's own stage 1: virtual = physical, 48 bits, 4 KiB granule (DDI0487 D8).
//!
//! Knows descriptors and how to map a range with the largest leaves, out of a fixed store of tables.
//! Must not know registers: `arch::mmu` puts a map in force. A map only grows; nothing is unmapped.
//!
//! Invariants:
//! - I1: no leaf is both writable and executable.
//! - I2: a table descriptor points into the same store.

use core::sync::atomic::{AtomicU64, Ordering};

const VALID: u64 = 1;
const BLOCK: u64 = 0b01;
const TABLE_OR_PAGE: u64 = 0b11;
const READ_ONLY: u64 = 1 << 7;
const NEVER_EXECUTE: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const PAGE: u64 = 4096;
const ENTRIES: usize = 512;
const LAST_LEVEL: u32 = 3;

/// The one exception to I1: the block that entry.S maps the image with, until there is a map.
pub const WRITABLE_CODE: u64 = leaf_bits(Kind::Text) & !READ_ONLY | BLOCK;

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
    const COMMON: u64 = 1 << 10 | 1 << 6; // AF; AP[1] is RES1 at EL2
    const NORMAL: u64 = COMMON | 1 << 2 | 3 << 8; // attribute 1 (arch::mmu::MAIR), inner shareable
    match kind {
        Kind::Text => NORMAL | READ_ONLY,
        Kind::RoData => NORMAL | READ_ONLY | NEVER_EXECUTE,
        Kind::Data => NORMAL | NEVER_EXECUTE,
        Kind::Device => COMMON | NEVER_EXECUTE,
    }
}

/// One translation table.
#[repr(C, align(4096))]
pub struct Table([AtomicU64; ENTRIES]);

impl Table {
    /// A table that maps nothing.
    pub const fn empty() -> Self {
        Self([const { AtomicU64::new(0) }; ENTRIES])
    }
}

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
    /// The first `used` of the tables are in use, the others are empty.
    pub const fn new(tables: &'static [Table], used: usize) -> Self {
        Self { tables, used }
    }

    /// Address of the root.
    pub fn root(&self) -> u64 {
        self.tables.as_ptr() as u64
    }

    /// Maps `start..end`, which may be empty; what is mapped already in the same way is no error.
    /// After an error part of it may be mapped.
    pub fn add(&mut self, (start, end): (u64, u64), kind: Kind) -> Result<(), MapError> {
        let whole = start.is_multiple_of(PAGE) && end.is_multiple_of(PAGE);
        let tables = self.tables;
        match tables.first() {
            Some(root) if whole && end <= 1 << 48 => {
                self.fill(root, 0, start, end, leaf_bits(kind))
            }
            _ => Err(MapError::Range),
        }
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
            let next = ((at / size + 1) * size).min(end);
            let slot = table.0.get((at >> shift) as usize % ENTRIES).ok_or(MapError::Range)?;
            let old = slot.load(Ordering::Relaxed);
            let below = level < LAST_LEVEL && old & TABLE_OR_PAGE == TABLE_OR_PAGE;
            if level > 0 && next - at == size && !below {
                let new = at | bits | if level == LAST_LEVEL { TABLE_OR_PAGE } else { BLOCK };
                if old & VALID != 0 && old != new {
                    return Err(MapError::Overlap);
                }
                slot.store(new, Ordering::Relaxed);
            } else {
                let table = self.descend(slot, old)?;
                self.fill(table, level + 1, at, next, bits)?;
            }
            at = next;
        }
        Ok(())
    }

    /// The table that `slot` points to, made if there is none.
    fn descend(&mut self, slot: &AtomicU64, old: u64) -> Result<&'static Table, MapError> {
        let tables = self.tables;
        if old & TABLE_OR_PAGE == TABLE_OR_PAGE {
            let n = ((old & ADDRESS) - self.root()) / PAGE;
            return tables.get(n as usize).ok_or(MapError::NoTable);
        }
        if old & VALID != 0 {
            return Err(MapError::Overlap);
        }
        let table = tables.get(self.used).ok_or(MapError::NoTable)?;
        self.used += 1;
        slot.store(&raw const *table as u64 | TABLE_OR_PAGE, Ordering::Relaxed);
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn map(tables: usize) -> Map {
        Map::new(Box::leak((0..tables).map(|_| Table::empty()).collect()), 1)
    }

    /// What a walk finds: the leaf and its level.
    fn walk(map: &Map, address: u64) -> Option<(u64, u32)> {
        let mut table = map.tables.first()?;
        for level in 0..=LAST_LEVEL {
            let entry =
                table.0[(address >> (39 - 9 * level)) as usize % ENTRIES].load(Ordering::Relaxed);
            if entry & VALID == 0 {
                return None;
            }
            if level == LAST_LEVEL || entry & TABLE_OR_PAGE == BLOCK {
                return Some((entry, level));
            }
            table = &map.tables[(((entry & ADDRESS) - map.root()) / PAGE) as usize];
        }
        None
    }

    #[test]
    fn a_range_gets_the_largest_leaves_and_not_a_byte_more() {
        let mut map = map(8);
        map.add((2 * MIB - PAGE, 2 * GIB + 2 * MIB), Kind::Data).unwrap();
        assert_eq!(walk(&map, 2 * MIB - PAGE - 1), None);
        for (address, base, level) in [
            (2 * MIB - PAGE, 2 * MIB - PAGE, 3),
            (2 * MIB, 2 * MIB, 2),
            (GIB - 1, GIB - 2 * MIB, 2),
            (GIB + 12345, GIB, 1),
            (2 * GIB + MIB, 2 * GIB, 2),
        ] {
            let (leaf, at) = walk(&map, address).unwrap();
            assert_eq!((leaf & ADDRESS, at), (base, level), "{address:#x}");
        }
        assert_eq!(walk(&map, 2 * GIB + 2 * MIB), None);
        assert_eq!(map.used, 5); // root, 1 at level 1, 2 at level 2, 1 at level 3
    }

    #[test]
    fn no_kind_is_both_writable_and_executable() {
        for kind in [Kind::Text, Kind::RoData, Kind::Data, Kind::Device] {
            let mut map = map(4);
            map.add((PAGE, 2 * PAGE), kind).unwrap();
            let (leaf, _) = walk(&map, PAGE).unwrap();
            assert!(leaf & READ_ONLY != 0 || leaf & NEVER_EXECUTE != 0, "{kind:?}");
            assert_eq!(leaf & NEVER_EXECUTE == 0, kind == Kind::Text);
            assert_eq!(leaf >> 2 & 7 == 0, kind == Kind::Device);
        }
        assert_eq!(WRITABLE_CODE & (READ_ONLY | NEVER_EXECUTE), 0);
    }

    #[test]
    fn a_page_left_out_stays_unmapped() {
        let mut map = map(4);
        map.add((0x1000, 0x3000), Kind::Data).unwrap();
        map.add((0x4000, 0x6000), Kind::Data).unwrap();
        assert_eq!(walk(&map, 0x3000), None);
        assert!(walk(&map, 0x2fff).is_some() && walk(&map, 0x4000).is_some());
    }

    #[test]
    fn the_same_again_is_fine_and_anything_else_is_an_overlap() {
        let mut map = map(8);
        map.add((0, 4 * MIB), Kind::Data).unwrap();
        map.add((2 * MIB, 4 * MIB), Kind::Data).unwrap();
        assert_eq!(map.add((2 * MIB, 4 * MIB), Kind::Device), Err(MapError::Overlap));
        assert_eq!(
            map.add((MIB, MIB + PAGE), Kind::Data),
            Err(MapError::Overlap),
            "inside a block"
        );
        map.add((4 * MIB, 4 * MIB + PAGE), Kind::Text).unwrap();
        assert_eq!(map.add((4 * MIB, 6 * MIB), Kind::Data), Err(MapError::Overlap), "over a page");
    }

    #[test]
    fn a_range_over_a_finer_one_of_its_kind_completes_it() {
        let mut map = map(8);
        map.add((2 * MIB, 2 * MIB + PAGE), Kind::Data).unwrap();
        map.add((2 * MIB, 4 * MIB), Kind::Data).unwrap();
        assert_eq!(walk(&map, 4 * MIB - 1).map(|(_, level)| level), Some(3));
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let mut map = map(2);
        assert_eq!(map.add((1, PAGE), Kind::Data), Err(MapError::Range));
        assert_eq!(map.add((0, PAGE + 8), Kind::Data), Err(MapError::Range));
        assert_eq!(map.add((0, (1 << 48) + PAGE), Kind::Data), Err(MapError::Range));
        assert_eq!(map.add((0, PAGE), Kind::Data), Err(MapError::NoTable));
        map.add((GIB, GIB), Kind::Data).unwrap();
        assert_eq!(walk(&map, GIB), None);
        map.add(((1 << 48) - GIB, 1 << 48), Kind::Data).unwrap_err();
    }

    #[test]
    fn the_top_of_the_address_space_can_be_mapped() {
        let mut map = map(2);
        map.add(((1 << 48) - GIB, 1 << 48), Kind::Data).unwrap();
        assert_eq!(walk(&map, (1 << 48) - 1).map(|(_, level)| level), Some(1));
    }
}
