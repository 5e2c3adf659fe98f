//! A padded cell for hostile code: any instructions, any registers, any stack, EL1 or EL0, until the
//! first exception.
//!
//! I1. In the cell stage 1 maps the payload read-only, this CPU's own block of scratch memory and
//!     one that all CPUs share writable, and devices. What code in there stores elsewhere is
//!     therefore a fault of this stage 1, and memory that changes nevertheless was changed by
//!     somebody else.
//! I2. The vectors use no memory and trust no register before they are back in the payload's own
//!     translation; what they use is found by MPIDR_EL1.
//! I3. Code in the cell never changes the registers that the way back needs: translation, vectors.
//!     `soup` sees to that. Nor does it branch backwards, so that it ends even without its timer.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::{offset_of, size_of};

use crate::cpu::{self, CPUS};
use crate::probe;
use crate::{mmu, read, start, write};

/// A block of scratch memory.
pub const BLOCK: u64 = 2 << 20;
/// Where each CPU's block of scratch memory is, and the one that all share: from 8 MiB on in RAM.
pub const SCRATCH: u64 = 0x4080_0000;
/// Seen from EL0, its block is 512 MiB further on.
pub const USER: u64 = 0x2000_0000;
/// One more behind those of all CPUs.
pub const SHARED: u64 = SCRATCH + BLOCK * CPUS as u64;

const GIB: u64 = 1 << 30;
const AF: u64 = 1 << 10;
const INNER: u64 = 3 << 8;
const NORMAL: u64 = 1 << 2;
const READ_ONLY: u64 = 2 << 6;
const EL0: u64 = 1 << 6;
const UXN: u64 = 1 << 54;
const PXN: u64 = 1 << 53;
const TABLE: u64 = 3;

/// What goes in, and what comes out.
#[repr(C, align(4096))]
pub struct Area {
    /// x0..x30 and SP.
    pub regs: [u64; 32],
    /// Where to begin, and in which state.
    pub pc: u64,
    /// `SPSR_EL1`.
    pub pstate: u64,
    /// The cell's `TTBR0_EL1`.
    ttbr: u64,
    /// Afterwards: `ESR_EL1`.
    pub esr: u64,
    /// `ELR_EL1`.
    pub elr: u64,
    /// `FAR_EL1`.
    pub far: u64,
    /// Vector slot.
    pub kind: u64,
    /// x0.
    pub x0: u64,
    /// The payload's own: `TTBR0_EL1`, `VBAR_EL1`, SP, and x19..x30.
    own: [u64; 16],
}
const _: () = assert!(size_of::<Area>() == 4096);

struct Areas(UnsafeCell<[Area; CPUS]>);
// SAFETY:
// 1. Each CPU uses the one with its number only.
unsafe impl Sync for Areas {}
static AREAS: Areas = Areas(UnsafeCell::new(
    [const {
        Area {
            regs: [0; 32],
            pc: 0,
            pstate: 0,
            ttbr: 0,
            esr: 0,
            elr: 0,
            far: 0,
            kind: 0,
            x0: 0,
            own: [0; 16],
        }
    }; CPUS],
));

#[repr(C, align(4096))]
struct Tables(UnsafeCell<[[u64; 512]; 2 * CPUS]>);
// SAFETY:
// 1. No Rust reference into it is made: only addresses.
unsafe impl Sync for Tables {}
static TABLES: Tables = Tables(UnsafeCell::new([[0; 512]; 2 * CPUS]));

