//! One rule a hypercall. Each rule refuses first, in the order of the table's documentation, and
//! then changes the state; a refusal returns before any change.

use alloc::collections::BTreeMap;
use hyp_abi::hcall::{MAX_VCPUS, RANGE_BATCH, VERSION, YOUNG_MAX};
use hyp_abi::run::{Exit, entry, exit_flags};
use hyp_abi::{Gfn, Handle, Hypercall, PageState, Pfn, Prot, Refusal, Ret};

use crate::state::{Map, Page, Phase, State, Vcpu, Vm};

/// A hypercall as it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The CPU it arrives on.
    pub cpu: usize,
    /// x0..x4.
    pub regs: [u64; 5],
    /// The entry flags in the loaded vCPU's run page, as `vcpu_run` reads them; no other call does.
    pub entry: u64,
}

type Rule = Result<Ret, Refusal>;

/// What the specification answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// x0 = -1.
    NotSupported,
    /// x0 = 0 and these.
    Ret(Ret),
    /// `vcpu_run` is accepted; what follows is the guest's doing.
    Run,
    /// A call that reads only, whose answer another comparison checks.
    Reads,
}

/// The state and the answer after a call. `seen` is the implementation's answer, used only where
/// the specification leaves a choice: a new handle, the page that comes back, how far a batch goes,
/// which pages a guest that has run has touched.
#[must_use]
pub fn step(before: &State, call: Call, seen: Ret) -> (State, Answer) {
    let mut after = before.clone();
    let answer = step_in_place(&mut after, call, seen);
    if let Answer::Ret(ret) = answer {
        debug_assert!(ret.x1 >= 0 || after == *before, "a refusal changes nothing");
    }
    (after, answer)
}

/// The same for one state that is carried along.
pub fn step_in_place(s: &mut State, call: Call, seen: Ret) -> Answer {
    let [x0, a, b, c, d] = call.regs;
    let Some(which) = Hypercall::from_function_id(x0) else { return Answer::NotSupported };
    let cpu = call.cpu;
    let h = Handle::from_raw(a);
    let done = match which {
        Hypercall::Version => value(VERSION as i64),
        Hypercall::ShareHyp => share_hyp(s, a),
        Hypercall::UnshareHyp => unshare_hyp(s, a),
        Hypercall::ShareGuest => share_guest(s, cpu, a, b, c, d),
        Hypercall::UnshareGuest => unshare_guest(s, h, b, c),
        Hypercall::RelaxPerms => relax_perms(s, cpu, a, b),
        Hypercall::Wrprotect => wrprotect(s, h, b, c, seen.x2),
        Hypercall::TestClearYoung => test_clear_young(s, h, b, c, d, seen.x2),
        Hypercall::Mkyoung => mkyoung(s, cpu, a),
        Hypercall::ReserveVm => reserve_vm(s, seen.x1),
        Hypercall::UnreserveVm => unreserve_vm(s, h),
        Hypercall::InitVm => init_vm(s, h, b, c, d),
        Hypercall::InitVcpu => init_vcpu(s, h, b, c),
        Hypercall::StartTeardownVm => start_teardown(s, h),
        Hypercall::FinalizeTeardownVm => finalize_teardown(s, h),
        Hypercall::VcpuLoad => vcpu_load(s, cpu, h, b),
        Hypercall::VcpuPut => vcpu_put(s, cpu),
        Hypercall::VcpuSyncState => loaded(s, cpu).map(|_| Ret::default()),
        Hypercall::VcpuRun => match vcpu_run(s, cpu, call.entry) {
            Ok(()) => return Answer::Run,
            Err(refusal) => Err(refusal),
        },
        Hypercall::TlbFlushVmid => vm(s, h).map(|_| Ret::default()),
        Hypercall::MemcacheTopup => memcache_topup(s, cpu, a),
        Hypercall::ReclaimVmPage => reclaim_vm_page(s, h, seen.x1),
        Hypercall::MapGicv => map_gicv(s, cpu, a),
        Hypercall::UnmapGicv => unmap_gicv(s, h, b),
        Hypercall::VmStats => vm_stats(s, h),
        Hypercall::Features | Hypercall::AuditVm | Hypercall::AuditHost => return Answer::Reads,
    };
    let refused = |refusal: Refusal| Ret { x1: refusal.code(), ..Ret::default() };
    Answer::Ret(done.unwrap_or_else(refused))
}

