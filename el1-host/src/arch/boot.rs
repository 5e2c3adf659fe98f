//! The image's entry code and vectors (boot/el1*.S) and its layout (linker/el1-host.ld).

use core::arch::global_asm;
use core::ptr::addr_of;

use hyp_abi::PAGE_SIZE;

global_asm!(include_str!("../../../boot/el1.S"));
global_asm!(include_str!("../../../boot/el1_vectors.S"));

/// Where the segments of the image lie, in bytes; every bound is at a page.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// First byte of the image and of its text.
    pub start: u64,
    /// End of the text, begin of the read-only data.
    pub text_end: u64,
    /// End of the read-only data, begin of the data.
    pub rodata_end: u64,
    /// The unmapped page below the boot stack.
    pub stack_guard: u64,
    /// The unmapped page below the exception stack.
    pub exception_guard: u64,
    /// End of the image, bss and stacks included.
    pub end: u64,
}

impl Layout {
    /// Whether an address lies in the page below a stack.
    pub fn is_guard(&self, address: u64) -> bool {
        let page = address & !(PAGE_SIZE - 1);
        page == self.stack_guard || page == self.exception_guard
    }
}

unsafe extern "C" {
    static __el1_image_start: u8;
    static __el1_text_end: u8;
    static __el1_rodata_end: u8;
    static __el1_stack_guard: u8;
    static __el1_exception_stack_guard: u8;
    static __el1_image_end: u8;
}

/// The layout of this image, where it runs.
pub fn layout() -> Layout {
    Layout {
        start: addr_of!(__el1_image_start) as u64,
        text_end: addr_of!(__el1_text_end) as u64,
        rodata_end: addr_of!(__el1_rodata_end) as u64,
        stack_guard: addr_of!(__el1_stack_guard) as u64,
        exception_guard: addr_of!(__el1_exception_stack_guard) as u64,
        end: addr_of!(__el1_image_end) as u64,
    }
}

/// First Rust code: MMU and caches are on, the stack is the boot stack.
#[unsafe(no_mangle)]
extern "C" fn el1_host_main(device_tree: u64) -> ! {
    super::barrier::unmask_serror();
    crate::start::start(device_tree)
}
