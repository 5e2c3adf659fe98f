//! A heap for the payloads that need one: size classes of powers of two, each with its own list
//! of free blocks, filled from a fixed region. Nothing is ever joined or given back, so both
//! operations take constant time.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;

use crate::cpu::Lock;

const BYTES: usize = 4 << 20;
const SMALLEST: usize = 16;
const CLASSES: usize = 24;

#[repr(C, align(4096))]
struct Region(UnsafeCell<[u8; BYTES]>);
// SAFETY:
// 1. Only `Heap` hands out parts of it, each to one owner at a time.
unsafe impl Sync for Region {}
static REGION: Region = Region(UnsafeCell::new([0; BYTES]));

struct State {
    /// How much of the region was ever handed out.
    used: usize,
    /// Address of the first free block of each class; a free block holds the next one's.
    free: [usize; CLASSES],
}

/// A payload's interrupt handler does not allocate.
struct Heap(Lock<State>);

#[global_allocator]
static HEAP: Heap = Heap(Lock::new(State { used: 0, free: [0; CLASSES] }));

fn class(layout: Layout) -> usize {
    layout.size().max(layout.align()).max(SMALLEST).next_power_of_two().trailing_zeros() as usize
}

// SAFETY:
// 1. A block is at least as large and as aligned as asked for (its class), lies in the region, and
//    is in no list while it is in use.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let class = class(layout);
        let mut state = self.0.lock();
        let Some(head) = state.free.get_mut(class) else { return ptr::null_mut() };
        if *head != 0 {
            let block = *head as *mut usize;
            // SAFETY:
            // 1. A free block of this class, written by `dealloc`.
            *head = unsafe { *block };
            return block.cast();
        }
        let start = state.used.next_multiple_of(1 << class.min(12));
        if start + (1 << class) > BYTES {
            return ptr::null_mut();
        }
        state.used = start + (1 << class);
        REGION.0.get().cast::<u8>().wrapping_add(start)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let mut state = self.0.lock();
        if let Some(head) = state.free.get_mut(class(layout)) {
            // SAFETY:
            // 1. The block is the heap's again, has room for a word and is aligned for it.
            unsafe { *block.cast::<usize>() = *head };
            *head = block as usize;
        }
    }
}
