//! The run page: one 4 KiB page of host memory for each vCPU, shared with EL2 (`share_hyp`) and
//! pinned from `init_vcpu` to the VM's end. It is an array of 512 words; these are their indices.
//!
//! The host may write any word at any moment: EL2 reads each entry word once, at `vcpu_run`, and
//! never believes an exit word. Scalars of an exit return in registers (see [`Exit`]); the page
//! holds what does not fit.

/// Entry: what the host wants done before the guest runs; bits of [`entry`].
pub const ENTRY_FLAGS: usize = 0;
/// Entry: the value of a completed read (MMIO or system register), zero-extended by the host.
pub const ENTRY_VALUE: usize = 1;
/// Entry: x0..x3 for a completed HVC or SMC, with [`entry::SET_RESULT`].
pub const ENTRY_RESULT: usize = 2;
/// Entry: how many list registers follow at [`LR`]; above the hardware's number it is clamped.
pub const VGIC_USED_LRS: usize = 8;
/// Entry: wanted bits of `ICH_HCR_EL2` / `GICH_HCR`; EL2 takes [`vgic_hcr::MASK`] only.
pub const VGIC_HCR: usize = 9;
/// Entry and exit: list registers, format of [`crate::lr`]. At exit EL2 writes back those in use.
pub const LR: usize = 16;
/// Exit: x0..x7 at an HVC or SMC (eight words).
pub const EXIT_GPR: usize = 40;
/// Exit: `ICH_MISR_EL2` / `GICH_MISR`.
pub const VGIC_MISR: usize = 48;
/// Exit: the guest's virtual timer, `CNTV_CTL_EL0` (with ISTATUS) and `CNTV_CVAL_EL0`.
pub const TIMER_CTL: usize = 49;
/// Exit: see [`TIMER_CTL`].
pub const TIMER_CVAL: usize = 50;
/// Exit: pc of the guest (always written).
pub const EXIT_PC: usize = 51;
/// Exit: pstate of the guest (always written).
pub const EXIT_PSTATE: usize = 52;
/// First word of the full context, written by `vcpu_sync_state`, read with
/// [`entry::LOAD_CONTEXT`]: x0..x30, then [`CTX_SP_EL0`] and so on.
pub const CTX: usize = 64;
/// `SP_EL0`.
pub const CTX_SP_EL0: usize = CTX + 31;
/// pc.
pub const CTX_PC: usize = CTX + 32;
/// pstate (EL1 or EL0 modes of AArch64 only; anything else becomes EL1h with all masked).
pub const CTX_PSTATE: usize = CTX + 33;
/// First EL1 system register, in the order of [`SYSREGS`].
pub const CTX_SYSREGS: usize = CTX + 34;

/// The EL1 and EL0 registers of the context, in their order in the run page.
pub const SYSREGS: [&str; 23] = [
    "SCTLR_EL1",
    "CPACR_EL1",
    "TTBR0_EL1",
    "TTBR1_EL1",
    "TCR_EL1",
    "ESR_EL1",
    "AFSR0_EL1",
    "AFSR1_EL1",
    "FAR_EL1",
    "MAIR_EL1",
    "VBAR_EL1",
    "CONTEXTIDR_EL1",
    "AMAIR_EL1",
    "CNTKCTL_EL1",
    "PAR_EL1",
    "TPIDR_EL1",
    "SP_EL1",
    "ELR_EL1",
    "SPSR_EL1",
    "MDSCR_EL1",
    "TPIDR_EL0",
    "TPIDRRO_EL0",
    "CSSELR_EL1",
];

