//! A guest's memory, as the host manages it: share, unshare, rights, ageing, audit.
//!
//! Each call checks its arguments, then the guest's side, then the host's, then table memory, and
//! only then changes anything. Locks: host (where ownership changes), then one VM.

use hyp_abi::hcall::{RANGE_BATCH, YOUNG_MAX};
use hyp_abi::{Claimed, Gfn, Handle, PageState, Pfn, Prot, Refusal, Ret};
use hyp_s2::guest::{MapRefusal, RelaxRefusal, Scan, UnmapRefusal};
use hyp_s2::{Attrs, Rights, Span};

use crate::bits::{flag, union};
use crate::board::Gic;
use crate::cpu::CpuLocal;
use crate::hcall::{DONE, value};
use crate::hyp::Hyp;
use crate::machine::Machine;
use crate::owner::Word;

/// Entries that one range call visits: `wrprotect` and `audit_vm` say how far they came.
const BATCH: usize = 4096;
const _: () = assert!(BATCH as u64 == RANGE_BATCH);

fn map_refusal(why: MapRefusal) -> Refusal {
    match why {
        MapRefusal::OutOfRange => Refusal::OutOfRange,
        MapRefusal::Taken => Refusal::NotPermitted,
    }
}

fn unmap_refusal(why: UnmapRefusal) -> Refusal {
    match why {
        UnmapRefusal::OutOfRange => Refusal::OutOfRange,
        UnmapRefusal::Absent => Refusal::NotFound,
        UnmapRefusal::WrongSize => Refusal::WrongSize,
    }
}

fn rights(prot: u64) -> Result<Rights, Refusal> {
    Prot::from_bits(prot).and_then(Rights::new).ok_or(Refusal::Invalid)
}

impl<M: Machine> Hyp<M> {
    pub(crate) fn share_guest(
        &self,
        cpu: &mut CpuLocal,
        pfn: Claimed<Pfn>,
        gfn: Claimed<Gfn>,
        nr: u64,
        prot: u64,
    ) -> Result<Ret, Refusal> {
        let loaded = cpu.loaded.as_mut().ok_or(Refusal::Invalid)?;
        let rights = rights(prot)?;
        let pfn = pfn.in_range().filter(|_| nr == 1).ok_or(Refusal::Invalid)?;
        let gfn = gfn.in_range().ok_or(Refusal::OutOfRange)?;
        let (host, mut held) = self.host.lock(&mut cpu.locks);
        let (mut slot, _held) = self.slot(loaded.handle)?.lock(&mut held);
        let vm = slot.vm(loaded.handle)?;
        let pages = self.pages();
        let plan = vm.map.check_map(&self.machine, gfn).map_err(map_refusal)?;
        let owner = host.ownership.check(pages, pfn, Word::share_guest)?;
        let mut source = vm.stock.source(pages, Some(&mut loaded.vcpu.memcache));
        let mapping = plan.reserve(&mut source).map_err(|_| Refusal::NoMemory)?;
        owner.commit(pages);
        // The guest may run with its caches off, and fetch what the host wrote as data.
        pages.machine.clean_to_poc(pfn);
        if rights.prot().contains(Prot::X) {
            pages.machine.sync_icache(pfn);
        }
        let state = PageState::SharedBorrowed;
        mapping.commit(pages.mmu(), pfn, Attrs { rights, state, young: true, device: false });
        vm.shared = vm.shared.saturating_add(1);
        Ok(DONE)
    }

