//! What each hypercall does to the model.

use alloc::vec::Vec;

use hyp_abi::hcall::{MAX_VCPUS, RANGE_BATCH, YOUNG_MAX};
use hyp_abi::{Hypercall, PageState, Prot, Refusal, Ret};

use super::{FakeCpu, FakeVm, Page, State};
use crate::Hypercalls;

/// Guest frames that EL2 can map.
const GFN_LIMIT: u64 = 1 << 28;
/// The pfn of the GICV page: device memory.
const GICV: u64 = 0xff00_0000;

const DONE: Ret = Ret { x1: 0, x2: 0, x3: 0, x4: 0, x5: 0 };

fn value(n: u64) -> Ret {
    Ret { x1: i64::try_from(n).unwrap_or(i64::MAX), ..DONE }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn need(condition: bool, refusal: Refusal) -> Result<(), Refusal> {
    if condition { Ok(()) } else { Err(refusal) }
}

fn gfn_ok(gfn: u64, nr: u64) -> Result<(), Refusal> {
    need(gfn < GFN_LIMIT && nr <= GFN_LIMIT.saturating_sub(gfn), Refusal::OutOfRange)
}

impl Hypercalls for FakeCpu<'_> {
    fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret {
        let mut state = self.el2.state.lock();
        state.calls.push((call, args));
        let answer = match state.refused(call) {
            Some(refusal) => Err(refusal),
            None => self.dispatch(&mut state, call, args),
        };
        answer.unwrap_or_else(|refusal| Ret { x1: refusal.code(), ..DONE })
    }
}