/// A run on `cpu` ended, and EL2 told the host so in x1..x5: what the host may answer.
///
/// # Errors
/// What is wrong with it: no exit looks like that.
pub fn exit(s: &mut State, cpu: usize, told: Ret) -> Result<(), &'static str> {
    let (at, idx) = s.loaded(cpu).ok_or("nothing is loaded")?;
    let reason = u64::try_from(told.x1).ok().and_then(Exit::from_raw).ok_or("no such reason")?;
    let Ret { x3, x4, x5, .. } = told;
    let has = |flag: u64| x5 & flag != 0;
    let (plain, answers) = match reason {
        Exit::Irq => (told.x2 == 0 && x3 == 0 && x4 == 0 && x5 == 0, 0),
        Exit::Hvc | Exit::Smc => {
            (x3 == 0 && x4 == 0 && x5 == 0, entry::SET_RESULT | entry::INJECT_UNDEF)
        }
        Exit::Wfx | Exit::SError | Exit::Illegal => (x3 == 0 && x4 == 0 && x5 == 0, 0),
        Exit::Sysreg => {
            let written = if has(exit_flags::SYSREG_READ) { 0 } else { x4 };
            let plain = x3 == 0 && x4 == written && x5 & !exit_flags::SYSREG_READ == 0;
            (plain, entry::COMPLETE | entry::INJECT_UNDEF)
        }
        Exit::Abort => {
            let stored = has(exit_flags::DECODED) && has(exit_flags::WRITE);
            let known = x5 & !ABORT_FLAGS == 0;
            let emulable = has(exit_flags::DECODED) || has(exit_flags::CACHE_OP);
            let complete = if emulable { entry::COMPLETE } else { 0 };
            (known && (stored || x4 == 0), complete | entry::INJECT_ABORT)
        }
    };
    if !plain {
        return Err("it says more than an exit for that reason can");
    }
    if let Some(vcpu) = slot(s, at).vcpus[idx].as_mut() {
        vcpu.answers = answers;
    }
    Ok(())
}

/// All that `x5` of an abort may hold.
const ABORT_FLAGS: u64 = exit_flags::PERMISSION
    | exit_flags::FETCH
    | exit_flags::WRITE
    | exit_flags::S1PTW
    | exit_flags::DECODED
    | exit_flags::CACHE_OP
    | 3 << exit_flags::SIZE_SHIFT;

fn value(x1: i64) -> Rule {
    Ok(Ret { x1, ..Ret::default() })
}

const DONE: Rule = Ok(Ret { x1: 0, x2: 0, x3: 0, x4: 0, x5: 0 });

fn ensure(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}

fn pfn(raw: u64) -> Result<Pfn, Refusal> {
    Pfn::new(raw).ok_or(Refusal::Invalid)
}

/// A gfn inside the guest's IPA space.
fn gfn(s: &State, raw: u64) -> Result<Gfn, Refusal> {
    Gfn::new(raw).filter(|_| raw < s.world.guest_pages).ok_or(Refusal::OutOfRange)
}

/// A range of gfns, likewise.
fn range(s: &State, first: u64, nr: u64) -> Result<core::ops::Range<u64>, Refusal> {
    ensure(nr != 0, Refusal::Invalid)?;
    let end = first.checked_add(nr).ok_or(Refusal::OutOfRange)?;
    ensure(end <= s.world.guest_pages, Refusal::OutOfRange)?;
    Ok(first..end)
}

fn vm(s: &State, h: Handle) -> Result<usize, Refusal> {
    s.vm(h).ok_or(Refusal::Invalid)
}

