//! The whole hypervisor: what the EL2 image talks to.
//!
//! Knows: the entry points (a hypercall, a guest's exit, a host's abort) and the state behind them.
//! Lock ranks: host < VM < pool; each entry takes them in that order and drops them before it
//! returns.

use alloc::boxed::Box;

use hyp_abi::run::Exit;
use hyp_abi::{Handle, Hypercall, Ipa, Pfn, Refusal, Ret, lr};
use hyp_s2::{Regime, TablePfn};
use hyp_sync::{Held, rank};

use crate::machine::Machine;
use crate::memmap::{MemMap, PageRange};
use crate::vcpu::{Context, Vcpu};

/// The interrupt controller of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// GICv2: the first page of the virtual CPU interface (GICV), if it has a page of its own.
    V2 {
        /// GICV's frame.
        gicv: Option<Pfn>,
    },
    /// GICv3.
    V3,
}

/// What the boot code knows about the machine and has set aside.
#[derive(Clone, Debug)]
pub struct Config<'a> {
    /// All RAM.
    pub memmap: MemMap,
    /// RAM that is EL2's: image, stacks, metadata, heap, the pool and the host's root tables.
    pub el2_owned: &'a [PageRange],
    /// Device pages that only EL2 may touch (GICH, GICV).
    pub private_devices: &'a [PageRange],
    /// First of the host's root tables: zeroed, side by side, inside `el2_owned`.
    pub host_root: TablePfn,
    /// Width of the host's IPA space.
    pub host_ipa_bits: u8,
    /// Width of a guest's IPA space.
    pub guest_ipa_bits: u8,
    /// EL2's page pool: inside `el2_owned`, used for the host's tables.
    pub pool: &'a [PageRange],
    /// The interrupt controller.
    pub gic: Gic,
    /// How many list registers it has.
    pub nr_lrs: usize,
    /// INTID of the virtual timer, the only interrupt a list register may link to.
    pub vtimer_intid: u32,
}

/// A vCPU on a CPU.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub handle: Handle,
    pub idx: usize,
    pub regime: Regime,
    pub vcpu: Box<Vcpu>,
}

/// What one CPU has to itself.
#[derive(Debug)]
pub struct CpuLocal {
    pub(crate) cpu: usize,
    pub(crate) locks: Held<'static, rank::Nothing>,
    pub(crate) loaded: Option<Loaded>,
}

impl CpuLocal {
    /// The state of CPU number `cpu`; one for each CPU, made once.
    #[must_use]
    pub const fn new(cpu: usize) -> Self {
        Self { cpu, locks: Held::root(), loaded: None }
    }

    /// Number of this CPU.
    #[must_use]
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// Registers of the loaded vCPU. Where they are in memory does not change while it is loaded.
    pub fn context(&mut self) -> Option<&mut Context> {
        self.loaded.as_mut().map(|l| &mut l.vcpu.ctx)
    }

    /// VMID and root table of the loaded vCPU's VM, for VTTBR_EL2.
    #[must_use]
    pub fn regime(&self) -> Option<Regime> {
        self.loaded.as_ref().map(|l| l.regime)
    }
}

/// What becomes of a hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No such call: x0 = -1, x1..x5 = 0.
    NotSupported,
    /// Done or refused: x0 = 0, x1..x5 as here.
    Ret(Ret),
    /// `vcpu_run` was accepted: enter the guest with [`CpuLocal::context`].
    Run,
}

/// Which vector a guest's exit came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// Synchronous.
    Sync,
    /// A physical IRQ or FIQ is pending.
    Irq,
    /// SError.
    SError,
}

/// A guest's exit as the hardware tells it. Before it is handed over, everything of the guest but
/// FP stands in [`CpuLocal::context`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawExit {
    /// The vector.
    pub kind: ExitKind,
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2 (for aborts where the hardware does not write it, what the boot code's own AT walk
    /// found; bit 63, "invalid", when that failed).
    pub hpfar: u64,
}

/// What to do after a guest's exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestNext {
    /// Enter the guest again.
    Resume,
    /// The guest uses FP: load its registers, stop trapping, enter again.
    Fp,
    /// Leave to the host: x0 = 0, x1..x5 as here.
    Exit(Ret),
}

/// What to do after a stage-2 abort of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAbort {
    /// Mapped now (or by another CPU): run the instruction again.
    Retry,
    /// Not the host's: inject an external abort.
    Inject,
}

/// The hypervisor: shared by all CPUs.
#[derive(Debug)]
pub struct Hyp<M> {
    machine: M,
    memmap: MemMap,
    gic: Gic,
    nr_lrs: usize,
}

impl<M: Machine> Hyp<M> {
    /// Takes over the machine. Every page of `el2_owned` becomes EL2's.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(machine: M, config: Config<'_>) -> Result<Self, ConfigError> {
        if config.nr_lrs > lr::MAX {
            return Err(ConfigError::ListRegisters);
        }
        Ok(Self { machine, memmap: config.memmap, gic: config.gic, nr_lrs: config.nr_lrs })
    }

    /// The machine below.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// A hypercall of the host: `regs` are x0..x4.
    pub fn hypercall(&self, cpu: &mut CpuLocal, regs: [u64; 5]) -> Outcome {
        let [x0, ..] = regs;
        match Hypercall::from_function_id(x0) {
            None => Outcome::NotSupported,
            Some(Hypercall::Version) => Outcome::Ret(Ret { x1: 1, ..Ret::default() }),
            Some(_) => {
                let _ = (&cpu.locks, &self.memmap, self.gic, self.nr_lrs);
                Outcome::Ret(Ret { x1: Refusal::Invalid.code(), ..Ret::default() })
            }
        }
    }

    /// A guest's exit. Everything of the guest but FP stands in [`CpuLocal::context`].
    pub fn guest_exit(&self, cpu: &mut CpuLocal, _raw: RawExit) -> GuestNext {
        let _ = cpu.loaded.as_ref().map(|l| (l.handle, l.idx));
        GuestNext::Exit(Ret { x1: Exit::Illegal as i64, ..Ret::default() })
    }

    /// A stage-2 abort of the host at `ipa`.
    pub fn host_abort(&self, _cpu: &mut CpuLocal, _ipa: Ipa) -> HostAbort {
        HostAbort::Inject
    }
}

/// Why [`Hyp::new`] refused: what the boot code says contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// More list registers than any GIC has.
    ListRegisters,
    /// An IPA width that stage 2 cannot have.
    IpaBits,
    /// A page of EL2's or of the pool, or a host root table, is not RAM or not EL2's.
    Memory,
}
