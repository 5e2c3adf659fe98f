//! The specification beside the implementation: every hypercall is answered by both, and the
//! answers and what the audit calls show must agree.
//!
//! The specification is `hyp-model`, the same that judges `hyp-core` on a PC. Its RAM is the pages
//! in play; of the rest of the machine the attacker names only what no host may have. Each CPU has pages
//! and VMs of its own, and so a specification of its own: whatever the others do, its answers must not
//! depend on it.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use hyp_abi::hcall::{FEATURE_GICV2, MAX_VMS};
use hyp_abi::run::ENTRY_FLAGS;
use hyp_abi::{Gfn, Handle, Hypercall, PageState, Pfn, Ret};
use hyp_model::{Answer as Expected, Call, Page, Phase, State, Vm, World, exit, step_in_place};

use super::canary::{Field, PAGES, Pages, Set};
use super::finding::CALLS;
use crate::hcall::{self, Answer};
use crate::host::{self, Run};
use crate::{ensure, machine};

/// Entries of a vCPU's memcache.
const MEMCACHE: usize = 32;
/// What the implementation and the architecture do not say is "shared, not owned".
const BORROWED: u64 = PageState::SharedBorrowed.bits() << 8;

/// Both sides.
pub struct Oracle {
    /// The specification's state.
    pub state: State,
    /// Contents of the pages in play.
    pub pages: Pages,
    /// For each slot, the pages that its VM ever had.
    pub seen: [Set; MAX_VMS],
    /// For each hypercall of the table, how often it was made and how often it was not refused.
    pub tried: [(u64, u64); Hypercall::ALL.len()],
    last_handle: [u64; MAX_VMS],
}

impl Oracle {
    /// For CPU `n`, at the start, when every page is the host's but EL2's own.
    pub fn new(n: usize, field: Field) -> Self {
        let pages = Pages::of(n, field);
        let a = hcall::call(Hypercall::Features, [0; 4]);
        let gicv2 = a.x1 as u64 & FEATURE_GICV2 != 0;
        let ram = Pfn::new(pages.pfn(0)).map(|first| (first, PAGES as u64));
        let world = World {
            ram: ram.into_iter().collect(),
            // Of the host's own accesses other tests look at.
            private: vec![],
            host_pages: 0,
            guest_pages: 1 << (a.rest[0].clamp(32, 48) - 12),
            gicv: machine::virtual_interface()
                .filter(|_| gicv2)
                .and_then(|[_, (gicv, _)]| Pfn::new(gicv >> 12)),
            cpus: 1,
            memcache: MEMCACHE,
        };
        let state = State::boot(world, vec![]);
        let (seen, last_handle) = ([Set::default(); MAX_VMS], [0; MAX_VMS]);
        let tried = [(0, 0); Hypercall::ALL.len()];
        Self { state, pages, seen, tried, last_handle }
    }

    /// A hypercall by name.
    pub fn call(&mut self, which: Hypercall, args: [u64; 4]) -> Answer {
        self.raw(which.function_id(), args)
    }

