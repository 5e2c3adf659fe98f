//! A virtual machine: memory, devices and vCPUs put together, and its life from `reserve_vm` to the last
//! page given back.
//!
//! The image around it schedules: it loads a vCPU, asks [`Vm::before_run`] for the entry words, runs it,
//! hands the exit to [`Vm::after_run`] and does what that says. Several CPUs may do so at once, each
//! with another vCPU. What one vCPU does to another, this crate cannot carry out: it notes who has
//! gained something to do, and the image asks for the note after every call ([`Vm::take_pokes`]).
//!
//! Locks: devices and vCPUs are behind one lock (`state`), held for one look or one change, never
//! across a hypercall, the console or an allocation of frames. So its rank is below those of the
//! mirror and of the frames: whoever holds one of them must not call in here. The fault path does
//! not take it; memory has locks of its own ([`crate::fault`]). It is no ticket lock: where the
//! host's CPUs are threads of an emulator, more than there is hardware for, a waiter whose turn it
//! is may not be running, and all behind it would wait for it.

use alloc::vec::Vec;
use core::fmt;

use host_mirror::{AuditError, AuditReport, Features, Hypercalls, Mirror};
use hyp_abi::{Handle, Ipa, Pfn, Refusal};

use spin::mutex::SpinMutex;

use self::mmio::Device;
use crate::fault::{Accounts, Memory};
use crate::pl011::Pl011;
use crate::pl031::Pl031;
use crate::psci::Start;
use crate::stats::Exits;
use crate::timer::Timer;
use crate::vcpu_set::{SharedSet, VcpuSet};
use crate::vgic::{Access, Version, Vgic};

mod config;
mod enter;
mod exit;
mod life;
mod mmio;
mod sysreg;

pub use config::Config;
pub use enter::Entry;
pub use life::{CreateError, Summary};

/// What the machine has, as far as guests are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Its GIC; a guest can have the same only.
    pub gic: Version,
    /// List registers.
    pub list_registers: usize,
}

impl Platform {
    /// From EL2's `features`; `None` if it names no GIC.
    #[must_use]
    pub fn new(features: &Features) -> Option<Self> {
        let gic = match (features.gicv2, features.gicv3) {
            (true, false) => Version::V2,
            (false, true) => Version::V3,
            _ => return None,
        };
        let list_registers = usize::try_from(features.list_registers).ok()?;
        Some(Self { gic, list_registers })
    }
}

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run the vCPU again.
    Resume,
    /// The vCPU waits, for an interrupt or for another vCPU to leave the guest: see
    /// [`Vm::can_wake`]. A poke may come at any moment after
    /// this was decided, also before the caller has put the vCPU to sleep: it must not be lost.
    Sleep {
        /// When one of its timers will fire, by the physical counter.
        until: Option<u64>,
    },
    /// The vCPU is off until another starts it. That may have happened already: a poke tells, and
    /// [`Vm::is_on`].
    CpuOff,
    /// The guest switched its machine off.
    PowerOff,
    /// The guest wants to start anew: destroy this VM and create it again.
    Reset,
    /// It cannot go on.
    Fatal(Fatal),
}

/// Why a VM cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// The host has no frame for it.
    OutOfFrames,
    /// EL2 will not map a page.
    Map(Ipa, Refusal),
    /// EL2 will not run the vCPU.
    Run(Refusal),
    /// An error of the machine was taken while it ran (ESR_EL2).
    SError(u64),
    /// The vCPU is in an illegal state (ESR_EL2).
    Illegal(u64),
    /// It jumped to memory that does not exist, and its exception vectors do not exist either: it
    /// would take the same abort for ever. Where it jumped to last, and this vector.
    Lost(u64, u64),
    /// The caller named a vCPU that does not exist.
    NoSuchVcpu,
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFrames => f.write_str("the host has no memory left for it"),
            Self::Map(ipa, why) => write!(f, "EL2 refuses to map {ipa:?}: {why:?}"),
            Self::Run(why) => write!(f, "EL2 refuses to run it: {why:?}"),
            Self::SError(esr) => write!(f, "SError while it ran, ESR {esr:#x}"),
            Self::Illegal(esr) => write!(f, "illegal state, ESR {esr:#x}"),
            Self::Lost(pc, vector) => write!(
                f,
                "it jumped to unmapped memory at {pc:#x} and its vector at {vector:#x} is unmapped, too"
            ),
            Self::NoSuchVcpu => f.write_str("no such vCPU"),
        }
    }
}

/// What the last exit is answered with at the next entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reply {
    /// Nothing: the guest goes on at its pc.
    #[default]
    None,
    /// The access is done; a load gets this value.
    Complete(u64),
    /// x0..x3 of a call.
    Result([u64; 4]),
    /// A synchronous external abort.
    Abort,
    /// An Undefined Instruction exception.
    Undef,
}