    pub(crate) fn unshare_guest(
        &self,
        cpu: &mut CpuLocal,
        vm: Handle,
        gfn: Claimed<Gfn>,
        nr: u64,
    ) -> Result<Ret, Refusal> {
        let (host, mut held) = self.host.lock(&mut cpu.locks);
        let (mut slot, _held) = self.slot(vm)?.lock(&mut held);
        let vm = slot.vm(vm)?;
        if nr != 1 {
            return Err(Refusal::Invalid);
        }
        let gfn = gfn.in_range().ok_or(Refusal::OutOfRange)?;
        let pages = self.pages();
        let plan = vm.map.check_unmap(&self.machine, gfn).map_err(unmap_refusal)?;
        let leaf = plan.leaf();
        if leaf.attrs.device {
            return Err(Refusal::NotPermitted);
        }
        let owner = host.ownership.check(pages, leaf.pfn, Word::unshare_guest)?;
        plan.commit(pages.mmu(), &mut vm.stock.source(pages, None));
        // No CPU writes through the guest's mapping any more: what it wrote with caches on, or off,
        // must be what the host reads.
        pages.machine.clean_to_poc(leaf.pfn);
        owner.commit(pages);
        vm.shared = vm.shared.saturating_sub(1);
        Ok(DONE)
    }

    pub(crate) fn map_gicv(&self, cpu: &mut CpuLocal, gfn: Claimed<Gfn>) -> Result<Ret, Refusal> {
        let loaded = cpu.loaded.as_mut().ok_or(Refusal::Invalid)?;
        let Gic::V2 { gicv: Some(gicv) } = self.gic else { return Err(Refusal::Invalid) };
        let gfn = gfn.in_range().ok_or(Refusal::OutOfRange)?;
        let (mut slot, _held) = self.slot(loaded.handle)?.lock(&mut cpu.locks);
        let vm = slot.vm(loaded.handle)?;
        let pages = self.pages();
        let plan = vm.map.check_map(&self.machine, gfn).map_err(map_refusal)?;
        let mut source = vm.stock.source(pages, Some(&mut loaded.vcpu.memcache));
        let mapping = plan.reserve(&mut source).map_err(|_| Refusal::NoMemory)?;
        let state = PageState::SharedBorrowed;
        let attrs = Attrs { rights: Rights::RW, state, young: true, device: true };
        mapping.commit(pages.mmu(), gicv, attrs);
        vm.devices = vm.devices.saturating_add(1);
        Ok(DONE)
    }

    pub(crate) fn unmap_gicv(
        &self,
        cpu: &mut CpuLocal,
        vm: Handle,
        gfn: Claimed<Gfn>,
    ) -> Result<Ret, Refusal> {
        let (mut slot, _held) = self.slot(vm)?.lock(&mut cpu.locks);
        let vm = slot.vm(vm)?;
        let gfn = gfn.in_range().ok_or(Refusal::OutOfRange)?;
        let plan = vm.map.check_unmap(&self.machine, gfn).map_err(unmap_refusal)?;
        if !plan.leaf().attrs.device {
            return Err(Refusal::NotPermitted);
        }
        let pages = self.pages();
        plan.commit(pages.mmu(), &mut vm.stock.source(pages, None));
        vm.devices = vm.devices.saturating_sub(1);
        Ok(DONE)
    }

    pub(crate) fn relax_perms(
        &self,
        cpu: &mut CpuLocal,
        gfn: Claimed<Gfn>,
        prot: u64,
    ) -> Result<Ret, Refusal> {
        let loaded = cpu.loaded.as_ref().ok_or(Refusal::Invalid)?;
        let more = rights(prot)?;
        let gfn = gfn.in_range().ok_or(Refusal::OutOfRange)?;
        let (mut slot, _held) = self.slot(loaded.handle)?.lock(&mut cpu.locks);
        let vm = slot.vm(loaded.handle)?;
        let pages = self.pages();
        match vm.map.leaf(&self.machine, gfn) {
            Some(leaf) if leaf.attrs.device => return Err(Refusal::NotPermitted),
            Some(leaf) if more.prot().contains(Prot::X) => pages.machine.sync_icache(leaf.pfn),
            _ => {}
        }
        vm.map.relax(pages.mmu(), gfn, more).map_err(|why| match why {
            RelaxRefusal::OutOfRange => Refusal::OutOfRange,
            RelaxRefusal::Absent => Refusal::Raced,
        })?;
        Ok(DONE)
    }

