//! A guest's interrupt controller: GICv2 (IHI0048B) or GICv3 (IHI0069).
//!
//! The CPU interface is hardware: the guest talks to GICV or ICC_* and the list registers. This is the
//! rest: the distributor, the redistributors, the generation of SGIs, and the choice of what goes into
//! the list registers. The state of an interrupt is here while its vCPU does not run, and in a list
//! register while it does; [`Vgic::fill`] and [`Vgic::fold`] move it.
//!
//! Knows: the two specifications. Must not know: devices (they set lines), run pages, EL2.
//!
//! Modelled: one security state, 16 SGIs, 16 PPIs, 256 SPIs (as QEMU's virt), 32 priority levels (those
//! of the list registers), both groups, up to 8 vCPUs with affinity 0.0.0.n. A GICv3 has affinity routing
//! for good and no LPIs.
//!
//! Invariants:
//! - I1: an interrupt is in at most one list register of one vCPU.
//! - I2: a pending state that came from a latch is, during a run, in the list register only; from a
//!   line, it is always the line's.
//! - I3: an access changes registers that exist and nothing else; others read as zero.

use alloc::vec::Vec;

use hyp_abi::hcall::MAX_VCPUS;
use hyp_abi::lr;

use crate::vcpu_set::VcpuSet;

mod bank;
mod dist;
mod lists;
mod redist;
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
/// INTIDs: 32 private ones and the SPIs.
const INTIDS: u32 = 288;
const _: () = assert!(INTIDS as usize == 32 * (1 + SPI_BANKS));
/// GICD_CTLR: the two group enables.
const CTLR_MASK: u32 = 3;
/// GICR_WAKER.ProcessorSleep.
const WAKER_SLEEP: u32 = 1 << 1;
/// GICR_WAKER.ChildrenAsleep.
const WAKER_ASLEEP: u32 = 1 << 2;

/// What each vCPU has to itself.
#[derive(Clone, Debug)]
struct Cpu {
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
    /// What it could be woken for when [`Vgic::news`] was last asked.
    known: [u32; 1 + SPI_BANKS],
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
    /// The vCPU on which an active SPI is active.
    owner: [[u8; 32]; SPI_BANKS],
    /// The interrupt whose list register is linked to a physical interrupt.
    hardware: u32,
}

impl Vgic {
    /// A GIC after reset. `lrs` list registers; interrupt `hardware` (the virtual timer's PPI) is
    /// linked to the physical interrupt of the same number.
    #[must_use]
    pub fn new(version: Version, vcpus: usize, lrs: usize, hardware: u32) -> Self {
        let mut private = Bank::new(PRIVATE_EDGE);
        // IHI0048 4.3.5: whether SGIs can be disabled is a choice; here they can, and start
        // enabled, as software written for GICs that cannot disable them expects.
        private.enabled = if version == Version::V2 { 0xffff } else { 0 };
        let cpu = Cpu {
            private,
            sources: [0; 16],
            active_source: [0; 16],
            asleep: true,
            given: [lists::Given::default(); lr::MAX],
            known: [0; 1 + SPI_BANKS],
        };
        Self {
            version,
            lrs: lrs.min(lr::MAX),
            ctlr: 0,
            cpus: alloc::vec![cpu; vcpus.clamp(1, MAX_VCPUS)],
            shared: [const { Bank::new(0) }; SPI_BANKS],
            targets: [[0; 32]; SPI_BANKS],
            routes: [[0; 32]; SPI_BANKS],
            owner: [[0; 32]; SPI_BANKS],
            hardware,
        }
    }

    /// Which architecture this is.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Sets the level of an interrupt's line. `vcpu` counts for PPIs only.
    pub fn set_line(&mut self, vcpu: usize, intid: u32, level: bool) {
        let mask = mask(intid);
        if (16..INTIDS).contains(&intid)
            && let Some(bank) = self.bank_mut(vcpu, bank_of(intid))
        {
            bank.set_line(mask, level);
        }
    }

