//! A driver for GICv2 (IHI0048) and GICv3 (IHI0069), enough for one CPU, and the interrupt handler:
//! it acknowledges, notes, quietens the source, ends.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::console::{read32, write32};
use crate::machine::{self, GicBases};
use crate::timer::{ENABLE, IMASK, PHYSICAL_PPI, VIRTUAL_PPI};
use crate::trap::Frame;
use crate::{read, write};

/// Distributor register offsets, the same in both versions (and in a v3 SGI frame).
pub mod dist {
    /// `GICD_CTLR`.
    pub const CTLR: u64 = 0x000;
    /// `GICD_TYPER`.
    pub const TYPER: u64 = 0x004;
    /// `GICD_IIDR`.
    pub const IIDR: u64 = 0x008;
    /// `GICD_IGROUPR`.
    pub const IGROUPR: u64 = 0x080;
    /// `GICD_ISENABLER`.
    pub const ISENABLER: u64 = 0x100;
    /// `GICD_ICENABLER`.
    pub const ICENABLER: u64 = 0x180;
    /// `GICD_ISPENDR`.
    pub const ISPENDR: u64 = 0x200;
    /// `GICD_ICPENDR`.
    pub const ICPENDR: u64 = 0x280;
    /// `GICD_ISACTIVER`.
    pub const ISACTIVER: u64 = 0x300;
    /// `GICD_ICACTIVER`.
    pub const ICACTIVER: u64 = 0x380;
    /// `GICD_IPRIORITYR`.
    pub const IPRIORITYR: u64 = 0x400;
    /// `GICD_ITARGETSR` (v2).
    pub const ITARGETSR: u64 = 0x800;
    /// `GICD_ICFGR`.
    pub const ICFGR: u64 = 0xc00;
    /// `GICD_SGIR` (v2).
    pub const SGIR: u64 = 0xf00;
    /// `GICD_CPENDSGIR` (v2).
    pub const CPENDSGIR: u64 = 0xf10;
    /// `GICD_SPENDSGIR` (v2).
    pub const SPENDSGIR: u64 = 0xf20;
    /// `GICD_IROUTER` (v3).
    pub const IROUTER: u64 = 0x6000;
}

/// "No interrupt" answers of an acknowledge register start here.
pub const SPURIOUS: u32 = 1020;

/// The GIC of the machine.
#[derive(Clone, Copy)]
pub struct Gic(GicBases);

/// The machine's GIC.
#[must_use]
pub fn get() -> Gic {
    Gic(machine::get().gic)
}

impl Gic {
    /// Whether it is a GICv3.
    #[must_use]
    pub const fn is_v3(self) -> bool {
        matches!(self.0, GicBases::V3 { .. })
    }
    /// Base of the distributor.
    #[must_use]
    pub const fn dist(self) -> u64 {
        match self.0 {
            GicBases::V2 { dist, .. } | GicBases::V3 { dist, .. } => dist,
        }
    }
    /// Base of the CPU interface (v2) or of the first redistributor (v3).
    #[must_use]
    pub const fn local(self) -> u64 {
        match self.0 {
            GicBases::V2 { cpu, .. } => cpu,
            GicBases::V3 { redist, .. } => redist,
        }
    }
    /// Base of the registers of interrupt `intid`: in a v3, SGIs and PPIs are the redistributor's.
    #[must_use]
    pub const fn frame(self, intid: u32) -> u64 {
        match self.0 {
            GicBases::V3 { redist, .. } if intid < 32 => redist + 0x1_0000,
            _ => self.dist(),
        }
    }

    /// Address of the word of a one-bit-per-interrupt register array.
    #[must_use]
    pub const fn bit_reg(self, offset: u64, intid: u32) -> u64 {
        self.frame(intid) + offset + (intid as u64 / 32) * 4
    }
    fn write_bit(self, offset: u64, intid: u32) {
        write32(self.bit_reg(offset, intid), 1 << (intid % 32));
    }
    /// Reads one bit of such an array.
    #[must_use]
    pub fn read_bit(self, offset: u64, intid: u32) -> bool {
        read32(self.bit_reg(offset, intid)) & 1 << (intid % 32) != 0
    }

