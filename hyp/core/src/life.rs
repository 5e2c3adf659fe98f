//! The life of VMs and vCPUs: reserve, init, load, put, teardown.
//!
//! Knows: what must be true at each step, and in which order things end. The page calls and the
//! guest's run are elsewhere. Locks: host, then one VM.

use hyp_abi::hcall::MAX_VCPUS;
use hyp_abi::{Claimed, Handle, Pfn, Refusal, Ret, Vmid};
use hyp_s2::{GuestMap, Refs, Regime, TablePfn};

use crate::boxed::Boxed;
use crate::cpu::{CpuLocal, Loaded};
use crate::hcall::{DONE, value};
use crate::hyp::Hyp;
use crate::machine::Machine;
use crate::owner::Word;
use crate::vcpu::{MEMCACHE_PAGES, Vcpu};
use crate::vm::{State, VcpuSlot, Vm};

/// Root pages that the host gives for a VM: what a 40-bit IPA space needs (DDI0487 D8.2.9).
pub const ROOT_PAGES: u64 = 2;

/// Counts of roots that are still the host's: they begin to count when EL2 has them.
struct Unborn;

impl Refs for Unborn {
    fn get(&self, _: TablePfn) -> u16 {
        0
    }
    fn set(&self, _: TablePfn, _: u16) {}
}

/// The VMID of the VM in a slot: the host's is 0. There are fewer slots than VMIDs, even of 8 bits, so
/// VMIDs never run out and nothing has to be rolled over: one is used again when its slot is, and
/// before that [`Hyp::finalize_teardown`] drops what any CPU's TLB holds of it.
fn vmid(vm: Handle) -> Result<Vmid, Refusal> {
    let above = vm.index().checked_add(1).and_then(|n| u8::try_from(n).ok());
    above.map(Vmid::new).ok_or(Refusal::Invalid)
}

impl<M: Machine> Hyp<M> {
    pub(crate) fn reserve_vm(&self, cpu: &mut CpuLocal) -> Result<Ret, Refusal> {
        for (index, slot) in (0u8..).zip(&self.slots) {
            let (mut slot, _held) = slot.lock(&mut cpu.locks);
            if let Some(handle) = slot.reserve(index) {
                return Ok(value(handle.raw()));
            }
        }
        Err(Refusal::NoMemory)
    }

    pub(crate) fn unreserve_vm(&self, cpu: &mut CpuLocal, vm: Handle) -> Result<Ret, Refusal> {
        let (mut slot, _held) = self.slot(vm)?.lock(&mut cpu.locks);
        *slot.reserved(vm)? = State::Free;
        Ok(DONE)
    }

    pub(crate) fn init_vm(
        &self,
        cpu: &mut CpuLocal,
        vm: Handle,
        vcpus: u64,
        pgd: Claimed<Pfn>,
        flags: u64,
    ) -> Result<Ret, Refusal> {
        let nr = usize::try_from(vcpus).ok().filter(|n| (1..=MAX_VCPUS).contains(n));
        let nr = nr.filter(|_| flags == 0).ok_or(Refusal::Invalid)?;
        let aligned = |root: &Pfn| root.raw().is_multiple_of(ROOT_PAGES);
        let first = pgd.in_range().filter(aligned).ok_or(Refusal::Invalid)?;
        let roots = [first, first.add(1).ok_or(Refusal::Invalid)?];
        let (mut host, mut held) = self.host.lock(&mut cpu.locks);
        let (mut slot, _held) = self.slot(vm)?.lock(&mut held);
        let state = slot.reserved(vm)?;
        let pages = self.pages();
        // Memory that cannot be had is -ENOMEM here, whatever the reason.
        for root in roots {
            let donation = host.ownership.check(pages, root, Word::donate_hyp);
            let _checked = donation.map_err(|_| Refusal::NoMemory)?;
        }
        let regime = Regime { vmid: vmid(vm)?, root: TablePfn::new(first) };
        let map = GuestMap::new(self.guest, regime, &Unborn).ok_or(Refusal::Invalid)?;
        let object = Boxed::try_new(Vm::new(map, nr))?;
        for root in roots {
            // Only the first can find the pool empty: the pair shares its last table.
            host.donate(pages, root)?;
            pages.machine.zero(root);
            pages.set(TablePfn::new(root), 1);
        }
        pages.machine.publish();
        *state = State::Live(object);
        Ok(DONE)
    }

