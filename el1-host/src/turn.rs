//! A vCPU's turn on a CPU: loaded, run again and again, unloaded.
//!
//! What an exit means is host-vmm's to say; here are the hardware's ends of it.

use host_mirror::Calls;
use host_sched::{Stay, Task};
use host_vmm::vm::{Action, Vm};
use hyp_abi::run::Exit;

use crate::arch::timer;
use crate::cpu::Cpu;
use crate::el2::El2;
use crate::end::End;
use crate::guests::{Guest, Guests};

/// WFI and WFE end the run. Untrapped, a WFI would end whenever the host has an interrupt, at the
/// latest at the next look. A guest must expect that of any WFI (DDI0487, Wait for Interrupt), but
/// it happens on hardly any machine, and small kernels wait once and do not look again. And other vCPUs
/// would wait for this CPU meanwhile.
const TRAP_WFX: bool = true;

/// What becomes of a vCPU after its turn.
enum Leave {
    /// It waits to be woken, until then at the latest.
    Block(Option<u64>),
    /// It goes on later; `true`: after the others, for it gave its time away.
    Release(bool),
}

/// The vCPU whose turn it is.
struct Turn<'t> {
    guests: &'t Guests,
    guest: &'t Guest,
    vm: &'t Vm<'static>,
    task: Task,
}

impl Cpu<'_> {
    /// Runs a vCPU; asks the scheduler again at `until` at the latest.
    pub fn turn(&mut self, task: Task, until: u64) {
        let leave = self.take_turn(task, until);
        let mut sched = self.shim.sched.lock();
        match leave {
            Leave::Block(until) => sched.block(self.number, until, timer::now()),
            Leave::Release(behind) => sched.release(self.number, behind, timer::now()),
        }
    }

    /// The vCPU is loaded in here only: nobody can take it over before it has been put.
    fn take_turn(&mut self, task: Task, until: u64) -> Leave {
        let Some(guests) = self.shim.guests.get() else { return Leave::Block(None) };
        let Some(guest) = guests.get(task.vm) else { return Leave::Block(None) };
        let Some(vm) = guests.vm(task.vm) else { return Leave::Block(None) };
        let turn = Turn { guests, guest, vm: &vm, task };
        if let Some(until) = self.still_waits(&turn) {
            return Leave::Block(until);
        }
        if let Err(refusal) = El2.vcpu_load(vm.handle(), task.vcpu as u64) {
            guests.end(self.shim, task.vm, End::Refused(refusal));
            return Leave::Release(false);
        }
        let leave = self.stay(&turn, until);
        self.set_vtimer_active(false);
        if let Err(refusal) = El2.vcpu_put() {
            guests.end(self.shim, task.vm, End::Refused(refusal));
        }
        leave
    }

    /// Whether a vCPU that waits for an interrupt has been woken for nothing; until when it goes on
    /// waiting.
    fn still_waits(&mut self, turn: &Turn<'_>) -> Option<Option<u64>> {
        let until = turn.guest.wait(turn.task.vcpu)?;
        let ground = turn.guest.ground(self.shim, turn.task.vm);
        let woken = turn.vm.can_wake(&ground, turn.task.vcpu) || timer::now() >= until;
        self.deliver(turn);
        if woken {
            turn.guest.set_wait(turn.task.vcpu, None);
            return None;
        }
        Some(Some(until).filter(|until| *until != u64::MAX))
    }

    fn stay(&mut self, turn: &Turn<'_>, mut until: u64) -> Leave {
        let Turn { guests, guest, vm, task } = turn;
        let ground = guest.ground(self.shim, task.vm);
        let end = |end| {
            guests.end(self.shim, task.vm, end);
            Leave::Release(false)
        };
        loop {
            let entry = vm.before_run(&ground, task.vcpu, TRAP_WFX);
            self.deliver(turn);
            // It is off.
            let Some(entry) = entry else { return Leave::Block(None) };
            self.set_vtimer_active(entry.vtimer_active);
            self.arm(Some(entry.deadline.map_or(until, |deadline| deadline.min(until))));
            let entered = timer::now();
            let exit = El2.vcpu_run();
            guest.count_run(timer::now().saturating_sub(entered));
            let action = vm.after_run(&ground, task.vcpu, exit);
            let exit = exit.ok().map(|exit| exit.exit);
            if exit == Some(Exit::Irq) {
                self.take_interrupts();
            }
            self.deliver(turn);
            self.shim.alarm();
            if self.shim.input.is_deaf(task.vm) {
                self.shim.input.feed(self.shim);
            }
            match action {
                Action::Resume => {}
                Action::Sleep { until } => {
                    guest.set_wait(task.vcpu, Some(until.unwrap_or(u64::MAX)));
                    return Leave::Block(until);
                }
                Action::CpuOff => {
                    if vm.on().is_empty() {
                        return end(End::Halted);
                    }
                    return Leave::Block(None);
                }
                Action::PowerOff => return end(End::PowerOff),
                Action::Reset => return end(End::Reset),
                Action::Fatal(why) => return end(End::Fatal(why)),
            }
            if core::mem::take(&mut self.look) {
                let (stay, kicks) = self.shim.sched.lock().check(self.number, timer::now());
                self.shim.kick(kicks);
                match stay {
                    Stay::Until(next) => until = next,
                    Stay::Leave => return Leave::Release(false),
                }
            } else if exit == Some(Exit::Wfx) && self.shim.sched.lock().has_others(self.number) {
                // WFE: it spins, perhaps on what another vCPU must do first.
                return Leave::Release(true);
            }
        }
    }

    /// Wakes, starts and interrupts vCPUs that have gained something to do.
    fn deliver(&mut self, turn: &Turn<'_>) {
        let mut kicks = self.shim.deliver(turn.task.vm, turn.vm);
        self.look |= kicks.remove(self.number);
        self.shim.kick(kicks);
    }
}