/// Bits of [`ENTRY_FLAGS`]. At most one of the four completions may be set; unknown bits or two
/// completions make `vcpu_run` answer -EINVAL and change nothing.
pub mod entry {
    /// Take the whole context from the page first (normal VMs). What the page does not have is as
    /// after a reset: FP and SIMD, the virtual timer, debug, the virtual CPU interface.
    pub const LOAD_CONTEXT: u64 = 1 << 0;
    /// Complete the latched abort or system-register access: a read puts `ENTRY_VALUE` into the
    /// register EL2 remembers (sized and sign-extended as the syndrome says); then pc advances.
    pub const COMPLETE: u64 = 1 << 1;
    /// Put `ENTRY_RESULT` into x0..x3 (after an HVC or SMC exit).
    pub const SET_RESULT: u64 = 1 << 2;
    /// Inject a synchronous external abort for the latched abort.
    pub const INJECT_ABORT: u64 = 1 << 3;
    /// Inject an Undefined Instruction exception for the latched trap.
    pub const INJECT_UNDEF: u64 = 1 << 4;
    /// Trap WFI and WFE for this run. Untrapped, a wait ends at any interrupt of the host's, and
    /// other vCPUs wait for this CPU meanwhile.
    pub const TRAP_WFX: u64 = 1 << 5;
    /// All bits that exist.
    pub const MASK: u64 = 0x3f;
}

/// Bits of [`VGIC_HCR`] that the host may choose (same places in GICv2 and GICv3).
pub mod vgic_hcr {
    /// Underflow maintenance interrupt.
    pub const UIE: u64 = 1 << 1;
    /// No-pending maintenance interrupt.
    pub const NPIE: u64 = 1 << 3;
    /// What EL2 takes.
    pub const MASK: u64 = UIE | NPIE;
}

/// Why `vcpu_run` returned: x1 of its answer. x2 = ESR_EL2, x3 = faulting IPA (aborts),
/// x4 = the value written (aborts with a valid syndrome, system-register writes), x5 = flags of
/// [`exit_flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Exit {
    /// A physical interrupt is pending for the host.
    Irq = 0,
    /// Stage-2 abort: nothing is mapped, or permission is missing.
    Abort = 1,
    /// HVC64 with immediate 0; arguments at [`EXIT_GPR`]. pc is already past it.
    Hvc = 2,
    /// SMC with immediate 0; pc is already past it.
    Smc = 3,
    /// WFI or WFE; pc is already past it.
    Wfx = 4,
    /// System-register access for the host to emulate; pc is still at it.
    Sysreg = 5,
    /// SError taken from the guest.
    SError = 6,
    /// The guest cannot go on (illegal state); the host should end the VM.
    Illegal = 7,
}

impl Exit {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Irq,
        Self::Abort,
        Self::Hvc,
        Self::Smc,
        Self::Wfx,
        Self::Sysreg,
        Self::SError,
        Self::Illegal,
    ];
    /// From x1 of a `vcpu_run` answer.
    #[must_use]
    pub fn from_raw(raw: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|e| *e as u64 == raw)
    }
}

/// x5 of a `vcpu_run` answer.
pub mod exit_flags {
    /// Abort: permission fault, not a missing page.
    pub const PERMISSION: u64 = 1 << 0;
    /// Abort: it was an instruction fetch.
    pub const FETCH: u64 = 1 << 1;
    /// Abort: it was a write (or an atomic, or a cache-maintenance that needs write).
    pub const WRITE: u64 = 1 << 2;
    /// Abort: during a stage-1 table walk.
    pub const S1PTW: u64 = 1 << 3;
    /// Abort: the syndrome describes one register of `1 << size` bytes ([`SIZE_SHIFT`]): the host
    /// may emulate and use `COMPLETE`.
    pub const DECODED: u64 = 1 << 4;
    /// Abort: cache maintenance instruction.
    pub const CACHE_OP: u64 = 1 << 5;
    /// Abort: log2 of the access size, 2 bits.
    pub const SIZE_SHIFT: u32 = 8;
    /// System register: it is a read.
    pub const SYSREG_READ: u64 = 1 << 6;
}

const _: () = assert!(CTX_SYSREGS + SYSREGS.len() <= 512);
const _: () = assert!(LR + crate::lr::MAX <= EXIT_GPR);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_round_trip() {
        for e in Exit::ALL {
            assert_eq!(Exit::from_raw(e as u64), Some(e));
        }
        assert_eq!(Exit::from_raw(8), None);
        assert_eq!(Exit::from_raw(u64::MAX), None);
    }
}