impl FakeCpu<'_> {
    fn loaded(&self) -> Result<(u64, u64), Refusal> {
        self.loaded.get().ok_or(Refusal::Invalid)
    }

    fn dispatch(&self, state: &mut State, call: Hypercall, x: [u64; 4]) -> Result<Ret, Refusal> {
        match call {
            Hypercall::ShareHyp => {
                need(state.exclusive(x[0]), Refusal::NotPermitted)?;
                state.hyp.insert(x[0], 0);
                Ok(DONE)
            }
            Hypercall::UnshareHyp => {
                let pins = *state.hyp.get(&x[0]).ok_or(Refusal::NotPermitted)?;
                need(pins == 0, Refusal::Busy)?;
                state.hyp.remove(&x[0]);
                Ok(DONE)
            }
            Hypercall::ShareGuest => self.share(state, x),
            Hypercall::UnshareGuest => unshare(state, x),
            Hypercall::RelaxPerms => {
                let prot = Prot::from_bits(x[1]).ok_or(Refusal::Invalid)?;
                gfn_ok(x[0], 1)?;
                let page = state.vm(self.loaded()?.0)?.pages.get_mut(&x[0]);
                let page = page.ok_or(Refusal::Raced)?;
                page.prot = page.prot.union(prot);
                Ok(DONE)
            }
            Hypercall::Wrprotect => {
                need(x[2] > 0, Refusal::Invalid)?;
                gfn_ok(x[1], x[2])?;
                let most = if self.el2.batch == 0 { RANGE_BATCH } else { self.el2.batch };
                let done = x[2].min(most);
                let range = x[1]..x[1].saturating_add(done);
                for (_, page) in state.vm(x[0])?.pages.range_mut(range) {
                    page.prot = page.prot.without(Prot::W);
                }
                Ok(Ret { x2: done, ..DONE })
            }
            Hypercall::TestClearYoung => young(state, x),
            Hypercall::Mkyoung => {
                gfn_ok(x[0], 1)?;
                if let Some(page) = state.vm(self.loaded()?.0)?.pages.get_mut(&x[0]) {
                    page.young = true;
                }
                Ok(DONE)
            }
            Hypercall::TlbFlushVmid => {
                state.vm(x[0])?.tlb.clear();
                Ok(DONE)
            }
            Hypercall::MemcacheTopup => {
                let (handle, _) = self.loaded()?;
                need(state.exclusive(x[0]), Refusal::NotPermitted)?;
                state.donated.insert(x[0]);
                let vm = state.vm(handle)?;
                vm.free.push(x[0]);
                Ok(value(count(vm.free.len())))
            }
            Hypercall::MapGicv => {
                need(self.el2.gicv2, Refusal::Invalid)?;
                let (handle, _) = self.loaded()?;
                let free_tables = self.el2.free_tables;
                let vm = state.vm(handle)?;
                need(vm.gicv.is_none() && !vm.pages.contains_key(&x[0]), Refusal::NotPermitted)?;
                vm.take_table(x[0], free_tables)?;
                vm.gicv = Some(x[0]);
                Ok(DONE)
            }
            Hypercall::UnmapGicv => {
                let vm = state.vm(x[0])?;
                need(vm.gicv == Some(x[1]), Refusal::NotFound)?;
                vm.gicv = None;
                vm.drop_table(x[1]);
                Ok(DONE)
            }
            Hypercall::AuditVm => audit(state.vm(x[0])?, x[1]),
            Hypercall::VmStats => {
                let vm = state.vm(x[0])?;
                let tables = count(vm.tables.len()).saturating_add(2);
                let (x2, x3) = (count(vm.free.len()), count(vm.pages.len()));
                Ok(Ret { x2, x3, ..value(tables) })
            }
            Hypercall::Features => {
                let bits = if self.el2.gicv2 { 1 } else { 2 };
                Ok(Ret { x2: 40, x3: 4, x4: 7, ..value(bits) })
            }
            Hypercall::Version => Ok(value(1)),
            _ => self.life(state, call, x),
        }
    }

    fn share(&self, state: &mut State, x: [u64; 4]) -> Result<Ret, Refusal> {
        let [pfn, gfn, nr, prot] = x;
        let (handle, _) = self.loaded()?;
        let prot = Prot::from_bits(prot).filter(|_| nr == 1).ok_or(Refusal::Invalid)?;
        gfn_ok(gfn, 1)?;
        let alone = state.exclusive(pfn) || state.shares.contains_key(&pfn);
        let vm = state.vm(handle)?;
        need(!vm.dying, Refusal::Invalid)?;
        need(!vm.pages.contains_key(&gfn) && vm.gicv != Some(gfn), Refusal::NotPermitted)?;
        need(alone, Refusal::NotPermitted)?;
        vm.take_table(gfn, self.el2.free_tables)?;
        vm.pages.insert(gfn, Page { pfn, prot, young: true });
        let shares = state.shares.entry(pfn).or_insert(0);
        *shares = shares.saturating_add(1);
        Ok(DONE)
    }

    fn life(&self, state: &mut State, call: Hypercall, x: [u64; 4]) -> Result<Ret, Refusal> {
        match call {
            Hypercall::ReserveVm => Ok(value(state.reserve())),
            Hypercall::UnreserveVm => {
                let vm = state.vms.get(&x[0]).ok_or(Refusal::Invalid)?;
                need(!vm.live, Refusal::Invalid)?;
                state.vms.remove(&x[0]);
                Ok(DONE)
            }
            Hypercall::InitVm => {
                let pgd = [x[2], x[2].saturating_add(1)];
                need(x[2] & 1 == 0 && x[3] == 0, Refusal::Invalid)?;
                need((1..=count(MAX_VCPUS)).contains(&x[1]), Refusal::Invalid)?;
                need(pgd.iter().all(|pfn| state.exclusive(*pfn)), Refusal::NoMemory)?;
                let vm = state.vms.get_mut(&x[0]).ok_or(Refusal::Invalid)?;
                need(!vm.live, Refusal::Invalid)?;
                (vm.live, vm.vcpu_count, vm.pgd) = (true, x[1], x[2]);
                state.donated.extend(pgd);
                Ok(DONE)
            }
            Hypercall::InitVcpu => {
                let pinned = state.hyp.contains_key(&x[2]);
                let vm = state.vm(x[0])?;
                let fits = x[1] < vm.vcpu_count && !vm.vcpus.contains_key(&x[1]) && !vm.dying;
                need(fits, Refusal::Invalid)?;
                need(pinned, Refusal::NotPermitted)?;
                vm.vcpus.insert(x[1], x[2]);
                state.hyp.entry(x[2]).and_modify(|pins| *pins = pins.saturating_add(1));
                Ok(DONE)
            }
            Hypercall::VcpuLoad => {
                need(self.loaded.get().is_none(), Refusal::Invalid)?;
                let vm = state.vm(x[0])?;
                need(!vm.dying, Refusal::Invalid)?;
                need(vm.vcpus.contains_key(&x[1]), Refusal::NotFound)?;
                need(vm.loaded.insert(x[1]), Refusal::Busy)?;
                self.loaded.set(Some((x[0], x[1])));
                Ok(DONE)
            }
            Hypercall::VcpuPut => {
                let (handle, idx) = self.loaded()?;
                state.vm(handle)?.loaded.remove(&idx);
                self.loaded.set(None);
                Ok(DONE)
            }
            // The model has no registers to write to the run page.
            Hypercall::VcpuSyncState => self.loaded().map(|_| DONE),
            Hypercall::StartTeardownVm => {
                let vm = state.vm(x[0])?;
                need(!vm.dying && vm.loaded.is_empty(), Refusal::Invalid)?;
                vm.dying = true;
                Ok(DONE)
            }
            Hypercall::ReclaimVmPage => {
                let vm = state.vm(x[0])?;
                need(vm.dying, Refusal::Invalid)?;
                let pfn = vm.free.pop().ok_or(Refusal::NotFound)?;
                state.donated.remove(&pfn);
                Ok(value(pfn))
            }
            Hypercall::FinalizeTeardownVm => finalize(state, x[0]),
            _ => Err(Refusal::Invalid),
        }
    }
}

