//! The entry code and what it needs to know; where the parts of the image are.
//!
//! I1: the image is loaded at a multiple of 2 MiB and lies within 2 MiB (checked by entry.S and the
//! linker script).

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::mmu;
use super::percpu::{self, CPUS};
use crate::board::{Board, QemuVirt, Rpi4};
use crate::stage1;

/// HCR_EL2 until the host runs: EL1 is AArch64, E2H = 0.
const HCR_BOOT: u64 = 1 << 31;
/// SCTLR_EL2: the bits that are RES1, everything else off.
pub const SCTLR_RES1: u64 = 0x30c5_0830;
/// SCTLR_EL2 in use: MMU, caches, stack alignment check.
const SCTLR_ON: u64 = SCTLR_RES1 | 1 | (1 << 2) | (1 << 3) | (1 << 12);

global_asm!(
    include_str!("../../../boot/entry.S"),
    HCR_BOOT = const HCR_BOOT,
    SCTLR_OFF = const SCTLR_RES1,
    SCTLR_ON = const SCTLR_ON,
    TCR = const mmu::TCR,
    MAIR = const mmu::MAIR,
    BLOCK_NORMAL = const stage1::WRITABLE_CODE,
    EARLY_TABLES = sym mmu::EARLY,
    START = sym start,
    LAST_TABLES = sym mmu::LAST,
    SCTLR_FINAL = const SCTLR_FINAL,
    SECONDARY = sym secondary,
    MPIDRS = sym MPIDRS,
    CPUS = const CPUS,
    STACKS_SHIFT = const STACKS.trailing_zeros(),
    UART = const QemuVirt::FALLBACK_UART.1,
    MINI_UART = const Rpi4::FALLBACK_UART.1,
    VIRT_RAM = const QemuVirt::RAM,
);

/// SCTLR_EL2 from the final tables on: as entry.S has it, and nothing writable is executable.
pub const SCTLR_FINAL: u64 = SCTLR_ON | (1 << 19);

/// The block that is the image's alone.
pub const BLOCK: u64 = 2 << 20;

/// A part of the image, in bytes: start and end.
pub type Part = (u64, u64);

unsafe extern "C" {
    static hyp_head: u8;
    static __hyp_text_end: u8;
    static __hyp_rodata_start: u8;
    static __hyp_rodata_end: u8;
    static __hyp_data_start: u8;
    static __hyp_data_end: u8;
    static __hyp_stacks: u8;
    static hyp_secondary_entry: u8;
}

/// Address of a linker symbol.
macro_rules! address {
    ($symbol:ident) => {
        (&raw const $symbol) as u64
    };
}

/// Where entry.S goes: the first Rust code.
extern "C" fn start(dtb: u64) -> ! {
    crate::el2::start(dtb)
}

/// Affinity bits of each CPU's MPIDR, at the place of its number; all ones where there is none.
static MPIDRS: [AtomicU64; CPUS] = [const { AtomicU64::new(u64::MAX) }; CPUS];

/// Gives the CPU with these affinity bits its number, before it is started.
pub fn name_cpu(number: usize, mpidr: u64) {
    if let Some(slot) = MPIDRS.get(number) {
        slot.store(mpidr, Ordering::Relaxed);
    }
}

/// Where entry.S goes on every other CPU, each time the firmware starts it.
extern "C" fn secondary() -> ! {
    crate::smp::arrive()
}

/// This CPU comes up once more, as [`secondary`]: whatever is on its stack is abandoned, so that nobody
/// there still uses what belongs to it while that is made anew.
pub fn come_up_again() -> ! {
    unsafe extern "C" {
        fn hyp_come_up_again(top: u64) -> !;
    }
    let (_, top) = stack(percpu::number());
    // SAFETY:
    // 1. `top` is this CPU's stack, aligned; 2. nothing on it is needed again, for 3. `secondary` never
    //    returns, and takes nothing from where it came.
    unsafe { hyp_come_up_again(top) }
}

/// Where the firmware is to start a CPU, in EL2.
pub fn secondary_entry() -> u64 {
    address!(hyp_secondary_entry)
}
/// Where the image was loaded.
pub fn base() -> u64 {
    address!(hyp_head)
}
/// Code.
pub fn text() -> Part {
    (address!(hyp_head), address!(__hyp_text_end))
}
/// Constants.
pub fn rodata() -> Part {
    (address!(__hyp_rodata_start), address!(__hyp_rodata_end))
}
/// Variables.
pub fn data() -> Part {
    (address!(__hyp_data_start), address!(__hyp_data_end))
}
/// Room for one CPU's stacks, as linker/hyp.ld has it.
pub const STACKS: u64 = 64 << 10;
const GUARD: u64 = 4 << 10;
const STACK: u64 = 40 << 10;

/// The stack of CPU `number`; the page below it is never mapped.
pub fn stack(number: usize) -> Part {
    let guard = stacks_of(number);
    (guard.wrapping_add(GUARD), guard.wrapping_add(GUARD + STACK))
}
/// Its stack for exceptions from EL2 itself; the page below it is never mapped.
pub fn emergency_stack(number: usize) -> Part {
    let start = stacks_of(number);
    (start.wrapping_add(2 * GUARD + STACK), start.wrapping_add(STACKS))
}
/// Nothing wraps: the linker script has room for all CPUs inside the image's block.
fn stacks_of(number: usize) -> u64 {
    address!(__hyp_stacks).wrapping_add((number as u64).wrapping_mul(STACKS))
}

/// The descriptor that xtask patched behind the header.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Offset of the EL1 payload from [`base`].
    pub payload_offset: u64,
    /// Its size in the file.
    pub payload_size: u64,
}

/// Reads the descriptor; `None` if its magic is gone.
pub fn descriptor() -> Option<Descriptor> {
    unsafe extern "C" {
        static hyp_descriptor: [u64; 3];
    }
    // SAFETY:
    // 1. The symbol names 24 initialised bytes in text (boot/entry.S), 8-byte aligned.
    // 2. They are patched in the file, not at run time; the volatile read keeps the compiler from
    //    using what it saw at build time.
    let [magic, payload_offset, payload_size] =
        unsafe { (&raw const hyp_descriptor).read_volatile() };
    (magic == u64::from_le_bytes(*b"REDANPL1"))
        .then_some(Descriptor { payload_offset, payload_size })
}
