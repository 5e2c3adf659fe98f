//! The host's heap: a buddy allocator behind a lock. Small objects only; guest pages and donated
//! tables come from `frames`. Lock rank: below everything, nothing is taken while it is held.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use buddy_system_allocator::Heap;
use spin::mutex::SpinMutex;

use crate::arch::phys::Ram;

/// Largest block: 2^(ORDER - 1) bytes.
const ORDER: usize = 32;

struct Locked(SpinMutex<Heap<ORDER>>);

#[global_allocator]
static HEAP: Locked = Locked(SpinMutex::new(Heap::new()));

// SAFETY:
// 1. The buddy allocator hands out disjoint, aligned blocks of the range given to `init`.
// 2. All access is behind the lock.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().alloc(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY:
            // 1. The caller passes what `alloc` answered for this layout (GlobalAlloc's contract).
            unsafe { self.0.lock().dealloc(block, layout) };
        }
    }
}

/// Gives the heap its memory.
pub fn init(memory: Ram) {
    let range = memory.range();
    // SAFETY:
    // 1. A `Ram` is mapped, writable, and its holder's alone; it is consumed here, so the memory is
    //    the heap's for ever.
    unsafe { HEAP.0.lock().init(range.start as usize, range.len() as usize) };
}