    pub(crate) fn mkyoung(&self, cpu: &mut CpuLocal, gfn: Claimed<Gfn>) -> Result<Ret, Refusal> {
        let loaded = cpu.loaded.as_ref().ok_or(Refusal::Invalid)?;
        let gfn = gfn.in_range().filter(|gfn| self.guest.contains(*gfn));
        let gfn = gfn.ok_or(Refusal::OutOfRange)?;
        let (mut slot, _held) = self.slot(loaded.handle)?.lock(&mut cpu.locks);
        slot.vm(loaded.handle)?.map.mkyoung(self.pages().mmu(), gfn);
        Ok(DONE)
    }

    pub(crate) fn wrprotect(
        &self,
        cpu: &mut CpuLocal,
        vm: Handle,
        gfn: Claimed<Gfn>,
        nr: u64,
    ) -> Result<Ret, Refusal> {
        let (mut slot, _held) = self.slot(vm)?.lock(&mut cpu.locks);
        let vm = slot.vm(vm)?;
        if nr == 0 {
            return Err(Refusal::Invalid);
        }
        let span = self.span(gfn, nr)?;
        vm.unflushed = true;
        let x2 = vm.map.wrprotect(self.pages().mmu(), span, BATCH);
        Ok(Ret { x2, ..DONE })
    }

    pub(crate) fn test_clear_young(
        &self,
        cpu: &mut CpuLocal,
        vm: Handle,
        gfn: Claimed<Gfn>,
        nr: u64,
        mkold: u64,
    ) -> Result<Ret, Refusal> {
        let (mut slot, _held) = self.slot(vm)?.lock(&mut cpu.locks);
        let vm = slot.vm(vm)?;
        if !(1..=YOUNG_MAX).contains(&nr) || mkold > 1 {
            return Err(Refusal::Invalid);
        }
        let span = self.span(gfn, nr)?;
        let x2 = vm.map.age(self.pages().mmu(), span, mkold == 1);
        Ok(Ret { x2, ..value(u64::from(x2 != 0)) })
    }

    pub(crate) fn tlb_flush_vmid(&self, cpu: &mut CpuLocal, vm: Handle) -> Result<Ret, Refusal> {
        let (mut slot, _held) = self.slot(vm)?.lock(&mut cpu.locks);
        let vm = slot.vm(vm)?;
        self.machine.inval_vmid(vm.map.regime());
        vm.unflushed = false;
        Ok(DONE)
    }

    pub(crate) fn audit_vm(
        &self,
        cpu: &mut CpuLocal,
        vm: Handle,
        from: Claimed<Gfn>,
    ) -> Result<Ret, Refusal> {
        let (mut slot, _held) = self.slot(vm)?.lock(&mut cpu.locks);
        let vm = slot.vm(vm)?;
        let from = from.in_range().ok_or(Refusal::NotFound)?;
        match vm.map.next_run(&self.machine, from, BATCH) {
            Scan::Run(run, x5) => {
                let Attrs { rights, state, young, device } = run.attrs;
                let x4 = union(&[
                    rights.prot().bits(),
                    state.bits() << 8,
                    flag(young, 1 << 16),
                    flag(device, 1 << 17),
                ]);
                Ok(Ret { x2: run.gfn.raw(), x3: run.pfn.raw(), x4, x5, ..value(run.pages) })
            }
            Scan::More(x5) => Ok(Ret { x5, ..DONE }),
            Scan::End => Err(Refusal::NotFound),
        }
    }

    pub(crate) fn vm_stats(&self, cpu: &mut CpuLocal, vm: Handle) -> Result<Ret, Refusal> {
        let (mut slot, _held) = self.slot(vm)?.lock(&mut cpu.locks);
        let vm = slot.vm(vm)?;
        let (in_use, given) = (vm.stock.in_use() as u64, vm.stock.given() as u64);
        let tables = in_use.saturating_add(crate::life::ROOT_PAGES);
        Ok(Ret { x2: given.saturating_sub(in_use), x3: vm.shared, ..value(tables) })
    }

    fn span(&self, gfn: Claimed<Gfn>, nr: u64) -> Result<Span, Refusal> {
        let gfn = gfn.in_range().ok_or(Refusal::OutOfRange)?;
        self.guest.span(gfn, nr).ok_or(Refusal::OutOfRange)
    }
}
