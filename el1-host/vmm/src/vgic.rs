//! A guest's interrupt controller: GICv2 (IHI0048B) or GICv3 (IHI0069).
//!
//! The CPU interface is hardware: the guest talks to GICV or ICC_* and the list registers. This is the
//! rest: the distributor, the redistributors, the generation of SGIs, and the choice of what goes into
//! the list registers. The state of an interrupt is here while its vCPU does not run, and in a list
//! register while it does; [`Vgic::fill`] and [`Vgic::fold`] move it.
//!
//! What one vCPU changes of an interrupt that is in a list register of another takes effect when that
//! one leaves the guest and its registers are folded back; it is made to leave at once
//! ([`Vgic::news`]). Until then GICD_CTLR.RWP and GICR_CTLR.RWP say so where the architecture has a
//! bit for it (disabling), and a read of pending or active state waits ([`Vgic::to_leave_first`]).
//!
//! Knows: the two specifications. Must not know: devices (they set lines), run pages, EL2, locks.
//!
//! Modelled: one security state, 16 SGIs, 16 PPIs, 256 SPIs (as QEMU's virt), 32 priority levels (those
//! of the list registers), both groups, up to 8 vCPUs with affinity 0.0.0.n. A GICv3 has affinity routing
//! for good, no LPIs, and no SPIs that go to any vCPU (GICD_TYPER.No1N, as QEMU's).
//!
//! Invariants:
//! - I1: an interrupt is in at most one list register of one vCPU.
//! - I2: what this model says of an interrupt that is in a list register is its state when it went in,
//!   with what has been done to it since beside it (`bank::Late`), until it is folded back.
//! - I3: an access changes registers that exist and nothing else; others read as zero.

use alloc::vec::Vec;

use hyp_abi::hcall::MAX_VCPUS;
use hyp_abi::lr;

use crate::vcpu_set::VcpuSet;

mod bank;
mod dist;
mod fold;
mod lists;
mod redist;
mod route;
mod sgi;

pub use lists::Filled;

use bank::{Bank, PRIVATE_EDGE};

/// Which architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// GICv2.
    V2,
    /// GICv3.
    V3,
}

/// One access by a vCPU to a register frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Offset in the frame.
    pub offset: u64,
    /// 1, 2, 4 or 8 bytes.
    pub size: u64,
}

/// Banks of 32 SPIs.
const SPI_BANKS: usize = 8;
/// All banks that a vCPU sees: its own, then the SPIs'.
const BANKS: usize = 1 + SPI_BANKS;
/// INTIDs: 32 private ones and the SPIs.
const INTIDS: u32 = 288;
const _: () = assert!(INTIDS as usize == 32 * BANKS);
/// GICD_CTLR: the two group enables.
const CTLR_MASK: u32 = 3;
/// GICR_WAKER.ProcessorSleep.
const WAKER_SLEEP: u32 = 1 << 1;
/// GICR_WAKER.ChildrenAsleep.
const WAKER_ASLEEP: u32 = 1 << 2;

/// A bit for each interrupt that a vCPU sees, by banks.
type Bits = [u32; BANKS];

/// What each vCPU has to itself.
#[derive(Clone, Debug)]
struct Cpu {
    /// Switched on: an interrupt for several vCPUs goes to one that is.
    on: bool,
    /// SGIs and PPIs.
    private: Bank,
    /// GICv2: for each SGI the vCPUs that sent it and wait.
    sources: [u8; 16],
    /// GICv2: for each active SGI the vCPU that sent it.
    active_source: [u8; 16],
    /// GICv3: GICR_WAKER.ProcessorSleep.
    asleep: bool,
    /// What went into the list registers, until it is folded back.
    given: [lists::Given; lr::MAX],
    /// The interrupts in them.
    listed: Bits,
    /// SPIs that are active here.
    owned: Bits,
    /// SPIs that go here.
    to: Bits,
    /// What it could be woken for when [`Vgic::news`] was last asked.
    known: Bits,
    /// An interrupt in its list registers has been disabled since they were filled.
    disabling: Disabling,
}

/// Which registers' writes are not yet complete (Register Write Pending).
#[derive(Clone, Copy, Debug, Default)]
struct Disabling {
    /// GICD_CTLR, GICD_ICENABLER.
    shared: bool,
    /// GICR_ICENABLER0.
    private: bool,
}