/// No pc: A64 instructions are aligned.
const NO_PC: u64 = u64::MAX;

#[derive(Clone, Debug)]
struct Vcpu {
    on: bool,
    /// Between [`Vm::before_run`] and [`Vm::after_run`]: its timers and list registers are hardware's.
    inside: bool,
    /// A load that others must leave the guest for, first.
    parked: Option<Parked>,
    /// That load is done: there is something to wake for.
    done: bool,
    /// Where it starts at its next entry, with the registers of a reset.
    start: Option<Start>,
    reply: Reply,
    /// Emulated.
    physical: Timer,
    /// The hardware's, as of the last exit.
    virt: Timer,
    /// The last two pcs at which a fetch was answered with an abort; the older first.
    lost: [u64; 2],
}

/// A load from the interrupt controller that tells what is in other vCPUs' list registers.
#[derive(Clone, Copy, Debug)]
struct Parked {
    device: Device,
    access: Access,
    /// Who has not yet left the guest.
    waits_for: VcpuSet,
}

/// Devices and vCPUs: what the lock protects.
#[derive(Debug)]
struct State {
    vgic: Vgic,
    uart: Pl011,
    rtc: Pl031,
    vcpus: Vec<Vcpu>,
    exits: Exits,
    /// Who has gained something by the change at hand, other than an interrupt.
    gained: VcpuSet,
}

/// A VM.
#[derive(Debug)]
pub struct Vm<'a> {
    memory: Memory<'a>,
    state: SpinMutex<State>,
    pokes: SharedSet,
    /// Their run pages.
    run_pages: Vec<Pfn>,
    /// Which GIC the guest has.
    gic: Version,
    dirty_log: bool,
    /// The root tables, if EL2 has them or is to have them.
    pgd: Option<Pfn>,
    /// `init_vm` succeeded.
    live: bool,
    /// The GICV page is mapped.
    gicv: bool,
}

impl<'a> Vm<'a> {
    /// Its handle.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.memory.mirror().handle()
    }

    /// How many vCPUs it has.
    #[must_use]
    pub const fn vcpus(&self) -> usize {
        self.run_pages.len()
    }

    /// Whether a vCPU is on (it may wait for an interrupt).
    #[must_use]
    pub fn is_on(&self, idx: usize) -> bool {
        self.state.lock().is_on(idx)
    }

    /// The vCPUs that are on. If none is, nothing will ever happen in this VM again.
    #[must_use]
    pub fn on(&self) -> VcpuSet {
        let state = self.state.lock();
        let on = (0..state.vcpus.len()).filter(|idx| state.is_on(*idx));
        on.fold(VcpuSet::EMPTY, |set, idx| set.union(VcpuSet::only(idx)))
    }

    /// The vCPUs that have gained something to do since this was last asked: an interrupt that they do
    /// not know of, or another vCPU has switched them on. To be asked after every other call; what
    /// each of them needs depends on what it does: asleep, it is to be woken; switched off, started
    /// ([`Vm::is_on`]); inside the guest on another CPU, made to leave it; ready, nothing.
    ///
    /// The vCPU that a call was about is not among them: its caller looks after it anyway.
    #[must_use = "nobody else will be told"]
    pub fn take_pokes(&self) -> VcpuSet {
        self.pokes.take()
    }

    /// Its memory: slots, dirty log, ageing.
    #[must_use]
    pub const fn memory(&self) -> &Memory<'a> {
        &self.memory
    }

    /// Its mirror.
    #[must_use]
    pub const fn mirror(&self) -> &Mirror {
        self.memory.mirror()
    }

    /// Frames it holds.
    #[must_use]
    pub fn accounts(&self) -> Accounts {
        self.memory.accounts()
    }

    /// Exits so far.
    #[must_use]
    pub fn exits(&self) -> Exits {
        self.state.lock().exits.clone()
    }

    /// Compares the mirror with EL2.
    ///
    /// # Errors
    /// The first disagreement.
    pub fn audit<H: Hypercalls + ?Sized>(&self, host: &H) -> Result<AuditReport, AuditError> {
        self.mirror().audit(host)
    }

    /// Changes devices or vCPUs, on behalf of vCPU `actor` if any, and notes who else has gained
    /// something by it.
    fn change<R>(&self, actor: Option<usize>, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state);
        let gained = state.vgic.news().union(core::mem::take(&mut state.gained));
        drop(state);
        self.pokes.add(gained.without(actor.map_or(VcpuSet::EMPTY, VcpuSet::only)));
        result
    }
}

impl State {
    fn is_on(&self, idx: usize) -> bool {
        self.vcpus.get(idx).is_some_and(|vcpu| vcpu.on)
    }
}

#[cfg(test)]
mod tests;
