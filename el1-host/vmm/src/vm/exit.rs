//! After a run: what the guest wanted, and the answer.

use alloc::vec::Vec;

use host_mirror::{Calls, RunExit};
use hyp_abi::run::{self, Exit, exit_flags};
use hyp_abi::{Ipa, Refusal, lr};

use super::{Action, Fatal, Reply, Vm};
use crate::fault::{Access, Fault};
use crate::host::{Host, RunPage};
use crate::psci::{self, Answer, Call};
use crate::timer::Timer;

/// ESR_EL2.ISS.TI of a trapped wait: WFI is 0; WFE, WFIT and WFET may return early.
const WAIT_KIND: u64 = 3;
/// Bits of an address within the exception vectors (DDI0487 D1.3.2: 2 KiB, aligned).
const VECTORS: u64 = 0x7ff;

impl Vm<'_> {
    /// Deals with the end of a run. `exit` is what `vcpu_run` answered.
    pub fn after_run<H: Host + ?Sized>(
        &mut self,
        host: &H,
        idx: usize,
        exit: Result<RunExit, Refusal>,
    ) -> Action {
        let Some(vcpu) = self.vcpus.get_mut(idx) else { return Action::Fatal(Fatal::NoSuchVcpu) };
        let page = host.run_page(vcpu.run_page);
        let mut lrs = [0; lr::MAX];
        for (n, word) in lrs.iter_mut().enumerate() {
            *word = page.read(run::LR.saturating_add(n));
        }
        self.vgic.fold(idx, &lrs);
        let exit = match exit {
            Ok(exit) => exit,
            Err(refusal) => return Action::Fatal(Fatal::Run(refusal)),
        };
        vcpu.virt = Timer::new(page.read(run::TIMER_CTL), page.read(run::TIMER_CVAL));
        self.exits.count(exit.exit);
        self.update_lines(idx, host.now());
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
            Exit::Wfx if exit.esr & WAIT_KIND == 0 => self.wait(host, idx),
            Exit::Wfx => Action::Resume,
            Exit::Sysreg => {
                let reply = self.sysreg(host.now(), idx, &exit);
                self.reply(idx, reply)
            }
            Exit::SError => Action::Fatal(Fatal::SError(exit.esr)),
            Exit::Illegal => Action::Fatal(Fatal::Illegal(exit.esr)),
        }
    }

    fn reply(&mut self, idx: usize, reply: Reply) -> Action {
        if let Some(vcpu) = self.vcpus.get_mut(idx) {
            vcpu.reply = reply;
        }
        Action::Resume
    }

    /// Sleeps, unless there is something to wake for already.
    fn wait<H: Host + ?Sized>(&mut self, host: &H, idx: usize) -> Action {
        if self.can_wake(host, idx) {
            return Action::Resume;
        }
        let now = host.now();
        let Some(vcpu) = self.vcpus.get(idx) else { return Action::Fatal(Fatal::NoSuchVcpu) };
        let deadlines = [vcpu.virt.deadline(now), vcpu.physical.deadline(now)];
        Action::Sleep { until: deadlines.into_iter().flatten().min() }
    }

    fn abort<H: Host + ?Sized>(&mut self, host: &H, idx: usize, exit: &RunExit) -> Action {
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
                let reply = self.mmio(host, idx, ipa, exit);
                self.reply(idx, reply)
            }
        }
    }

    /// A fetch where no memory is: an external abort. If that leads to a vector where no memory is
    /// either, the guest would abort there for ever without an instruction between.
    fn jumped_away<H: Host + ?Sized>(&mut self, host: &H, idx: usize) -> Action {
        let Some(vcpu) = self.vcpus.get_mut(idx) else { return Action::Fatal(Fatal::NoSuchVcpu) };
        let page = host.run_page(vcpu.run_page);
        let pc = page.read(run::EXIT_PC);
        let [before, last] = vcpu.lost;
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
        if last != pc {
            vcpu.lost = [last, pc];
        }
        self.reply(idx, Reply::Abort)
    }

    /// An HVC or SMC.
    fn call<H: Host + ?Sized>(&mut self, host: &H, idx: usize, x: [u64; 4]) -> Action {
        let [_, x1, x2, x3] = x;
        let result = |x0| Reply::Result([x0, x1, x2, x3]);
        let call = Call::new(x);
        if self.dirty_log
            && let Some(x0) = self.memory.service(host, call.id(), x1)
        {
            return self.reply(idx, result(x0));
        }
        let on: Vec<bool> = self.vcpus.iter().map(|vcpu| vcpu.on).collect();
        let is_ram =
            |at| Ipa::new(at).is_some_and(|at| self.memory.slots().find(at.frame()).is_some());
        match psci::answer(call, &on, is_ram) {
            Answer::Value(x0) => self.reply(idx, result(x0)),
            Answer::Unknown => self.reply(idx, result(psci::NOT_SUPPORTED)),
            Answer::Standby => {
                self.reply(idx, result(0));
                self.wait(host, idx)
            }
            Answer::Powerdown(start) => {
                if let Some(vcpu) = self.vcpus.get_mut(idx) {
                    vcpu.start = Some(start);
                }
                self.wait(host, idx)
            }
            Answer::CpuOff => {
                if let Some(vcpu) = self.vcpus.get_mut(idx) {
                    vcpu.on = false;
                }
                Action::CpuOff
            }
            Answer::CpuOn { vcpu, start } => {
                if let Some(vcpu) = self.vcpus.get_mut(vcpu) {
                    vcpu.on = true;
                    vcpu.start = Some(start);
                    vcpu.physical = Timer::default();
                }
                self.reply(idx, result(0))
            }
            Answer::SystemOff => Action::PowerOff,
            Answer::SystemReset => Action::Reset,
        }
    }
}
