//! The final stage 1 of the host: virtual = physical, nothing both writable and executable.
//!
//! Text RX, read-only data R, data RW, a hole under each stack; RAM RW and never executable;
//! devices Device-nGnRE. The tables come from a fixed pool in bss; they are written through atomics
//! and never change a live entry except from invalid to valid.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aarch64_cpu::registers::{ReadWriteable, SCTLR_EL1, TTBR0_EL1, Writeable};

use super::mmio::Window;
use super::phys::{Ram, ReadOnly};
use super::{barrier, boot};
use crate::ranges::Range;

const PAGE: u64 = 4096;
const TABLES: usize = 96;
const ENTRIES: usize = 512;
const LAST_LEVEL: u32 = 3;

/// Descriptor bits (DDI0487 D8.3): shared by blocks and pages.
const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
const ATTR_DEVICE: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// What a range is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Text,
    ReadOnly,
    ReadWrite,
    Device,
}

impl Access {
    const fn bits(self) -> u64 {
        VALID
            | ACCESSED
            | UXN
            | match self {
                Self::Text => INNER_SHAREABLE | READ_ONLY,
                Self::ReadOnly => INNER_SHAREABLE | READ_ONLY | PXN,
                Self::ReadWrite => INNER_SHAREABLE | PXN,
                Self::Device => ATTR_DEVICE | PXN,
            }
    }
}

#[repr(C, align(4096))]
struct Table([AtomicU64; ENTRIES]);

/// The first is the root, which boot/el1.S gives to the other CPUs by this name.
#[unsafe(export_name = "el1_final_tables")]
static POOL: [Table; TABLES] = [const { Table([const { AtomicU64::new(0) }; ENTRIES]) }; TABLES];

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The tables under construction, later the live ones. There is one.
pub struct Map {
    used: usize,
}

impl Map {
    /// Tables that map the image, each segment with its own access, and nothing else.
    pub fn of_image() -> Self {
        assert!(!TAKEN.swap(true, Ordering::Relaxed), "stage 1: there is one map");
        let mut map = Self { used: 1 };
        let at = boot::layout();
        map.add(at.start, at.text_end, Access::Text);
        map.add(at.text_end, at.rodata_end, Access::ReadOnly);
        map.add(at.rodata_end, at.stacks, Access::ReadWrite);
        for (start, end) in at.stacks() {
            map.add(start, end, Access::ReadWrite);
        }
        map.add(at.stacks_end, at.end, Access::ReadWrite);
        map
    }

    /// Maps whole pages of RAM and makes them their receiver's own: no page is mapped twice.
    pub fn ram(&mut self, range: Range) -> Ram {
        self.add(range.start, range.end, Access::ReadWrite);
        Ram::new(range)
    }

    /// Maps whole pages that are only read.
    pub fn read_only(&mut self, range: Range) -> ReadOnly {
        self.add(range.start, range.end, Access::ReadOnly);
        ReadOnly::new(range)
    }

    /// Maps the pages of a device.
    pub fn device(&mut self, device: Range) -> Window {
        let pages = device.pages_around();
        self.add(pages.start, pages.end, Access::Device);
        self.publish();
        Window::new(device.start, device.len())
    }

    /// Makes table walks see all that was added (DDI0487 D8.2.3): to be called before its use.
    pub fn publish(&self) {
        barrier::dsb();
        barrier::isb();
    }

    /// Makes this the CPU's map; more may be added later. The early map's entries are not global and have ASID 0, these are
    /// global: at no moment do two entries of one address match (DDI0487 D8.14.3).
    pub fn activate(&self) {
        barrier::dsb();
        TTBR0_EL1.set(&raw const POOL as u64 | 1 << 48);
        barrier::isb();
        // SAFETY:
        // 1. The new tables map every byte the early ones let the host use: the image here, the
        //    device tree by `read_only` or `ram`.
        unsafe { asm!("tlbi vmalle1", "dsb nsh", "isb", options(nostack)) };
        // Whatever is writable is never executable, even by a mistake in a table.
        SCTLR_EL1.modify(SCTLR_EL1::WXN::Enable);
        barrier::isb();
    }

    fn add(&mut self, start: u64, end: u64, access: Access) {
        assert!(start.is_multiple_of(PAGE) && end.is_multiple_of(PAGE) && end <= 1 << 48);
        if start < end {
            self.fill(0, 0, start, end, access);
        }
    }

    /// Fills the part of `table` (of `level`) that `start..end` covers, with the largest blocks.
    fn fill(&mut self, table: usize, level: u32, start: u64, end: u64, access: Access) {
        let size = 1u64 << (39 - 9 * level);
        let mut at = start;
        while at < end {
            let next = ((at & !(size - 1)) + size).min(end);
            let slot = &POOL[table].0[(at / size) as usize % ENTRIES];
            let old = slot.load(Ordering::Relaxed);
            let whole = next - at == size;
            if level == LAST_LEVEL || (level > 0 && whole && old & VALID == 0) {
                let kind = if level == LAST_LEVEL { TABLE_OR_PAGE } else { 0 };
                let new = at | access.bits() | kind;
                // Two devices may share a page; nothing else has two owners.
                let shared = access == Access::Device && old == new;
                assert!(old & VALID == 0 || shared, "stage 1: {at:#x} is mapped twice");
                slot.store(new, Ordering::Relaxed);
            } else {
                let child = self.child(slot, old);
                self.fill(child, level + 1, at, next, access);
            }
            at = next;
        }
    }

    /// Index of the table behind an entry; takes one from the pool if there is none.
    fn child(&mut self, slot: &AtomicU64, old: u64) -> usize {
        let pool = &raw const POOL as u64;
        if old & VALID != 0 {
            assert!(old & TABLE_OR_PAGE != 0, "stage 1: a block lies in the way");
            return ((old & ADDRESS) - pool) as usize / size_of::<Table>();
        }
        let index = self.used;
        assert!(index < TABLES, "stage 1: the memory map is too ragged for {TABLES} tables");
        self.used += 1;
        let address = pool + (index * size_of::<Table>()) as u64;
        slot.store(address | TABLE_OR_PAGE | VALID, Ordering::Relaxed);
        index
    }
}
