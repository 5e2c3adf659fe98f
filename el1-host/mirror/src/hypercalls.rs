//! Hypercalls as functions: one typed method for each row of the table in `hyp_abi`.
//!
//! Knows what each answer means. Must not know how a call is made: that is [`Hypercalls`], an HVC in
//! the shim and a model of EL2 in tests.

use hyp_abi::hcall::{FEATURE_GICV2, FEATURE_GICV3};
use hyp_abi::run::Exit;
use hyp_abi::{Gfn, Handle, Hypercall, PageState, Pfn, Prot, Refusal, Ret};

use crate::answers::{Features, GuestRun, HostRun, Leftovers, RunExit, VmStats};

/// The way to EL2.
pub trait Hypercalls {
    /// Makes one call and answers x1..x5. If x0 is not 0 (EL2 does not know the number), the
    /// implementor answers x1 = -EINVAL.
    fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret;
}

impl<T: Hypercalls + ?Sized> Hypercalls for &T {
    fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret {
        (**self).call(call, args)
    }
}

/// A refusal code becomes an `Err`. A negative number that is no code of the ABI is treated as
/// -EINVAL: a refusal it is in any case.
fn result(ret: Ret) -> Result<u64, Refusal> {
    u64::try_from(ret.x1).map_err(|_| Refusal::from_code(ret.x1).unwrap_or(Refusal::Invalid))
}

/// A number from EL2 that is no frame: the two sides disagree about the ABI.
const DISAGREE: Refusal = Refusal::Invalid;

/// Arguments that a call does not have are 0.
fn padded(given: &[u64]) -> [u64; 4] {
    let mut args = [0; 4];
    for (arg, word) in args.iter_mut().zip(given) {
        *arg = *word;
    }
    args
}

macro_rules! plain {
    ($( $name:ident = $call:ident ( $($arg:ident : $ty:ty => $word:expr),* ); )*) => { $(
        #[doc = concat!("[`Hypercall::", stringify!($call), "`].")]
        #[doc = ""]
        #[doc = "# Errors"]
        #[doc = "EL2's refusal."]
        fn $name(&self, $($arg: $ty),*) -> Result<(), Refusal> {
            result(self.call(Hypercall::$call, padded(&[ $($word),* ]))).map(|_| ())
        }
    )* };
}

/// Every hypercall, typed. Implemented for everything that is [`Hypercalls`].
pub trait Calls: Hypercalls {
    plain! {
        share_hyp = ShareHyp(pfn: Pfn => pfn.raw());
        unshare_hyp = UnshareHyp(pfn: Pfn => pfn.raw());
        share_guest = ShareGuest(pfn: Pfn => pfn.raw(), gfn: Gfn => gfn.raw(), nr: u64 => nr, prot: Prot => prot.bits());
        unshare_guest = UnshareGuest(vm: Handle => vm.raw(), gfn: Gfn => gfn.raw(), nr: u64 => nr);
        relax_perms = RelaxPerms(gfn: Gfn => gfn.raw(), prot: Prot => prot.bits());
        mkyoung = Mkyoung(gfn: Gfn => gfn.raw());
        unreserve_vm = UnreserveVm(vm: Handle => vm.raw());
        init_vm = InitVm(vm: Handle => vm.raw(), vcpus: u64 => vcpus, pgd: Pfn => pgd.raw());
        init_vcpu = InitVcpu(vm: Handle => vm.raw(), idx: u64 => idx, run: Pfn => run.raw());
        start_teardown_vm = StartTeardownVm(vm: Handle => vm.raw());
        vcpu_load = VcpuLoad(vm: Handle => vm.raw(), idx: u64 => idx);
        vcpu_put = VcpuPut();
        vcpu_sync_state = VcpuSyncState();
        tlb_flush_vmid = TlbFlushVmid(vm: Handle => vm.raw());
        map_gicv = MapGicv(gfn: Gfn => gfn.raw());
        unmap_gicv = UnmapGicv(vm: Handle => vm.raw(), gfn: Gfn => gfn.raw());
    }

    /// Runs the loaded vCPU. An unknown reason (a newer EL2) is `Invalid`.
    ///
    /// # Errors
    /// EL2's refusal.
    fn vcpu_run(&self) -> Result<RunExit, Refusal> {
        let ret = self.call(Hypercall::VcpuRun, [0; 4]);
        let exit = Exit::from_raw(result(ret)?).ok_or(DISAGREE)?;
        Ok(RunExit { exit, esr: ret.x2, ipa: ret.x3, value: ret.x4, flags: ret.x5 })
    }

    /// Takes the right to write away from at most `RANGE_BATCH` pages; answers how many it passed.
    ///
    /// # Errors
    /// EL2's refusal.
    fn wrprotect(&self, vm: Handle, gfn: Gfn, nr: u64) -> Result<u64, Refusal> {
        let ret = self.call(Hypercall::Wrprotect, [vm.raw(), gfn.raw(), nr, 0]);
        result(ret).map(|_| ret.x2)
    }

