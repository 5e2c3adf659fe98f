//! A model of EL2, for tests: ownership, VMs' pages, table memory, and TLBs that keep what they may.
//!
//! Written from the hypercall table, with no code of EL2's. [`FakeCpu`] is one CPU's way to it; it
//! remembers which vCPU is loaded there. Panics on misuse by a test.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::cell::Cell;

use hyp_abi::{Gfn, Handle, Hypercall, Pfn, Prot, Refusal};
use spin::mutex::SpinMutex;

mod calls;

/// One page of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Frame.
    pub pfn: u64,
    /// Rights.
    pub prot: Prot,
    /// Access flag.
    pub young: bool,
}

#[derive(Clone, Debug, Default)]
struct FakeVm {
    live: bool,
    dying: bool,
    vcpus: BTreeMap<u64, u64>,
    vcpu_count: u64,
    pgd: u64,
    loaded: BTreeSet<u64>,
    pages: BTreeMap<u64, Page>,
    gicv: Option<u64>,
    /// Rights cached by TLBs: a hit asks no table and sets no access flag.
    tlb: BTreeMap<u64, Prot>,
    /// Table pages by the 2 MiB they map.
    tables: BTreeMap<u64, u64>,
    free: Vec<u64>,
}

#[derive(Debug, Default)]
struct State {
    vms: BTreeMap<u64, FakeVm>,
    next: u64,
    shares: BTreeMap<u64, u64>,
    /// Pages shared with EL2, with their pins.
    hyp: BTreeMap<u64, u64>,
    /// Pages donated to EL2.
    donated: BTreeSet<u64>,
    /// Refusals to come: the call, how many more of it to let pass, and the code.
    refusals: Vec<(Hypercall, u64, Refusal)>,
    calls: Vec<(Hypercall, [u64; 4])>,
}

/// The model.
#[derive(Debug, Default)]
pub struct FakeEl2 {
    state: SpinMutex<State>,
    /// A GICv2 rather than a GICv3.
    pub gicv2: bool,
    /// Map without table pages.
    pub free_tables: bool,
    /// Most pages that one `wrprotect` passes; 0: as many as the ABI allows.
    pub batch: u64,
}

/// One CPU.
#[derive(Debug)]
pub struct FakeCpu<'a> {
    el2: &'a FakeEl2,
    loaded: Cell<Option<(u64, u64)>>,
}

/// Why a guest's access faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestFault {
    /// Nothing mapped.
    Translation,
    /// A right is missing.
    Permission,
}

impl FakeEl2 {
    /// EL2 on a machine with a GICv3.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A CPU without a loaded vCPU.
    #[must_use]
    pub fn cpu(&self) -> FakeCpu<'_> {
        FakeCpu { el2: self, loaded: Cell::new(None) }
    }

    /// A live VM with one vCPU, made without frames of the test's.
    pub fn vm(&self) -> Handle {
        let mut state = self.state.lock();
        let handle = state.reserve();
        let vm = FakeVm { live: true, vcpu_count: 1, ..FakeVm::default() };
        state.vms.insert(handle, vm);
        if let Some(vm) = state.vms.get_mut(&handle) {
            vm.vcpus.insert(0, 0);
        }
        Handle::from_raw(handle)
    }

    /// The call after `skip` more of this kind is refused, once.
    pub fn refuse(&self, call: Hypercall, skip: u64, refusal: Refusal) {
        self.state.lock().refusals.push((call, skip, refusal));
    }

    /// No more refusals to come.
    pub fn forget_refusals(&self) {
        self.state.lock().refusals.clear();
    }

    /// What a VM has mapped.
    pub fn pages(&self, vm: Handle) -> BTreeMap<u64, Page> {
        self.state.lock().vms.get(&vm.raw()).map_or_else(BTreeMap::new, |vm| vm.pages.clone())
    }

    /// How many guest mappings a page has.
    pub fn shares(&self, pfn: u64) -> u64 {
        self.state.lock().shares.get(&pfn).copied().unwrap_or(0)
    }

    /// Whether a page is the host's and nobody else's.
    pub fn is_exclusive(&self, pfn: u64) -> bool {
        self.state.lock().exclusive(pfn)
    }

    /// Whether every page is the host's alone and no VM is left.
    pub fn is_clean(&self) -> bool {
        let state = self.state.lock();
        state.vms.is_empty()
            && state.shares.is_empty()
            && state.hyp.is_empty()
            && state.donated.is_empty()
    }

    /// Takes the record of calls made.
    pub fn take_calls(&self) -> Vec<(Hypercall, [u64; 4])> {
        core::mem::take(&mut self.state.lock().calls)
    }

    /// A guest's access, through its TLB.
    ///
    /// # Errors
    /// The stage-2 fault.
    pub fn touch(&self, vm: Handle, gfn: u64, wanted: Prot) -> Result<(), GuestFault> {
        let mut state = self.state.lock();
        let vm = state.vms.get_mut(&vm.raw()).ok_or(GuestFault::Translation)?;
        if vm.tlb.get(&gfn).is_some_and(|prot| prot.contains(wanted)) {
            return Ok(());
        }
        let page = vm.pages.get_mut(&gfn).ok_or(GuestFault::Translation)?;
        if !page.prot.contains(wanted) {
            return Err(GuestFault::Permission);
        }
        page.young = true;
        vm.tlb.insert(gfn, page.prot);
        Ok(())
    }

    /// Changes what EL2 maps behind everybody's back.
    pub fn tamper(&self, vm: Handle, change: impl FnOnce(&mut BTreeMap<u64, Page>)) {
        if let Some(vm) = self.state.lock().vms.get_mut(&vm.raw()) {
            change(&mut vm.pages);
        }
    }
}

impl State {
    fn reserve(&mut self) -> u64 {
        self.next = self.next.saturating_add(1);
        let handle = Handle::compose(0, self.next).raw();
        self.vms.insert(handle, FakeVm::default());
        handle
    }

    fn vm(&mut self, handle: u64) -> Result<&mut FakeVm, Refusal> {
        self.vms.get_mut(&handle).filter(|vm| vm.live).ok_or(Refusal::Invalid)
    }

    /// The page is the host's and nobody else's.
    fn exclusive(&self, pfn: u64) -> bool {
        !self.shares.contains_key(&pfn)
            && !self.hyp.contains_key(&pfn)
            && !self.donated.contains(&pfn)
    }

    fn refused(&mut self, call: Hypercall) -> Option<Refusal> {
        let at = self.refusals.iter().position(|(kind, _, _)| *kind == call)?;
        let (_, skip, refusal) = self.refusals.get_mut(at)?;
        if *skip > 0 {
            *skip = skip.saturating_sub(1);
            return None;
        }
        let refusal = *refusal;
        self.refusals.remove(at);
        Some(refusal)
    }
}

/// A frame for a test.
#[must_use]
#[expect(clippy::panic, reason = "a test that names no frame is wrong itself")]
pub fn pfn(n: u64) -> Pfn {
    Pfn::new(n).unwrap_or_else(|| panic!("{n:#x} is no pfn"))
}

/// A guest frame for a test.
#[must_use]
#[expect(clippy::panic, reason = "a test that names no frame is wrong itself")]
pub fn gfn(n: u64) -> Gfn {
    Gfn::new(n).unwrap_or_else(|| panic!("{n:#x} is no gfn"))
}
