//! Hypercalls: mostly such as a host would make, so that deep states are reached, each now and then
//! with one value that is wrong.

use alloc::vec::Vec;

use hyp_abi::Hypercall::{self as H};
use hyp_abi::hcall::MAX_VMS;
use hyp_abi::{PageState, Pfn};
use hyp_model::{Page, Phase, Vm};

use super::canary::{PLAY, WITNESS};
use super::{Attack, ledger};
use crate::cpu::CPUS;

/// How often each is called.
const WEIGHTS: [(H, u64); 28] = [
    (H::VcpuRun, 8),
    (H::ShareHyp, 6),
    (H::UnshareHyp, 5),
    (H::ShareGuest, 18),
    (H::UnshareGuest, 5),
    (H::RelaxPerms, 4),
    (H::Wrprotect, 3),
    (H::TestClearYoung, 4),
    (H::Mkyoung, 2),
    (H::ReserveVm, 1),
    (H::UnreserveVm, 1),
    (H::InitVm, 4),
    (H::InitVcpu, 5),
    (H::StartTeardownVm, 1),
    (H::FinalizeTeardownVm, 4),
    (H::VcpuLoad, 10),
    (H::VcpuPut, 4),
    (H::VcpuSyncState, 2),
    (H::TlbFlushVmid, 1),
    (H::Version, 1),
    (H::Features, 1),
    (H::MemcacheTopup, 6),
    (H::ReclaimVmPage, 6),
    (H::AuditVm, 1),
    (H::AuditHost, 1),
    (H::MapGicv, 2),
    (H::UnmapGicv, 1),
    (H::VmStats, 1),
];
/// Rights that make sense, and some that do not.
const PROTS: [u64; 8] = [15, 15, 3, 13, 1, 0, 4, 16];
/// Free pages that a new VM needs.
const ENOUGH: u64 = 40;
/// Most VMs to have at one time, the witness included, as long as nobody insists.
const VMS: usize = 5;
// With one more on every CPU there are some left to race for.
const _: () = assert!((VMS + 1) * CPUS + ledger::VMS as usize <= MAX_VMS);

/// Whether the first argument names a VM.
pub const fn takes_handle(which: H) -> bool {
    matches!(
        which,
        H::UnshareGuest
            | H::Wrprotect
            | H::TestClearYoung
            | H::UnreserveVm
            | H::InitVm
            | H::InitVcpu
            | H::StartTeardownVm
            | H::FinalizeTeardownVm
            | H::VcpuLoad
            | H::TlbFlushVmid
            | H::ReclaimVmPage
            | H::AuditVm
            | H::UnmapGicv
            | H::VmStats
    )
}

/// The first argument that names a page which the call takes or gives, if there is one.
pub const fn takes_page(which: H) -> Option<usize> {
    match which {
        H::ShareHyp | H::UnshareHyp | H::ShareGuest | H::MemcacheTopup => Some(0),
        H::InitVm | H::InitVcpu => Some(2),
        _ => None,
    }
}

impl Attack {
    /// One hypercall.
    pub fn hypercall(&mut self) {
        if self.rng.one_in(40) {
            let id = match self.rng.below(3) {
                0 => u64::from(hyp_abi::hcall::BASE) + self.rng.below(128),
                1 => self.rng.hostile(),
                _ => 0xc600_0000 ^ 1 << self.rng.below(32),
            };
            if H::from_function_id(id).is_none() {
                let args = core::array::from_fn(|_| self.rng.hostile());
                self.oracle.raw(id, args);
            }
            return;
        }
        let total = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.below(total);
        let mut which = H::Version;
        for (call, weight) in WEIGHTS {
            which = call;
            if at < weight {
                break;
            }
            at -= weight;
        }
        if which == H::VcpuRun {
            return self.run_guest();
        }
        let mut args = self.plausible(which);
        if self.rng.below(10) < 3 {
            let n = self.rng.below(4) as usize;
            args[n] = self.wrong(args[n]);
        }
        self.harmless(which, &mut args);
        self.oracle.call(which, args);
    }

