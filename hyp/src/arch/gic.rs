//! The hardware half of virtual interrupts: list registers and the virtual CPU interface's control,
//! GICv2 (GICH, IHI0048 5.3) and GICv3 (ICH_*, IHI0069 12.4).
//!
//! Knows how to load and save a [`VgicState`] that the core has checked. Must not know which
//! interrupts a guest has. The physical distributor and CPU interface are the host's.

use aarch64_cpu::registers::{
    ICC_SRE_EL2, ICH_AP0R0_EL2, ICH_AP0R1_EL2, ICH_AP0R2_EL2, ICH_AP0R3_EL2, ICH_AP1R0_EL2,
    ICH_AP1R1_EL2, ICH_AP1R2_EL2, ICH_AP1R3_EL2, ICH_HCR_EL2, ICH_LR0_EL2, ICH_LR1_EL2,
    ICH_LR2_EL2, ICH_LR3_EL2, ICH_LR4_EL2, ICH_LR5_EL2, ICH_LR6_EL2, ICH_LR7_EL2, ICH_LR8_EL2,
    ICH_LR9_EL2, ICH_LR10_EL2, ICH_LR11_EL2, ICH_LR12_EL2, ICH_LR13_EL2, ICH_LR14_EL2,
    ICH_LR15_EL2, ICH_MISR_EL2, ICH_VMCR_EL2, ICH_VTR_EL2,
};
use hyp_abi::lr;
use hyp_core::vcpu::VgicState;
use hyp_core::vgic::{HCR_EN, from_gich, to_gich};
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::{ReadOnly, ReadWrite};

use super::sysreg::{ich_elrsr_el2, isb};

register_structs! {
    /// GICH, as far as it is used.
    pub Gich {
        (0x000 => hcr: ReadWrite<u32>),
        (0x004 => vtr: ReadOnly<u32>),
        (0x008 => vmcr: ReadWrite<u32>),
        (0x00c => _reserved0),
        (0x010 => misr: ReadOnly<u32>),
        (0x014 => _reserved1),
        (0x030 => elrsr0: ReadOnly<u32>),
        (0x034 => _reserved2),
        (0x0f0 => apr: ReadWrite<u32>),
        (0x0f4 => _reserved3),
        (0x100 => lr: [ReadWrite<u32>; 64]),
        (0x200 => @END),
    }
}

/// ICC_SRE_EL2: SRE, DFB, DIB, and Enable: EL1 has the system registers.
const SRE_OF_HOST: u64 = 0xf;
/// Without Enable: ICC_SRE_EL1 traps, for it is the host's, and not switched.
const SRE_OF_GUEST: u64 = 0x7;

/// The virtual interface control of this machine.
pub enum Vgic {
    /// GICv2.
    V2(&'static Gich),
    /// GICv3, with the number of active-priority words a group has.
    V3 {
        /// 1, 2 or 4.
        apr_words: u8,
    },
}

// SAFETY: 1. GICH is banked: each CPU sees its own registers (IHI0048 5.2), and uses them with
//    exceptions masked.
unsafe impl Sync for Vgic {}
// SAFETY: as above.
unsafe impl Send for Vgic {}

/// What the core must know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// List registers, at most [`lr::MAX`].
    pub list_registers: usize,
    /// Priority bits that they implement.
    pub priority_bits: u8,
    /// Priority bits that preempt: they say which registers of active priorities there are.
    preemption_bits: u8,
}

impl Vgic {
    /// A GICv2 with GICH at `pa`.
    ///
    /// # Safety
    /// GICH is there and mapped as device memory for good; only this value uses it.
    pub unsafe fn v2(pa: u64) -> Self {
        // SAFETY: 1. The caller vouches for the address, 2. which `Gich` has the layout of.
        Self::V2(unsafe { &*(pa as *const Gich) })
    }

    /// A GICv3, by this CPU's interface.
    pub fn v3() -> Self {
        system_registers_on();
        let apr_words = match v3_preemption_bits() {
            0..=5 => 1,
            6 => 2,
            _ => 4,
        };
        Self::V3 { apr_words }
    }

    /// Prepares this CPU's interface, whenever the CPU comes up: off, with the system registers on
    /// for EL1 too, and all list registers free. Out of reset they hold anything (IHI0069,
    /// `ICH_LR<n>_EL2`), and [`Vgic::load`] writes only those that a guest uses.
    pub fn prepare(&self) {
        match self {
            Self::V2(gich) => gich.hcr.set(0),
            Self::V3 { .. } => {
                system_registers_on();
                ICH_HCR_EL2.set(0);
            }
        }
        for n in 0..self.size().list_registers {
            match self {
                Self::V2(gich) => gich.lr.get(n).into_iter().for_each(|lr| lr.set(0)),
                Self::V3 { .. } => write_lr(n, 0),
            }
        }
    }

    /// Its size, by this CPU's interface.
    pub fn size(&self) -> Size {
        let (count, priority_bits, preemption_bits) = match self {
            Self::V2(gich) => ((gich.vtr.get() & 0x3f) as usize + 1, 5, 5),
            Self::V3 { .. } => {
                let vtr = ICH_VTR_EL2.get();
                ((vtr & 0x1f) as usize + 1, ((vtr >> 29) & 7) as u8 + 1, v3_preemption_bits())
            }
        };
        Size { list_registers: count.min(lr::MAX), priority_bits, preemption_bits }
    }

