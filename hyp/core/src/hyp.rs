//! The whole hypervisor: what the EL2 image talks to.
//!
//! Knows: the entry points (a hypercall, a guest's exit, a host's abort) and the state behind them.
//! Lock ranks: host < VM; each entry takes them in that order and drops them before it returns.

use hyp_abi::hcall::{FEATURE_GICV2, FEATURE_GICV3, MAX_VMS};
use hyp_abi::{Claimed, Handle, Ipa, Pfn, Refusal, Ret, Vmid, lr};
use hyp_s2::{Geometry, Regime, TablePfn};
use hyp_sync::{Held, Lock, rank};

use crate::boxed::Boxed;
use crate::entry::Entry;
use crate::hcall::{Call, DONE, parse, value};
use crate::host::HostState;
use crate::inject::Features;
use crate::life::ROOT_PAGES;
use crate::machine::Machine;
use crate::memmap::{MemMap, PageRange};
use crate::owner::{Pages, Word};
use crate::sysreg::{self, Enc, GuestView, ID_REGISTERS};
use crate::vcpu::{Context, Vcpu};
use crate::vgic::{LrPolicy, Version};
use crate::vm::Slot;

/// The interrupt controller of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// GICv2: the first page of the virtual CPU interface (GICV), if it has a page of its own.
    V2 {
        /// GICV's frame.
        gicv: Option<Pfn>,
    },
    /// GICv3.
    V3,
}

/// What the boot code knows about the machine and has set aside.
#[derive(Clone, Debug)]
pub struct Config<'a> {
    /// All RAM.
    pub memmap: MemMap,
    /// RAM that is EL2's: image, stacks, metadata, heap, the pool and the host's root tables.
    pub el2_owned: &'a [PageRange],
    /// Device pages that only EL2 may touch (GICH, GICV).
    pub private_devices: &'a [PageRange],
    /// First of the host's root tables: zeroed, side by side, inside `el2_owned`.
    pub host_root: TablePfn,
    /// Width of the host's IPA space.
    pub host_ipa_bits: u8,
    /// Width of a guest's IPA space: 40, or what the CPU has if that is less.
    pub guest_ipa_bits: u8,
    /// EL2's page pool: inside `el2_owned`, used for the host's tables.
    pub pool: &'a [PageRange],
    /// The interrupt controller.
    pub gic: Gic,
    /// How many list registers it has.
    pub nr_lrs: usize,
    /// Priority bits of a list register: 5 on a GICv2, ICH_VTR_EL2.PRIbits + 1 on a GICv3.
    pub lr_priority_bits: u8,
    /// INTID of the virtual timer, the only interrupt a list register may link to.
    pub vtimer_intid: u32,
    /// The CPU's ID registers, in the order of [`ID_REGISTERS`].
    pub id_values: [u64; ID_REGISTERS.len()],
}

/// The machine as a guest's entry and exit need it.
#[derive(Clone, Debug)]
pub struct Board {
    /// How many list registers there are.
    pub nr_lrs: usize,
    /// What they may say.
    pub lr_policy: LrPolicy,
    /// Which registers a guest sees.
    pub view: GuestView,
    /// Which extensions matter when an exception is injected.
    pub features: Features,
    id_values: [u64; ID_REGISTERS.len()],
}

impl Board {
    fn new(config: &Config<'_>) -> Self {
        let mut board = Self {
            nr_lrs: config.nr_lrs,
            lr_policy: LrPolicy {
                version: match config.gic {
                    Gic::V2 { .. } => Version::V2,
                    Gic::V3 => Version::V3,
                },
                priority_bits: config.lr_priority_bits,
                vtimer: config.vtimer_intid,
            },
            view: GuestView {
                ipa_bits: config.guest_ipa_bits,
                gic_v3: config.gic == Gic::V3,
                aarch32_el0: false,
            },
            features: Features::default(),
            id_values: config.id_values,
        };
        // ID_AA64PFR0_EL1.EL0: 2 says AArch32 too.
        board.view.aarch32_el0 = board.id_value(sysreg::ID_AA64PFR0_EL1) & 0xf == 2;
        board.features = Features::from_id(
            board.id_value(sysreg::ID_AA64PFR1_EL1),
            board.id_value(sysreg::ID_AA64MMFR1_EL1),
        );
        board
    }

    /// The CPU's own value of an ID register; 0 for one that no guest is shown.
    #[must_use]
    pub fn id_value(&self, register: Enc) -> u64 {
        let mut known = ID_REGISTERS.iter().zip(self.id_values);
        known.find(|(enc, _)| **enc == register).map_or(0, |(_, value)| value)
    }
}

