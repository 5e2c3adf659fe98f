//! Reset and switching off while all CPUs are busy.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::crew;
use crate::{check, check_eq, console, gic, machine, memory, mmu, print, println, probe, psci};
use crate::{cpu, start, timer};

static BUSY: AtomicU64 = AtomicU64::new(0);
static WHAT: AtomicU64 = AtomicU64::new(0);

/// Some spin, some wait, some fault on memory for the first time.
fn busy(_: u64) {
    let me = cpu::me() as u64;
    BUSY.fetch_add(1, Relaxed);
    let mut n = 0;
    loop {
        match me % 3 {
            0 => core::hint::spin_loop(),
            1 => cpu::relax(),
            _ => {
                n = (n + 1) % 512;
                let _ = mmu::touch(memory::free_start() + (me << 21) + (n << 12), n);
            }
        }
        if WHAT.load(Relaxed) != 0 && me + 1 == crew::size() as u64 {
            psci::call(WHAT.load(Relaxed), 0, 0, 0);
        }
    }
}

/// The payload with `smp=reset`. It never returns: another CPU than the first ends the machine.
pub fn run() {
    gic::get().init();
    let memory = memory::free_start();
    check!(probe::load64(memory) == Ok(0), "memory is zero at the start");
    check!(mmu::touch(memory, 0x5eed), "and writable");
    for cpu in crew::others() {
        let mpidr = machine::mpidr(cpu);
        check_eq!(psci::status(psci::AFFINITY_INFO, mpidr, 0, 0), 1, "CPU {cpu} is off at first");
        check_eq!(start::cpu_on(cpu, busy, 0), 0, "CPU {cpu} is busy");
    }
    let n = crew::size() as u64;
    check!(timer::wait(10_000, || BUSY.load(Relaxed) == n - 1), "all others are");
    print!("reset or off? ");
    let mut word = [0u8; 8];
    let mut len = 0;
    loop {
        match console::get() {
            Some(b'\r' | b'\n') => break,
            Some(byte) if len < word.len() => {
                word[len] = byte;
                len += 1;
            }
            _ => cpu::relax(),
        }
    }
    let reset = word.starts_with(b"reset");
    println!();
    println!("{}", if reset { "resetting" } else { "good-bye" });
    WHAT.store(if reset { psci::SYSTEM_RESET } else { psci::SYSTEM_OFF }, Relaxed);
    cpu::signal();
    busy(0);
}