    /// Enables one interrupt.
    pub fn enable(self, intid: u32) {
        self.write_bit(dist::ISENABLER, intid);
    }
    /// Disables one interrupt.
    pub fn disable(self, intid: u32) {
        self.write_bit(dist::ICENABLER, intid);
    }
    /// Makes it pending by software.
    pub fn pend(self, intid: u32) {
        self.write_bit(dist::ISPENDR, intid);
    }
    /// Takes that back.
    pub fn unpend(self, intid: u32) {
        self.write_bit(dist::ICPENDR, intid);
    }
    /// Whether it is pending.
    #[must_use]
    pub fn is_pending(self, intid: u32) -> bool {
        self.read_bit(dist::ISPENDR, intid)
    }
    /// Whether it is active.
    #[must_use]
    pub fn is_active(self, intid: u32) -> bool {
        self.read_bit(dist::ISACTIVER, intid)
    }
    /// Address of its priority byte.
    #[must_use]
    pub const fn priority_addr(self, intid: u32) -> u64 {
        self.frame(intid) + dist::IPRIORITYR + intid as u64
    }
    /// Sets its priority, by a byte access.
    pub fn set_priority(self, intid: u32, priority: u8) {
        // A fault here is a failed test, shown by the read-back.
        let _ = crate::probe::store8(self.priority_addr(intid), u64::from(priority));
    }
    /// Edge-triggered or level-sensitive.
    pub fn set_edge(self, intid: u32, edge: bool) {
        let addr = self.frame(intid) + dist::ICFGR + (u64::from(intid) / 16) * 4;
        let bit = 2 << (intid % 16 * 2);
        let old = read32(addr);
        write32(addr, if edge { old | bit } else { old & !bit });
    }
    /// Sends an SPI to this CPU.
    pub fn route_here(self, intid: u32) {
        if self.is_v3() {
            let addr = self.dist() + dist::IROUTER + 8 * u64::from(intid);
            let _ = crate::probe::store64(addr, read!("mpidr_el1") & 0xff_00ff_ffff);
        } else {
            let _ = crate::probe::store8(self.dist() + dist::ITARGETSR + u64::from(intid), 1);
        }
    }

    /// Distributor and CPU interface on, everything in one group, nothing enabled, nothing masked
    /// by priority. The groups are those a kernel uses: 0 in a v2, 1 in a v3.
    pub fn init(self) {
        let lines = (read32(self.dist() + dist::TYPER) & 0x1f) + 1;
        write32(self.dist() + dist::CTLR, 0);
        for word in 0..lines {
            let intid = word * 32;
            write32(self.bit_reg(dist::ICENABLER, intid), !0);
            write32(self.bit_reg(dist::ICPENDR, intid), !0);
            write32(self.bit_reg(dist::ICACTIVER, intid), !0);
            if self.is_v3() {
                write32(self.bit_reg(dist::IGROUPR, intid), !0);
            }
        }
        match self.0 {
            GicBases::V2 { cpu, .. } => {
                write32(self.dist() + dist::CTLR, 1);
                write32(cpu + 0x004, 0xf8); // PMR
                write32(cpu + 0x008, 0); // BPR
                write32(cpu, 1); // CTLR
            }
            GicBases::V3 { redist, .. } => {
                write32(self.dist() + dist::CTLR, 1 << 4 | 1 << 1);
                write32(redist + 0x14, 0); // WAKER: awake
                let sre = read!("icc_sre_el1");
                write!("icc_sre_el1", sre | 1);
                write!("icc_pmr_el1", 0xf8);
                write!("icc_bpr1_el1", 0);
                write!("icc_ctlr_el1", 0);
                write!("icc_igrpen1_el1", 1);
            }
        }
        EOI_SPLIT.store(false, Relaxed);
    }

    /// Acknowledges: the whole IAR value (with the source CPU of a v2 SGI).
    #[must_use]
    pub fn ack(self) -> u32 {
        match self.0 {
            GicBases::V2 { cpu, .. } => read32(cpu + 0xc),
            GicBases::V3 { .. } => read!("icc_iar1_el1") as u32,
        }
    }
    /// End of interrupt.
    pub fn eoi(self, iar: u32) {
        match self.0 {
            GicBases::V2 { cpu, .. } => write32(cpu + 0x10, iar),
            GicBases::V3 { .. } => write!("icc_eoir1_el1", u64::from(iar)),
        }
    }
    /// Deactivate (with [`Gic::set_eoi_split`]).
    pub fn deactivate(self, iar: u32) {
        match self.0 {
            GicBases::V2 { cpu, .. } => write32(cpu + 0x1000, iar),
            GicBases::V3 { .. } => write!("icc_dir_el1", u64::from(iar)),
        }
    }
    /// EOImode: end of interrupt only drops the priority.
    pub fn set_eoi_split(self, on: bool) {
        EOI_SPLIT.store(on, Relaxed);
        match self.0 {
            GicBases::V2 { cpu, .. } => write32(cpu, if on { 1 | 1 << 9 } else { 1 }),
            GicBases::V3 { .. } => write!("icc_ctlr_el1", if on { 2 } else { 0 }),
        }
    }
    /// Priority mask.
    pub fn set_mask(self, pmr: u8) {
        match self.0 {
            GicBases::V2 { cpu, .. } => write32(cpu + 4, u32::from(pmr)),
            GicBases::V3 { .. } => write!("icc_pmr_el1", u64::from(pmr)),
        }
    }
    /// Priority mask, as it reads.
    #[must_use]
    pub fn mask(self) -> u32 {
        match self.0 {
            GicBases::V2 { cpu, .. } => read32(cpu + 4),
            GicBases::V3 { .. } => read!("icc_pmr_el1") as u32,
        }
    }
    /// Running priority.
    #[must_use]
    pub fn running(self) -> u32 {
        match self.0 {
            GicBases::V2 { cpu, .. } => read32(cpu + 0x14),
            GicBases::V3 { .. } => read!("icc_rpr_el1") as u32,
        }
    }
    /// Highest pending interrupt.
    #[must_use]
    pub fn highest(self) -> u32 {
        match self.0 {
            GicBases::V2 { cpu, .. } => read32(cpu + 0x18),
            GicBases::V3 { .. } => read!("icc_hppir1_el1") as u32,
        }
    }
    /// Sends SGI `id` to this CPU.
    pub fn sgi_self(self, id: u32) {
        if self.is_v3() {
            let m = read!("mpidr_el1");
            let target = 1 << (m & 0xf)
                | (m >> 8 & 0xff) << 16
                | (m >> 16 & 0xff) << 32
                | (m >> 32 & 0xff) << 48;
            write!("icc_sgi1r_el1", target | u64::from(id) << 24);
        } else {
            write32(self.dist() + dist::SGIR, 2 << 24 | id);
        }
    }
}