/// The distributor and what belongs to it.
#[derive(Clone, Debug)]
pub struct Vgic {
    version: Version,
    /// List registers there are.
    lrs: usize,
    /// GICD_CTLR.EnableGrp0 and 1.
    ctlr: u32,
    cpus: Vec<Cpu>,
    shared: [Bank; SPI_BANKS],
    /// GICv2: GICD_ITARGETSR. GICv3: unused.
    targets: [[u8; 32]; SPI_BANKS],
    /// GICv3: GICD_IROUTER. GICv2: unused.
    routes: [[u64; 32]; SPI_BANKS],
    /// The interrupt whose list register is linked to a physical interrupt.
    hardware: u32,
    /// Banks, a bit each, in which something may have become deliverable.
    touched: u32,
    /// vCPUs that must leave the guest for what was done to their list registers' interrupts.
    recalled: VcpuSet,
}

impl Vgic {
    /// A GIC after reset, with vCPU 0 on. `lrs` list registers; interrupt `hardware` (the virtual
    /// timer's PPI) is linked to the physical interrupt of the same number.
    #[must_use]
    pub fn new(version: Version, vcpus: usize, lrs: usize, hardware: u32) -> Self {
        let vcpus = vcpus.clamp(1, MAX_VCPUS);
        let mut private = Bank::new(PRIVATE_EDGE);
        // IHI0048 4.3.5: whether SGIs can be disabled is a choice; here they can, and start
        // enabled, as software written for GICs that cannot disable them expects.
        private.enabled = if version == Version::V2 { 0xffff } else { 0 };
        let cpu = Cpu {
            on: false,
            private,
            sources: [0; 16],
            active_source: [0; 16],
            asleep: true,
            given: [lists::Given::default(); lr::MAX],
            listed: [0; BANKS],
            owned: [0; BANKS],
            to: [0; BANKS],
            known: [0; BANKS],
            disabling: Disabling::default(),
        };
        let mut gic = Self {
            version,
            lrs: lrs.min(lr::MAX),
            ctlr: 0,
            cpus: alloc::vec![cpu; vcpus],
            shared: [const { Bank::new(0) }; SPI_BANKS],
            targets: [[0; 32]; SPI_BANKS],
            routes: [[0; 32]; SPI_BANKS],
            hardware,
            touched: 0,
            recalled: VcpuSet::EMPTY,
        };
        gic.set_power(0, true);
        gic.route_all();
        gic
    }

    /// Which architecture this is.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Sets the level of an interrupt's line. `vcpu` counts for PPIs only.
    pub fn set_line(&mut self, vcpu: usize, intid: u32, level: bool) {
        let (n, mask) = (bank_of(intid), mask(intid));
        let Some(bank) = self.bank(vcpu, n) else { return };
        if intid < 16 || (bank.line & mask != 0) == level {
            return;
        }
        if let Some(bank) = self.bank_mut(vcpu, n) {
            let concerned = bank.set_line(mask, level);
            self.recall(vcpu, n, concerned);
        }
    }

    /// The vCPU's bank `n`: 0 holds SGIs and PPIs.
    fn bank(&self, vcpu: usize, n: usize) -> Option<&Bank> {
        match n.checked_sub(1) {
            None => self.cpus.get(vcpu).map(|cpu| &cpu.private),
            Some(n) => self.shared.get(n),
        }
    }

    /// The same, to change it.
    fn bank_mut(&mut self, vcpu: usize, n: usize) -> Option<&mut Bank> {
        self.touched |= bit_of(n);
        match n.checked_sub(1) {
            None => self.cpus.get_mut(vcpu).map(|cpu| &mut cpu.private),
            Some(n) => self.shared.get_mut(n),
        }
    }

    /// Those of bank `n` that are pending, enabled and of an enabled group, and may go to `vcpu`: also
    /// those that are active there.
    fn deliverable(&self, vcpu: usize, n: usize) -> u32 {
        let (Some(bank), Some(cpu)) = (self.bank(vcpu, n), self.cpus.get(vcpu)) else { return 0 };
        let group0 = if self.ctlr & 1 != 0 { !bank.group } else { 0 };
        let group1 = if self.ctlr & 2 != 0 { bank.group } else { 0 };
        let candidates = bank.pending() & bank.enabled & (group0 | group1) & !bank.listed;
        if n == 0 {
            return candidates;
        }
        // Active on another vCPU: not signalled to anybody before its deactivation.
        let elsewhere = bank.active & !of_bank(&cpu.owned, n);
        candidates & of_bank(&cpu.to, n) & !elsewhere
    }

