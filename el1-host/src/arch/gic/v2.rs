//! GICv2 (IHI0048): distributor and CPU interface, both memory-mapped.

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};

use super::{Acknowledged, PRIORITY};
use crate::arch::barrier;
use crate::arch::mmio::{Registers, Window};

register_structs! {
    Distributor {
        (0x000 => ctlr: ReadWrite<u32>),
        (0x004 => typer: ReadOnly<u32>),
        (0x008 => _identification),
        (0x100 => isenabler: [ReadWrite<u32>; 32]),
        (0x180 => icenabler: [ReadWrite<u32>; 32]),
        (0x200 => _pending),
        (0x300 => isactiver: [ReadWrite<u32>; 32]),
        (0x380 => icactiver: [ReadWrite<u32>; 32]),
        (0x400 => ipriorityr: [ReadWrite<u32>; 255]),
        (0x7fc => _reserved),
        (0x800 => itargetsr: [ReadWrite<u32>; 255]),
        (0xbfc => _configuration),
        (0xf00 => sgir: WriteOnly<u32>),
        (0xf04 => _rest),
        (0x1000 => @END),
    }
}

register_structs! {
    CpuInterface {
        (0x000 => ctlr: ReadWrite<u32>),
        (0x004 => pmr: ReadWrite<u32>),
        (0x008 => bpr: ReadWrite<u32>),
        (0x00c => iar: ReadOnly<u32>),
        (0x010 => eoir: WriteOnly<u32>),
        (0x014 => _rest),
        (0x1000 => dir: WriteOnly<u32>),
        (0x1004 => @END),
    }
}

// SAFETY:
// 1. `register_structs` makes volatile cells and padding, nothing else.
unsafe impl Registers for Distributor {}
// SAFETY:
// 1. As above.
unsafe impl Registers for CpuInterface {}

/// GICC_CTLR: signal interrupts; EOImode (non-secure view, bit 9).
const CTLR_ENABLE: u32 = 1;
const CTLR_EOI_MODE: u32 = 1 << 9;

/// A GICv2: what all CPUs share. Its registers for CPUs are banked, so each CPU finds its own.
pub struct GicV2 {
    distributor: &'static Distributor,
    cpu: &'static CpuInterface,
}

/// What a CPU has of it.
pub struct CpuV2 {
    distributor: &'static Distributor,
    cpu: &'static CpuInterface,
    /// This CPU's bit in GICD_ITARGETSR and GICD_SGIR.
    target: u32,
}

// SAFETY:
// 1. Every method is a sequence of single-word device accesses; those that two CPUs make at once are to
//    registers that are banked, or where each write stands alone (set, clear, SGI).
unsafe impl Send for GicV2 {}
// SAFETY:
// 1. As above.
unsafe impl Sync for GicV2 {}

impl GicV2 {
    /// Masks everything and clears what is active. `None` if a window is too small.
    pub fn new(distributor: Window, cpu: Window) -> Option<Self> {
        let distributor = distributor.regs::<Distributor>(0)?;
        let cpu = cpu.regs::<CpuInterface>(0)?;
        let lines = ((distributor.typer.get() & 0x1f) + 1) as usize;
        distributor.ctlr.set(0);
        for n in 1..lines {
            distributor.icenabler[n].set(u32::MAX);
            distributor.icactiver[n].set(u32::MAX);
        }
        for priority in distributor.ipriorityr.iter().take(lines * 8).skip(8) {
            priority.set(PRIORITY * 0x0101_0101);
        }
        distributor.ctlr.set(1);
        barrier::dsb();
        Some(Self { distributor, cpu })
    }

    /// Opens the CPU interface of the CPU that calls.
    pub(super) fn open_cpu(&self) -> CpuV2 {
        let (distributor, cpu) = (self.distributor, self.cpu);
        distributor.icenabler[0].set(u32::MAX);
        distributor.icactiver[0].set(u32::MAX);
        for priority in &distributor.ipriorityr[..8] {
            priority.set(PRIORITY * 0x0101_0101);
        }
        // ITARGETSR0..7 answer with the reading CPU's own bit (IHI0048 4.3.12).
        let target = distributor.itargetsr[..8].iter().fold(0, |all, r| all | r.get()) & 0xff;
        cpu.pmr.set(0xff);
        cpu.bpr.set(0);
        cpu.ctlr.set(CTLR_ENABLE | CTLR_EOI_MODE);
        barrier::dsb();
        CpuV2 { distributor, cpu, target: target.max(1) }
    }

    /// SGI 0 to the CPU with this bit; what was written before is seen by it (IHI0048 4.3.15).
    pub(super) fn kick(&self, target: u64) {
        barrier::dsb();
        self.distributor.sgir.set(((target & 0xff) << 16) as u32);
    }
}

impl CpuV2 {
    pub(super) fn address(&self) -> u64 {
        u64::from(self.target)
    }

    pub(super) fn enable(&self, intid: u32) {
        let (word, bit) = (intid as usize / 32, 1 << (intid % 32));
        if intid >= 32 {
            let shift = intid % 4 * 8;
            let targets = &self.distributor.itargetsr[intid as usize / 4];
            targets.set(targets.get() & !(0xff << shift) | self.target << shift);
        }
        self.distributor.isenabler[word].set(bit);
        barrier::dsb();
    }

    pub(super) fn acknowledge(&self) -> Option<Acknowledged> {
        let acknowledged = Acknowledged::from_iar(self.cpu.iar.get());
        barrier::dsb();
        acknowledged
    }

    pub(super) fn drop_priority(&self, interrupt: Acknowledged) {
        self.cpu.eoir.set(interrupt.0);
    }

    pub(super) fn deactivate(&self, interrupt: Acknowledged) {
        self.cpu.dir.set(interrupt.0);
        barrier::dsb();
    }

    pub(super) fn set_active(&self, ppi: u32, active: bool) {
        let bank = if active { &self.distributor.isactiver } else { &self.distributor.icactiver };
        bank[0].set(1 << (ppi % 32));
        barrier::dsb();
    }
}
