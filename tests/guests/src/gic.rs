//! A driver for GICv2 (IHI0048) and GICv3 (IHI0069), and the interrupt handler: it acknowledges,
//! notes, quietens the source, ends. Each CPU notes for itself.

use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::console::{read32, write32};
use crate::cpu::{self, CPUS, PerCpu};
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

/// Who is to have an SGI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// CPUs by bit.
    List(u8),
    /// All but the sender.
    Others,
    /// The sender.
    Me,
}

/// Bytes from one redistributor of a GICv3 to the next.
const REDISTRIBUTOR: u64 = 0x2_0000;

/// The GIC of the machine, as one CPU sees it.
#[derive(Clone, Copy)]
pub struct Gic(GicBases);

/// The machine's GIC, as this CPU sees it.
#[must_use]
pub fn get() -> Gic {
    of(cpu::me())
}

/// The GIC with the redistributor of another CPU, if it has redistributors.
#[must_use]
pub fn of(cpu: usize) -> Gic {
    match machine::get().gic {
        GicBases::V3 { dist, redist } => {
            Gic(GicBases::V3 { dist, redist: redist + REDISTRIBUTOR * cpu as u64 })
        }
        v2 @ GicBases::V2 { .. } => Gic(v2),
    }
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
    /// Base of the CPU interface (v2) or of this CPU's redistributor (v3).
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
    /// Sends SGI `id`.
    pub fn sgi(self, id: u32, to: To) {
        cpu::publish();
        if self.is_v3() {
            let m = read!("mpidr_el1");
            let cluster = (m >> 8 & 0xff) << 16 | (m >> 16 & 0xff) << 32 | (m >> 32 & 0xff) << 48;
            let target = match to {
                To::List(list) => cluster | u64::from(list),
                To::Others => 1 << 40,
                To::Me => cluster | 1 << (m & 0xf),
            };
            write!("icc_sgi1r_el1", target | u64::from(id) << 24);
        } else {
            let target = match to {
                To::List(list) => u32::from(list) << 16,
                To::Others => 1 << 24,
                To::Me => 2 << 24,
            };
            write32(self.dist() + dist::SGIR, target | id);
        }
    }
    /// Sends an SPI to CPU `cpu`.
    pub fn route(self, intid: u32, cpu: usize) {
        if self.is_v3() {
            let addr = self.dist() + dist::IROUTER + 8 * u64::from(intid);
            let _ = crate::probe::store64(addr, machine::mpidr(cpu));
        } else {
            let at = self.dist() + dist::ITARGETSR + u64::from(intid);
            let _ = crate::probe::store8(at, 1 << cpu);
        }
    }
    /// Sends an SPI to any CPU there is.
    pub fn route_any(self, intid: u32) {
        if self.is_v3() {
            let addr = self.dist() + dist::IROUTER + 8 * u64::from(intid);
            let _ = crate::probe::store64(addr, 1 << 31);
        } else {
            let at = self.dist() + dist::ITARGETSR + u64::from(intid);
            let _ = crate::probe::store8(at, 0xff);
        }
    }
    /// Sends an SPI to this CPU.
    pub fn route_here(self, intid: u32) {
        if self.is_v3() {
            let addr = self.dist() + dist::IROUTER + 8 * u64::from(intid);
            let _ = crate::probe::store64(addr, read!("mpidr_el1") & 0xff_00ff_ffff);
        } else {
            let me = self.target_bit();
            let _ = crate::probe::store8(self.dist() + dist::ITARGETSR + u64::from(intid), me);
        }
    }
    /// This CPU's bit in the target registers of a v2. They are numbered as the interface is, which
    /// the banked ITARGETSR0 tells; it reads as zero where there is one CPU only (IHI0048 4.3.12).
    fn target_bit(self) -> u64 {
        u64::from(read32(self.dist() + dist::ITARGETSR) & 0xff).max(1)
    }

    /// Distributor and this CPU's interface on, everything in one group, nothing enabled, nothing
    /// masked by priority. The groups are those a kernel uses: 0 in a v2, 1 in a v3.
    pub fn init(self) {
        let lines = (read32(self.dist() + dist::TYPER) & 0x1f) + 1;
        write32(self.dist() + dist::CTLR, 0);
        for word in 1..lines {
            self.clear(word * 32);
        }
        write32(self.dist() + dist::CTLR, if self.is_v3() { 1 << 4 | 1 << 1 } else { 1 });
        self.init_cpu();
    }

    /// What of it each CPU does for itself.
    pub fn init_cpu(self) {
        self.clear(0);
        match self.0 {
            GicBases::V2 { cpu, .. } => {
                write32(cpu + 0x004, 0xf8); // PMR
                write32(cpu + 0x008, 0); // BPR
                write32(cpu, 1); // CTLR
            }
            GicBases::V3 { redist, .. } => {
                write32(redist + 0x14, 0); // WAKER: awake
                let sre = read!("icc_sre_el1");
                write!("icc_sre_el1", sre | 1);
                write!("icc_pmr_el1", 0xf8);
                write!("icc_bpr1_el1", 0);
                write!("icc_ctlr_el1", 0);
                write!("icc_igrpen1_el1", 1);
            }
        }
        NOTES.eoi_split.store(false, Relaxed);
    }

    /// Nothing enabled, pending or active among the 32 interrupts from `intid` on.
    fn clear(self, intid: u32) {
        write32(self.bit_reg(dist::ICENABLER, intid), !0);
        write32(self.bit_reg(dist::ICPENDR, intid), !0);
        write32(self.bit_reg(dist::ICACTIVER, intid), !0);
        if self.is_v3() {
            write32(self.bit_reg(dist::IGROUPR, intid), !0);
        }
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
        NOTES.eoi_split.store(on, Relaxed);
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
        self.sgi(id, To::Me);
    }
}