    /// Any hypercall. Of an accepted `vcpu_run` the acceptance and the form of the exit are judged
    /// here.
    pub fn raw(&mut self, id: u64, args: [u64; 4]) -> Answer {
        CALLS.fetch_add(1, Relaxed);
        let entry = self.run_page().map_or(0, |page| self.pages.read(page, ENTRY_FLAGS));
        let answer = hcall::raw(id, args);
        let [x2, x3, x4, x5] = answer.rest;
        let seen = Ret { x1: answer.x1, x2, x3, x4, x5 };
        let [a, b, c, d] = args;
        let call = Call { cpu: 0, regs: [id, a, b, c, d], entry };
        let was_el2s = self.el2s_before(id);
        let expected = step_in_place(&mut self.state, call, seen);
        let right = match expected {
            Expected::NotSupported => answer.x0 == u64::MAX && seen == Ret::default(),
            Expected::Ret(ret) => answer.x0 == 0 && seen == ret,
            Expected::Run => answer.x0 == 0 && exit(&mut self.state, 0, seen).is_ok(),
            Expected::Reads => answer.x0 == 0,
        };
        let known = Hypercall::ALL.iter().position(|call| call.function_id() == id);
        if let Some((made, accepted)) = known.and_then(|n| self.tried.get_mut(n)) {
            *made += 1;
            *accepted += u64::from(answer.x1 >= 0);
        }
        let name = Hypercall::from_function_id(id).map_or("an unknown function", Hypercall::name);
        ensure!(right, "{name}({id:#x}){args:x?} answered {answer:x?}, expected {expected:x?}");
        if seen.x1 >= 0 && answer.x0 == 0 {
            self.happened(Hypercall::from_function_id(id), seen.x1 as u64, args, &was_el2s);
        }
        for page in [a, c] {
            self.check_page(page);
        }
        answer
    }

    /// EL2's pages before a call that gives some back.
    fn el2s_before(&self, id: u64) -> Vec<Pfn> {
        let gives = [Hypercall::ReclaimVmPage, Hypercall::FinalizeTeardownVm];
        if !gives.iter().any(|call| call.function_id() == id) {
            return Vec::new();
        }
        let pages = self.state.pages.iter().filter(|(_, page)| **page == Page::EL2);
        pages.map(|(pfn, _)| *pfn).collect()
    }

    fn happened(&mut self, which: Option<Hypercall>, x1: u64, args: [u64; 4], was_el2s: &[Pfn]) {
        match which {
            Some(Hypercall::ReserveVm) => {
                let slot = Handle::from_raw(x1).index() % MAX_VMS;
                let fresh = x1 > self.last_handle[slot];
                ensure!(fresh, "handle {x1:#x} is not new in its slot");
                self.last_handle[slot] = x1;
                self.seen[slot] = Set::default();
            }
            Some(Hypercall::ShareGuest) => {
                let page = self.pages.index(args[0]);
                if let (Some((slot, _)), Some(page)) = (self.state.loaded(0), page) {
                    self.seen[slot].insert(page);
                }
            }
            Some(Hypercall::VcpuSyncState) => {
                if let Some(page) = self.run_page() {
                    self.pages.record(page);
                }
            }
            // EL2 may have written a guest's registers into it, and the next guest may have it.
            Some(Hypercall::UnshareHyp) => {
                if let Some(page) = self.pages.index(args[0]) {
                    self.pages.fill(page);
                }
            }
            Some(Hypercall::ReclaimVmPage | Hypercall::FinalizeTeardownVm) => {
                self.came_back(was_el2s)
            }
            _ => {}
        }
    }

    /// The run page of the loaded vCPU.
    pub fn run_page(&self) -> Option<usize> {
        let (slot, idx) = self.state.loaded(0)?;
        let vcpu = self.state.slots.get(slot)?.as_ref()?.vcpus.get(idx)?.as_ref()?;
        self.pages.index(vcpu.run.raw())
    }

    /// Every page that EL2 has given back is zero, and gets its canaries again.
    fn came_back(&mut self, was_el2s: &[Pfn]) {
        for pfn in was_el2s {
            if self.state.page(*pfn) == Page::HOST
                && let Some(page) = self.pages.index(pfn.raw())
            {
                self.pages.verify_zero(page);
                self.pages.fill(page);
            }
        }
    }

    /// Compares one page of those in play.
    fn check_page(&self, pfn: u64) {
        if self.pages.index(pfn).is_none() {
            return;
        }
        let a = hcall::call(Hypercall::AuditHost, [pfn, 0, 0, 0]);
        let [first, states, counts, _] = a.rest;
        let found = (PageState::from_bits(states), PageState::from_bits(states >> 8), counts);
        let page = Pfn::new(pfn).map_or(Page::HOST, |pfn| self.state.page(pfn));
        let expected = (page.host, page.hyp, u64::from(page.shares) | u64::from(page.pins) << 32);
        ensure!(
            first == pfn && found == expected,
            "page {pfn:#x} is {found:x?} at {first:#x}, expected {expected:x?}"
        );
    }