global_asm!(
    // cell_enter(area). Comes back by cell_vectors.
    ".global cell_enter",
    "cell_enter:",
    "mrs x1, ttbr0_el1",
    "mrs x2, vbar_el1",
    "stp x1, x2, [x0, #{own}]",
    "mov x1, sp",
    "stp x1, x30, [x0, #({own} + 16)]",
    "stp x19, x20, [x0, #({own} + 32)]",
    "stp x21, x22, [x0, #({own} + 48)]",
    "stp x23, x24, [x0, #({own} + 64)]",
    "stp x25, x26, [x0, #({own} + 80)]",
    "stp x27, x28, [x0, #({own} + 96)]",
    "str x29, [x0, #({own} + 112)]",
    "adrp x1, cell_vectors",
    "add x1, x1, :lo12:cell_vectors",
    "msr vbar_el1, x1",
    "ldr x1, [x0, #{ttbr}]",
    "msr ttbr0_el1, x1",
    "dsb nsh",
    "isb",
    "tlbi vmalle1",
    "dsb nsh",
    "isb",
    "ldp x1, x2, [x0, #{pc}]",
    "msr elr_el1, x1",
    "msr spsr_el1, x2",
    "ldr x1, [x0, #(31 * 8)]",
    "mov sp, x1",
    "ldp x2, x3, [x0, #16]",
    "ldp x4, x5, [x0, #32]",
    "ldp x6, x7, [x0, #48]",
    "ldp x8, x9, [x0, #64]",
    "ldp x10, x11, [x0, #80]",
    "ldp x12, x13, [x0, #96]",
    "ldp x14, x15, [x0, #112]",
    "ldp x16, x17, [x0, #128]",
    "ldp x18, x19, [x0, #144]",
    "ldp x20, x21, [x0, #160]",
    "ldp x22, x23, [x0, #176]",
    "ldp x24, x25, [x0, #192]",
    "ldp x26, x27, [x0, #208]",
    "ldp x28, x29, [x0, #224]",
    "ldr x30, [x0, #240]",
    "ldp x0, x1, [x0]",
    "eret",
    ".balign 0x800",
    ".global cell_vectors",
    "cell_vectors:",
    ".irp kind, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    ".balign 0x80",
    "msr tpidr_el0, x0",
    "mov x0, #\\kind",
    "b cell_leave",
    ".endr",
    ".balign 0x80",
    "cell_leave:",
    "msr SPSel, #1",
    "mov x2, x0",
    "mrs x1, mpidr_el1",
    "and x1, x1, #{cpu_mask}",
    "adrp x0, {areas}",
    "add x0, x0, :lo12:{areas}",
    "add x0, x0, x1, lsl #12",
    "ldp x3, x4, [x0, #{own}]",
    "msr ttbr0_el1, x3",
    "msr vbar_el1, x4",
    "dsb nsh",
    "isb",
    "tlbi vmalle1",
    "dsb nsh",
    "isb",
    "mrs x3, esr_el1",
    "mrs x4, elr_el1",
    "mrs x5, far_el1",
    "mrs x6, tpidr_el0",
    "stp x3, x4, [x0, #{esr}]",
    "stp x5, x2, [x0, #{far}]",
    "str x6, [x0, #{x0}]",
    "mov x3, #(3 << 20)",
    "msr cpacr_el1, x3",
    "msr mdscr_el1, xzr",
    "msr tpidr_el0, xzr",
    "isb",
    "ldp x1, x30, [x0, #({own} + 16)]",
    "mov sp, x1",
    "ldp x19, x20, [x0, #({own} + 32)]",
    "ldp x21, x22, [x0, #({own} + 48)]",
    "ldp x23, x24, [x0, #({own} + 64)]",
    "ldp x25, x26, [x0, #({own} + 80)]",
    "ldp x27, x28, [x0, #({own} + 96)]",
    "ldr x29, [x0, #({own} + 112)]",
    "ret",
    areas = sym AREAS,
    cpu_mask = const CPUS - 1,
    own = const offset_of!(Area, own),
    ttbr = const offset_of!(Area, ttbr),
    pc = const offset_of!(Area, pc),
    esr = const offset_of!(Area, esr),
    far = const offset_of!(Area, far),
    x0 = const offset_of!(Area, x0),
);

// The assembly loads and stores these as pairs.
const _: () = assert!(offset_of!(Area, pstate) == offset_of!(Area, pc) + 8);
const _: () = assert!(offset_of!(Area, elr) == offset_of!(Area, esr) + 8);
const _: () = assert!(offset_of!(Area, kind) == offset_of!(Area, far) + 8);

unsafe extern "C" {
    fn cell_enter(area: *mut Area);
}

fn poke(at: u64, value: u64) {
    let _ = probe::store64(at, value);
}

/// This CPU's own block of scratch memory.
pub fn scratch() -> u64 {
    SCRATCH + BLOCK * cpu::me() as u64
}

/// This CPU's area, before and after.
pub fn area() -> &'static mut Area {
    let area = AREAS.0.get().cast::<Area>().wrapping_add(cpu::me());
    // SAFETY:
    // 1. Only this CPU uses it, and no two of its references live at a time: `enter` and the attack
    //    take them one after the other.
    unsafe { &mut *area }
}

/// Makes the cell's tables.
pub fn furnish() {
    let l1 = TABLES.0.get() as u64 + 8192 * cpu::me() as u64;
    let l2 = l1 + 4096;
    let shared = &raw const mmu::L1 as u64;
    for n in 0..512 {
        poke(l1 + 8 * n, probe::load64(shared + 8 * n).unwrap_or(0));
    }
    let (first, last) = start::image();
    for block in 0..512 {
        let at = GIB + block * BLOCK;
        let code = at < last && at + BLOCK > first;
        let mut descriptor = at | 1 | AF | INNER | NORMAL | UXN;
        match at {
            _ if at == scratch() => {}
            SHARED => descriptor |= PXN,
            _ if code => descriptor |= READ_ONLY,
            _ => descriptor |= READ_ONLY | PXN,
        }
        if at == scratch() + USER {
            descriptor = scratch() | 1 | AF | INNER | NORMAL | EL0 | PXN;
        }
        poke(l2 + 8 * block, descriptor);
    }
    poke(l1 + 8, l2 | TABLE);
    area().ttbr = l1;
    cpu::publish();
}

/// The last-level slot of the cell's map that the attack may fill as it likes: the GiB at 3 << 30.
pub fn wild_slot() -> (u64, u64) {
    (TABLES.0.get() as u64 + 8192 * cpu::me() as u64 + 24, 3 << 30)
}

/// In, and out again at the first exception.
pub fn enter() {
    let area = &raw mut *area();
    // SAFETY:
    // 1. It comes back as a call of the C ABI does (I2), x0..x18 and flags changed.
    // 2. What happens in between cannot change the payload's memory (I1).
    unsafe { cell_enter(area) }
    write!("daif", 0x3c0);
    debug_assert_eq!(read!("CurrentEL"), 4);
}
