//! Running a vCPU: into the guest, out again, and whatever the exit asks for.
//!
//! One vCPU at a time, on the one CPU. What an exit means is host-vmm's to say; here are the
//! hardware's ends of it: the physical interrupts, the timer, sleep.

use core::fmt;

use host_mirror::Calls;
use host_vmm::vm::{Action, Fatal, Vm};
use hyp_abi::Refusal;
use hyp_abi::run::Exit;

use crate::arch::{barrier, timer};
use crate::shim::Shim;

/// The vCPU that runs: guests have one each.
const ONLY: usize = 0;

/// Parts of a second after which the host looks at its interrupt controller again, whatever the
/// guest does. When a guest deactivates the virtual timer's interrupt, the linked physical one must
/// become pending again at once if its line is high again (IHI0048, hardware interrupts). QEMU's
/// GICv2 looks at that line only when some other line or register changes: without this tick, a
/// guest whose next timer fires before it has deactivated the last would wait for ever.
const LOOKS_PER_SECOND: u64 = 100;

/// WFI and WFE end the run. Untrapped, a WFI would end whenever the host has an interrupt, at the
/// latest at the next look. A guest must expect that of any WFI (DDI0487, Wait for Interrupt), but
/// it happens on hardly any machine, and small kernels wait once and do not look again.
const TRAP_WFX: bool = true;

/// How a VM's run ended.
#[derive(Debug)]
pub enum End {
    /// The guest switched its machine off.
    PowerOff,
    /// The guest wants its machine reset.
    Reset,
    /// Its last vCPU switched itself off: nothing could ever wake the VM.
    Halted,
    /// It cannot go on.
    Fatal(Fatal),
    /// EL2 refuses to load or unload its vCPU.
    Refused(Refusal),
    /// It still ran after this many seconds, the most that the command line allows.
    TimedOut(u64),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => write!(f, "powered off"),
            Self::Reset => write!(f, "reset"),
            Self::Halted => write!(f, "halted: its last vCPU is off"),
            Self::Fatal(why) => write!(f, "stopped: {why}"),
            Self::Refused(why) => write!(f, "stopped: EL2 refuses to load its vCPU ({why:?})"),
            Self::TimedOut(seconds) => write!(f, "stopped: still running after {seconds} s"),
        }
    }
}

/// How long a VM may run.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    seconds: u64,
    /// The counter's value then.
    end: u64,
}

impl Limit {
    /// So many seconds from now.
    pub fn from_now(seconds: u64) -> Self {
        let ticks = seconds.saturating_mul(timer::frequency());
        Self { seconds, end: timer::now().saturating_add(ticks) }
    }
}

/// Runs the vCPU until the VM ends, or its time does.
pub fn run(shim: &Shim, vm: &Vm<'_>, limit: Option<Limit>) -> End {
    if let Err(refusal) = shim.vcpu_load(vm.handle(), ONLY as u64) {
        return End::Refused(refusal);
    }
    let mut turn = Turn::new(shim, vm, limit);
    let end = turn.run();
    turn.finish();
    if let Err(refusal) = shim.vcpu_put() {
        return End::Refused(refusal);
    }
    end
}

/// The vCPU on this CPU.
struct Turn<'a, 'v, 'b> {
    shim: &'a Shim,
    vm: &'v Vm<'b>,
    limit: Option<Limit>,
    /// The deadline that the timer is set to.
    armed: Option<u64>,
    /// When the host looks at its interrupt controller at the latest.
    look: u64,
    /// The virtual timer's physical interrupt may be active.
    vtimer_active: bool,
    /// Received bytes do not interrupt, because the guest's UART is full.
    deaf: bool,
}

impl<'a, 'v, 'b> Turn<'a, 'v, 'b> {
    fn new(shim: &'a Shim, vm: &'v Vm<'b>, limit: Option<Limit>) -> Self {
        shim.uart.listen(true);
        let (armed, look) = (None, timer::now());
        Self { shim, vm, limit, armed, look, vtimer_active: true, deaf: false }
    }

