//! From the first instruction to Rust: the assembly of boot/guest.S, its page table and stack, and
//! the state in which the loader handed the machine over.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::{offset_of, size_of};

use crate::trap::{Frame, on_exception};
use crate::{console, machine, mmu};

const STACK_SIZE: usize = 64 << 10;

/// What the loader left in the registers (boot protocol: x1..x3 = 0, DAIF masked, MMU off).
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct EntryState {
    /// x0..x3.
    pub x: [u64; 4],
    /// DAIF.
    pub daif: u64,
    /// `SCTLR_EL1`.
    pub sctlr: u64,
    /// `SPSel`.
    pub spsel: u64,
}

#[repr(C, align(4096))]
struct Stack(UnsafeCell<[u8; STACK_SIZE]>);
// SAFETY:
// 1. Only the stack pointer of the one CPU ever reaches it.
unsafe impl Sync for Stack {}
static STACK: Stack = Stack(UnsafeCell::new([0; STACK_SIZE]));

struct Entry(UnsafeCell<EntryState>);
// SAFETY:
// 1. Written once, by boot/guest.S, before any Rust code runs; read only from then on.
unsafe impl Sync for Entry {}
static ENTRY: Entry = Entry(UnsafeCell::new(EntryState { x: [0; 4], daif: 0, sctlr: 0, spsel: 0 }));

global_asm!(
    include_str!("../../../boot/guest.S"),
    entry_state = sym ENTRY,
    l1_table = sym mmu::L1,
    stack = sym STACK,
    stack_size = const STACK_SIZE,
    on_exception = sym on_exception,
    frame_size = const size_of::<Frame>(),
    spsr_offset = const offset_of!(Frame, spsr),
    far_offset = const offset_of!(Frame, far),
    block_device = const mmu::BLOCK_DEVICE,
    block_normal = const mmu::BLOCK_NORMAL,
    mair = const mmu::MAIR,
    tcr = const mmu::TCR,
    sctlr = const mmu::SCTLR,
);

// The assembly stores x30 and ELR, and SPSR and ESR, as pairs.
const _: () = assert!(offset_of!(Frame, elr) == 248);
const _: () = assert!(offset_of!(Frame, esr) == offset_of!(Frame, spsr) + 8);
const _: () = assert!(size_of::<Frame>().is_multiple_of(16));

/// The state at entry.
#[must_use]
pub fn entry_state() -> EntryState {
    // SAFETY:
    // 1. Written only before Rust started (see `Entry`).
    unsafe { *ENTRY.0.get() }
}

unsafe extern "C" {
    static guest_image_start: u8;
    static guest_image_end: u8;
}

/// First and last + 1 address of this payload, `.bss` and stack included.
#[must_use]
pub fn image() -> (u64, u64) {
    (&raw const guest_image_start as u64, &raw const guest_image_end as u64)
}

/// Reads the device tree and makes the console work.
pub fn init(dtb: u64) {
    machine::init(dtb);
    console::init(machine::get().uart);
}