fn loaded(s: &State, cpu: usize) -> Result<(usize, usize), Refusal> {
    s.loaded(cpu).ok_or(Refusal::Invalid)
}

/// # Panics
/// Never: `slot` comes from [`vm`] or [`loaded`].
fn slot(s: &mut State, slot: usize) -> &mut Vm {
    s.slots[slot].as_mut().expect("a slot that was found")
}

fn is(s: &State, p: Pfn, page: Page) -> bool {
    s.world.is_ram(p) && s.page(p) == page
}

fn share_hyp(s: &mut State, raw: u64) -> Rule {
    let p = pfn(raw)?;
    ensure(is(s, p, Page::HOST), Refusal::NotPermitted)?;
    let (host, hyp) = (PageState::SharedOwned, PageState::SharedBorrowed);
    s.set(p, Page { host, hyp, ..Page::HOST });
    DONE
}

fn unshare_hyp(s: &mut State, raw: u64) -> Rule {
    let p = pfn(raw)?;
    let page = s.page(p);
    let shared = page.host == PageState::SharedOwned && page.hyp == PageState::SharedBorrowed;
    ensure(s.world.is_ram(p) && shared, Refusal::NotPermitted)?;
    ensure(page.pins == 0, Refusal::Busy)?;
    s.set(p, Page::HOST);
    DONE
}

/// Takes the tables a new mapping needs from the VM's free pages, then from the memcache.
fn take_tables(s: &mut State, (at, idx): (usize, usize), g: Gfn) -> Result<(), Refusal> {
    let vm = slot(s, at);
    let missing = vm.tables_missing(g);
    if missing == 0 {
        return Ok(());
    }
    let from_cache = missing.saturating_sub(vm.free());
    let vcpu = vm.vcpus[idx].as_mut().expect("the loaded vCPU");
    ensure(from_cache <= vcpu.memcache, Refusal::NoMemory)?;
    vcpu.memcache -= from_cache;
    Ok(())
}

fn share_guest(s: &mut State, cpu: usize, p: u64, g: u64, nr: u64, prot: u64) -> Rule {
    let (at, idx) = loaded(s, cpu)?;
    let prot = Prot::from_bits(prot).ok_or(Refusal::Invalid)?;
    ensure(prot.contains(Prot::PX) == prot.contains(Prot::UX), Refusal::Invalid)?;
    ensure(nr == 1, Refusal::Invalid)?;
    let p = pfn(p)?;
    let g = gfn(s, g)?;
    ensure(!slot(s, at).maps.contains_key(&g), Refusal::NotPermitted)?;
    let page = s.page(p);
    let shared = Page { host: PageState::SharedOwned, shares: page.shares, ..Page::HOST };
    let fits = page == Page::HOST || (page == shared && page.shares > 0);
    ensure(s.world.is_ram(p) && fits, Refusal::NotPermitted)?;
    ensure(page.shares != u32::MAX, Refusal::Busy)?;
    take_tables(s, (at, idx), g)?;
    slot(s, at).maps.insert(g, Map { pfn: p, prot, young: true, device: false });
    s.set(p, Page { host: PageState::SharedOwned, shares: page.shares + 1, ..Page::HOST });
    DONE
}

fn unshare_guest(s: &mut State, h: Handle, g: u64, nr: u64) -> Rule {
    let at = vm(s, h)?;
    ensure(nr == 1, Refusal::Invalid)?;
    let g = gfn(s, g)?;
    let map = slot(s, at).maps.get(&g).copied().ok_or(Refusal::NotFound)?;
    ensure(!map.device, Refusal::NotPermitted)?;
    slot(s, at).maps.remove(&g);
    let page = s.page(map.pfn);
    let left = Page { shares: page.shares - 1, ..page };
    s.set(map.pfn, if left.shares == 0 { Page::HOST } else { left });
    DONE
}

