//! A heap for the payloads that need one: size classes of powers of two, each with its own list
//! of free blocks, filled from a fixed region. Nothing is ever joined or given back, so both
//! operations take constant time. Each CPU has lists of its own, so that those who allocate all the
//! time do not wait for each other.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;

use crate::cpu::{CPUS, Lock, PerCpu};

const BYTES: usize = 4 << 20;
const SMALLEST: usize = 16;
const CLASSES: usize = 24;

#[repr(C, align(4096))]
struct Region(UnsafeCell<[u8; BYTES]>);
// SAFETY:
// 1. Only `Heap` hands out parts of it, each to one owner at a time.
unsafe impl Sync for Region {}
static REGION: Region = Region(UnsafeCell::new([0; BYTES]));

/// A payload's interrupt handler does not allocate.
struct Heap {
    /// How much of the region was ever handed out.
    used: Lock<usize>,
    /// Address of the first free block of each class; a free block holds the next one's.
    free: PerCpu<Lock<[usize; CLASSES]>>,
}

#[global_allocator]
static HEAP: Heap =
    Heap { used: Lock::new(0), free: PerCpu([const { Lock::new([0; CLASSES]) }; CPUS]) };

fn class(layout: Layout) -> usize {
    layout.size().max(layout.align()).max(SMALLEST).next_power_of_two().trailing_zeros() as usize
}

// SAFETY:
// 1. A block is at least as large and as aligned as asked for (its class), lies in the region, and
//    is in no list while it is in use.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let class = class(layout);
        let mut free = self.free.lock();
        let Some(head) = free.get_mut(class) else { return ptr::null_mut() };
        if *head != 0 {
            let block = *head as *mut usize;
            // SAFETY:
            // 1. A free block of this class, written by `dealloc`.
            *head = unsafe { *block };
            return block.cast();
        }
        let mut used = self.used.lock();
        let start = used.next_multiple_of(1 << class.min(12));
        if start + (1 << class) > BYTES {
            return ptr::null_mut();
        }
        *used = start + (1 << class);
        REGION.0.get().cast::<u8>().wrapping_add(start)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let mut free = self.free.lock();
        if let Some(head) = free.get_mut(class(layout)) {
            // SAFETY:
            // 1. The block is the heap's again, has room for a word and is aligned for it.
            unsafe { *block.cast::<usize>() = *head };
            *head = block as usize;
        }
    }
}