    /// Values that the specification might accept.
    fn plausible(&mut self, which: H) -> [u64; 4] {
        let ready = |vm: &Vm| vm.phase == Phase::Ready;
        let dying = |vm: &Vm| vm.phase == Phase::Dying;
        match which {
            H::ShareHyp | H::MemcacheTopup => [self.page(Page::HOST), 0, 0, 0],
            H::UnshareHyp => [self.shared_with_el2(), 0, 0, 0],
            H::ShareGuest => {
                let page = if self.rng.one_in(4) { self.any_page() } else { self.page(Page::HOST) };
                [page, self.gfn(), 1, self.prot()]
            }
            H::UnshareGuest => {
                let vm = self.vm(|vm| dying(vm) && !vm.maps.is_empty());
                let vm = if vm == 0 { self.vm(|vm| !vm.maps.is_empty()) } else { vm };
                [vm, self.mapped(vm), 1, 0]
            }
            H::RelaxPerms => [self.mapped(self.loaded()), self.prot(), 0, 0],
            H::Mkyoung => [self.mapped(self.loaded()), 0, 0, 0],
            H::MapGicv => [self.gfn(), 0, 0, 0],
            H::Wrprotect | H::TestClearYoung => {
                let vm = self.vm(|vm| vm.phase != Phase::Reserved);
                let nr = match self.rng.below(4) {
                    0 => 1,
                    1 => self.rng.below(66),
                    2 => 1 << self.rng.below(13),
                    _ => self.rng.below(self.oracle.state.world.guest_pages + 2),
                };
                [vm, self.mapped(vm), nr, self.rng.below(2)]
            }
            H::UnreserveVm => [self.vm(|vm| vm.phase == Phase::Reserved), 0, 0, 0],
            H::InitVm => {
                let vm = self.vm(|vm| vm.phase == Phase::Reserved);
                [vm, 1 + self.rng.below(3), self.pair(), 0]
            }
            H::InitVcpu => {
                let vm = self.vm(|vm| ready(vm) && vm.vcpus.iter().any(Option::is_none));
                [vm, self.rng.below(3), self.shared_with_el2(), 0]
            }
            H::VcpuLoad => {
                let vm = self.vm(|vm| ready(vm) && vm.vcpus.iter().any(Option::is_some));
                [vm, self.rng.below(3), 0, 0]
            }
            H::StartTeardownVm => {
                let old = |vm: &Vm| ready(vm) && !vm.in_use() && vm.maps.len() < 3;
                [self.vm(old), 0, 0, 0]
            }
            H::FinalizeTeardownVm => {
                let empty = self.vm(|vm| dying(vm) && vm.maps.is_empty() && vm.donated.is_empty());
                [if empty == 0 { self.vm(dying) } else { empty }, 0, 0, 0]
            }
            H::ReclaimVmPage => [self.vm(dying), 0, 0, 0],
            H::UnmapGicv => {
                let vm = self.vm(|vm| vm.maps.values().any(|map| map.device));
                [vm, self.mapped(vm), 0, 0]
            }
            H::TlbFlushVmid | H::VmStats | H::AuditVm => [self.vm(|_| true), self.gfn(), 0, 0],
            H::AuditHost => [self.any_page(), 0, 0, 0],
            _ => [0; 4],
        }
    }

    /// Another value than the right one.
    fn wrong(&mut self, right: u64) -> u64 {
        match self.rng.below(9) {
            0 => right.wrapping_add(1),
            1 => right.wrapping_sub(1),
            2 => right ^ 1 << self.rng.below(64),
            3 => self.land.el2(&mut self.rng),
            4 => self.any_page(),
            5 => self.vm(|_| true),
            6 => self.stale,
            _ => self.rng.hostile(),
        }
    }

    /// Takes back what would hit the attacker itself: its own memory out of play, which it may give
    /// away, and the witness, which it may end.
    fn harmless(&mut self, which: H, args: &mut [u64; 4]) {
        if let Some(n) = takes_page(which) {
            let play = self.oracle.pages.pfn(0)..self.oracle.pages.pfn(0) + PLAY;
            let of_witness = play.end..play.end + WITNESS;
            let safe = |pfn: u64| {
                let page = Pfn::new(pfn).map_or(Page::HOST, |pfn| self.oracle.state.page(pfn));
                let taken = page == Page::EL2 || (page.pins > 0 && which != H::InitVcpu);
                !self.land.is_hosts_ram(pfn)
                    || play.contains(&pfn)
                    || (of_witness.contains(&pfn) && taken)
            };
            if !safe(args[n]) || (which == H::InitVm && !safe(args[n].wrapping_add(1))) {
                args[n] = self.any_page() & !1;
            }
        }
        let refused = matches!(
            which,
            H::UnreserveVm
                | H::InitVm
                | H::FinalizeTeardownVm
                | H::ReclaimVmPage
                | H::AuditVm
                | H::VmStats
                | H::TlbFlushVmid
        );
        if args[0] == self.witness.handle && !refused {
            args[0] = self.stale;
        }
        // What looks like a VM of another CPU's becomes one of a time that never comes.
        if self.crew > 1 && takes_handle(which) && args[0] >> 8 < 1 << 32 && !self.owns(args[0]) {
            args[0] |= 1 << 40;
        }
        let vms = self.oracle.state.slots.iter().flatten().count();
        let many = match which {
            H::VcpuPut => vms > VMS,
            // There are 64 for all CPUs, and each must always get one.
            H::ReserveVm => self.crew > 1 && vms > VMS,
            _ => false,
        };
        if many {
            self.raze_one();
        }
    }

