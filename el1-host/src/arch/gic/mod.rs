//! The physical interrupt controller, GICv2 or GICv3, as seen by a non-secure EL1.
//!
//! Interrupts are polled with PSTATE.I set, never taken as exceptions: a pending one ends a guest's
//! run or the host's WFI all the same, and no host code has to be re-entrant.
//!
//! EOImode is 1, so that acknowledging has two ends (IHI0048 3.2.1, IHI0069 4.1.1): `drop` lowers
//! the running priority, `deactivate` lets the interrupt fire again. The virtual timer's PPI is
//! only dropped: it stays active until the guest deactivates the virtual interrupt linked to it.

mod v2;
mod v3;

pub use v2::{CpuV2, GicV2};
pub use v3::{CpuV3, GicV3};

/// The SGI by which CPUs wake each other.
const KICK: u32 = 0;

/// INTIDs from here on are special: no interrupt.
const SPECIAL: u32 = 1020;
/// The priority that the host gives to every interrupt: middle, above the idle priority 0xff.
const PRIORITY: u32 = 0xa0;

/// An acknowledged interrupt. The value goes back as it came: on a GICv2 it carries the source CPU
/// of an SGI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Acknowledged(u32);

impl Acknowledged {
    fn from_iar(iar: u32) -> Option<Self> {
        (iar & 0x3ff < SPECIAL).then_some(Self(iar))
    }

    /// The interrupt's number.
    pub fn intid(self) -> u32 {
        self.0 & 0x3ff
    }
}

/// Where to send a CPU's SGIs: its target bit, or its affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub u64);

/// The interrupt controller: what all CPUs share.
pub enum Gic {
    /// Memory-mapped CPU interfaces.
    V2(GicV2),
    /// System-register CPU interfaces.
    V3(GicV3),
}

impl Gic {
    /// Architecture version.
    pub fn version(&self) -> u32 {
        match self {
            Self::V2(_) => 2,
            Self::V3(_) => 3,
        }
    }

    /// Opens the part of the CPU that calls; `None` if it has none. Only SGI 0 comes through.
    pub fn open_cpu(&self) -> Option<CpuGic> {
        let cpu = match self {
            Self::V2(gic) => CpuGic::V2(gic.open_cpu()),
            Self::V3(gic) => CpuGic::V3(gic.open_cpu()?),
        };
        cpu.enable(KICK);
        Some(cpu)
    }

    /// Interrupts another CPU, for no other reason than that it shall look around.
    pub fn kick(&self, to: Address) {
        match self {
            Self::V2(gic) => gic.kick(to.0),
            Self::V3(_) => GicV3::kick(to.0),
        }
    }
}

/// What a CPU has of the interrupt controller. Not to be used by another CPU.
pub enum CpuGic {
    /// Banked registers.
    V2(CpuV2),
    /// Its redistributor and system registers.
    V3(CpuV3),
}

impl CpuGic {
    /// Where others send SGIs for this CPU.
    pub fn address(&self) -> Address {
        Address(match self {
            Self::V2(gic) => gic.address(),
            Self::V3(gic) => gic.address(),
        })
    }

    /// Lets an interrupt through to this CPU; all others stay masked.
    pub fn enable(&self, intid: u32) {
        match self {
            Self::V2(gic) => gic.enable(intid),
            Self::V3(gic) => gic.enable(intid),
        }
    }

    /// Takes the pending interrupt of highest priority, if there is one.
    pub fn acknowledge(&self) -> Option<Acknowledged> {
        match self {
            Self::V2(gic) => gic.acknowledge(),
            Self::V3(gic) => gic.acknowledge(),
        }
    }

    /// Priority drop: others may be acknowledged; this one stays active.
    pub fn drop_priority(&self, interrupt: Acknowledged) {
        match self {
            Self::V2(gic) => gic.drop_priority(interrupt),
            Self::V3(gic) => gic.drop_priority(interrupt),
        }
    }

    /// The interrupt may fire again.
    pub fn deactivate(&self, interrupt: Acknowledged) {
        match self {
            Self::V2(gic) => gic.deactivate(interrupt),
            Self::V3(gic) => gic.deactivate(interrupt),
        }
    }

    /// Sets or clears the active state of a private interrupt of this CPU.
    pub fn set_active(&self, ppi: u32, active: bool) {
        match self {
            Self::V2(gic) => gic.set_active(ppi, active),
            Self::V3(gic) => gic.set_active(ppi, active),
        }
    }
}