/// A vCPU on a CPU.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub handle: Handle,
    pub idx: u64,
    pub regime: Regime,
    pub vcpu: Boxed<Vcpu>,
}

/// What one CPU has to itself.
#[derive(Debug)]
pub struct CpuLocal {
    cpu: usize,
    pub(crate) locks: Held<'static, rank::Nothing>,
    pub(crate) loaded: Option<Loaded>,
}

impl CpuLocal {
    /// The state of CPU number `cpu`; one for each CPU, made once.
    #[must_use]
    pub const fn new(cpu: usize) -> Self {
        Self { cpu, locks: Held::root(), loaded: None }
    }

    /// Number of this CPU, dense from 0.
    #[must_use]
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// Registers of the loaded vCPU. Where they are in memory does not change while it is loaded.
    pub fn context(&mut self) -> Option<&mut Context> {
        self.loaded.as_mut().map(|l| &mut l.vcpu.ctx)
    }

    /// VMID and root table of the loaded vCPU's VM, for VTTBR_EL2.
    #[must_use]
    pub fn regime(&self) -> Option<Regime> {
        self.loaded.as_ref().map(|l| l.regime)
    }
}

/// What becomes of a hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No such call: x0 = -1, x1..x5 = 0.
    NotSupported,
    /// Done or refused: x0 = 0, x1..x5 as here.
    Ret(Ret),
    /// `vcpu_run` was accepted: enter the guest with [`CpuLocal::context`].
    Run,
}

/// Which vector a guest's exit came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// Synchronous.
    Sync,
    /// A physical IRQ or FIQ is pending.
    Irq,
    /// SError.
    SError,
}

/// A guest's exit as the hardware tells it. Before it is handed over, everything of the guest but
/// FP stands in [`CpuLocal::context`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawExit {
    /// The vector.
    pub kind: ExitKind,
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2. For an abort where the hardware does not write it
    /// ([`Abort::hpfar_valid`](crate::esr::Abort::hpfar_valid)): what `AT S1E1R` of FAR_EL2 found, in
    /// the same format, or [`RawExit::NO_IPA`] if that failed.
    pub hpfar: u64,
}

impl RawExit {
    /// In `hpfar`: there is no address. (HPFAR_EL2.NS, which is RES0 in the Non-secure state.)
    pub const NO_IPA: u64 = 1 << 63;
}

/// What to do after a guest's exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestNext {
    /// Enter the guest again.
    Resume,
    /// The guest uses FP: load its registers, stop trapping, enter again.
    Fp,
    /// Leave to the host: x0 = 0, x1..x5 as here.
    Exit(Ret),
}

/// What to do after a stage-2 abort of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAbort {
    /// Mapped now (or by another CPU): run the instruction again.
    Retry,
    /// Not the host's: inject an external abort.
    Inject,
}

/// Why [`Hyp::new`] refused: what the boot code says contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// More list registers than any GIC has.
    ListRegisters,
    /// An IPA width that stage 2 cannot have, or roots that are not aligned to it.
    Ipa,
    /// A page said to be EL2's is not RAM, a device is, a pool page is not EL2's, or a page is named
    /// twice.
    Memory,
    /// The pool is too small to keep EL2's own memory from the host.
    Pool,
}

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
        match parse(regs) {
            None => Outcome::NotSupported,
            Some(Call::VcpuRun) => match self.vcpu_run(cpu) {
                Ok(()) => Outcome::Run,
                Err(why) => Outcome::Ret(refused(why)),
            },
            Some(call) => Outcome::Ret(self.call(cpu, call).unwrap_or_else(refused)),
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

    fn call(&self, cpu: &mut CpuLocal, call: Call) -> Result<Ret, Refusal> {
        match call {
            Call::VcpuRun => self.vcpu_run(cpu).map(|()| DONE),
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
            Call::Version => Ok(value(hyp_abi::hcall::VERSION)),
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
    fn vcpu_run(&self, cpu: &mut CpuLocal) -> Result<(), Refusal> {
        let loaded = cpu.loaded.as_mut().ok_or(Refusal::Invalid)?;
        let entry = Entry::check(&self.machine, &loaded.vcpu)?;
        let (mut slot, _held) = self.slot(loaded.handle)?.lock(&mut cpu.locks);
        let vm = slot.vm(loaded.handle)?;
        if vm.unflushed {
            self.machine.inval_vmid(loaded.regime);
            vm.unflushed = false;
        }
        entry.commit(&self.machine, &mut loaded.vcpu, &self.board);
        Ok(())
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

fn refused(why: Refusal) -> Ret {
    Ret { x1: why.code(), ..DONE }
}
