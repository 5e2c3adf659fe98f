//! What every CPU does: asks the scheduler, runs a vCPU, takes interrupts, sleeps.
//!
//! Interrupts are masked all the time and polled. So nothing here is re-entrant, and the locks that
//! CPUs share may spin.

use host_sched::Next;

use crate::arch::gic::CpuGic;
use crate::arch::{barrier, timer};
use crate::shim::Shim;

/// A CPU.
pub struct Cpu<'a> {
    pub shim: &'a Shim,
    pub number: usize,
    pub gic: CpuGic,
    /// The deadline that this CPU's timer is set to.
    armed: Option<u64>,
    /// The virtual timer's physical interrupt may be active on this CPU.
    vtimer_active: bool,
    /// Something may have changed for the vCPU that runs: ask the scheduler.
    pub look: bool,
}

impl<'a> Cpu<'a> {
    /// The CPU that calls, with its part of the interrupt controller; `None` if it has none.
    pub fn new(shim: &'a Shim, number: usize) -> Option<Self> {
        let gic = shim.gic.open_cpu()?;
        gic.enable(shim.intids.timer);
        gic.enable(shim.intids.vtimer);
        // The maintenance interrupt ends a guest's run; it is over when EL2 has switched the list
        // registers off, before anybody could acknowledge it. So it needs no handler.
        gic.enable(shim.intids.maintenance);
        shim.open_door(number, gic.address());
        timer::cancel();
        Some(Self { shim, number, gic, armed: None, vtimer_active: true, look: false })
    }

    /// Runs guests until there is nothing more to do.
    pub fn run(&mut self, done: impl Fn() -> bool) {
        while !done() {
            self.take_interrupts();
            self.shim.alarm();
            let (next, kicks) = self.shim.sched.lock().next(self.number, timer::now());
            self.shim.kick(kicks);
            self.look = false;
            match next {
                Next::Run(task, until) => self.turn(task, until),
                Next::End(guest) => {
                    if let Some(guests) = self.shim.guests.get() {
                        guests.finish(self.shim, guest);
                    }
                }
                Next::Idle(until) => {
                    self.arm(until);
                    if !done() {
                        barrier::wait_for_interrupt();
                    }
                }
            }
        }
    }

    /// Sets this CPU's timer.
    pub fn arm(&mut self, deadline: Option<u64>) {
        let alarm = Some(self.shim.next_alarm()).filter(|at| *at != u64::MAX);
        let next = [deadline, alarm].into_iter().flatten().min();
        if next != self.armed {
            self.armed = next;
            match next {
                Some(deadline) => timer::set_deadline(deadline),
                None => timer::cancel(),
            }
        }
    }

    /// Makes the physical state of the virtual timer's interrupt what the model of the vCPU needs that
    /// runs next here. EL2 has switched that timer off at the exit, so its line is low now and only
    /// this state counts.
    pub fn set_vtimer_active(&mut self, active: bool) {
        // The guest's own deactivation can clear it, but nothing sets it except this and an
        // acknowledgement.
        if active || self.vtimer_active {
            self.gic.set_active(self.shim.intids.vtimer, active);
        }
        self.vtimer_active = active;
    }

    /// Takes all pending interrupts.
    pub fn take_interrupts(&mut self) {
        while let Some(interrupt) = self.gic.acknowledge() {
            self.gic.drop_priority(interrupt);
            let intid = interrupt.intid();
            if intid == self.shim.intids.vtimer {
                // Stays active, until the next run says what it must be.
                self.vtimer_active = true;
                continue;
            }
            if intid == self.shim.intids.timer {
                timer::cancel();
                self.armed = None;
            } else if Some(intid) == self.shim.intids.uart {
                self.shim.input.feed(self.shim);
            }
            // A kick has no other meaning than this.
            self.look = true;
            self.gic.deactivate(interrupt);
        }
    }
}
