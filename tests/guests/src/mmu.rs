//! The payload's stage 1: an identity map of 1 GiB blocks, and for each CPU a window through which a
//! test can look at any physical address with any memory type.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu;

/// The one table: 512 entries of 1 GiB (39-bit addresses, DDI0487 D8.2).
#[repr(C, align(4096))]
pub struct Table([AtomicU64; 512]);

/// Filled by boot/guest.S, which makes entries 0..8.
pub static L1: Table = Table([const { AtomicU64::new(0) }; 512]);

/// Device-nGnRE, Normal write-back, Normal non-cacheable, Device-nGnRnE.
pub const MAIR: u64 = 0x0044_ff04;
/// 39 bits, 4 KiB, write-back walks, no TTBR1. IPS is added at run time.
pub const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23;
/// RES1 of Armv8.0, plus M, C, SA, I.
pub const SCTLR: u64 = 0x30d0_0800 | 1 | 1 << 2 | 1 << 3 | 1 << 12;

const BLOCK: u64 = 1;
const AF: u64 = 1 << 10;
const INNER: u64 = 3 << 8;
const UXN: u64 = 1 << 54;
const PXN: u64 = 1 << 53;
/// A block descriptor: Device, never executable.
pub const BLOCK_DEVICE: u64 = BLOCK | AF | UXN | PXN;
/// A block descriptor: Normal, all rights at EL1, none at EL0.
pub const BLOCK_NORMAL: u64 = BLOCK | AF | INNER | UXN | 1 << 2;

const GIB: u64 = 1 << 30;
/// Where this CPU's window is: one of the last GiBs of the address space, far from all real memory.
fn window_index() -> usize {
    511 - cpu::me()
}

/// How the window sees memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Attr {
    /// Device-nGnRE.
    Device,
    /// Normal write-back, executable.
    Normal,
}

/// Points the window at the GiB that contains `pa`; answers the virtual address of `pa`.
#[must_use]
pub fn window(pa: u64, attr: Attr) -> u64 {
    let base = pa & !(GIB - 1) & 0xffff_ffff_ffff;
    let attrs = if attr == Attr::Device { BLOCK_DEVICE } else { BLOCK_NORMAL };
    set(window_index(), base | attrs);
    (window_index() as u64) * GIB + (pa & (GIB - 1))
}

/// Makes the window a table at `pa`; answers an address translated by it.
#[must_use]
pub fn window_table(pa: u64) -> u64 {
    const TABLE: u64 = 3;
    set(window_index(), (pa & 0xffff_ffff_f000) | TABLE);
    (window_index() as u64) * GIB
}

/// Maps the GiB at `index` for EL0 too (for code that runs at EL0), or not any more.
pub fn allow_el0(index: usize, allow: bool) {
    let user = if allow { BLOCK_NORMAL & !UXN | 1 << 6 | PXN } else { BLOCK_NORMAL };
    set(window_index(), ((index as u64) * GIB) | user);
}

/// The window's view of an address below 1 GiB offset; see [`allow_el0`].
#[must_use]
pub fn in_window(addr: u64) -> u64 {
    (window_index() as u64) * GIB + (addr & (GIB - 1))
}

fn set(index: usize, descriptor: u64) {
    // Break before make (DDI0487 D8.16): the window may have been something else. Only this CPU
    // ever looks through it.
    if let Some(slot) = L1.0.get(index).filter(|slot| slot.load(Ordering::Relaxed) != descriptor) {
        slot.store(0, Ordering::Release);
        flush();
        slot.store(descriptor, Ordering::Release);
        flush();
    }
}

fn flush() {
    // SAFETY:
    // 1. Only drops translations and orders; the identity map of our own code stays in the table.
    unsafe { asm!("dsb ishst", "tlbi vmalle1", "dsb ish", "isb", options(nostack)) }
}

/// Writes a word of free RAM and reads it back.
#[must_use]
pub fn touch(addr: u64, value: u64) -> bool {
    crate::probe::store64(addr, value).is_ok() && crate::probe::load64(addr) == Ok(value)
}