static EOI_SPLIT: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU32 = AtomicU32::new(0);
static FIQS: AtomicU32 = AtomicU32::new(0);
static LAST: AtomicU32 = AtomicU32::new(0);
/// The last eight INTIDs, newest in the low byte group; for order tests.
static ORDER: AtomicU64 = AtomicU64::new(0);
static TIMER_ISTATUS: AtomicBool = AtomicBool::new(false);

/// What the handler has seen since [`forget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Interrupts taken, spurious ones not counted.
    pub count: u32,
    /// How many came by the FIQ vector.
    pub fiqs: u32,
    /// Last acknowledge value.
    pub last: u32,
    /// The low bytes of the last INTIDs, newest lowest.
    pub order: u64,
    /// At the last timer interrupt ISTATUS was set.
    pub istatus: bool,
}

/// What the handler has seen.
#[must_use]
pub fn seen() -> Seen {
    Seen {
        count: COUNT.load(Relaxed),
        fiqs: FIQS.load(Relaxed),
        last: LAST.load(Relaxed),
        order: ORDER.load(Relaxed),
        istatus: TIMER_ISTATUS.load(Relaxed),
    }
}

/// Starts counting afresh.
pub fn forget() {
    COUNT.store(0, Relaxed);
    FIQS.store(0, Relaxed);
    LAST.store(0, Relaxed);
    ORDER.store(0, Relaxed);
    TIMER_ISTATUS.store(false, Relaxed);
}

/// Unmasks IRQ and FIQ, or masks them.
pub fn unmask(on: bool) {
    let old = read!("daif");
    write!("daif", if on { old & !0xc0 } else { old | 0xc0 });
}

/// Lets pending interrupts come for a moment.
pub fn window() {
    unmask(true);
    unmask(false);
}

/// Whether an IRQ is pending at this CPU (`ISR_EL1`), masked or not.
#[must_use]
pub fn irq_line() -> bool {
    read!("isr_el1") & 1 << 7 != 0
}

/// The handler.
pub fn on_interrupt(_frame: &mut Frame, fiq: bool) {
    let gic = get();
    let group0 = fiq && gic.is_v3();
    let iar = if group0 { read!("icc_iar0_el1") as u32 } else { gic.ack() };
    let intid = iar & 0x3ff;
    if intid >= SPURIOUS {
        return;
    }
    COUNT.fetch_add(1, Relaxed);
    FIQS.fetch_add(u32::from(fiq), Relaxed);
    LAST.store(iar, Relaxed);
    ORDER.store(ORDER.load(Relaxed) << 8 | u64::from(intid & 0xff), Relaxed);
    match intid {
        VIRTUAL_PPI => {
            TIMER_ISTATUS.store(read!("cntv_ctl_el0") & 4 != 0, Relaxed);
            write!("cntv_ctl_el0", ENABLE | IMASK);
        }
        PHYSICAL_PPI => {
            TIMER_ISTATUS.store(read!("cntp_ctl_el0") & 4 != 0, Relaxed);
            write!("cntp_ctl_el0", ENABLE | IMASK);
        }
        33 => write32(machine::get().uart + 0x38, 0), // UARTIMSC: all its interrupts masked
        _ => {}
    }
    if group0 {
        write!("icc_eoir0_el1", u64::from(iar));
    } else {
        gic.eoi(iar);
    }
    if EOI_SPLIT.load(Relaxed) {
        gic.deactivate(iar);
    }
}