    /// Compares everything of this CPU's that the audit calls show, and all contents.
    pub fn check_all(&mut self) {
        if let Some(broken) = hyp_model::broken(&self.state) {
            ensure!(false, "the specification's own state is illegal: {broken}");
        }
        let mut counted = 0;
        let own = self.pages.pfn(0)..self.pages.pfn(PAGES);
        host::audit_from(own.start, own.end, |run| {
            for pfn in run.pfn.max(own.start)..(run.pfn + run.nr).min(own.end) {
                counted += 1;
                let page = Pfn::new(pfn).map_or(Page::HOST, |pfn| self.state.page(pfn));
                let found = (run.host, run.hyp, run.shares, run.pins);
                let expected = (page.host, page.hyp, u64::from(page.shares), u64::from(page.pins));
                ensure!(found == expected, "page {pfn:#x} is {found:x?}, expected {expected:x?}");
            }
        });
        ensure!(counted == PAGES, "{counted} of {PAGES} pages are in the audit");
        for vm in self.state.slots.iter().flatten().filter(|vm| vm.phase != Phase::Reserved) {
            check_vm(vm);
        }
        for page in 0..PAGES {
            let is_el2s = |pfn| self.state.page(pfn) == Page::EL2;
            if !Pfn::new(self.pages.pfn(page)).is_some_and(is_el2s) {
                self.pages.verify(page);
            }
        }
    }

    /// The guest that just ran has touched pages; that is its right, and young they are.
    pub fn note_young(&mut self, slot: usize) {
        let Some(vm) = self.state.slots.get_mut(slot).and_then(Option::as_mut) else { return };
        let maps = &mut vm.maps;
        host::audit_vm(vm.handle.raw(), |gfn, _, nr, attrs| {
            for map in (gfn..gfn + nr).filter_map(Gfn::new) {
                if let Some(map) = maps.get_mut(&map) {
                    map.young |= attrs >> 16 & 1 != 0;
                }
            }
        });
    }
}

/// Compares a VM's stage 2, its size and its rights.
fn check_vm(vm: &Vm) {
    let mut counted = 0;
    host::audit_vm(vm.handle.raw(), |gfn, pfn, nr, attrs| {
        for n in 0..nr {
            counted += 1;
            let map = Gfn::new(gfn + n).and_then(|gfn| vm.maps.get(&gfn));
            let expected = map.map(|m| {
                let flags = u64::from(m.young) << 16 | u64::from(m.device) << 17;
                (m.pfn.raw(), m.prot.bits() | BORROWED | flags)
            });
            let found = Some((pfn + n, attrs));
            ensure!(found == expected, "gfn {gfn:#x}+{n} is {found:x?}, expected {expected:x?}");
        }
    });
    let known = vm.maps.len();
    ensure!(counted == known, "{counted} pages are mapped, expected {known}");
}

/// A digest of the ownership of all pages but those in play on any CPU, which go to `inside` one by
/// one. Nobody changes those others, so it may be taken while the other CPUs go on.
pub fn outside(field: Field, mut inside: impl FnMut(u64, &Run)) -> u64 {
    let play = field.range();
    let mut sum = 0u64;
    host::audit_host(|run| {
        let end = run.pfn + run.nr;
        let states = run.host.bits() | run.hyp.bits() << 8 | run.shares << 16 | run.pins << 48;
        for (from, to) in [(run.pfn, end.min(play.start)), (run.pfn.max(play.end), end)] {
            if from < to {
                for word in [from, to, states] {
                    sum = (sum.rotate_left(7) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                }
            }
        }
        for pfn in run.pfn.max(play.start)..end.min(play.end) {
            inside(pfn, &run);
        }
    });
    sum
}
