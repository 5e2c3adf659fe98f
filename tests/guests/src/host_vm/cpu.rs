//! The loaded vCPU: its run page, its registers, one run at a time.

use hyp_abi::Hypercall as H;
use hyp_abi::run::{self, Exit, entry};

use super::code;
use crate::gic::{self, SPURIOUS};
use crate::hcall::{self, Answer};
use crate::host::{self, Vm, must, peek, poke};
use crate::timer::{self, ENABLE, IMASK, ISTATUS, PHYSICAL_PPI};
use crate::{console, read, write};

/// EL1h, everything masked.
pub const EL1H: u64 = 0x3c5;
/// RES1 bits of `SCTLR_EL1`: MMU and caches off.
pub const SCTLR_OFF: u64 = 0x30d0_0800;
/// Read, write, execute.
pub const RWX: u64 = 15;
/// Where the guest's data pages begin.
pub const DATA: u64 = 0x4001_0000;

/// What a run ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    /// The reason, or `None` for one that does not exist.
    pub exit: Option<Exit>,
    /// `ESR_EL2`.
    pub esr: u64,
    /// IPA.
    pub ipa: u64,
    /// Value.
    pub value: u64,
    /// Flags.
    pub flags: u64,
    /// The physical interrupt that the host acknowledged, if that was it.
    pub intid: u32,
}

/// A VM with code, vectors and sixteen data pages, its vCPU loaded.
pub struct Cpu {
    /// The VM.
    pub vm: Vm,
    /// The data pages, as addresses of the host.
    pub data: u64,
}

/// How many data pages there are.
pub const DATA_PAGES: u64 = 16;

impl Cpu {
    /// Makes it, with data pages mapped with `prot`.
    #[must_use]
    pub fn new(prot: u64) -> Self {
        let vm = Vm::new(1);
        vm.load();
        let (from, bytes) = code::image();
        let code = host::pages(2);
        for at in (0..bytes).step_by(8) {
            poke(code + at, peek(from + at));
        }
        let data = host::pages(DATA_PAGES);
        for n in 0..2 {
            Vm::map((code >> 12) + n, (code::BASE >> 12) + n, RWX);
        }
        for n in 0..DATA_PAGES {
            Vm::map((data >> 12) + n, (DATA >> 12) + n, prot);
        }
        Self { vm, data }
    }

    /// Unloads the vCPU, ends the VM.
    pub fn end(self) {
        Vm::put();
        self.vm.end();
    }

    /// Reads a word of the run page.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        peek(self.vm.run + 8 * index as u64)
    }

    /// Writes one.
    pub fn set(&self, index: usize, value: u64) {
        poke(self.vm.run + 8 * index as u64, value);
    }

    /// Sets a system register of the context, by name.
    pub fn set_sysreg(&self, name: &str, value: u64) {
        if let Some(n) = run::SYSREGS.iter().position(|r| *r == name) {
            self.set(run::CTX_SYSREGS + n, value);
        }
    }

    /// Reads one.
    #[must_use]
    pub fn sysreg(&self, name: &str) -> u64 {
        run::SYSREGS.iter().position(|r| *r == name).map_or(0, |n| self.word(run::CTX_SYSREGS + n))
    }

    /// A fresh context in the run page: `pc`, and these general registers.
    pub fn context(&self, pc: u64, regs: &[(usize, u64)]) {
        for n in 0..34 + run::SYSREGS.len() {
            self.set(run::CTX + n, 0);
        }
        self.set(run::CTX_PC, pc);
        self.set(run::CTX_PSTATE, EL1H);
        self.set_sysreg("SCTLR_EL1", SCTLR_OFF);
        self.set_sysreg("CPACR_EL1", 3 << 20);
        self.set_sysreg("VBAR_EL1", code::VECTORS);
        for (n, value) in regs {
            self.set(run::CTX + n, *value);
        }
    }

    /// Starts a program.
    #[must_use]
    pub fn start(&self, pc: u64, regs: &[(usize, u64)]) -> Out {
        self.context(pc, regs);
        self.run(entry::LOAD_CONTEXT)
    }

    /// Runs with these entry flags until something other than a stray interrupt ends it. A
    /// watchdog of the host's own timer ends a run that would go on for ever.
    #[must_use]
    pub fn run(&self, flags: u64) -> Out {
        self.run_for(flags, 300)
    }

    /// The same, with the watchdog at `ms`.
    #[must_use]
    pub fn run_for(&self, flags: u64, ms: u64) -> Out {
        let gic = gic::get();
        gic.enable(PHYSICAL_PPI);
        write!("cntp_cval_el0", read!("cntpct_el0") + timer::ticks(ms));
        write!("cntp_ctl_el0", ENABLE);
        self.set(run::ENTRY_FLAGS, flags);
        let mut out = self.once();
        for _ in 0..1000 {
            if out.exit != Some(Exit::Irq) {
                break;
            }
            out.intid = acknowledge();
            // EL2 switched the guest's timer off at the exit, so its line is low again: the run
            // page says that it was high. Marked active, the interrupt does not end the next run,
            // and the guest's own end of interrupt deactivates it (IHI0069 12.4, LR.HW).
            if out.intid >= SPURIOUS && self.word(run::TIMER_CTL) & 7 == ENABLE | ISTATUS {
                let at = gic.bit_reg(gic::dist::ISACTIVER, timer::VIRTUAL_PPI);
                console::write32(at, 1 << timer::VIRTUAL_PPI);
                out.intid = timer::VIRTUAL_PPI;
            }
            if out.intid < SPURIOUS {
                break;
            }
            self.set(run::ENTRY_FLAGS, 0);
            out = self.once();
        }
        write!("cntp_ctl_el0", 0);
        self.set(run::ENTRY_FLAGS, 0);
        out
    }

    /// Exactly one `vcpu_run`.
    #[must_use]
    pub fn once(&self) -> Out {
        let Answer { x0, x1, rest: [esr, ipa, value, flags] } = hcall::call(H::VcpuRun, [0; 4]);
        let exit = if x0 == 0 { Exit::from_raw(x1 as u64) } else { None };
        Out { exit, esr, ipa, value, flags, intid: SPURIOUS }
    }

    /// Completes a read with `value`, runs on.
    #[must_use]
    pub fn complete(&self, value: u64) -> Out {
        self.set(run::ENTRY_VALUE, value);
        self.run(entry::COMPLETE)
    }

    /// x0..x7 of the last call.
    #[must_use]
    pub fn args(&self) -> [u64; 8] {
        core::array::from_fn(|n| self.word(run::EXIT_GPR + n))
    }

    /// The guest's whole context into the run page.
    pub fn sync(&self) {
        must(H::VcpuSyncState, [0; 4]);
    }
}

/// Takes the pending physical interrupt, if it is still there, and quietens the host's own timer.
fn acknowledge() -> u32 {
    let gic = gic::get();
    let iar = gic.ack();
    let intid = iar & 0x3ff;
    if intid < SPURIOUS {
        if intid == PHYSICAL_PPI {
            write!("cntp_ctl_el0", IMASK);
        }
        gic.eoi(iar);
    }
    intid
}
