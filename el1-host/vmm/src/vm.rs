//! A virtual machine: memory, devices and vCPUs put together, and its life from `reserve_vm` to the last
//! page given back.
//!
//! The image around it schedules: it loads a vCPU, asks [`Vm::before_run`] for the entry words, runs it,
//! hands the exit to [`Vm::after_run`] and does what that says. One `&mut Vm` at a time: who runs vCPUs on
//! several CPUs puts a lock around it (rank: above the mirror's and the frame allocator's).

use alloc::vec::Vec;
use core::fmt;

use host_mirror::{AuditError, AuditReport, Calls, Features, Hypercalls, Mirror};
use hyp_abi::{Handle, Hypercall, Ipa, Pfn, Refusal};

use crate::fault::{Accounts, Memory};
use crate::fdt::BadTree;
use crate::host::{Frames, Host};
use crate::memmap::{GICC, VTIMER_INTID};
use crate::pl011::Pl011;
use crate::psci::Start;
use crate::slots::BadSlot;
use crate::stats::Exits;
use crate::timer::Timer;
use crate::vgic::{Version, Vgic};

mod config;
mod enter;
mod exit;
mod mmio;
mod sysreg;

pub use config::Config;
pub use enter::Entry;

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
    /// The vCPU waits for an interrupt: see [`Vm::can_wake`].
    Sleep {
        /// When one of its timers will fire, by the physical counter.
        until: Option<u64>,
    },
    /// The vCPU is off until another starts it.
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
            Self::NoSuchVcpu => f.write_str("no such vCPU"),
        }
    }
}

/// Why a VM could not be created. Nothing is left of it then.
#[derive(Debug, PartialEq, Eq)]
pub enum CreateError {
    /// The guest asks for a GIC that the machine has not.
    Gic(Version),
    /// Its memory cannot be laid out.
    Slot(BadSlot),
    /// Its device tree cannot be written.
    Tree(BadTree),
    /// The host has no memory for it.
    OutOfFrames,
    /// EL2 refuses.
    Refused(Hypercall, Refusal),
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gic(Version::V2) => f.write_str("it wants a GICv2; this machine has none"),
            Self::Gic(Version::V3) => f.write_str("it wants a GICv3; this machine has none"),
            Self::Slot(why) => write!(f, "its memory cannot be laid out: {why:?}"),
            Self::Tree(why) => write!(f, "its device tree cannot be written: {why:?}"),
            Self::OutOfFrames => f.write_str("the host has no memory for it"),
            Self::Refused(call, why) => write!(f, "EL2 refuses {}: {why:?}", call.name()),
        }
    }
}

/// What came back at the end of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Guest pages unshared.
    pub pages: u64,
    /// Guest pages that EL2 would not give back.
    pub stuck: u64,
    /// Table pages reclaimed, the two roots included.
    pub tables: u64,
    /// Run pages unshared.
    pub run_pages: u64,
    /// The first refusal; with it, something was left behind.
    pub refused: Option<(Hypercall, Refusal)>,
}

impl Summary {
    fn refuse(&mut self, call: Hypercall, refusal: Refusal) {
        self.refused.get_or_insert((call, refusal));
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

#[derive(Clone, Debug)]
struct Vcpu {
    run_page: Pfn,
    on: bool,
    /// Where it starts at its next entry, with the registers of a reset.
    start: Option<Start>,
    reply: Reply,
    /// Emulated.
    physical: Timer,
    /// The hardware's, as of the last exit.
    virt: Timer,
}

/// A VM.
#[derive(Debug)]
pub struct Vm<'a> {
    memory: Memory<'a>,
    vgic: Vgic,
    uart: Pl011,
    vcpus: Vec<Vcpu>,
    exits: Exits,
    dirty_log: bool,
    /// Where the boot CPU starts, and its device tree.
    boot: Start,
    /// The root tables, if EL2 has them or is to have them.
    pgd: Option<Pfn>,
    /// `init_vm` succeeded.
    live: bool,
    /// The GICV page is mapped.
    gicv: bool,
}

impl<'a> Vm<'a> {
    /// Makes a VM whose boot vCPU is ready to run. If anything is refused, all is given back.
    ///
    /// # Errors
    /// What was refused.
    pub fn create<H: Host + ?Sized>(
        host: &H,
        config: &Config<'a>,
        platform: Platform,
    ) -> Result<Self, CreateError> {
        let gic = config.gic(platform)?;
        let (slots, boot) = config.memory(gic)?;
        let handle = host.reserve_vm().map_err(|r| refused(Hypercall::ReserveVm, r))?;
        let vcpus = usize::from(config.vcpus());
        let mut vm = Self {
            memory: Memory::new(handle, slots),
            vgic: Vgic::new(gic, vcpus, platform.list_registers, VTIMER_INTID),
            uart: Pl011::new(),
            vcpus: Vec::with_capacity(vcpus),
            exits: Exits::default(),
            dirty_log: config.dirty_log(),
            boot,
            pgd: None,
            live: false,
            gicv: false,
        };
        match vm.bring_up(host, vcpus) {
            Ok(()) => Ok(vm),
            Err(why) => {
                vm.destroy(host);
                Err(why)
            }
        }
    }