impl FakeVm {
    fn take_table(&mut self, gfn: u64, free: bool) -> Result<(), Refusal> {
        if free || self.tables.contains_key(&(gfn >> 9)) {
            return Ok(());
        }
        let table = self.free.pop().ok_or(Refusal::NoMemory)?;
        self.tables.insert(gfn >> 9, table);
        Ok(())
    }

    fn drop_table(&mut self, gfn: u64) {
        let first = (gfn >> 9) << 9;
        let used = self.pages.range(first..first.saturating_add(512)).next().is_some()
            || self.gicv.is_some_and(|gicv| gicv >> 9 == gfn >> 9);
        if !used && let Some(table) = self.tables.remove(&(gfn >> 9)) {
            self.free.push(table);
        }
    }
}

fn unshare(state: &mut State, x: [u64; 4]) -> Result<Ret, Refusal> {
    let [handle, gfn, nr, _] = x;
    let vm = state.vm(handle)?;
    need(nr == 1, Refusal::Invalid)?;
    gfn_ok(gfn, 1)?;
    let page = vm.pages.remove(&gfn).ok_or(Refusal::NotFound)?;
    vm.tlb.remove(&gfn);
    vm.drop_table(gfn);
    match state.shares.get_mut(&page.pfn) {
        Some(shares) if *shares > 1 => *shares = shares.saturating_sub(1),
        _ => {
            state.shares.remove(&page.pfn);
        }
    }
    Ok(DONE)
}

fn young(state: &mut State, x: [u64; 4]) -> Result<Ret, Refusal> {
    let [handle, gfn, nr, mkold] = x;
    need((1..=YOUNG_MAX).contains(&nr) && mkold <= 1, Refusal::Invalid)?;
    gfn_ok(gfn, nr)?;
    let mut bits = 0_u64;
    for (at, page) in state.vm(handle)?.pages.range_mut(gfn..gfn.saturating_add(nr)) {
        if page.young {
            bits |= 1 << at.saturating_sub(gfn);
        }
        page.young &= mkold == 0;
    }
    Ok(Ret { x2: bits, ..value(u64::from(bits != 0)) })
}

fn audit(vm: &FakeVm, at: u64) -> Result<Ret, Refusal> {
    let pack = |prot: Prot, young: bool, device: bool| {
        prot.bits()
            | (PageState::SharedBorrowed.bits() << 8)
            | (u64::from(young) << 16)
            | (u64::from(device) << 17)
    };
    let gicv = vm.gicv.map(|gfn| (gfn, GICV, pack(Prot::RW, true, true)));
    let mut all: Vec<(u64, u64, u64)> =
        vm.pages.iter().map(|(gfn, p)| (*gfn, p.pfn, pack(p.prot, p.young, false))).collect();
    all.extend(gicv);
    all.sort_unstable();
    let mut rest = all.into_iter().skip_while(|(gfn, _, _)| *gfn < at);
    let (gfn, pfn, word) = rest.next().ok_or(Refusal::NotFound)?;
    let follows = |(n, (g, p, w)): &(u64, (u64, u64, u64))| {
        *g == gfn.saturating_add(*n) && *p == pfn.saturating_add(*n) && *w == word
    };
    let more = count((1..).zip(rest).take_while(follows).count());
    let nr = more.saturating_add(1);
    Ok(Ret { x2: gfn, x3: pfn, x4: word, x5: gfn.saturating_add(nr), ..value(nr) })
}

fn finalize(state: &mut State, handle: u64) -> Result<Ret, Refusal> {
    let vm = state.vm(handle)?;
    need(vm.dying, Refusal::Invalid)?;
    let mapped = count(vm.pages.len()).saturating_add(u64::from(vm.gicv.is_some()));
    let (x2, x3) = (mapped, count(vm.free.len()));
    if x2 != 0 || x3 != 0 {
        return Ok(Ret { x1: Refusal::Busy.code(), x2, x3, ..DONE });
    }
    let (pgd, runs) = (vm.pgd, vm.vcpus.clone());
    state.vms.remove(&handle);
    state.donated.remove(&pgd);
    state.donated.remove(&pgd.saturating_add(1));
    for run in runs.values() {
        state.hyp.entry(*run).and_modify(|pins| *pins = pins.saturating_sub(1));
    }
    Ok(DONE)
}
