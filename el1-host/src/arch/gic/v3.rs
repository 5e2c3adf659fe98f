//! GICv3 (IHI0069): distributor and redistributor memory-mapped, CPU interface by system
//! registers.

use alloc::vec::Vec;
use core::arch::asm;

use aarch64_cpu::registers::MPIDR_EL1;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::{ReadOnly, ReadWrite};

use super::{Acknowledged, PRIORITY};
use crate::arch::barrier;
use crate::arch::mmio::{Registers, Window};

register_structs! {
    Distributor {
        (0x0000 => ctlr: ReadWrite<u32>),
        (0x0004 => typer: ReadOnly<u32>),
        (0x0008 => _identification),
        (0x0080 => igroupr: [ReadWrite<u32>; 32]),
        (0x0100 => isenabler: [ReadWrite<u32>; 32]),
        (0x0180 => icenabler: [ReadWrite<u32>; 32]),
        (0x0200 => _pending),
        (0x0380 => icactiver: [ReadWrite<u32>; 32]),
        (0x0400 => ipriorityr: [ReadWrite<u32>; 255]),
        (0x07fc => _targets),
        (0x6100 => irouter: [ReadWrite<u64>; 988]),
        (0x7fe0 => @END),
    }
}

register_structs! {
    /// RD_base and SGI_base, 64 KiB each (IHI0069 12.10).
    Redistributor {
        (0x00000 => ctlr: ReadWrite<u32>),
        (0x00004 => _iidr),
        (0x00008 => typer: ReadOnly<u64>),
        (0x00010 => _statusr),
        (0x00014 => waker: ReadWrite<u32>),
        (0x00018 => _lpis),
        (0x10080 => igroupr0: ReadWrite<u32>),
        (0x10084 => _reserved0),
        (0x10100 => isenabler0: ReadWrite<u32>),
        (0x10104 => _reserved1),
        (0x10180 => icenabler0: ReadWrite<u32>),
        (0x10184 => _pending),
        (0x10300 => isactiver0: ReadWrite<u32>),
        (0x10304 => _reserved2),
        (0x10380 => icactiver0: ReadWrite<u32>),
        (0x10384 => _reserved3),
        (0x10400 => ipriorityr: [ReadWrite<u32>; 8]),
        (0x10420 => _rest),
        (0x20000 => @END),
    }
}

// SAFETY:
// 1. `register_structs` makes volatile cells and padding, nothing else.
unsafe impl Registers for Distributor {}
// SAFETY:
// 1. As above.
unsafe impl Registers for Redistributor {}

/// GICD_CTLR and GICR_CTLR: a register write is pending.
const RWP: u32 = 1 << 31;
const RWP_REDISTRIBUTOR: u32 = 1 << 3;
/// GICD_CTLR: affinity routing, group 1. Both views of the register have them at these bits
/// (non-secure: ARE_NS, EnableGrp1A, EnableGrp1; one security state: ARE, EnableGrp1, EnableGrp0).
const CTLR_ON: u32 = 1 << 4 | 1 << 1 | 1;
/// GICR_WAKER.
const PROCESSOR_SLEEP: u32 = 1 << 1;
const CHILDREN_ASLEEP: u32 = 1 << 2;
/// GICR_TYPER.
const TYPER_VLPIS: u64 = 1 << 1;
const TYPER_LAST: u64 = 1 << 4;
/// Polls of a status bit before it is taken as stuck.
const PATIENCE: u32 = 1 << 20;

macro_rules! icc_write {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY:
        // 1. ICC registers of the non-secure CPU interface change how interrupts are signalled,
        //    never memory; interrupts are masked and polled.
        unsafe { asm!(concat!("msr ", $register, ", {}"), in(reg) value, options(nostack)) };
    }};
}

/// A GICv3 (or the GICv3 part of a GICv4): what all CPUs share.
pub struct GicV3 {
    distributor: &'static Distributor,
    redistributors: Vec<Window>,
    stride: Option<u64>,
}

/// What a CPU has of it.
pub struct CpuV3 {
    distributor: &'static Distributor,
    redistributor: &'static Redistributor,
}

// SAFETY:
// 1. Every method is a sequence of single-word device accesses; those that two CPUs make at once are to
//    registers that are banked, or where each write stands alone (set, clear, SGI).
unsafe impl Send for GicV3 {}
// SAFETY:
// 1. As above.
unsafe impl Sync for GicV3 {}

impl GicV3 {
    /// Masks everything and clears what is active. `None` if a window is too small.
    pub fn new(
        distributor: Window,
        redistributors: impl IntoIterator<Item = Window>,
        stride: Option<u64>,
    ) -> Option<Self> {
        let distributor = distributor.regs::<Distributor>(0)?;
        let gic =
            Self { distributor, redistributors: redistributors.into_iter().collect(), stride };
        gic.open_distributor();
        Some(gic)
    }

