//! A guest that jumps to memory it does not have. The first time its vectors stand and it gets an
//! abort, as the architecture says. The second time there are none: the host must end the VM with
//! a clear message.

use core::arch::asm;

use crate::trap::{EXTERNAL, ec};
use crate::{check, machine, println, probe, write};

/// The payload.
pub fn run() {
    let m = machine::get();
    let outside = m.ram.0 + m.ram.1 + 0x1000;
    let fault = probe::fetch(outside).err();
    check!(
        fault.is_some_and(|f| f.ec() == ec::FETCH && f.fsc() == EXTERNAL && f.far == outside),
        "a jump to unmapped memory is an external abort at the guest's own vector"
    );
    println!("now without vectors: the host has to end this");
    write!("vbar_el1", outside & !0x7ff);
    // SAFETY:
    // 1. Nothing of ours runs after this: the vector of the abort is not there either.
    unsafe { asm!("br {}", in(reg) outside, options(noreturn)) }
}