    /// Whether this is a VM of this CPU's.
    fn owns(&self, handle: u64) -> bool {
        self.oracle.state.slots.iter().flatten().any(|vm| vm.handle.raw() == handle)
    }

    /// A VM of the attacker's, or 0.
    fn vm(&mut self, fits: impl Fn(&Vm) -> bool) -> u64 {
        let vms: Vec<u64> = (self.oracle.state.slots.iter().flatten())
            .filter(|vm| vm.handle.raw() != self.witness.handle && fits(vm))
            .map(|vm| vm.handle.raw())
            .collect();
        self.rng.pick(&vms).unwrap_or(0)
    }

    /// The VM whose vCPU is loaded, or 0.
    pub fn loaded(&self) -> u64 {
        let slot = self.oracle.state.loaded(0).map(|(slot, _)| slot);
        slot.and_then(|s| self.vm_in(s)).map_or(0, |vm| vm.handle.raw())
    }

    /// The VM in a slot.
    pub fn vm_in(&self, slot: usize) -> Option<&Vm> {
        self.oracle.state.slots.get(slot)?.as_ref()
    }

    /// A page in play in this state, or any.
    fn page(&mut self, state: Page) -> u64 {
        for _ in 0..16 {
            let pfn = self.any_page();
            if Pfn::new(pfn).is_some_and(|pfn| self.oracle.state.page(pfn) == state) {
                return pfn;
            }
        }
        self.any_page()
    }

    /// Two adjacent pages that a VM's root can be, or any.
    fn pair(&mut self) -> u64 {
        for _ in 0..16 {
            let pfn = self.page(Page::HOST) & !1;
            if Pfn::new(pfn + 1).is_some_and(|pfn| self.oracle.state.page(pfn) == Page::HOST) {
                return pfn;
            }
        }
        self.any_page()
    }

    /// Any page in play.
    pub fn any_page(&mut self) -> u64 {
        self.oracle.pages.pfn(0) + self.rng.below(PLAY)
    }

    fn shared_with_el2(&mut self) -> u64 {
        let shared: Vec<u64> = (self.oracle.state.pages.iter())
            .filter(|(_, page)| page.hyp == PageState::SharedBorrowed)
            .map(|(pfn, _)| pfn.raw())
            .filter(|pfn| *pfn < self.oracle.pages.pfn(0) + PLAY)
            .collect();
        self.rng.pick(&shared).unwrap_or(0)
    }

    fn prot(&mut self) -> u64 {
        self.rng.pick(&PROTS).unwrap_or(0)
    }

    /// A gfn: near the others, or where a table is missing, or at the end.
    fn gfn(&mut self) -> u64 {
        let end = self.oracle.state.world.guest_pages;
        match self.rng.below(12) {
            0 => end - 1 - self.rng.below(3),
            1 => self.rng.below(end),
            2 | 3 => self.rng.below(4) << 18 | self.rng.below(3) << 9 | self.rng.below(8),
            _ => 0x40000 + self.rng.below(24),
        }
    }

    /// A gfn that this VM has, or any.
    fn mapped(&mut self, vm: u64) -> u64 {
        let slots = &self.oracle.state.slots;
        let vm = slots.iter().flatten().find(|v| v.handle.raw() == vm);
        let gfns: Vec<u64> = vm.into_iter().flat_map(|v| v.maps.keys()).map(|g| g.raw()).collect();
        match self.rng.pick(&gfns) {
            Some(gfn) if !self.rng.one_in(8) => gfn,
            _ => self.gfn(),
        }
    }