    pub(crate) fn init_vcpu(
        &self,
        cpu: &mut CpuLocal,
        vm: Handle,
        idx: u64,
        run_page: Claimed<Pfn>,
    ) -> Result<Ret, Refusal> {
        let run_page = run_page.in_range().ok_or(Refusal::Invalid)?;
        let (host, mut held) = self.host.lock(&mut cpu.locks);
        let (mut slot, _held) = self.slot(vm)?.lock(&mut held);
        let vm = slot.vm(vm)?;
        if vm.dying {
            return Err(Refusal::Invalid);
        }
        let VcpuSlot::Absent = vm.vcpu_slot(idx)? else { return Err(Refusal::Invalid) };
        let pin = host.ownership.check(self.pages(), run_page, Word::pin)?;
        let vcpu = Boxed::try_new(Vcpu::new(idx, run_page))?;
        *vm.vcpu_slot(idx)? = VcpuSlot::Here(vcpu);
        pin.commit(self.pages());
        Ok(DONE)
    }

    pub(crate) fn vcpu_load(
        &self,
        cpu: &mut CpuLocal,
        handle: Handle,
        idx: u64,
    ) -> Result<Ret, Refusal> {
        if cpu.loaded.is_some() {
            return Err(Refusal::Invalid);
        }
        let number = cpu.cpu();
        let (mut slot, _held) = self.slot(handle)?.lock(&mut cpu.locks);
        let vm = slot.vm(handle)?;
        let vcpu = vm.load(idx)?;
        let regime = vm.map.regime();
        if vm.switch(number, idx) {
            self.machine.switch_vcpu(regime);
        }
        cpu.loaded = Some(Loaded { handle, idx, regime, vcpu });
        Ok(DONE)
    }

    pub(crate) fn vcpu_put(&self, cpu: &mut CpuLocal) -> Result<Ret, Refusal> {
        let Loaded { handle, idx, vcpu, .. } = cpu.loaded.take().ok_or(Refusal::Invalid)?;
        let (mut slot, _held) = self.slot(handle)?.lock(&mut cpu.locks);
        slot.vm(handle)?.put(idx, vcpu);
        Ok(DONE)
    }

    pub(crate) fn memcache_topup(
        &self,
        cpu: &mut CpuLocal,
        pfn: Claimed<Pfn>,
    ) -> Result<Ret, Refusal> {
        let loaded = cpu.loaded.as_mut().ok_or(Refusal::Invalid)?;
        let pfn = pfn.in_range().ok_or(Refusal::Invalid)?;
        let (mut host, mut held) = self.host.lock(&mut cpu.locks);
        let (mut slot, _held) = self.slot(loaded.handle)?.lock(&mut held);
        let vm = slot.vm(loaded.handle)?;
        let pages = self.pages();
        let _checked = host.ownership.check(pages, pfn, Word::donate_hyp)?;
        let memcache = &mut loaded.vcpu.memcache;
        if memcache.len() >= MEMCACHE_PAGES {
            return Err(Refusal::Busy);
        }
        host.donate(pages, pfn)?;
        if memcache.push(pages, pfn) {
            vm.stock.note_given();
        }
        Ok(value(memcache.len() as u64))
    }

    pub(crate) fn start_teardown(&self, cpu: &mut CpuLocal, vm: Handle) -> Result<Ret, Refusal> {
        let (mut slot, _held) = self.slot(vm)?.lock(&mut cpu.locks);
        let vm = slot.vm(vm)?;
        if vm.dying || vm.is_loaded() {
            return Err(Refusal::Invalid);
        }
        vm.dying = true;
        Ok(DONE)
    }

    pub(crate) fn reclaim_vm_page(&self, cpu: &mut CpuLocal, vm: Handle) -> Result<Ret, Refusal> {
        let (mut host, mut held) = self.host.lock(&mut cpu.locks);
        let (mut slot, _held) = self.slot(vm)?.lock(&mut held);
        let page = slot.dying(vm)?.reclaim(self.pages()).ok_or(Refusal::NotFound)?;
        host.release(self.pages(), page)?;
        Ok(value(page.raw()))
    }

    pub(crate) fn finalize_teardown(&self, cpu: &mut CpuLocal, vm: Handle) -> Result<Ret, Refusal> {
        let (mut host, mut held) = self.host.lock(&mut cpu.locks);
        let (mut slot, _held) = self.slot(vm)?.lock(&mut held);
        let dying = slot.dying(vm)?;
        let left = (dying.shared.saturating_add(dying.devices), dying.stock.given() as u64);
        if left != (0, 0) {
            // A refusal that says what is missing.
            let x1 = Refusal::Busy.code();
            return Ok(Ret { x1, x2: left.0, x3: left.1, ..DONE });
        }
        let pages = self.pages();
        // After this no TLB holds the VMID, so the roots, and the VMID, may be used for other things.
        let regime = dying.map.regime();
        pages.machine.inval_vmid(regime);
        for vcpu in dying.vcpus() {
            host.ownership.check(pages, vcpu.run_page, Word::unpin)?.commit(pages);
        }
        for page in 0..ROOT_PAGES {
            let root = regime.root.pfn().add(page).ok_or(Refusal::Invalid)?;
            pages.set(TablePfn::new(root), 0);
            host.release(pages, root)?;
        }
        drop(slot.free());
        Ok(DONE)
    }
}
