//! Before a run: timers' lines, list registers, the answer to the last exit, the registers of a vCPU that
//! starts. All go into the run page.

use hyp_abi::run;
use hyp_abi::run::entry;

use super::{Reply, State, Vm};
use crate::host::{Host, RunPage};
use crate::memmap::{PTIMER_INTID, RTC_INTID, UART_INTID, VTIMER_INTID};
use crate::psci::Start;

/// SCTLR_EL1 after a reset: the RES1 bits of Armv8.0, MMU and caches off.
const SCTLR_RESET: u64 = 0x30d0_0800;
/// EL1h, all exceptions masked.
const PSTATE_RESET: u64 = 0x3c5;

/// What the caller arranges for a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The active state that the physical PPI of the virtual timer must have: write it to
    /// `ISACTIVER0` or `ICACTIVER0`. Active, the timer cannot end runs while the guest deals
    /// with it; the guest's own deactivation ends that.
    pub vtimer_active: bool,
    /// The run must end by then (physical counter): the guest's physical timer or its clock fires.
    pub deadline: Option<u64>,
}

impl Vm<'_> {
    /// Writes the entry words of a vCPU's run page. `trap_wfx`: WFI and WFE end it. `None`: the vCPU is
    /// off, or does not exist. Otherwise the vCPU counts as inside the guest until
    /// [`Vm::after_run`].
    pub fn before_run<H: Host + ?Sized>(
        &self,
        host: &H,
        idx: usize,
        trap_wfx: bool,
    ) -> Option<Entry> {
        let page = host.run_page(*self.run_pages.get(idx)?);
        let now = host.now();
        self.change(Some(idx), |state| state.enter(&page, idx, now, trap_wfx))
    }

    /// Whether a vCPU that sleeps has something to wake for.
    pub fn can_wake<H: Host + ?Sized>(&self, host: &H, idx: usize) -> bool {
        self.change(Some(idx), |state| state.can_wake(idx, host.now()))
    }

    /// When the next timer of a vCPU fires that is not inside the guest, by the physical counter:
    /// asleep, it must be woken then.
    #[must_use]
    pub fn deadline<H: Host + ?Sized>(&self, host: &H, idx: usize) -> Option<u64> {
        self.state.lock().deadline(idx, host.now())
    }

    /// Whether the guest will take a byte of serial input now.
    #[must_use]
    pub fn can_receive(&self) -> bool {
        self.state.lock().uart.can_receive()
    }

    /// Serial input; ask [`Vm::can_receive`] first. Whom it interrupts is among the pokes.
    pub fn receive(&self, byte: u8) {
        self.change(None, |state| {
            state.uart.receive(byte);
            state.update_uart();
        });
    }
}

impl State {
    fn enter<P: RunPage>(
        &mut self,
        page: &P,
        idx: usize,
        now: u64,
        trap_wfx: bool,
    ) -> Option<Entry> {
        let vcpu = self.vcpus.get_mut(idx).filter(|vcpu| vcpu.on)?;
        // Made ready before, and not run.
        vcpu.inside = false;
        self.update_lines(idx, now);
        let filled = self.vgic.fill(idx);
        let vtimer_active = self.vgic.hardware_active(idx);
        let vcpu = self.vcpus.get_mut(idx)?;
        vcpu.inside = true;
        vcpu.done = false;
        // Run all the same, it will make that access again.
        vcpu.parked = None;
        let mut flags = if trap_wfx { entry::TRAP_WFX } else { 0 };
        if let Some(start) = vcpu.start.take() {
            vcpu.reply = Reply::None;
            load_reset(page, start);
            flags |= entry::LOAD_CONTEXT;
        }
        flags |= match core::mem::take(&mut vcpu.reply) {
            Reply::None => 0,
            Reply::Complete(value) => {
                page.write(run::ENTRY_VALUE, value);
                entry::COMPLETE
            }
            Reply::Result(values) => {
                for (n, value) in values.into_iter().enumerate() {
                    page.write(run::ENTRY_RESULT.saturating_add(n), value);
                }
                entry::SET_RESULT
            }
            Reply::Abort => entry::INJECT_ABORT,
            Reply::Undef => entry::INJECT_UNDEF,
        };
        page.write(run::ENTRY_FLAGS, flags);
        page.write(run::VGIC_USED_LRS, u64::try_from(filled.used).unwrap_or(0));
        page.write(run::VGIC_HCR, filled.hcr);
        for (n, lr) in filled.lrs.into_iter().take(filled.used).enumerate() {
            page.write(run::LR.saturating_add(n), lr);
        }
        let deadlines = [vcpu.physical.deadline(now), self.rtc.deadline()];
        Some(Entry { vtimer_active, deadline: deadlines.into_iter().flatten().min() })
    }

    /// Brings the interrupt lines of a vCPU's timers, the clock's and the UART's, up to date.
    pub(super) fn update_lines(&mut self, idx: usize, now: u64) {
        self.update_timers(idx, now);
        self.rtc.tick(now);
        self.vgic.set_line(0, RTC_INTID, self.rtc.line());
        self.update_uart();
    }

    /// The lines of the timers of a vCPU that is not inside the guest.
    pub(super) fn update_timers(&mut self, idx: usize, now: u64) {
        let Some(vcpu) = self.vcpus.get(idx).filter(|vcpu| !vcpu.inside) else { return };
        let (virt, physical) = (vcpu.virt.line(now), vcpu.physical.line(now));
        self.vgic.set_line(idx, VTIMER_INTID, virt);
        self.vgic.set_line(idx, PTIMER_INTID, physical);
    }

    fn update_uart(&mut self) {
        self.vgic.set_line(0, UART_INTID, self.uart.line());
    }

    pub(super) fn can_wake(&mut self, idx: usize, now: u64) -> bool {
        self.update_lines(idx, now);
        let Some(vcpu) = self.vcpus.get(idx).filter(|vcpu| vcpu.on) else { return false };
        vcpu.done || (vcpu.parked.is_none() && self.vgic.pending_for(idx))
    }

    pub(super) fn deadline(&self, idx: usize, now: u64) -> Option<u64> {
        let vcpu = self.vcpus.get(idx)?;
        let timers = [vcpu.virt.deadline(now), vcpu.physical.deadline(now)];
        let deadlines = timers.into_iter().chain([self.rtc.deadline()]);
        deadlines.flatten().min()
    }
}

fn load_reset<P: RunPage>(page: &P, start: Start) {
    let registers = run::CTX_SYSREGS.saturating_add(run::SYSREGS.len());
    for word in run::CTX..registers {
        page.write(word, 0);
    }
    page.write(run::CTX, start.context);
    page.write(run::CTX_PC, start.entry);
    page.write(run::CTX_PSTATE, PSTATE_RESET);
    let sctlr = run::SYSREGS.iter().position(|name| *name == "SCTLR_EL1").unwrap_or(0);
    page.write(run::CTX_SYSREGS.saturating_add(sctlr), SCTLR_RESET);
}
