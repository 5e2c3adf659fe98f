//! A virtual CPU: its register context, what it last exited with, and its store of table pages.
//!
//! Knows: the layout of [`Context`], which the EL2 assembly and the world switch use by offset.
//! Must not know: VMs, page ownership, locks (a vCPU is inside its VM's slot or, loaded, in one
//! CPU's [`CpuLocal`](crate::hyp::CpuLocal): whoever has the object may use it).

use hyp_abi::{Pfn, lr, run};

use crate::bits::union;
use crate::debug::Debug;
use crate::esr::{Esr, SysregAccess};
use crate::inject::pstate;
use crate::pool::FreeList;

macro_rules! sysregs {
    ($($name:ident)*) => {
        /// The EL1 and EL0 system registers of a guest, in the order of [`run::SYSREGS`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        #[expect(missing_docs, reason = "each field is the register of that name")]
        pub struct Sysregs {
            $(pub $name: u64,)*
        }

        impl Sysregs {
            /// The registers as words, in their order in the run page.
            #[must_use]
            pub const fn to_words(self) -> [u64; SYSREGS] {
                [$(self.$name),*]
            }

            /// The inverse of [`Sysregs::to_words`].
            #[must_use]
            pub const fn from_words(words: [u64; SYSREGS]) -> Self {
                let [$($name),*] = words;
                Self { $($name),* }
            }
        }
    };
}

sysregs! {
    sctlr_el1 cpacr_el1 ttbr0_el1 ttbr1_el1 tcr_el1 esr_el1 afsr0_el1 afsr1_el1 far_el1 mair_el1
    vbar_el1 contextidr_el1 amair_el1 cntkctl_el1 par_el1 tpidr_el1 sp_el1 elr_el1 spsr_el1
    mdscr_el1 tpidr_el0 tpidrro_el0 csselr_el1
}

/// Number of words of [`Sysregs`].
pub const SYSREGS: usize = run::SYSREGS.len();
const _: () = assert!(size_of::<Sysregs>() == SYSREGS * 8);

/// Floating point and SIMD registers. EL2 switches them lazily; the core only keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Fp {
    /// q0..q31, low half first.
    pub q: [[u64; 2]; 32],
    /// FPSR.
    pub fpsr: u64,
    /// FPCR.
    pub fpcr: u64,
}

/// The virtual timer of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Timer {
    /// CNTV_CTL_EL0.
    pub ctl: u64,
    /// CNTV_CVAL_EL0.
    pub cval: u64,
}

/// The virtual interrupt interface of a guest, as the world switch writes and reads it. List
/// registers have the format of [`hyp_abi::lr`], on both GIC versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VgicState {
    /// ICH_HCR_EL2 / GICH_HCR while the guest runs.
    pub hcr: u64,
    /// ICH_VMCR_EL2 / GICH_VMCR.
    pub vmcr: u64,
    /// Active priorities, group 0 (GICv3) or all (GICv2: GICH_APR in the first).
    pub ap0r: [u64; 4],
    /// Active priorities, group 1 (GICv3).
    pub ap1r: [u64; 4],
    /// List registers.
    pub lr: [u64; lr::MAX],
    /// How many of `lr` are in use; never above what the hardware has.
    pub used: u64,
    /// ICH_MISR_EL2 / GICH_MISR at exit.
    pub misr: u64,
    /// ICH_ELRSR_EL2 / GICH_ELRSR at exit.
    pub elrsr: u64,
}

/// Bits of [`Context::traps`].
pub mod traps {
    /// Trap WFI and WFE (HCR_EL2.TWI, TWE) during this run.
    pub const WFX: u64 = 1;
}

/// All registers of a guest CPU. The world switch and its assembly rely on this layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Context {
    /// x0..x30.
    pub gpr: [u64; 31],
    /// SP_EL0.
    pub sp_el0: u64,
    /// The pc: ELR_EL2 while EL2 runs.
    pub pc: u64,
    /// PSTATE: SPSR_EL2 while EL2 runs.
    pub pstate: u64,
    /// EL1 and EL0 system registers.
    pub sys: Sysregs,
    /// The MPIDR_EL1 the guest reads (VMPIDR_EL2).
    pub vmpidr: u64,
    /// Virtual timer.
    pub timer: Timer,
    /// Virtual interrupts.
    pub vgic: VgicState,
    /// What to trap in this run beyond the base set: bits of [`traps`].
    pub traps: u64,
    /// Breakpoints, watchpoints and locks.
    pub debug: Debug,
    /// Floating point and SIMD, where the CPU does not have them.
    pub fp: Fp,
    /// `fp` was reset: if the CPU has this vCPU's registers, they are void.
    pub fp_reset: bool,
}