fn relax_perms(s: &mut State, cpu: usize, g: u64, prot: u64) -> Rule {
    let (at, _) = loaded(s, cpu)?;
    let prot = Prot::from_bits(prot).ok_or(Refusal::Invalid)?;
    ensure(prot.contains(Prot::PX) == prot.contains(Prot::UX), Refusal::Invalid)?;
    let g = gfn(s, g)?;
    let map = slot(s, at).maps.get_mut(&g).ok_or(Refusal::Raced)?;
    ensure(!map.device, Refusal::NotPermitted)?;
    map.prot = map.prot.union(prot);
    DONE
}

/// A batch may end early, after at least one page; the caller resumes behind what is done.
fn wrprotect(s: &mut State, h: Handle, g: u64, nr: u64, seen: u64) -> Rule {
    let at = vm(s, h)?;
    let range = range(s, g, nr)?;
    let done = seen.clamp(nr.min(RANGE_BATCH), nr);
    for (_, map) in in_range(&mut slot(s, at).maps, range.start..range.start + done) {
        if !map.device {
            map.prot = map.prot.without(Prot::W);
        }
    }
    Ok(Ret { x2: done, ..Ret::default() })
}

fn in_range(
    maps: &mut BTreeMap<Gfn, Map>,
    range: core::ops::Range<u64>,
) -> impl Iterator<Item = (&Gfn, &mut Map)> {
    let from = Gfn::new(range.start).map(|first| maps.range_mut(first..));
    from.into_iter().flatten().take_while(move |(g, _)| g.raw() < range.end)
}

/// A guest may have touched more of its pages than calls have made young: `seen` says which.
fn test_clear_young(s: &mut State, h: Handle, g: u64, nr: u64, mkold: u64, seen: u64) -> Rule {
    let at = vm(s, h)?;
    ensure(nr <= YOUNG_MAX && mkold <= 1, Refusal::Invalid)?;
    let range = range(s, g, nr)?;
    let vm = slot(s, at);
    let seen = if vm.ran { seen } else { 0 };
    let mut bitmap = 0;
    for (g, map) in in_range(&mut vm.maps, range.clone()).filter(|(_, map)| !map.device) {
        let bit = 1 << (g.raw() - range.start);
        if map.young || seen & bit != 0 {
            bitmap |= bit;
            map.young = mkold == 0;
        }
    }
    Ok(Ret { x1: i64::from(bitmap != 0), x2: bitmap, ..Ret::default() })
}

fn mkyoung(s: &mut State, cpu: usize, g: u64) -> Rule {
    let (at, _) = loaded(s, cpu)?;
    let g = gfn(s, g)?;
    if let Some(map) = slot(s, at).maps.get_mut(&g) {
        map.young = true;
    }
    DONE
}

fn reserve_vm(s: &mut State, seen: i64) -> Rule {
    let free = s.slots.iter().position(Option::is_none).ok_or(Refusal::NoMemory)?;
    // Any name for a free slot, if no VM has it; that none ever had it the caller checks.
    let handle = Handle::from_raw(seen as u64);
    let at = if s.slots.get(handle.index()).is_some_and(Option::is_none) {
        handle.index()
    } else {
        free
    };
    ensure(seen > 0, Refusal::NoMemory)?;
    s.slots[at] = Some(Vm::reserved(handle));
    value(seen)
}

/// The slot of a handle that is only reserved.
fn reserved(s: &State, h: Handle) -> Result<usize, Refusal> {
    let fits =
        |v: &Option<Vm>| v.as_ref().is_some_and(|v| v.handle == h && v.phase == Phase::Reserved);
    s.slots.iter().position(fits).ok_or(Refusal::Invalid)
}

fn unreserve_vm(s: &mut State, h: Handle) -> Rule {
    let at = reserved(s, h)?;
    s.slots[at] = None;
    DONE
}

