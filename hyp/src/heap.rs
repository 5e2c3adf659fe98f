//! EL2's heap: VM and vCPU objects, nothing large and nothing hot.
//!
//! Lock rank: heap, a leaf. Allocation may fail: the core uses the fallible forms and answers
//! -ENOMEM.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

use buddy_system_allocator::Heap;
use hyp_core::memmap::PageRange;
use hyp_sync::{Lock, rank};

/// Blocks of up to 2^31 bytes.
const ORDER: usize = 32;

struct Shared(Lock<Heap<ORDER>, rank::Heap>);

#[global_allocator]
static HEAP: Shared = Shared(Lock::new(Heap::empty()));

// SAFETY:
// 1. `Heap` hands out blocks of the layout's size and alignment, disjoint, from memory that is only
//    its own ([`init`]).
// 2. The lock makes it one caller at a time.
unsafe impl GlobalAlloc for Shared {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.with(|heap| heap.alloc(layout)).map_or(null_mut(), NonNull::as_ptr)
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: 1. The caller got `block` from `alloc` with this layout, and frees it once.
            self.0.with(|heap| unsafe { heap.dealloc(block, layout) });
        }
    }
}

/// Gives the heap its memory.
///
/// # Safety
/// The pages are mapped, writable, and used for nothing else, for good.
pub unsafe fn init(pages: PageRange) {
    let (start, size) =
        (pages.start() << hyp_abi::PAGE_SHIFT, pages.pages() << hyp_abi::PAGE_SHIFT);
    // SAFETY: 1. The caller vouches for the memory.
    HEAP.0.with(|heap| unsafe { heap.init(start as usize, size as usize) });
}