    /// Loads a vCPU, if there is one of a VM with memory.
    pub fn load(&mut self) {
        self.put();
        let vm = self.vm(|vm| vm.phase == Phase::Ready && vm.maps.len() > 2);
        self.oracle.call(H::VcpuLoad, [vm, 0, 0, 0]);
    }

    /// Makes a VM with one vCPU, some pages, and loads it.
    pub fn raise_one(&mut self) {
        if self.oracle.state.slots.iter().flatten().count() > VMS {
            self.raze_one();
        }
        self.make_room();
        self.put();
        let handle = self.oracle.call(H::ReserveVm, [0; 4]).x1 as u64;
        let root = self.pair();
        self.oracle.call(H::InitVm, [handle, 1 + self.rng.below(2), root, 0]);
        let run = self.page(Page::HOST);
        self.oracle.call(H::ShareHyp, [run, 0, 0, 0]);
        self.oracle.call(H::InitVcpu, [handle, 0, run, 0]);
        self.oracle.call(H::VcpuLoad, [handle, 0, 0, 0]);
        for _ in 0..2 + self.rng.below(4) {
            let page = self.page(Page::HOST);
            self.oracle.call(H::MemcacheTopup, [page, 0, 0, 0]);
        }
        for n in 0..2 + self.rng.below(8) {
            let prot = if n % 2 == 0 { 15 } else { self.prot() & 15 };
            let args = [self.page(Page::HOST), 0x40000 + n, 1, prot];
            self.oracle.call(H::ShareGuest, args);
        }
        // Refused where there is no GICv2.
        self.oracle.call(H::MapGicv, [0x40020, 0, 0, 0]);
    }

    /// Takes pages back until there are enough for a VM.
    fn make_room(&mut self) {
        while self.free() < ENOUGH {
            let handle = self.vm(|vm| vm.phase != Phase::Reserved);
            if handle == 0 {
                return self.unshare_all();
            }
            self.raze(handle);
        }
    }

    /// How many pages in play are nobody's but the host's.
    fn free(&self) -> u64 {
        let end = self.oracle.pages.pfn(0) + PLAY;
        let taken = self.oracle.state.pages.keys().filter(|pfn| pfn.raw() < end).count();
        PLAY - taken as u64
    }

    /// Ends one VM in the right order, first of all one that never began.
    pub fn raze_one(&mut self) {
        let useless = self.vm(|vm| vm.phase != Phase::Ready || vm.maps.is_empty());
        let handle = if useless == 0 { self.vm(|_| true) } else { useless };
        if handle != 0 {
            self.raze(handle);
        }
    }

    /// Ends this VM in the right order; everything it had is the host's again.
    pub fn raze(&mut self, handle: u64) {
        self.stale = handle;
        self.put();
        if self.oracle.call(H::UnreserveVm, [handle, 0, 0, 0]).x1 == 0 {
            return;
        }
        self.oracle.call(H::StartTeardownVm, [handle, 0, 0, 0]);
        let maps = self.oracle.state.slots.iter().flatten().find(|v| v.handle.raw() == handle);
        let maps: Vec<(u64, bool)> = maps
            .into_iter()
            .flat_map(|vm| vm.maps.iter().map(|(gfn, map)| (gfn.raw(), map.device)))
            .collect();
        for (gfn, device) in maps {
            let call = if device { H::UnmapGicv } else { H::UnshareGuest };
            self.oracle.call(call, [handle, gfn, u64::from(!device), 0]);
        }
        while self.oracle.call(H::ReclaimVmPage, [handle, 0, 0, 0]).x1 >= 0 {}
        self.oracle.call(H::FinalizeTeardownVm, [handle, 0, 0, 0]);
    }

    /// Unloads what is loaded.
    pub fn put(&mut self) {
        if self.oracle.state.loaded(0).is_some() {
            self.oracle.call(H::VcpuPut, [0; 4]);
        }
    }

    /// Ends every VM and takes every page back.
    pub fn raze_all(&mut self) {
        self.witness.handle = 0;
        loop {
            let handle = self.vm(|_| true);
            if handle == 0 {
                break;
            }
            self.raze(handle);
        }
        self.unshare_all();
    }

    /// Takes back from EL2 what it does not use.
    fn unshare_all(&mut self) {
        let shared: Vec<u64> = self.oracle.state.pages.keys().map(|pfn| pfn.raw()).collect();
        for pfn in shared {
            self.oracle.call(H::UnshareHyp, [pfn, 0, 0, 0]);
        }
    }
}