    fn bring_up<H: Host + ?Sized>(&mut self, host: &H, vcpus: usize) -> Result<(), CreateError> {
        let handle = self.handle();
        let pgd = host.alloc_pair().ok_or(CreateError::OutOfFrames)?;
        self.pgd = Some(pgd);
        let count = u64::try_from(vcpus).unwrap_or(u64::MAX);
        host.init_vm(handle, count, pgd).map_err(|r| refused(Hypercall::InitVm, r))?;
        self.live = true;
        for idx in 0..count {
            let run_page = host.alloc_frame().ok_or(CreateError::OutOfFrames)?;
            host.zero(run_page);
            if let Err(refusal) = host.share_hyp(run_page) {
                host.free_frame(run_page);
                return Err(refused(Hypercall::ShareHyp, refusal));
            }
            let boots = idx == 0;
            self.vcpus.push(Vcpu {
                run_page,
                on: boots,
                start: boots.then_some(self.boot),
                reply: Reply::None,
                physical: Timer::default(),
                virt: Timer::default(),
            });
            let done = host.init_vcpu(handle, idx, run_page);
            done.map_err(|r| refused(Hypercall::InitVcpu, r))?;
        }
        if self.vgic.version() == Version::V2 {
            self.map_gicv(host)?;
        }
        Ok(())
    }

    /// The guest's CPU interface is hardware's virtual one.
    fn map_gicv<H: Hypercalls + Frames + ?Sized>(&mut self, host: &H) -> Result<(), CreateError> {
        let none = refused(Hypercall::MapGicv, Refusal::OutOfRange);
        let gfn = Ipa::new(GICC).ok_or(none)?.frame();
        host.vcpu_load(self.handle(), 0).map_err(|r| refused(Hypercall::VcpuLoad, r))?;
        let mapped = self.memory.with_tables(host, || host.map_gicv(gfn));
        self.gicv = mapped.is_ok();
        host.vcpu_put().map_err(|r| refused(Hypercall::VcpuPut, r))?;
        mapped.map_err(|r| refused(Hypercall::MapGicv, r))
    }

    /// Ends the VM, half built or whole, and gives back all that was its own. No vCPU may be loaded.
    /// Goes on past refusals; a page that EL2 keeps is not handed to the allocator.
    pub fn destroy<H: Hypercalls + Frames + ?Sized>(self, host: &H) -> Summary {
        let mut summary = Summary::default();
        if self.live {
            self.tear_down(host, &mut summary);
        } else {
            match host.unreserve_vm(self.handle()) {
                Ok(()) => free_pair(host, self.pgd),
                Err(refusal) => summary.refuse(Hypercall::UnreserveVm, refusal),
            }
        }
        for vcpu in &self.vcpus {
            match host.unshare_hyp(vcpu.run_page) {
                Ok(()) => {
                    host.free_frame(vcpu.run_page);
                    summary.run_pages = summary.run_pages.saturating_add(1);
                }
                Err(refusal) => summary.refuse(Hypercall::UnshareHyp, refusal),
            }
        }
        summary
    }

    fn tear_down<H: Hypercalls + Frames + ?Sized>(&self, host: &H, summary: &mut Summary) {
        let handle = self.handle();
        // First, so that no vCPU can be loaded and nothing new be mapped.
        if let Err(refusal) = host.start_teardown_vm(handle) {
            summary.refuse(Hypercall::StartTeardownVm, refusal);
        }
        if let Some(gfn) = Ipa::new(GICC).map(Ipa::frame).filter(|_| self.gicv)
            && let Err(refusal) = host.unmap_gicv(handle, gfn)
        {
            summary.refuse(Hypercall::UnmapGicv, refusal);
        }
        let done = self.memory.release(host);
        summary.pages = done.pages;
        summary.stuck = done.stuck;
        if let Some((_, refusal)) = done.refused {
            summary.refuse(Hypercall::UnshareGuest, refusal);
        }
        loop {
            match host.reclaim_vm_page(handle) {
                Ok(Some(frame)) => {
                    host.free_frame(frame);
                    self.memory.table_returned();
                    summary.tables = summary.tables.saturating_add(1);
                }
                Ok(None) => break,
                Err(refusal) => {
                    summary.refuse(Hypercall::ReclaimVmPage, refusal);
                    break;
                }
            }
        }
        match host.finalize_teardown_vm(handle) {
            Ok(()) => {
                free_pair(host, self.pgd);
                summary.tables = summary.tables.saturating_add(2);
            }
            Err(left) => summary.refuse(Hypercall::FinalizeTeardownVm, left.refusal),
        }
    }

    /// Its handle.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.memory.mirror().handle()
    }

    /// How many vCPUs it has.
    #[must_use]
    pub const fn vcpus(&self) -> usize {
        self.vcpus.len()
    }

    /// Whether a vCPU is on (it may wait for an interrupt).
    #[must_use]
    pub fn is_on(&self, idx: usize) -> bool {
        self.vcpus.get(idx).is_some_and(|vcpu| vcpu.on)
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
    pub const fn exits(&self) -> &Exits {
        &self.exits
    }

    /// Compares the mirror with EL2.
    ///
    /// # Errors
    /// The first disagreement.
    pub fn audit<H: Hypercalls + ?Sized>(&self, host: &H) -> Result<AuditReport, AuditError> {
        self.mirror().audit(host)
    }
}

const fn refused(call: Hypercall, refusal: Refusal) -> CreateError {
    CreateError::Refused(call, refusal)
}

fn free_pair<F: Frames + ?Sized>(frames: &F, pair: Option<Pfn>) {
    let Some(first) = pair else { return };
    frames.free_frame(first);
    if let Some(second) = first.add(1) {
        frames.free_frame(second);
    }
}

#[cfg(test)]
mod tests;