/// The SGI by which CPUs wake each other; it is not noted.
pub const DOORBELL: u32 = 15;

/// How many acknowledge values are kept.
pub const LOG: usize = 256;

/// What the handler of one CPU has noted.
struct Notes {
    eoi_split: AtomicBool,
    count: AtomicU32,
    fiqs: AtomicU32,
    last: AtomicU32,
    /// The last eight INTIDs, newest in the low byte group; for order tests.
    order: AtomicU64,
    timer_istatus: AtomicBool,
    log: [AtomicU32; LOG],
    hook: AtomicU64,
}

impl Notes {
    fn forget(&self) {
        self.fiqs.store(0, Relaxed);
        self.last.store(0, Relaxed);
        self.order.store(0, Relaxed);
        self.timer_istatus.store(false, Relaxed);
        self.count.store(0, Release);
    }
}

static NOTES: PerCpu<Notes> = PerCpu(
    [const {
        Notes {
            eoi_split: AtomicBool::new(false),
            count: AtomicU32::new(0),
            fiqs: AtomicU32::new(0),
            last: AtomicU32::new(0),
            order: AtomicU64::new(0),
            timer_istatus: AtomicBool::new(false),
            log: [const { AtomicU32::new(0) }; LOG],
            hook: AtomicU64::new(0),
        }
    }; CPUS],
);

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

/// What the handler has seen on this CPU.
#[must_use]
pub fn seen() -> Seen {
    seen_by(cpu::me())
}

/// What it has seen on another.
#[must_use]
pub fn seen_by(cpu: usize) -> Seen {
    let notes = &NOTES.0[cpu % CPUS];
    Seen {
        count: notes.count.load(Acquire),
        fiqs: notes.fiqs.load(Relaxed),
        last: notes.last.load(Relaxed),
        order: notes.order.load(Relaxed),
        istatus: notes.timer_istatus.load(Relaxed),
    }
}

/// The `n`th acknowledge value on a CPU since [`forget`], of the first [`LOG`].
#[must_use]
pub fn logged(cpu: usize, n: usize) -> u32 {
    NOTES.0[cpu % CPUS].log.get(n).map_or(u32::MAX, |iar| iar.load(Relaxed))
}

/// Starts counting afresh on this CPU.
pub fn forget() {
    NOTES.forget();
}

/// Starts counting afresh on all. Nothing may be on its way to any.
pub fn forget_all() {
    for notes in &NOTES.0 {
        notes.forget();
    }
}

/// From now on this CPU calls `hook(iar)` between the acknowledgement and the end of each
/// interrupt, with interrupts masked.
pub fn set_hook(hook: Option<fn(u32)>) {
    NOTES.hook.store(hook.map_or(0, |hook| hook as usize as u64), Relaxed);
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
    if intid == DOORBELL {
        gic.eoi(iar);
        if NOTES.eoi_split.load(Relaxed) {
            gic.deactivate(iar);
        }
        return;
    }
    let notes = &*NOTES;
    if let Some(slot) = notes.log.get(notes.count.load(Relaxed) as usize) {
        slot.store(iar, Relaxed);
    }
    notes.fiqs.fetch_add(u32::from(fiq), Relaxed);
    notes.last.store(iar, Relaxed);
    notes.order.store(notes.order.load(Relaxed) << 8 | u64::from(intid & 0xff), Relaxed);
    // Last: who sees the count from another CPU may look at the rest.
    notes.count.fetch_add(1, Release);
    match intid {
        VIRTUAL_PPI => {
            notes.timer_istatus.store(read!("cntv_ctl_el0") & 4 != 0, Relaxed);
            write!("cntv_ctl_el0", ENABLE | IMASK);
        }
        PHYSICAL_PPI => {
            notes.timer_istatus.store(read!("cntp_ctl_el0") & 4 != 0, Relaxed);
            write!("cntp_ctl_el0", ENABLE | IMASK);
        }
        33 => write32(machine::get().uart + 0x38, 0), // UARTIMSC: all its interrupts masked
        _ => {}
    }
    let hook = notes.hook.load(Relaxed) as *const ();
    if !hook.is_null() {
        // SAFETY:
        // 1. `set_hook` stored a `fn(u32)` there.
        let hook: fn(u32) = unsafe { core::mem::transmute(hook) };
        hook(iar);
    }
    if group0 {
        write!("icc_eoir0_el1", u64::from(iar));
    } else {
        gic.eoi(iar);
    }
    if notes.eoi_split.load(Relaxed) {
        gic.deactivate(iar);
    }
}
