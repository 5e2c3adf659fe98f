//! The life of a VM: from `reserve_vm` to the last page given back.
//!
//! Whatever fails on the way, everything is given back; what EL2 keeps is never handed to the
//! allocator.

use alloc::vec::Vec;
use core::fmt;

use host_mirror::{Calls, Hypercalls};
use hyp_abi::{Hypercall, Ipa, Pfn, Refusal};

use spin::mutex::SpinMutex;

use super::{Config, Platform, Reply, State, Vcpu, Vm};
use crate::fault::Memory;
use crate::fdt::BadTree;
use crate::host::{Frames, Host};
use crate::memmap::{GICC, VTIMER_INTID};
use crate::pl011::Pl011;
use crate::pl031::Pl031;
use crate::psci::Start;
use crate::slots::BadSlot;
use crate::stats::Exits;
use crate::timer::Timer;
use crate::vcpu_set::{SharedSet, VcpuSet};
use crate::vgic::{Version, Vgic};

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
        let state = State {
            vgic: Vgic::new(gic, vcpus, platform.list_registers, VTIMER_INTID),
            uart: Pl011::new(),
            rtc: Pl031::new(host.frequency()),
            vcpus: (0..vcpus).map(|idx| Vcpu::new((idx == 0).then_some(boot))).collect(),
            exits: Exits::default(),
            gained: VcpuSet::EMPTY,
        };
        let mut vm = Self {
            memory: Memory::new(handle, slots),
            state: SpinMutex::new(state),
            pokes: SharedSet::default(),
            run_pages: Vec::with_capacity(vcpus),
            gic,
            dirty_log: config.dirty_log(),
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
            self.run_pages.push(run_page);
            let done = host.init_vcpu(handle, idx, run_page);
            done.map_err(|r| refused(Hypercall::InitVcpu, r))?;
        }
        if self.gic == Version::V2 {
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

    /// Ends the VM, half built or whole, and gives back all that was its own. No vCPU may be loaded on
    /// any CPU.
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
        for run_page in &self.run_pages {
            match host.unshare_hyp(*run_page) {
                Ok(()) => {
                    host.free_frame(*run_page);
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
}

impl Vcpu {
    /// Off, or on and about to start.
    pub(super) fn new(start: Option<Start>) -> Self {
        Self {
            on: start.is_some(),
            inside: false,
            parked: None,
            done: false,
            start,
            reply: Reply::None,
            physical: Timer::default(),
            virt: Timer::default(),
            lost: [super::NO_PC; 2],
        }
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
