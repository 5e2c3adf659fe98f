//! After a run: what the guest wanted, and the answer.

use host_mirror::{Calls, RunExit};
use hyp_abi::hcall::MAX_VCPUS;
use hyp_abi::run::{self, Exit, exit_flags};
use hyp_abi::{Ipa, Refusal, lr};

use super::mmio::End;
use super::{Action, Fatal, Reply, State, Vcpu, Vm};
use crate::fault::{Access, Fault};
use crate::host::{Host, RunPage};
use crate::psci::{self, Answer, Call, Start};
use crate::timer::Timer;
use crate::vcpu_set::VcpuSet;

/// ESR_EL2.ISS.TI of a trapped wait: WFI is 0; WFE, WFIT and WFET may return early.
const WAIT_KIND: u64 = 3;
/// Bits of an address within the exception vectors (DDI0487 D1.3.2: 2 KiB, aligned).
const VECTORS: u64 = 0x7ff;

impl Vm<'_> {
    /// Deals with the end of a run. `exit` is what `vcpu_run` answered. The vCPU need not be loaded any
    /// more, except for an abort, which may need a page mapped.
    pub fn after_run<H: Host + ?Sized>(
        &self,
        host: &H,
        idx: usize,
        exit: Result<RunExit, Refusal>,
    ) -> Action {
        let Some(frame) = self.run_pages.get(idx) else {
            return Action::Fatal(Fatal::NoSuchVcpu);
        };
        let page = host.run_page(*frame);
        let mut lrs = [0; lr::MAX];
        for (n, word) in lrs.iter_mut().enumerate() {
            *word = page.read(run::LR.saturating_add(n));
        }
        let virt = Timer::new(page.read(run::TIMER_CTL), page.read(run::TIMER_CVAL));
        let now = host.now();
        self.change(Some(idx), |state| {
            state.vgic.fold(idx, &lrs);
            if let Some(vcpu) = state.vcpus.get_mut(idx) {
                vcpu.inside = false;
            }
            if let (Ok(exit), Some(vcpu)) = (exit, state.vcpus.get_mut(idx)) {
                vcpu.virt = virt;
                state.exits.count(exit.exit);
            }
            state.update_lines(idx, now);
            state.left(idx);
        });
        let exit = match exit {
            Ok(exit) => exit,
            Err(refusal) => return Action::Fatal(Fatal::Run(refusal)),
        };
        match exit.exit {
            Exit::Irq => Action::Resume,
            Exit::Abort => self.abort(host, idx, &exit),
            Exit::Hvc | Exit::Smc => {
                let mut x = [0; 4];
                for (n, word) in x.iter_mut().enumerate() {
                    *word = page.read(run::EXIT_GPR.saturating_add(n));
                }
                self.call(host, idx, x)
            }
            Exit::Wfx if exit.esr & WAIT_KIND == 0 => {
                self.change(Some(idx), |state| state.wait(idx, now))
            }
            Exit::Wfx => Action::Resume,
            Exit::Sysreg => self.change(Some(idx), |state| {
                let reply = state.sysreg(now, idx, &exit);
                state.reply(idx, reply)
            }),
            Exit::SError => Action::Fatal(Fatal::SError(exit.esr)),
            Exit::Illegal => Action::Fatal(Fatal::Illegal(exit.esr)),
        }
    }

    fn reply(&self, idx: usize, reply: Reply) -> Action {
        self.state.lock().reply(idx, reply)
    }

    fn abort<H: Host + ?Sized>(&self, host: &H, idx: usize, exit: &RunExit) -> Action {
        let flag = |bit| exit.flags & bit != 0;
        let access = Access {
            write: flag(exit_flags::WRITE),
            fetch: flag(exit_flags::FETCH),
            permission: flag(exit_flags::PERMISSION),
        };
        let Some(ipa) = Ipa::new(exit.ipa) else { return self.reply(idx, Reply::Abort) };
        match self.memory.fault(host, ipa.frame(), access) {
            Fault::Retry => Action::Resume,
            Fault::OutOfFrames => Action::Fatal(Fatal::OutOfFrames),
            Fault::Refused(refusal) => Action::Fatal(Fatal::Map(ipa, refusal)),
            // Maintenance of a cache that holds nothing of a device, or of read-only memory.
            Fault::Outside | Fault::ReadOnly if flag(exit_flags::CACHE_OP) => {
                self.reply(idx, Reply::Complete(0))
            }
            Fault::ReadOnly => self.reply(idx, Reply::Abort),
            Fault::Outside if access.fetch => self.jumped_away(host, idx),
            Fault::Outside => {
                let now = host.now();
                let end = self.change(Some(idx), |state| state.mmio(now, idx, ipa, exit));
                match end {
                    End::Reply(reply) => self.reply(idx, reply),
                    End::Parked => Action::Sleep { until: None },
                    End::Sent(byte) => {
                        // Not under the lock: the console may be slow. The order of one vCPU's
                        // bytes is kept, for it does not go on before.
                        host.put(byte);
                        self.reply(idx, Reply::Complete(0))
                    }
                }
            }
        }
    }

    /// A fetch where no memory is: an external abort. If that leads to a vector where no memory is
    /// either, the guest would abort there for ever without an instruction between.
    fn jumped_away<H: Host + ?Sized>(&self, host: &H, idx: usize) -> Action {
        let Some(frame) = self.run_pages.get(idx) else {
            return Action::Fatal(Fatal::NoSuchVcpu);
        };
        let page = host.run_page(*frame);
        let pc = page.read(run::EXIT_PC);
        let lost = self.state.lock().vcpus.get(idx).map(|vcpu| vcpu.lost);
        let [before, last] = lost.unwrap_or([super::NO_PC; 2]);
        if last == pc && host.vcpu_sync_state().is_ok() {
            let sysreg = |name| {
                let at = run::SYSREGS.iter().position(|n| *n == name)?;
                Some(page.read(run::CTX_SYSREGS.saturating_add(at)))
            };
            let in_vectors =
                sysreg("VBAR_EL1").is_some_and(|vbar| pc & !VECTORS == vbar & !VECTORS);
            if in_vectors && sysreg("ELR_EL1") == Some(pc) {
                return Action::Fatal(Fatal::Lost(before, pc));
            }
        }
        let mut state = self.state.lock();
        if let Some(vcpu) = state.vcpus.get_mut(idx).filter(|_| last != pc) {
            vcpu.lost = [last, pc];
        }
        state.reply(idx, Reply::Abort)
    }

    /// An HVC or SMC.
    fn call<H: Host + ?Sized>(&self, host: &H, idx: usize, x: [u64; 4]) -> Action {
        let [_, x1, x2, x3] = x;
        let call = Call::new(x);
        if self.dirty_log
            && let Some(x0) = self.memory.service(host, call.id(), x1)
        {
            return self.reply(idx, Reply::Result([x0, x1, x2, x3]));
        }
        let is_ram =
            |at| Ipa::new(at).is_some_and(|at| self.memory.slots().find(at.frame()).is_some());
        self.change(Some(idx), |state| state.call(idx, x, host.now(), is_ram))
    }
}

