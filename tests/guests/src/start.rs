//! From the first instruction to Rust: the assembly of boot/guest.S, its page table and stacks, the
//! state in which the loader handed the machine over, and the other CPUs.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::cpu::{self, CPUS};
use crate::trap::{Frame, on_exception};
use crate::{console, machine, mmu, psci};

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
// 1. Only the stack pointer of one CPU ever reaches it.
unsafe impl Sync for Stack {}
static STACK: Stack = Stack(UnsafeCell::new([0; STACK_SIZE]));
/// The first CPU is on `STACK`, whichever it is; the slot that bears its number stays unused.
static STACKS: [Stack; CPUS] = [const { Stack(UnsafeCell::new([0; STACK_SIZE])) }; CPUS];

struct Entry(UnsafeCell<EntryState>);
// SAFETY:
// 1. Written once, by boot/guest.S, before any Rust code runs; read only from then on.
unsafe impl Sync for Entry {}
static ENTRY: Entry = Entry(UnsafeCell::new(EntryState { x: [0; 4], daif: 0, sctlr: 0, spsel: 0 }));

/// What the assembly keeps of, and gives to, a CPU that CPU_ON started.
#[derive(Default)]
#[repr(C)]
pub struct Secondary {
    /// x0 at entry: what CPU_ON was given.
    pub x0: AtomicU64,
    /// DAIF at entry.
    pub daif: AtomicU64,
    /// `SCTLR_EL1` at entry.
    pub sctlr: AtomicU64,
    /// `SPSel` at entry.
    pub spsel: AtomicU64,
    /// `CurrentEL` at entry.
    pub el: AtomicU64,
    stack: AtomicU64,
    main: AtomicU64,
    arg: AtomicU64,
}

static SECONDARIES: [Secondary; CPUS] = [const {
    Secondary {
        x0: AtomicU64::new(0),
        daif: AtomicU64::new(0),
        sctlr: AtomicU64::new(0),
        spsel: AtomicU64::new(0),
        el: AtomicU64::new(0),
        stack: AtomicU64::new(0),
        main: AtomicU64::new(0),
        arg: AtomicU64::new(0),
    }
}; CPUS];

global_asm!(
    include_str!("../../../boot/guest.S"),
    secondaries = sym SECONDARIES,
    secondary_size = const size_of::<Secondary>(),
    secondary_x0 = const offset_of!(Secondary, x0),
    secondary_sctlr = const offset_of!(Secondary, sctlr),
    secondary_el = const offset_of!(Secondary, el),
    secondary_stack = const offset_of!(Secondary, stack),
    cpu_mask = const CPUS - 1,
    on_secondary = sym on_secondary,
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
// And x0 with DAIF, SCTLR with SPSel.
const _: () = assert!(offset_of!(Secondary, daif) == offset_of!(Secondary, x0) + 8);
const _: () = assert!(offset_of!(Secondary, spsel) == offset_of!(Secondary, sctlr) + 8);

/// The state at entry.
#[must_use]
pub fn entry_state() -> EntryState {
    // SAFETY:
    // 1. Written only before Rust started (see `Entry`).
    unsafe { *ENTRY.0.get() }
}

unsafe extern "C" {
    fn guest_secondary();
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
    match machine::mini_uart() {
        Some(base) => console::init_mini(base),
        None => console::init(machine::get().uart),
    }
}

/// The address at which a CPU of ours must be started.
#[must_use]
pub fn secondary_entry() -> u64 {
    guest_secondary as unsafe extern "C" fn() as usize as u64
}

/// What is to run on CPU `n` when somebody switches it on at [`secondary_entry`]. When `main`
/// returns the CPU is switched off.
pub fn prepare(n: usize, main: fn(u64), arg: u64) {
    let (Some(block), Some(stack)) = (SECONDARIES.get(n), STACKS.get(n)) else { return };
    block.stack.store(stack.0.get() as u64 + STACK_SIZE as u64, Relaxed);
    block.main.store(main as usize as u64, Relaxed);
    block.arg.store(arg, Relaxed);
    // It will read them with its caches on; what it stores before is nothing.
    cpu::publish();
}

/// What CPU `n` found when it was last started.
#[must_use]
pub fn secondary(n: usize) -> &'static Secondary {
    // `n` names a CPU of this machine, which has no more than there are blocks.
    &SECONDARIES[n % CPUS]
}

/// Switches CPU `n` on to run `main(arg)`; answers what PSCI says. x0 is `arg` as well.
pub fn cpu_on(n: usize, main: fn(u64), arg: u64) -> i32 {
    prepare(n, main, arg);
    psci::status(psci::CPU_ON, machine::mpidr(n), secondary_entry(), arg)
}

extern "C" fn on_secondary(block: &Secondary) -> ! {
    let main = block.main.load(Relaxed) as *const ();
    // SAFETY:
    // 1. `prepare` stored a `fn(u64)` there before anybody could switch this CPU on.
    let main: fn(u64) = unsafe { core::mem::transmute(main) };
    main(block.arg.load(Relaxed));
    cpu::off()
}
