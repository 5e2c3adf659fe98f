//! The whole hypervisor: what the EL2 image talks to.
//!
//! Knows: the entry points (a hypercall, a guest's exit, a host's abort) and the state behind them.
//! Lock ranks: host < VM; each entry takes them in that order and drops them before it returns.

use hyp_abi::hcall::{FEATURE_GICV2, FEATURE_GICV3, MAX_VMS, VERSION};
use hyp_abi::{Claimed, Handle, Ipa, Pa, PageState, Pfn, Refusal, Ret, Vmid, lr};
use hyp_s2::{Geometry, Regime};
use hyp_sync::{Lock, rank};

use crate::devices::Devices;
use crate::entry::Entry;
use crate::hcall::{Call, DONE, parse, value};
use crate::host::HostState;
use crate::life::ROOT_PAGES;
use crate::machine::Machine;
use crate::memmap::MemMap;
use crate::owner::{Pages, Word};
use crate::speculation::Speculation;
use crate::sysreg::{Enc, ID_REGISTERS};
use crate::vm::Slot;

pub use crate::board::{Board, Config, ConfigError, Gic};
pub use crate::cpu::{CpuLocal, ExitKind, GuestNext, HostAbort, Outcome, RawExit};

/// The hypervisor: shared by all CPUs.
#[derive(Debug)]
pub struct Hyp<M> {
    pub(crate) machine: M,
    pub(crate) host: Lock<HostState, rank::Host>,
    pub(crate) slots: [Lock<Slot, rank::Vm>; MAX_VMS],
    pub(crate) board: Board,
    pub(crate) gic: Gic,
    /// Shape of a guest's stage 2.
    pub(crate) guest: Geometry,
    memmap: MemMap,
    host_regime: Regime,
    host_geometry: Geometry,
}

