//! What passes between the EL2 image and the core, and what each CPU has to itself.
//!
//! Knows values. Must not know what anybody does with them.

use hyp_abi::{Handle, Ret};
use hyp_s2::Regime;
use hyp_sync::{Held, rank};

use crate::boxed::Boxed;
use crate::vcpu::{Context, Vcpu};

/// A vCPU on a CPU.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub handle: Handle,
    pub idx: u64,
    pub regime: Regime,
    pub vcpu: Boxed<Vcpu>,
}

/// What one CPU has to itself.
#[derive(Debug)]
pub struct CpuLocal {
    cpu: usize,
    pub(crate) locks: Held<'static, rank::Nothing>,
    pub(crate) loaded: Option<Loaded>,
}

impl CpuLocal {
    /// The state of CPU number `cpu`; one for each CPU, made once.
    #[must_use]
    pub const fn new(cpu: usize) -> Self {
        Self { cpu, locks: Held::root(), loaded: None }
    }

    /// Number of this CPU, dense from 0.
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
    /// HPFAR_EL2. For an abort where the hardware does not write it
    /// ([`Abort::needs_translation`](crate::esr::Abort::needs_translation)): what `AT S1E1R` of FAR_EL2
    /// found, in the same format, or [`RawExit::NO_IPA`] if that failed.
    pub hpfar: u64,
}

impl RawExit {
    /// In `hpfar`: there is no address. (HPFAR_EL2.NS, which is RES0 in the Non-secure state.)
    pub const NO_IPA: u64 = 1 << 63;
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