impl Context {
    /// As after a reset (DDI0487 D1.8.1, arm64 boot protocol), of no vCPU in particular: EL1h, everything masked,
    /// MMU and caches off, timer off, FP registers zero, nothing pending or active.
    #[must_use]
    pub fn reset() -> Self {
        /// RES1 bits of SCTLR_EL1 in Armv8.0: LSMAOE, nTLSMD, SPAN, EIS, TSCXT, EOS.
        const SCTLR_RES1: u64 = 0x30d0_0800;
        Self {
            pstate: union(&[pstate::EL1H, pstate::DAIF]),
            sys: Sysregs { sctlr_el1: SCTLR_RES1, ..Sysregs::default() },
            debug: Debug::reset(),
            ..Self::default()
        }
    }

    /// Register `n` as an instruction names it: 31 is the zero register.
    #[must_use]
    pub fn gpr(&self, n: u8) -> u64 {
        self.gpr.get(usize::from(n)).copied().unwrap_or(0)
    }

    /// Writes register `n`; writes to 31, the zero register, are lost.
    pub fn set_gpr(&mut self, n: u8, value: u64) {
        if let Some(reg) = self.gpr.get_mut(usize::from(n)) {
            *reg = value;
        }
    }
}

/// Most pages in a memcache: many times what one fault can need (three).
pub const MEMCACHE_PAGES: usize = 32;

/// What a vCPU last gave to the host to deal with. Completion and injection act on this memory of
/// EL2's, never on what the host says the exit was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latched {
    /// Nothing that waits for an answer.
    #[default]
    None,
    /// A stage-2 abort; pc is at the instruction.
    Abort {
        /// What happened.
        esr: Esr,
        /// FAR_EL2.
        far: u64,
    },
    /// HVC or SMC; pc is past it.
    Call,
    /// A system-register access; pc is at it.
    Sysreg {
        /// What happened.
        esr: Esr,
        /// Which register, and which way.
        access: SysregAccess,
    },
}

/// A virtual CPU.
#[derive(Debug, PartialEq, Eq)]
pub struct Vcpu {
    /// Its registers.
    pub ctx: Context,
    /// What it last exited with.
    pub latched: Latched,
    /// Its run page, pinned for the life of the vCPU.
    pub run_page: Pfn,
    /// Pages for stage-2 tables, at most [`MEMCACHE_PAGES`].
    pub memcache: FreeList,
}

impl Vcpu {
    /// vCPU number `idx`, which is below 256, as after a reset.
    #[must_use]
    pub fn new(idx: u64, run_page: Pfn) -> Self {
        /// MPIDR_EL1 bit 31.
        const MPIDR_RES1: u64 = 1 << 31;
        let ctx = Context { vmpidr: union(&[MPIDR_RES1, idx]), ..Context::reset() };
        Self { ctx, latched: Latched::None, run_page, memcache: FreeList::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_registers_keep_their_order_in_the_run_page() {
        let mut words = [0; SYSREGS];
        for (i, w) in words.iter_mut().enumerate() {
            *w = 0x100 + i as u64;
        }
        let regs = Sysregs::from_words(words);
        assert_eq!(regs.to_words(), words);
        // A sample by name, so that the order is that of the ABI and not merely its own inverse.
        for (name, value) in [
            ("SCTLR_EL1", regs.sctlr_el1),
            ("VBAR_EL1", regs.vbar_el1),
            ("SP_EL1", regs.sp_el1),
            ("ELR_EL1", regs.elr_el1),
            ("SPSR_EL1", regs.spsr_el1),
            ("TPIDRRO_EL0", regs.tpidrro_el0),
            ("CSSELR_EL1", regs.csselr_el1),
        ] {
            let at = run::SYSREGS.iter().position(|n| *n == name).unwrap();
            assert_eq!(value, 0x100 + at as u64, "{name}");
        }
    }

    #[test]
    fn a_new_vcpu_is_in_el1_with_everything_masked_off_or_locked() {
        let Vcpu { ctx, latched, memcache, .. } = Vcpu::new(3, Pfn::new(7).unwrap());
        assert_eq!((ctx.vmpidr, ctx.pstate), (0x8000_0003, 0x3c5));
        // MMU, data cache and instruction cache: SCTLR_EL1.{M, C, I}.
        assert_eq!(ctx.sys.sctlr_el1 & 0x1005, 0);
        assert!(ctx.debug.os_lock());
        assert_eq!((ctx.timer, ctx.vgic), Default::default());
        assert_eq!((latched, memcache.len()), (Latched::None, 0));
    }

    #[test]
    fn register_31_reads_zero_and_swallows_writes() {
        let mut ctx = Context::default();
        ctx.set_gpr(30, 7);
        let before = ctx;
        ctx.set_gpr(31, 9);
        assert_eq!(ctx, before);
        assert_eq!((ctx.gpr(30), ctx.gpr(31), ctx.gpr(255)), (7, 0, 0));
    }
}