    /// The vCPU's bank `n`: 0 holds SGIs and PPIs.
    fn bank(&self, vcpu: usize, n: usize) -> Option<&Bank> {
        match n.checked_sub(1) {
            None => self.cpus.get(vcpu).map(|cpu| &cpu.private),
            Some(n) => self.shared.get(n),
        }
    }

    fn bank_mut(&mut self, vcpu: usize, n: usize) -> Option<&mut Bank> {
        match n.checked_sub(1) {
            None => self.cpus.get_mut(vcpu).map(|cpu| &mut cpu.private),
            Some(n) => self.shared.get_mut(n),
        }
    }

    /// The SPIs of shared bank `n` that go to `vcpu`, as bits.
    fn routed(&self, vcpu: usize, n: usize) -> u32 {
        let goes = |bit: usize| match self.version {
            Version::V2 => {
                // 1 of N: the first of the targets takes it (IHI0048 3.2.3).
                let targets = self.targets.get(n).and_then(|t| t.get(bit)).copied().unwrap_or(0);
                self.cpus.len() == 1 || targets.trailing_zeros() == number(vcpu)
            }
            Version::V3 => {
                let route = self.routes.get(n).and_then(|r| r.get(bit)).copied().unwrap_or(0);
                route == u64::from(number(vcpu))
            }
        };
        (0..32).zip(bits()).fold(0, |set, (bit, mask)| if goes(bit) { set | mask } else { set })
    }

    /// Those of bank `n` that are pending, enabled and of an enabled group, and may go to `vcpu`: also
    /// those that are active there.
    fn deliverable(&self, vcpu: usize, n: usize) -> u32 {
        let Some(bank) = self.bank(vcpu, n) else { return 0 };
        let group0 = if self.ctlr & 1 != 0 { !bank.group } else { 0 };
        let group1 = if self.ctlr & 2 != 0 { bank.group } else { 0 };
        let candidates = bank.pending() & bank.enabled & (group0 | group1) & !bank.listed;
        match n.checked_sub(1) {
            Some(shared) if candidates != 0 => {
                // Active on another vCPU: not signalled to anybody before its deactivation.
                let elsewhere = bank.active & !self.active_on(vcpu, n);
                candidates & self.routed(vcpu, shared) & !elsewhere
            }
            _ => candidates,
        }
    }

    /// Whether an interrupt would wake this vCPU from WFI. Priorities and the CPU interface's own
    /// enables are hardware's and not known here, so this may say yes once too often.
    #[must_use]
    pub fn pending_for(&self, vcpu: usize) -> bool {
        (0..=SPI_BANKS).any(|n| self.wakers(vcpu, n) != 0)
    }

    /// The interrupts of bank `n` that would wake a vCPU.
    fn wakers(&self, vcpu: usize, n: usize) -> u32 {
        let active = self.bank(vcpu, n).map_or(0, |bank| bank.active);
        self.deliverable(vcpu, n) & !active
    }

    /// The vCPUs that have an interrupt to take which they had not when this was last asked.
    pub fn news(&mut self) -> VcpuSet {
        let mut gained = VcpuSet::EMPTY;
        for vcpu in 0..self.cpus.len() {
            for n in 0..=SPI_BANKS {
                let now = self.wakers(vcpu, n);
                let known = self.cpus.get_mut(vcpu).and_then(|cpu| cpu.known.get_mut(n));
                let before = known.map_or(0, |known| core::mem::replace(known, now));
                if now & !before != 0 {
                    gained = gained.union(VcpuSet::only(vcpu));
                }
            }
        }
        gained
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

/// The 32 bits of a bank.
fn bits() -> impl Iterator<Item = u32> {
    (0..32).map(mask)
}

/// The bit of an interrupt in its bank.
const fn mask(intid: u32) -> u32 {
    1_u32.wrapping_shl(intid)
}

/// The bit of a vCPU in a set of vCPUs.
fn bit_of(vcpu: usize) -> u32 {
    1_u32.checked_shl(number(vcpu)).unwrap_or(0)
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