    /// The interrupts of bank `n` that would wake a vCPU.
    fn wakers(&self, vcpu: usize, n: usize) -> u32 {
        let active = self.bank(vcpu, n).map_or(0, |bank| bank.active);
        self.deliverable(vcpu, n) & !active
    }

    /// Whether an interrupt would wake this vCPU from WFI. Priorities and the CPU interface's own
    /// enables are hardware's and not known here, so this may say yes once too often.
    #[must_use]
    pub fn pending_for(&self, vcpu: usize) -> bool {
        (0..BANKS).any(|n| self.wakers(vcpu, n) != 0)
    }

    /// The vCPUs that are on and have something to do of which they do not know since this was last
    /// asked: an interrupt to take, or to leave the guest because of one that they were given.
    pub fn news(&mut self) -> VcpuSet {
        let mut gained = core::mem::take(&mut self.recalled);
        let touched = core::mem::take(&mut self.touched);
        if touched == 0 {
            return gained;
        }
        for vcpu in 0..self.cpus.len() {
            for n in (0..BANKS).filter(|n| touched & bit_of(*n) != 0) {
                let now = self.wakers(vcpu, n);
                let Some(cpu) = self.cpus.get_mut(vcpu) else { break };
                let before = cpu.known.get_mut(n).map_or(0, |b| core::mem::replace(b, now));
                if now & !before != 0 && cpu.on {
                    gained = gained.union(VcpuSet::only(vcpu));
                }
            }
        }
        gained
    }

    /// Makes the vCPUs leave that have one of these interrupts of `vcpu`'s bank `n` in a list register.
    fn recall(&mut self, vcpu: usize, n: usize, concerned: u32) -> VcpuSet {
        let holders = self.holders(vcpu, n, concerned);
        self.recalled = self.recalled.union(holders);
        holders
    }

    /// These interrupts of `vcpu`'s bank `n` are news again to those they may go to.
    fn forget(&mut self, vcpu: usize, n: usize, which: u32) {
        for (idx, cpu) in self.cpus.iter_mut().enumerate() {
            if n > 0 || idx == vcpu {
                change_bank(&mut cpu.known, n, 0, which);
            }
        }
    }

    /// Who has one of these interrupts of `vcpu`'s bank `n` in a list register.
    fn holders(&self, vcpu: usize, n: usize, wanted: u32) -> VcpuSet {
        let holds = |cpu: &Cpu| of_bank(&cpu.listed, n) & wanted != 0;
        let all = self.cpus.iter().enumerate();
        all.filter(|(idx, cpu)| (n > 0 || *idx == vcpu) && holds(cpu))
            .fold(VcpuSet::EMPTY, |set, (idx, _)| set.union(VcpuSet::only(idx)))
    }

    /// Says that a vCPU is on, or off. The interrupts that it does not take go to another, if they may.
    pub fn set_power(&mut self, vcpu: usize, on: bool) {
        if let Some(cpu) = self.cpus.get_mut(vcpu)
            && cpu.on != on
        {
            cpu.on = on;
            self.route_all();
        }
    }

    /// Whether the physical side of the linked interrupt must be active: so it is neither signalled
    /// again while the guest has it pending or active, nor lost after.
    #[must_use]
    pub fn hardware_active(&self, vcpu: usize) -> bool {
        let mask = mask(self.hardware);
        self.bank(vcpu, bank_of(self.hardware))
            .is_some_and(|bank| (bank.pending() | bank.active | bank.listed) & mask != 0)
    }
}

/// Bank `n` of these bits.
fn of_bank(bits: &Bits, n: usize) -> u32 {
    bits.get(n).copied().unwrap_or(0)
}

/// Bank `n` of these bits, to change it.
fn change_bank(bits: &mut Bits, n: usize, set: u32, clear: u32) {
    if let Some(bits) = bits.get_mut(n) {
        *bits = (*bits & !clear) | set;
    }
}

/// The 32 bits of a bank.
fn bits() -> impl Iterator<Item = u32> {
    (0..32).map(mask)
}

/// The bit of an interrupt in its bank.
const fn mask(intid: u32) -> u32 {
    1_u32.wrapping_shl(intid)
}

/// The bit of a vCPU in a set of vCPUs, or of a bank in one of banks.
fn bit_of(idx: usize) -> u32 {
    1_u32.checked_shl(number(idx)).unwrap_or(0)
}

/// The bank of an interrupt.
const fn bank_of(intid: u32) -> usize {
    (intid >> 5) as usize
}

/// A vCPU's number as 32 bits.
fn number(vcpu: usize) -> u32 {
    u32::try_from(vcpu).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