impl State {
    fn reply(&mut self, idx: usize, reply: Reply) -> Action {
        if let Some(vcpu) = self.vcpus.get_mut(idx) {
            vcpu.reply = reply;
        }
        Action::Resume
    }

    /// Sleeps, unless there is something to wake for already.
    fn wait(&mut self, idx: usize, now: u64) -> Action {
        if self.can_wake(idx, now) {
            return Action::Resume;
        }
        Action::Sleep { until: self.deadline(idx, now) }
    }

    /// Answers a call of PSCI or SMCCC. All of it happens under the lock: of two vCPUs that start the same
    /// third one, one succeeds. That one counts as on from then; it is never "about to be", so nobody
    /// is told ON_PENDING.
    fn call(&mut self, idx: usize, x: [u64; 4], now: u64, is_ram: impl Fn(u64) -> bool) -> Action {
        let [_, x1, x2, x3] = x;
        let result = |x0| Reply::Result([x0, x1, x2, x3]);
        let mut on = [false; MAX_VCPUS];
        on.iter_mut().zip(&self.vcpus).for_each(|(on, vcpu)| *on = vcpu.on);
        let on = on.get(..self.vcpus.len()).unwrap_or_default();
        match psci::answer(Call::new(x), on, is_ram) {
            Answer::Value(x0) => self.reply(idx, result(x0)),
            Answer::Unknown => self.reply(idx, result(psci::NOT_SUPPORTED)),
            Answer::Standby => {
                self.reply(idx, result(0));
                self.wait(idx, now)
            }
            Answer::CpuOff => {
                self.set_power(idx, None);
                Action::CpuOff
            }
            Answer::CpuOn { vcpu, start } => {
                self.set_power(vcpu, Some(start));
                self.gained = self.gained.union(VcpuSet::only(vcpu));
                self.reply(idx, result(0))
            }
            Answer::SystemOff => Action::PowerOff,
            Answer::SystemReset => Action::Reset,
        }
    }

    /// Switches a vCPU off, or on, to start there. It starts with the state of a reset; interrupts that
    /// are pending for it in the distributor stay (DEN0022 6.4).
    fn set_power(&mut self, idx: usize, start: Option<Start>) {
        if let Some(vcpu) = self.vcpus.get_mut(idx) {
            *vcpu = Vcpu { inside: vcpu.inside, ..Vcpu::new(start) };
            self.vgic.set_power(idx, start.is_some());
        }
    }
}
