//! The other CPUs: started one by one; what does not come up is left out.

use core::sync::atomic::{AtomicU8, Ordering};

use log::warn;

use crate::arch::boot::{CPUS, secondary_entry};
use crate::arch::{barrier, firmware, timer};
use crate::cpu::Cpu;
use crate::shim::Shim;
use crate::start::SHIM;

/// How far each CPU is. A CPU that is given up must not turn up later.
static STAGES: [AtomicU8; CPUS] = [const { AtomicU8::new(OFF) }; CPUS];
const OFF: u8 = 0;
const UP: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Starts the others of `cpus`; the one that calls is `own`. Answers how many CPUs there are then.
pub fn start(cpus: &[hyp_dtb::Cpu], own: u64) -> usize {
    let others = cpus.iter().map(|cpu| cpu.mpidr).filter(|mpidr| *mpidr != own);
    let mut up = 1;
    // Numbers are given to those that are asked; those beyond the last stack are not.
    for (number, mpidr) in (1..).zip(others) {
        if number >= CPUS {
            warn!("more than {CPUS} CPUs: the rest stay off");
            break;
        }
        match start_one(number, mpidr) {
            Ok(()) => up += 1,
            Err(why) => warn!("CPU {mpidr:#x} is left out: {why}"),
        }
    }
    up
}

fn start_one(number: usize, mpidr: u64) -> Result<(), smccc::psci::Error> {
    firmware::cpu_on(mpidr, secondary_entry(), number as u64)?;
    let patience = timer::now().saturating_add(timer::frequency());
    while STAGES[number].load(Ordering::Acquire) == OFF && timer::now() < patience {
        core::hint::spin_loop();
    }
    match STAGES[number].compare_exchange(OFF, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire) {
        Err(UP) => Ok(()),
        _ => Err(smccc::psci::Error::NotPresent),
    }
}

/// A CPU that has been started.
pub fn arrive(number: usize) -> ! {
    if let Some(shim) = SHIM.get()
        && let Some(mut cpu) = Cpu::new(shim, number)
        && let Some(stage) = STAGES.get(number)
        && stage.compare_exchange(OFF, UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    {
        cpu.run(|| false);
    }
    barrier::park()
}

/// The boot CPU, which takes the UART's interrupts as well.
pub fn boot_cpu(shim: &Shim) -> Option<Cpu<'_>> {
    let cpu = Cpu::new(shim, 0)?;
    if let Some(uart) = shim.intids.uart {
        cpu.gic.enable(uart);
    }
    Some(cpu)
}
