//! A guest that resets its machine whenever it starts. The host must start it afresh, and not for
//! ever.

use crate::{check, machine, memory, mmu, println, probe, psci};

/// The payload.
pub fn run() {
    let m = machine::get();
    println!("started with {} MiB", m.ram.1 >> 20);
    let at = memory::free_start();
    check!(probe::load64(at) == Ok(0), "memory is zero after a reset");
    check!(mmu::touch(at, 0x5eed), "and writable");
    psci::call(psci::SYSTEM_RESET, 0, 0, 0);
    check!(false, "SYSTEM_RESET does not return");
}