fn init_vm(s: &mut State, h: Handle, vcpus: u64, root: u64, flags: u64) -> Rule {
    let at = reserved(s, h)?;
    ensure((1..=MAX_VCPUS as u64).contains(&vcpus) && flags == 0, Refusal::Invalid)?;
    let root = pfn(root)?;
    let second = root.add(1).ok_or(Refusal::Invalid)?;
    ensure(root.raw() % 2 == 0, Refusal::Invalid)?;
    ensure(is(s, root, Page::HOST) && is(s, second, Page::HOST), Refusal::NoMemory)?;
    s.set(root, Page::EL2);
    s.set(second, Page::EL2);
    let vm = slot(s, at);
    vm.phase = Phase::Ready;
    vm.root = Some(root);
    vm.vcpus = (0..vcpus).map(|_| None).collect();
    DONE
}

fn init_vcpu(s: &mut State, h: Handle, idx: u64, run: u64) -> Rule {
    let at = vm(s, h)?;
    let vm = slot(s, at);
    let free = usize::try_from(idx).ok().and_then(|i| vm.vcpus.get(i)).is_some_and(Option::is_none);
    ensure(vm.phase == Phase::Ready && free, Refusal::Invalid)?;
    let run = pfn(run)?;
    let page = s.page(run);
    let shared = page.host == PageState::SharedOwned && page.hyp == PageState::SharedBorrowed;
    ensure(s.world.is_ram(run) && shared, Refusal::NotPermitted)?;
    ensure(page.pins != u16::MAX, Refusal::Busy)?;
    s.set(run, Page { pins: page.pins + 1, ..page });
    slot(s, at).vcpus[idx as usize] = Some(Vcpu { run, memcache: 0, on: None, answers: 0 });
    DONE
}

fn start_teardown(s: &mut State, h: Handle) -> Rule {
    let at = vm(s, h)?;
    let vm = slot(s, at);
    ensure(vm.phase == Phase::Ready && !vm.in_use(), Refusal::Invalid)?;
    vm.phase = Phase::Dying;
    DONE
}

/// The one refusal that says more: how many mappings and table pages are left.
fn finalize_teardown(s: &mut State, h: Handle) -> Rule {
    let at = vm(s, h)?;
    let vm = slot(s, at);
    ensure(vm.phase == Phase::Dying, Refusal::Invalid)?;
    let (mapped, donated) = (vm.maps.len() as u64, vm.donated.len() as u64);
    if mapped != 0 || donated != 0 {
        return Ok(Ret { x1: Refusal::Busy.code(), x2: mapped, x3: donated, ..Ret::default() });
    }
    let vm = s.slots[at].take().ok_or(Refusal::Invalid)?;
    for vcpu in vm.vcpus.iter().flatten() {
        let page = s.page(vcpu.run);
        s.set(vcpu.run, Page { pins: page.pins - 1, ..page });
    }
    for page in [vm.root, vm.root.and_then(|r| r.add(1))].into_iter().flatten() {
        s.set(page, Page::HOST);
    }
    DONE
}

fn vcpu_load(s: &mut State, cpu: usize, h: Handle, idx: u64) -> Rule {
    ensure(s.loaded(cpu).is_none(), Refusal::Invalid)?;
    let at = vm(s, h)?;
    let vm = slot(s, at);
    let place = usize::try_from(idx).ok().and_then(|i| vm.vcpus.get_mut(i));
    ensure(vm.phase == Phase::Ready, Refusal::Invalid)?;
    let vcpu = place.ok_or(Refusal::Invalid)?.as_mut().ok_or(Refusal::NotFound)?;
    ensure(vcpu.on.is_none(), Refusal::Busy)?;
    vcpu.on = Some(cpu);
    DONE
}

fn vcpu_put(s: &mut State, cpu: usize) -> Rule {
    let (at, idx) = loaded(s, cpu)?;
    slot(s, at).vcpus[idx].as_mut().expect("the loaded vCPU").on = None;
    DONE
}