    fn run(&mut self) -> End {
        loop {
            if let Some(end) = self.out_of_time() {
                return end;
            }
            let Some(entry) = self.vm.before_run(self.shim, ONLY, TRAP_WFX) else {
                return End::Halted;
            };
            self.set_vtimer_active(entry.vtimer_active);
            self.arm_run(entry.deadline);
            let exit = self.shim.vcpu_run();
            let action = self.vm.after_run(self.shim, ONLY, exit);
            if exit.is_ok_and(|exit| exit.exit == Exit::Irq) {
                self.take_interrupts();
            }
            if self.deaf {
                self.feed();
            }
            match action {
                Action::Resume => {}
                Action::Sleep { until } => self.sleep(until),
                Action::CpuOff => return End::Halted,
                Action::PowerOff => return End::PowerOff,
                Action::Reset => return End::Reset,
                Action::Fatal(why) => return End::Fatal(why),
            }
        }
    }

    /// Leaves no interrupt of this VM behind.
    fn finish(&mut self) {
        self.shim.uart.listen(false);
        self.set_vtimer_active(false);
        timer::cancel();
    }

    fn out_of_time(&self) -> Option<End> {
        let limit = self.limit?;
        (timer::now() >= limit.end).then_some(End::TimedOut(limit.seconds))
    }

    /// Makes the physical state of the virtual timer's interrupt what the model needs. EL2 has
    /// switched that timer off at the exit, so its line is low now and only this state counts.
    fn set_vtimer_active(&mut self, active: bool) {
        // The guest's own deactivation can clear it, but nothing sets it except this and an
        // acknowledgement.
        if active || self.vtimer_active {
            self.shim.gic.set_active(self.shim.intids.vtimer, active);
        }
        self.vtimer_active = active;
    }

    /// Sets the host's timer for a run of the guest, which may have a `deadline`.
    fn arm_run(&mut self, deadline: Option<u64>) {
        let now = timer::now();
        if now >= self.look {
            self.look = now.saturating_add(timer::frequency() / LOOKS_PER_SECOND);
        }
        self.arm(Some(deadline.map_or(self.look, |deadline| deadline.min(self.look))));
    }

    /// Sets the host's timer to the earlier of `deadline` and the VM's limit.
    fn arm(&mut self, deadline: Option<u64>) {
        let limit = self.limit.map(|limit| limit.end);
        let next = [deadline, limit].into_iter().flatten().min();
        if next != self.armed {
            self.armed = next;
            match next {
                Some(deadline) => timer::set_deadline(deadline),
                None => timer::cancel(),
            }
        }
    }

    /// Waits until the vCPU has something to do, `until` has come or the VM's time is over.
    fn sleep(&mut self, until: Option<u64>) {
        let due = |at: Option<u64>| at.is_some_and(|at| timer::now() >= at);
        while !self.vm.can_wake(self.shim, ONLY) && !due(until) && self.out_of_time().is_none() {
            self.arm(until);
            barrier::wait_for_interrupt();
            self.take_interrupts();
        }
    }

    /// Takes all pending interrupts.
    fn take_interrupts(&mut self) {
        let gic = &self.shim.gic;
        while let Some(interrupt) = gic.acknowledge() {
            gic.drop_priority(interrupt);
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
                self.feed();
            }
            gic.deactivate(interrupt);
        }
    }

    /// Gives the guest's UART as much input as it can take. What it cannot stays in the hardware,
    /// which then must not interrupt, for its line stays high.
    fn feed(&mut self) {
        while self.vm.can_receive()
            && let Some(byte) = self.shim.uart.receive()
        {
            self.vm.receive(byte);
        }
        self.deaf = !self.vm.can_receive();
        self.shim.uart.listen(!self.deaf);
    }
}