    /// Which of `nr` (1..=64) pages were accessed since last aged: bit i is `gfn` + i.
    ///
    /// # Errors
    /// EL2's refusal.
    fn test_clear_young(&self, vm: Handle, gfn: Gfn, nr: u64, mkold: bool) -> Result<u64, Refusal> {
        let ret = self.call(Hypercall::TestClearYoung, [vm.raw(), gfn.raw(), nr, u64::from(mkold)]);
        result(ret).map(|_| ret.x2)
    }

    /// Reserves a VM slot.
    ///
    /// # Errors
    /// EL2's refusal.
    fn reserve_vm(&self) -> Result<Handle, Refusal> {
        result(self.call(Hypercall::ReserveVm, [0; 4])).map(Handle::from_raw)
    }

    /// Ends a dying VM.
    ///
    /// # Errors
    /// EL2's refusal, and what is left if it is `Busy`.
    fn finalize_teardown_vm(&self, vm: Handle) -> Result<(), Leftovers> {
        let ret = self.call(Hypercall::FinalizeTeardownVm, [vm.raw(), 0, 0, 0]);
        let left = |refusal| Leftovers { refusal, pages: ret.x2, tables: ret.x3 };
        result(ret).map(|_| ()).map_err(left)
    }

    /// The interface version.
    ///
    /// # Errors
    /// EL2's refusal.
    fn version(&self) -> Result<u64, Refusal> {
        result(self.call(Hypercall::Version, [0; 4]))
    }

    /// What this EL2 has.
    ///
    /// # Errors
    /// EL2's refusal.
    fn features(&self) -> Result<Features, Refusal> {
        let ret = self.call(Hypercall::Features, [0; 4]);
        let bits = result(ret)?;
        Ok(Features {
            gicv2: bits & FEATURE_GICV2 != 0,
            gicv3: bits & FEATURE_GICV3 != 0,
            ipa_bits: ret.x2,
            list_registers: ret.x3,
            host_tables: ret.x4,
        })
    }

    /// Donates a page for tables; answers how many the loaded vCPU's cache holds now.
    ///
    /// # Errors
    /// EL2's refusal.
    fn memcache_topup(&self, pfn: Pfn) -> Result<u64, Refusal> {
        result(self.call(Hypercall::MemcacheTopup, [pfn.raw(), 0, 0, 0]))
    }

    /// Takes one page back from a dying VM; `None` when there are no more.
    ///
    /// # Errors
    /// EL2's refusal other than -ENOENT.
    fn reclaim_vm_page(&self, vm: Handle) -> Result<Option<Pfn>, Refusal> {
        match result(self.call(Hypercall::ReclaimVmPage, [vm.raw(), 0, 0, 0])) {
            Ok(raw) => Pfn::new(raw).map(Some).ok_or(DISAGREE),
            Err(Refusal::NotFound) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// The run of guest pages at or after `at`; `None` at the end.
    ///
    /// # Errors
    /// EL2's refusal other than -ENOENT; -EINVAL for an answer that goes backwards.
    fn audit_vm(&self, vm: Handle, at: u64) -> Result<Option<GuestRun>, Refusal> {
        let ret = self.call(Hypercall::AuditVm, [vm.raw(), at, 0, 0]);
        let nr = match result(ret) {
            Err(Refusal::NotFound) => return Ok(None),
            other => other?,
        };
        let run = GuestRun {
            gfn: Gfn::new(ret.x2).ok_or(DISAGREE)?,
            pfn: Pfn::new(ret.x3).ok_or(DISAGREE)?,
            nr,
            prot: Prot::from_bits(ret.x4 & 0xff).ok_or(DISAGREE)?,
            state: PageState::from_bits(ret.x4 >> 8),
            young: ret.x4 & (1 << 16) != 0,
            device: ret.x4 & (1 << 17) != 0,
            next: ret.x5,
        };
        if run.next > at { Ok(Some(run)) } else { Err(DISAGREE) }
    }

    /// The run of RAM pages at or after `at`; `None` at the end.
    ///
    /// # Errors
    /// EL2's refusal other than -ENOENT; -EINVAL for an answer that goes backwards.
    fn audit_host(&self, at: u64) -> Result<Option<HostRun>, Refusal> {
        let ret = self.call(Hypercall::AuditHost, [at, 0, 0, 0]);
        let nr = match result(ret) {
            Err(Refusal::NotFound) => return Ok(None),
            other => other?,
        };
        let low = |word: u64| u32::try_from(word & 0xffff_ffff).unwrap_or(u32::MAX);
        let run = HostRun {
            pfn: Pfn::new(ret.x2).ok_or(DISAGREE)?,
            nr,
            host: PageState::from_bits(ret.x3),
            el2: PageState::from_bits(ret.x3 >> 8),
            shares: low(ret.x4),
            pins: low(ret.x4 >> 32),
            next: ret.x5,
        };
        if run.next > at { Ok(Some(run)) } else { Err(DISAGREE) }
    }

    /// EL2's own count of a VM's pages.
    ///
    /// # Errors
    /// EL2's refusal.
    fn vm_stats(&self, vm: Handle) -> Result<VmStats, Refusal> {
        let ret = self.call(Hypercall::VmStats, [vm.raw(), 0, 0, 0]);
        Ok(VmStats { tables: result(ret)?, cached: ret.x2, pages: ret.x3 })
    }
}

impl<T: Hypercalls + ?Sized> Calls for T {}
