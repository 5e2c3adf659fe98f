//! The power management block of Broadcom's boards: a watchdog that resets the machine.
//!
//! Knows its registers: each write carries a password. The firmware that runs after the reset
//! looks at the partition number in RSTS; 63 means "stay off". Must not know where it is: the board
//! says so.

use core::sync::atomic::{AtomicU64, Ordering};

use hyp_dtb::Region;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::ReadWrite;

register_structs! {
    Registers {
        (0x00 => _reserved0),
        (0x1c => rstc: ReadWrite<u32>),
        (0x20 => rsts: ReadWrite<u32>),
        (0x24 => wdog: ReadWrite<u32>),
        (0x28 => @END),
    }
}

const PASSWORD: u32 = 0x5a00_0000;
/// RSTC: what the watchdog does, full reset.
const WRCFG: u32 = 0x30;
const WRCFG_FULL_RESET: u32 = 0x20;
/// RSTS: the six bits of the partition number are bits 0, 2, 4, 6, 8 and 10.
const PARTITION: u32 = 0x555;
/// WDOG: ticks of 1/65536 s until then.
const SOON: u32 = 10;

/// Where it is; 0: nowhere.
static BLOCK: AtomicU64 = AtomicU64::new(0);

fn block() -> Option<&'static Registers> {
    match BLOCK.load(Ordering::Relaxed) {
        0 => None,
        // SAFETY:
        // 1. `open` was given the address of such a block, mapped as device memory for good.
        // 2. Its registers are only used through volatile cells.
        pa => Some(unsafe { &*(pa as *const Registers) }),
    }
}

/// Takes the block into use.
///
/// # Safety
/// It is there, and mapped as device memory for good.
pub unsafe fn open(registers: Region) {
    BLOCK.store(registers.base, Ordering::Relaxed);
}

/// Whether there is such a block.
pub fn present() -> bool {
    block().is_some()
}

/// Turns the machine off, as far as the board can: the watchdog fires a moment later. Returns then,
/// or if there is no such block.
pub fn system_off() {
    fire(PARTITION);
}

/// Starts the machine again: the same, with partition 0.
pub fn system_reset() {
    fire(0);
}

fn fire(partition: u32) {
    let Some(block) = block() else { return };
    let rsts = block.rsts.get() & !(PASSWORD | PARTITION);
    block.rsts.set(PASSWORD | rsts | partition);
    block.wdog.set(PASSWORD | SOON);
    let rstc = block.rstc.get() & !(PASSWORD | WRCFG);
    block.rstc.set(PASSWORD | rstc | WRCFG_FULL_RESET);
}