impl<M: Machine> Hyp<M> {
    /// Takes over the machine, whose page metadata is all zero: every page of `el2_owned` becomes
    /// EL2's and, with the private devices, disappears from the host's stage 2.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(machine: M, config: Config<'_>) -> Result<Self, ConfigError> {
        if config.nr_lrs > lr::MAX {
            return Err(ConfigError::ListRegisters);
        }
        let board = Board::new(&config);
        let guest = Geometry::new(config.guest_ipa_bits).ok_or(ConfigError::Ipa)?;
        if guest.root_pages() > ROOT_PAGES {
            return Err(ConfigError::Ipa);
        }
        let host_geometry = Geometry::new(config.host_ipa_bits).ok_or(ConfigError::Ipa)?;
        let host_regime = Regime { vmid: Vmid::HOST, root: config.host_root };
        let pages = Pages { machine: &machine, map: &config.memmap };
        let host = HostState::new(pages, &config, host_geometry, host_regime)?;
        machine.publish();
        Ok(Self {
            host: Lock::new(host),
            slots: [const { Lock::new(Slot::new()) }; MAX_VMS],
            board,
            gic: config.gic,
            guest,
            memmap: config.memmap,
            host_regime,
            host_geometry,
            machine,
        })
    }

    /// From now on the host may touch these device pages only. At boot, before it has touched any.
    pub fn restrict_devices(&mut self, devices: Devices) {
        self.host.get_mut().tables.devices = devices;
    }

    /// The same, where the boot code knows what the CPUs give away by speculation.
    #[must_use]
    pub fn with_speculation(mut self, speculation: Speculation) -> Self {
        self.board.speculation = speculation;
        self
    }

    /// The machine below.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// VMID and root table of the host, for VTTBR_EL2.
    pub fn host_regime(&self) -> Regime {
        self.host_regime
    }

    /// Shape of the host's stage 2, for VTCR_EL2.
    pub fn host_geometry(&self) -> Geometry {
        self.host_geometry
    }

    /// Shape of a guest's stage 2, for VTCR_EL2.
    pub fn guest_geometry(&self) -> Geometry {
        self.guest
    }

    /// A hypercall of the host: `regs` are x0..x4.
    pub fn hypercall(&self, cpu: &mut CpuLocal, regs: [u64; 5]) -> Outcome {
        let Some(call) = parse(regs) else { return Outcome::NotSupported };
        match self.call(cpu, call) {
            Ok(_) if call == Call::VcpuRun => Outcome::Run,
            Ok(ret) => Outcome::Ret(ret),
            Err(why) => Outcome::Ret(Ret { x1: why.code(), ..DONE }),
        }
    }

    /// A guest's exit. Everything of the guest but FP stands in [`CpuLocal::context`].
    pub fn guest_exit(&self, cpu: &mut CpuLocal, raw: RawExit) -> GuestNext {
        self.exit(cpu, raw)
    }

    /// A stage-2 abort of the host at `ipa`.
    pub fn host_abort(&self, cpu: &mut CpuLocal, ipa: Ipa) -> HostAbort {
        let (mut host, _held) = self.host.lock(&mut cpu.locks);
        // The host's map is the identity.
        match Pfn::new(ipa.frame().raw()) {
            Some(pfn) if host.tables.touch(self.pages(), pfn) => HostAbort::Retry,
            _ => HostAbort::Inject,
        }
    }

    /// Whether the host could fetch an instruction at `entry` with its MMU off: in RAM, not taken
    /// from it. The answer may be outdated when it arrives, and stage 2 decides in the end.
    pub fn host_can_fetch(&self, cpu: &mut CpuLocal, entry: u64) -> bool {
        let (_host, _held) = self.host.lock(&mut cpu.locks);
        let page = Pa::new(entry).filter(|_| entry.is_multiple_of(4)).map(Pa::frame);
        let word = page.and_then(|pfn| self.pages().word(pfn));
        word.is_some_and(|word| word.host() != PageState::NoPage)
    }

    /// The first register that breaks on another CPU what guests were promised on the boot CPU;
    /// `values` are that CPU's, in the order of [`ID_REGISTERS`].
    pub fn broken_promise(&self, values: &[u64; ID_REGISTERS.len()]) -> Option<Enc> {
        self.board.broken_promise(values)
    }

    fn call(&self, cpu: &mut CpuLocal, call: Call) -> Result<Ret, Refusal> {
        match call {
            Call::VcpuRun => self.vcpu_run(cpu),
            Call::ShareHyp { pfn } => self.own(cpu, pfn, Word::share_hyp),
            Call::UnshareHyp { pfn } => self.own(cpu, pfn, Word::unshare_hyp),
            Call::ShareGuest { pfn, gfn, nr, prot } => self.share_guest(cpu, pfn, gfn, nr, prot),
            Call::UnshareGuest { vm, gfn, nr } => self.unshare_guest(cpu, vm, gfn, nr),
            Call::RelaxPerms { gfn, prot } => self.relax_perms(cpu, gfn, prot),
            Call::Wrprotect { vm, gfn, nr } => self.wrprotect(cpu, vm, gfn, nr),
            Call::TestClearYoung { vm, gfn, nr, mkold } => {
                self.test_clear_young(cpu, vm, gfn, nr, mkold)
            }
            Call::Mkyoung { gfn } => self.mkyoung(cpu, gfn),
            Call::ReserveVm => self.reserve_vm(cpu),
            Call::UnreserveVm { vm } => self.unreserve_vm(cpu, vm),
            Call::InitVm { vm, vcpus, pgd, flags } => self.init_vm(cpu, vm, vcpus, pgd, flags),
            Call::InitVcpu { vm, idx, run_page } => self.init_vcpu(cpu, vm, idx, run_page),
            Call::StartTeardownVm { vm } => self.start_teardown(cpu, vm),
            Call::FinalizeTeardownVm { vm } => self.finalize_teardown(cpu, vm),
            Call::VcpuLoad { vm, idx } => self.vcpu_load(cpu, vm, idx),
            Call::VcpuPut => self.vcpu_put(cpu),
            Call::VcpuSyncState => {
                self.write_context(&cpu.loaded.as_ref().ok_or(Refusal::Invalid)?.vcpu);
                Ok(DONE)
            }
            Call::TlbFlushVmid { vm } => self.tlb_flush_vmid(cpu, vm),
            Call::Version => Ok(value(VERSION)),
            Call::Features => Ok(self.features(cpu)),
            Call::MemcacheTopup { pfn } => self.memcache_topup(cpu, pfn),
            Call::ReclaimVmPage { vm } => self.reclaim_vm_page(cpu, vm),
            Call::AuditVm { vm, gfn } => self.audit_vm(cpu, vm, gfn),
            Call::AuditHost { pfn } => {
                let (host, _held) = self.host.lock(&mut cpu.locks);
                host.audit(self.pages(), pfn.in_range())
            }
            Call::MapGicv { gfn } => self.map_gicv(cpu, gfn),
            Call::UnmapGicv { vm, gfn } => self.unmap_gicv(cpu, vm, gfn),
            Call::VmStats { vm } => self.vm_stats(cpu, vm),
        }
    }

    /// A transition of one page between the host and EL2 that changes nobody's tables.
    fn own(
        &self,
        cpu: &mut CpuLocal,
        pfn: Claimed<Pfn>,
        transition: fn(Word) -> Result<Word, Refusal>,
    ) -> Result<Ret, Refusal> {
        let pfn = pfn.in_range().ok_or(Refusal::Invalid)?;
        let (host, _held) = self.host.lock(&mut cpu.locks);
        host.ownership.check(self.pages(), pfn, transition)?.commit(self.pages());
        Ok(DONE)
    }

    /// Checks the entry words, and that no stale right outlives its removal, and prepares the run.
    fn vcpu_run(&self, cpu: &mut CpuLocal) -> Result<Ret, Refusal> {
        let loaded = cpu.loaded.as_mut().ok_or(Refusal::Invalid)?;
        let entry = Entry::check(&self.machine, &loaded.vcpu)?;
        let (mut slot, _held) = self.slot(loaded.handle)?.lock(&mut cpu.locks);
        let vm = slot.vm(loaded.handle)?;
        if vm.unflushed {
            self.machine.inval_vmid(loaded.regime);
            vm.unflushed = false;
        }
        entry.commit(&self.machine, &mut loaded.vcpu, &self.board);
        Ok(DONE)
    }

    fn features(&self, cpu: &mut CpuLocal) -> Ret {
        let gic = match self.gic {
            Gic::V2 { .. } => FEATURE_GICV2,
            Gic::V3 => FEATURE_GICV3,
        };
        let (host, _held) = self.host.lock(&mut cpu.locks);
        Ret {
            x2: u64::from(self.guest.ipa_bits()),
            x3: self.board.nr_lrs as u64,
            x4: host.tables.in_use() as u64,
            ..value(gic)
        }
    }

    pub(crate) fn pages(&self) -> Pages<'_, M> {
        Pages { machine: &self.machine, map: &self.memmap }
    }

    /// The slot that a handle points to; whose handle it is, the slot knows.
    pub(crate) fn slot(&self, vm: Handle) -> Result<&Lock<Slot, rank::Vm>, Refusal> {
        self.slots.get(vm.index()).ok_or(Refusal::Invalid)
    }
}
