//! The image's entry code and vectors (boot/el1*.S) and its layout (linker/el1-host.ld).

use core::arch::global_asm;
use core::ptr::addr_of;

use aarch64_cpu::registers::{MPIDR_EL1, Readable};
use hyp_abi::PAGE_SIZE;

global_asm!(include_str!("../../../boot/el1.S"), step = const STEP, top = const GUARD + STACK);
global_asm!(include_str!("../../../boot/el1_vectors.S"));

/// Most CPUs: EL2 has no more either.
pub const CPUS: usize = 8;
/// Below each stack: never mapped.
const GUARD: u64 = PAGE_SIZE;
const STACK: u64 = 128 << 10;
const EXCEPTION_STACK: u64 = 16 << 10;
/// From the stacks of one CPU to the next one's.
const STEP: u64 = GUARD + STACK + GUARD + EXCEPTION_STACK;

/// Where the segments of the image lie, in bytes; every bound is at a page.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// First byte of the image and of its text.
    pub start: u64,
    /// End of the text, begin of the read-only data.
    pub text_end: u64,
    /// End of the read-only data, begin of the data.
    pub rodata_end: u64,
    /// The stacks of all CPUs.
    pub stacks: u64,
    /// Their end.
    pub stacks_end: u64,
    /// End of the image, bss and stacks included.
    pub end: u64,
}

impl Layout {
    /// Whether an address lies in the page below a stack.
    pub fn is_guard(&self, address: u64) -> bool {
        let guards = GUARD + STACK..GUARD + STACK + GUARD;
        (self.stacks..self.stacks_end).contains(&address) && {
            let at = (address - self.stacks) % STEP;
            at < GUARD || guards.contains(&at)
        }
    }

    /// The stacks themselves, first and last byte + 1 of each: all between the guards.
    pub fn stacks(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let first = self.stacks;
        (0..CPUS as u64).flat_map(move |cpu| {
            let at = first + cpu * STEP;
            let exceptions = at + GUARD + STACK + GUARD;
            [(at + GUARD, at + GUARD + STACK), (exceptions, exceptions + EXCEPTION_STACK)]
        })
    }
}

unsafe extern "C" {
    static __el1_image_start: u8;
    static __el1_text_end: u8;
    static __el1_rodata_end: u8;
    static __el1_stacks: u8;
    static __el1_stacks_end: u8;
    static __el1_image_end: u8;
    static el1_secondary_entry: u8;
}

/// The layout of this image, where it runs.
pub fn layout() -> Layout {
    Layout {
        start: addr_of!(__el1_image_start) as u64,
        text_end: addr_of!(__el1_text_end) as u64,
        rodata_end: addr_of!(__el1_rodata_end) as u64,
        stacks: addr_of!(__el1_stacks) as u64,
        stacks_end: addr_of!(__el1_stacks_end) as u64,
        end: addr_of!(__el1_image_end) as u64,
    }
}

/// First Rust code: MMU and caches are on, the stack is the boot stack.
#[unsafe(no_mangle)]
extern "C" fn el1_host_main(device_tree: u64) -> ! {
    super::barrier::unmask_serror();
    crate::start::start(device_tree)
}

/// Affinity of the CPU that calls, as device trees and PSCI name it.
pub fn own_mpidr() -> u64 {
    MPIDR_EL1.get() & 0xff_00ff_ffff
}

/// Where a CPU is to begin that PSCI starts, with its number in x0.
pub fn secondary_entry() -> u64 {
    addr_of!(el1_secondary_entry) as u64
}

/// First Rust code of another CPU: the final map is on, the stack is its own.
#[unsafe(no_mangle)]
extern "C" fn el1_secondary_main(number: usize) -> ! {
    super::barrier::unmask_serror();
    crate::smp::arrive(number)
}