    /// Loads a guest's state.
    pub fn load(&self, state: &VgicState) {
        match self {
            Self::V2(gich) => {
                gich.vmcr.set(state.vmcr as u32);
                gich.apr.set(state.ap0r[0] as u32);
                for (n, lr) in used(&state.lr, state.used) {
                    if let Some(register) = gich.lr.get(n) {
                        register.set(to_gich(*lr));
                    }
                }
                gich.hcr.set((state.hcr | HCR_EN) as u32);
            }
            Self::V3 { apr_words } => {
                ICC_SRE_EL2.set(SRE_OF_GUEST);
                ICH_VMCR_EL2.set(state.vmcr);
                write_aprs(*apr_words, &state.ap0r, &state.ap1r);
                for (n, lr) in used(&state.lr, state.used) {
                    write_lr(n, *lr);
                }
                ICH_HCR_EL2.set(state.hcr | HCR_EN);
            }
        }
    }

    /// Saves a guest's state and leaves the interface off, with no list register in use.
    pub fn save(&self, state: &mut VgicState) {
        match self {
            Self::V2(gich) => {
                state.misr = gich.misr.get().into();
                state.elrsr = gich.elrsr0.get().into();
                let elrsr = state.elrsr;
                for (n, lr) in used_mut(&mut state.lr, state.used) {
                    let Some(register) = gich.lr.get(n) else { break };
                    *lr =
                        if is_empty(elrsr, n) { inactive(*lr) } else { from_gich(register.get()) };
                    register.set(0);
                }
                state.vmcr = gich.vmcr.get().into();
                state.ap0r[0] = gich.apr.get().into();
                gich.hcr.set(0);
            }
            Self::V3 { apr_words } => {
                state.misr = ICH_MISR_EL2.get();
                state.elrsr = ich_elrsr_el2();
                let elrsr = state.elrsr;
                for (n, lr) in used_mut(&mut state.lr, state.used) {
                    *lr = if is_empty(elrsr, n) { inactive(*lr) } else { read_lr(n) };
                    write_lr(n, 0);
                }
                state.vmcr = ICH_VMCR_EL2.get();
                read_aprs(*apr_words, &mut state.ap0r, &mut state.ap1r);
                ICH_HCR_EL2.set(0);
                ICC_SRE_EL2.set(SRE_OF_HOST);
            }
        }
    }
}

fn used(lrs: &[u64], count: u64) -> impl Iterator<Item = (usize, &u64)> {
    lrs.iter().enumerate().take(count as usize)
}

fn used_mut(lrs: &mut [u64], count: u64) -> impl Iterator<Item = (usize, &mut u64)> {
    lrs.iter_mut().enumerate().take(count as usize)
}

/// ELRSR: the list register holds no valid interrupt and awaits no maintenance.
fn is_empty(elrsr: u64, n: usize) -> bool {
    elrsr >> n & 1 != 0
}

/// What was written, done with: the INTID stays, so that the host knows which it was.
fn inactive(lr: u64) -> u64 {
    lr & !lr::STATE_MASK
}

fn system_registers_on() {
    ICC_SRE_EL2.set(SRE_OF_HOST);
    isb();
}

fn v3_preemption_bits() -> u8 {
    ((ICH_VTR_EL2.get() >> 26) & 7) as u8 + 1
}

macro_rules! lr_registers {
    ($($n:literal $register:ident,)*) => {
        /// List registers are named, not indexed; one that does not exist is never asked for.
        fn write_lr(n: usize, value: u64) {
            match n {
                $($n => $register.set(value),)*
                _ => {}
            }
        }
        fn read_lr(n: usize) -> u64 {
            match n {
                $($n => $register.get(),)*
                _ => 0,
            }
        }
    };
}

lr_registers! {
    0 ICH_LR0_EL2, 1 ICH_LR1_EL2, 2 ICH_LR2_EL2, 3 ICH_LR3_EL2,
    4 ICH_LR4_EL2, 5 ICH_LR5_EL2, 6 ICH_LR6_EL2, 7 ICH_LR7_EL2,
    8 ICH_LR8_EL2, 9 ICH_LR9_EL2, 10 ICH_LR10_EL2, 11 ICH_LR11_EL2,
    12 ICH_LR12_EL2, 13 ICH_LR13_EL2, 14 ICH_LR14_EL2, 15 ICH_LR15_EL2,
}

fn write_aprs(words: u8, ap0r: &[u64; 4], ap1r: &[u64; 4]) {
    if words >= 4 {
        ICH_AP0R3_EL2.set(ap0r[3]);
        ICH_AP1R3_EL2.set(ap1r[3]);
        ICH_AP0R2_EL2.set(ap0r[2]);
        ICH_AP1R2_EL2.set(ap1r[2]);
    }
    if words >= 2 {
        ICH_AP0R1_EL2.set(ap0r[1]);
        ICH_AP1R1_EL2.set(ap1r[1]);
    }
    ICH_AP0R0_EL2.set(ap0r[0]);
    ICH_AP1R0_EL2.set(ap1r[0]);
}

fn read_aprs(words: u8, ap0r: &mut [u64; 4], ap1r: &mut [u64; 4]) {
    if words >= 4 {
        ap0r[3] = ICH_AP0R3_EL2.get();
        ap1r[3] = ICH_AP1R3_EL2.get();
        ap0r[2] = ICH_AP0R2_EL2.get();
        ap1r[2] = ICH_AP1R2_EL2.get();
    }
    if words >= 2 {
        ap0r[1] = ICH_AP0R1_EL2.get();
        ap1r[1] = ICH_AP1R1_EL2.get();
    }
    ap0r[0] = ICH_AP0R0_EL2.get();
    ap1r[0] = ICH_AP1R0_EL2.get();
}