    /// Finds the redistributor of the CPU that calls, and opens its CPU interface. `None` if no
    /// redistributor is this CPU's.
    pub(super) fn open_cpu(&self) -> Option<CpuV3> {
        let mut regions = self.redistributors.iter();
        let redistributor = regions.find_map(|region| own_redistributor(*region, self.stride))?;
        let cpu = CpuV3 { distributor: self.distributor, redistributor };
        cpu.open_redistributor();
        icc_write!("s3_0_c12_c12_5", 1); // ICC_SRE_EL1.SRE
        barrier::isb();
        icc_write!("s3_0_c4_c6_0", 0xff); // ICC_PMR_EL1
        icc_write!("s3_0_c12_c12_3", 0); // ICC_BPR1_EL1
        icc_write!("s3_0_c12_c12_4", 1 << 1); // ICC_CTLR_EL1.EOImode
        icc_write!("s3_0_c12_c12_7", 1); // ICC_IGRPEN1_EL1
        barrier::isb();
        Some(cpu)
    }

    /// SGI 0 to the CPU of this affinity; what was written before is seen by it (IHI0069 12.2.20).
    pub(super) fn kick(affinity: u64) {
        let aff = |n: u64| affinity >> n & 0xff;
        let (list, range) = (1 << (aff(0) & 0xf), aff(0) >> 4);
        barrier::dsb();
        icc_write!(
            "s3_0_c12_c11_5",
            aff(32) << 48 | range << 44 | aff(16) << 32 | aff(8) << 16 | list
        );
        barrier::isb();
    }

    fn open_distributor(&self) {
        let lines = ((self.distributor.typer.get() & 0x1f) + 1) as usize;
        self.distributor.ctlr.set(0);
        self.wait_distributor();
        for n in 1..lines {
            self.distributor.icenabler[n].set(u32::MAX);
            self.distributor.icactiver[n].set(u32::MAX);
            self.distributor.igroupr[n].set(u32::MAX);
        }
        for priority in self.distributor.ipriorityr.iter().take(lines * 8).skip(8) {
            priority.set(PRIORITY * 0x0101_0101);
        }
        self.wait_distributor();
        self.distributor.ctlr.set(CTLR_ON);
        self.wait_distributor();
    }

    fn wait_distributor(&self) {
        wait_until(|| self.distributor.ctlr.get() & RWP == 0);
    }
}

impl CpuV3 {
    pub(super) fn address(&self) -> u64 {
        affinity()
    }

    fn open_redistributor(&self) {
        let own = self.redistributor;
        own.waker.set(own.waker.get() & !PROCESSOR_SLEEP);
        wait_until(|| own.waker.get() & CHILDREN_ASLEEP == 0);
        own.icenabler0.set(u32::MAX);
        own.icactiver0.set(u32::MAX);
        own.igroupr0.set(u32::MAX);
        for priority in &own.ipriorityr {
            priority.set(PRIORITY * 0x0101_0101);
        }
        wait_until(|| own.ctlr.get() & RWP_REDISTRIBUTOR == 0);
    }

    pub(super) fn enable(&self, intid: u32) {
        let bit = 1 << (intid % 32);
        if intid < 32 {
            self.redistributor.isenabler0.set(bit);
            return;
        }
        if let Some(route) = self.distributor.irouter.get(intid as usize - 32) {
            route.set(affinity());
            self.distributor.isenabler[intid as usize / 32].set(bit);
        }
    }

    pub(super) fn acknowledge(&self) -> Option<Acknowledged> {
        let iar: u64;
        // SAFETY:
        // 1. Reading ICC_IAR1_EL1 moves an interrupt from pending to active; no memory changes.
        unsafe { asm!("mrs {}, s3_0_c12_c12_0", out(reg) iar, options(nostack)) };
        barrier::dsb();
        // Without LPIs, whose numbers have more bits, this is what a GICv2 answers.
        Acknowledged::from_iar((iar & 0x3ff) as u32)
    }

    pub(super) fn drop_priority(&self, interrupt: Acknowledged) {
        icc_write!("s3_0_c12_c12_1", u64::from(interrupt.0)); // ICC_EOIR1_EL1
        barrier::isb();
    }

    pub(super) fn deactivate(&self, interrupt: Acknowledged) {
        icc_write!("s3_0_c12_c11_1", u64::from(interrupt.0)); // ICC_DIR_EL1
        barrier::isb();
    }

    pub(super) fn set_active(&self, ppi: u32, active: bool) {
        let own = self.redistributor;
        let register = if active { &own.isactiver0 } else { &own.icactiver0 };
        register.set(1 << (ppi % 32));
        barrier::dsb();
    }
}

/// This CPU's affinity, in the layout of GICD_IROUTER and MPIDR_EL1.
fn affinity() -> u64 {
    MPIDR_EL1.get() & 0xff_00ff_ffff
}

/// This CPU's redistributor, if it is in this region.
fn own_redistributor(all: Window, stride: Option<u64>) -> Option<&'static Redistributor> {
    let mine = affinity();
    let mine = mine >> 8 & 0xff00_0000 | mine & 0xff_ffff;
    let mut offset = 0;
    loop {
        let candidate = all.regs::<Redistributor>(offset)?;
        let typer = candidate.typer.get();
        if typer >> 32 == mine {
            return Some(candidate);
        }
        if typer & TYPER_LAST != 0 {
            return None;
        }
        // With virtual LPIs (GICv4) each has two more frames.
        let usual = size_of::<Redistributor>() * if typer & TYPER_VLPIS != 0 { 2 } else { 1 };
        let step = stride.map_or(usual, |stride| stride as usize).max(size_of::<Redistributor>());
        offset = offset.checked_add(step)?;
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let mut patience = PATIENCE;
    while !done() && patience > 0 {
        patience -= 1;
    }
}