/// The entry flags: known ones only, and at most one answer, which suits the last exit.
fn vcpu_run(s: &mut State, cpu: usize, flags: u64) -> Result<(), Refusal> {
    const ANSWERS: u64 =
        entry::COMPLETE | entry::SET_RESULT | entry::INJECT_ABORT | entry::INJECT_UNDEF;
    let (at, idx) = loaded(s, cpu)?;
    let vm = slot(s, at);
    let vcpu = vm.vcpus[idx].as_mut().expect("the loaded vCPU");
    let answers = flags & ANSWERS;
    let suits = answers.count_ones() <= 1 && answers & !vcpu.answers == 0;
    ensure(flags & !entry::MASK == 0 && suits, Refusal::Invalid)?;
    vcpu.answers = 0;
    vm.ran = true;
    Ok(())
}

fn memcache_topup(s: &mut State, cpu: usize, raw: u64) -> Rule {
    let (at, idx) = loaded(s, cpu)?;
    let p = pfn(raw)?;
    let has = slot(s, at).vcpus[idx].as_ref().expect("the loaded vCPU").memcache;
    ensure(is(s, p, Page::HOST), Refusal::NotPermitted)?;
    ensure(has < s.world.memcache, Refusal::Busy)?;
    s.set(p, Page::EL2);
    let vm = slot(s, at);
    vm.donated.insert(p);
    vm.vcpus[idx].as_mut().expect("the loaded vCPU").memcache = has + 1;
    value((has + 1) as i64)
}

fn reclaim_vm_page(s: &mut State, h: Handle, seen: i64) -> Rule {
    let at = vm(s, h)?;
    let vm = slot(s, at);
    ensure(vm.phase == Phase::Dying, Refusal::Invalid)?;
    ensure(vm.donated.len() > vm.tables(), Refusal::NotFound)?;
    // Which page comes back is the implementation's choice, as long as it is one of them.
    let chosen = u64::try_from(seen).ok().and_then(Pfn::new).filter(|p| vm.donated.contains(p));
    let page = chosen.or(vm.donated.first().copied()).ok_or(Refusal::NotFound)?;
    vm.donated.remove(&page);
    if vm.free_now_negative() {
        let cached = vm.vcpus.iter_mut().flatten().find(|v| v.memcache > 0);
        cached.ok_or(Refusal::NotFound)?.memcache -= 1;
    }
    s.set(page, Page::HOST);
    value(page.raw() as i64)
}

impl Vm {
    /// Whether the pages left no longer cover tables and memcaches: the last one taken came from
    /// a memcache.
    fn free_now_negative(&self) -> bool {
        let cached: usize = self.vcpus.iter().flatten().map(|v| v.memcache).sum();
        self.donated.len() < cached + self.tables()
    }
}

fn map_gicv(s: &mut State, cpu: usize, g: u64) -> Rule {
    let (at, idx) = loaded(s, cpu)?;
    let gicv = s.world.gicv.ok_or(Refusal::Invalid)?;
    let g = gfn(s, g)?;
    ensure(!slot(s, at).maps.contains_key(&g), Refusal::NotPermitted)?;
    take_tables(s, (at, idx), g)?;
    slot(s, at).maps.insert(g, Map { pfn: gicv, prot: Prot::RW, young: true, device: true });
    DONE
}

fn unmap_gicv(s: &mut State, h: Handle, g: u64) -> Rule {
    let at = vm(s, h)?;
    let g = gfn(s, g)?;
    let map = slot(s, at).maps.get(&g).copied().ok_or(Refusal::NotFound)?;
    ensure(map.device, Refusal::NotPermitted)?;
    slot(s, at).maps.remove(&g);
    DONE
}

fn vm_stats(s: &State, h: Handle) -> Rule {
    let at = vm(s, h)?;
    let vm = s.slots[at].as_ref().ok_or(Refusal::Invalid)?;
    let tables = vm.tables() as u64;
    let shared = vm.maps.values().filter(|m| !m.device).count() as u64;
    let idle = vm.donated.len() as u64 - tables;
    Ok(Ret { x1: (tables + 2) as i64, x2: idle, x3: shared, ..Ret::default() })
}
