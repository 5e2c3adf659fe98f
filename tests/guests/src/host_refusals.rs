//! A host that asks for what it must not get. Every hypercall with hostile values and in the wrong
//! order: the exact code comes back, and nothing that EL2's audit shows has changed.
//!
//! The codes are those of the hypercall table (`hyp_abi::hcall`), which follow pKVM's.

use core::cell::Cell;

use hyp_abi::hcall::{BASE, MAX_VMS};
use hyp_abi::run::{self, entry};
use hyp_abi::{Hypercall, PageState, Refusal};

use Hypercall as H;
use Refusal::{Busy, Invalid, NoMemory, NotFound, NotPermitted, OutOfRange, Raced};

use crate::hcall::{self, Answer};
use crate::host::{self, Vm, World, digest, must, pfn, poke, refusal};
use crate::psci::{self, Regs};
use crate::{check, check_eq, gic, machine, println, trap};

const ONES: u64 = u64::MAX;
const TOP: u64 = 1 << 63;
/// First frame number that no 48-bit address has.
const FRAMES: u64 = 1 << 36;
/// Where each VM has its one page.
const GFN: u64 = 0x40000;
const RWX: u64 = 15;

/// VMs in every stage of life.
struct Scene {
    world: World,
    /// Ready, two vCPUs, one initialised, one page.
    a: Vm,
    a_page: u64,
    /// Ready, with a page.
    b: Vm,
    b_page: u64,
    /// Only reserved.
    reserved: u64,
    /// Dying, with a page still mapped.
    dying: Vm,
    dying_page: u64,
    /// Given back before it was initialised.
    stale: u64,
    /// Ended in order.
    gone: u64,
    el2: u64,
    free: u64,
    /// The digest after a call, and how many calls had been made by then.
    last: Cell<(u64, u64)>,
}

/// The payload.
pub fn run() {
    let clean = digest(&[]);
    unknown_ids();
    let s = Scene::build();
    println!("no vCPU loaded");
    for loaded in [false, true] {
        if loaded {
            println!("a vCPU loaded");
            s.a.load();
        }
        s.ownership();
        s.lives(loaded);
        s.by_handle();
        s.reads();
        if loaded {
            s.mappings();
            s.running();
            Vm::put();
        } else {
            s.nothing_loaded();
        }
    }
    s.sharing();
    s.full();
    s.end();
    check_eq!(digest(&[]), clean, "after all that every page is the host's again");
}

fn unknown_ids() {
    println!("unknown functions");
    let before = digest(&[]);
    let known = |n: u64| Hypercall::from_function_id(u64::from(BASE) + n).is_some();
    let mut wrong = 0;
    for n in (0..0x200).chain([0x3ff, 0x7fff, 0xffff]).filter(|n| !known(*n)) {
        let a = hcall::raw(u64::from(BASE) + n, [1, 2, 3, 4]);
        wrong += u64::from(a.x0 != ONES);
    }
    check_eq!(wrong, 0, "numbers below, between and above the table answer -1");
    for id in [
        0,
        1,
        9,
        38,
        0x8400_0000,
        0x8600_0009,
        0x8600_0026,
        0x4600_0026,
        0x8600_ff01,
        0xc400_0003,
        0xc500_0026,
        0xc601_0026,
        0xc680_0026,
        0xffff_ffff,
        0x7fff_ffff,
        ONES,
        TOP,
    ] {
        check_eq!(hcall::raw(id, [0; 4]).x0, ONES, "function {id:#x} answers -1");
    }
    for (name, call) in [("HVC", psci::hvc_imm as fn(&mut Regs)), ("SMC", psci::smc_imm)] {
        let mut regs: Regs = [0; 18];
        regs[0] = H::ReserveVm.function_id();
        trap::arm();
        call(&mut regs);
        let undefined = trap::disarm().is_some_and(|f| f.ec() == trap::ec::UNDEF);
        check!(undefined || regs[0] == ONES, "{name} with a non-zero immediate is refused");
    }
    check_eq!(digest(&[]), before, "and none of them changed anything");
    let mut regs: Regs = core::array::from_fn(|i| 0x1111 * i as u64);
    regs[0] = 0xdead_beef << 32 | H::Version.function_id();
    let sent = regs;
    psci::hvc(&mut regs);
    check_eq!((regs[0], regs[1]), (0, hyp_abi::hcall::VERSION), "bits 63:32 of x0 do not count");
    check_eq!(regs[6..], sent[6..], "x6 to x17 are preserved");
}

impl Scene {
    fn build() -> Self {
        let el2 = host::el2_pfn();
        let vm_with_page = |vcpus| {
            let vm = Vm::new(vcpus);
            let page = pfn();
            vm.load();
            Vm::topup(2);
            must(H::ShareGuest, [page, GFN, 1, RWX]);
            Vm::put();
            (vm, page)
        };
        let (a, a_page) = vm_with_page(2);
        let (b, b_page) = vm_with_page(1);
        let (dying, dying_page) = vm_with_page(1);
        must(H::StartTeardownVm, [dying.handle, 0, 0, 0]);
        let stale = must(H::ReserveVm, [0; 4]);
        must(H::UnreserveVm, [stale, 0, 0, 0]);
        let old = Vm::new(1);
        old.end();
        let reserved = must(H::ReserveVm, [0; 4]);
        check!(reserved != stale && reserved != old.handle, "a handle is never used again");
        let world = World::ask();
        Self {
            world,
            a,
            a_page,
            b,
            b_page,
            reserved,
            dying,
            dying_page,
            stale,
            gone: old.handle,
            el2,
            free: pfn(),
            last: Cell::new((u64::MAX, 0)),
        }
    }

    fn handles(&self) -> [u64; 3] {
        [self.a.handle, self.b.handle, self.dying.handle]
    }

    fn expect(&self, what: &str, which: H, args: [u64; 4], expected: Answer) {
        // What was after the last call is before this one.
        let (made, last) = self.last.get();
        let before = if made == hcall::made() { last } else { digest(&self.handles()) };
        let answer = hcall::call(which, args);
        let after = digest(&self.handles());
        self.last.set((hcall::made(), after));
        check_eq!(answer, expected, "{}{args:x?}, {what}: {}", which.name(), expected.x1);
        if before != after {
            check!(false, "{}, {what}: nothing changed", which.name());
        }
    }

    fn refused(&self, what: &str, which: H, args: [u64; 4], code: Refusal) {
        self.expect(what, which, args, refusal(code));
    }

    /// Page numbers that are never the caller's to give, with the refusal of a call for which
    /// "not the host's" is `taken`.
    fn bad_pages(&self, taken: Refusal) -> [(&'static str, u64, Refusal); 16] {
        [
            ("all ones", ONES, Invalid),
            ("2^63", TOP, Invalid),
            ("its own page plus 2^52", self.free | 1 << 52, Invalid),
            ("2^36", FRAMES, Invalid),
            ("an address, not a page number", self.free << 12 | 1 << 40, Invalid),
            ("the last page there can be", FRAMES - 2, taken),
            ("a page that is no RAM", host::no_ram(), taken),
            ("the UART", machine::get().uart >> 12, taken),
            ("the GIC", gic::get().dist() >> 12, taken),
            ("EL2's own page", self.el2, taken),
            ("the next of EL2's", self.el2 + 1, taken),
            ("a VM's root", self.a.root, taken),
            ("another VM's root", self.b.root, taken),
            ("a run page", self.a.run >> 12, taken),
            ("a guest's page", self.a_page, taken),
            ("a dying VM's page", self.dying_page, taken),
        ]
    }

    fn bad_handles(&self) -> [(&'static str, u64); 11] {
        [
            ("handle 0", 0),
            ("handle all ones", ONES),
            ("handle 2^63", TOP),
            ("a slot without its generation", self.a.handle & 0xff),
            ("a generation that was not", self.a.handle + 0x100_0000),
            ("a handle plus 2^62", self.a.handle | 1 << 62),
            ("slot 64", (self.a.handle & !0xff) | 64),
            ("slot 255", self.a.handle | 0xff),
            ("an unreserved handle", self.stale),
            ("a finished VM", self.gone),
            ("a small number", 1),
        ]
    }

    /// share_hyp, unshare_hyp.
    fn ownership(&self) {
        for (what, page, code) in self.bad_pages(NotPermitted) {
            self.refused(what, H::ShareHyp, [page, 0, 0, 0], code);
            let code = if page == self.a.run >> 12 { Busy } else { code };
            self.refused(what, H::UnshareHyp, [page, 0, 0, 0], code);
        }
        self.refused("not shared", H::UnshareHyp, [self.free, 0, 0, 0], NotPermitted);
        must(H::ShareHyp, [self.free, 0, 0, 0]);
        self.refused("twice", H::ShareHyp, [self.free, 0, 0, 0], NotPermitted);
        must(H::UnshareHyp, [self.free, 0, 0, 0]);
        self.refused("twice", H::UnshareHyp, [self.free, 0, 0, 0], NotPermitted);
    }

    /// unreserve, init_vm, init_vcpu, load, teardown, reclaim.
    fn lives(&self, loaded: bool) {
        let (a, root) = (self.a.handle, host::pages(2) >> 12);
        let init = |h, n, root, flags| [h, n, root, flags];
        for (what, h) in self.bad_handles() {
            self.refused(what, H::UnreserveVm, [h, 0, 0, 0], Invalid);
            self.refused(what, H::InitVm, init(h, 1, root, 0), Invalid);
            self.refused(what, H::InitVcpu, [h, 0, self.free, 0], Invalid);
            self.refused(what, H::VcpuLoad, [h, 0, 0, 0], Invalid);
            self.refused(what, H::StartTeardownVm, [h, 0, 0, 0], Invalid);
            self.refused(what, H::FinalizeTeardownVm, [h, 0, 0, 0], Invalid);
            self.refused(what, H::ReclaimVmPage, [h, 0, 0, 0], Invalid);
        }
        for (what, h) in [("a ready VM", a), ("a dying VM", self.dying.handle)] {
            self.refused(what, H::UnreserveVm, [h, 0, 0, 0], Invalid);
            self.refused(what, H::InitVm, init(h, 1, root, 0), Invalid);
        }
        for n in [0, 9, 256, 257, 1 << 32 | 1, TOP, ONES] {
            self.refused("vCPU count", H::InitVm, init(self.reserved, n, root, 0), Invalid);
        }
        for flags in [1, TOP, ONES] {
            self.refused("flags", H::InitVm, init(self.reserved, 1, root, flags), Invalid);
        }
        self.refused("root unaligned", H::InitVm, init(self.reserved, 1, root + 1, 0), Invalid);
        for (what, page, code) in self.bad_pages(NoMemory) {
            let even = page & !1;
            if even != page && code == NoMemory {
                continue; // its even neighbour may well be free
            }
            self.refused(what, H::InitVm, init(self.reserved, 1, page, 0), code);
        }
        for half in [root, root + 1] {
            must(H::ShareHyp, [half, 0, 0, 0]);
            self.refused("half a root", H::InitVm, init(self.reserved, 1, root, 0), NoMemory);
            must(H::UnshareHyp, [half, 0, 0, 0]);
        }
        self.vcpus(loaded);
        self.refused("only reserved", H::StartTeardownVm, [self.reserved, 0, 0, 0], Invalid);
        self.refused("dying", H::StartTeardownVm, [self.dying.handle, 0, 0, 0], Invalid);
        if loaded {
            self.refused("loaded", H::StartTeardownVm, [a, 0, 0, 0], Invalid);
        }
        for (what, h) in [("only reserved", self.reserved), ("not dying", a)] {
            self.refused(what, H::FinalizeTeardownVm, [h, 0, 0, 0], Invalid);
            self.refused(what, H::ReclaimVmPage, [h, 0, 0, 0], Invalid);
        }
        let busy = Answer { rest: [1, 2, 0, 0], ..refusal(Busy) };
        let dying = self.dying.handle;
        self.expect("one page, two tables", H::FinalizeTeardownVm, [dying, 0, 0, 0], busy);
        self.refused("all tables in use", H::ReclaimVmPage, [dying, 0, 0, 0], NotFound);
    }

    fn vcpus(&self, loaded: bool) {
        let a = self.a.handle;
        must(H::ShareHyp, [self.free, 0, 0, 0]);
        for idx in [0, 2, 8, 255, 1 << 32 | 1, TOP, ONES] {
            self.refused("index", H::InitVcpu, [a, idx, self.free, 0], Invalid);
        }
        self.refused("only reserved", H::InitVcpu, [self.reserved, 0, self.free, 0], Invalid);
        self.refused("dying", H::InitVcpu, [self.dying.handle, 0, self.free, 0], Invalid);
        must(H::UnshareHyp, [self.free, 0, 0, 0]);
        self.refused("run page not shared", H::InitVcpu, [a, 1, self.free, 0], NotPermitted);
        for (what, page, code) in self.bad_pages(NotPermitted) {
            if page != self.a.run >> 12 {
                self.refused(what, H::InitVcpu, [a, 1, page, 0], code);
            }
        }
        if loaded {
            for (h, idx) in [(a, 0), (a, 1), (self.b.handle, 0)] {
                self.refused("one is loaded", H::VcpuLoad, [h, idx, 0, 0], Invalid);
            }
        } else {
            self.refused("not initialised", H::VcpuLoad, [a, 1, 0, 0], NotFound);
            for idx in [2, 8, 256, 1 << 32, TOP, ONES] {
                self.refused("index", H::VcpuLoad, [a, idx, 0, 0], Invalid);
            }
            for (what, h) in [("only reserved", self.reserved), ("dying", self.dying.handle)] {
                self.refused(what, H::VcpuLoad, [h, 0, 0, 0], Invalid);
            }
        }
    }

    /// Calls that name a VM and a range.
    fn by_handle(&self) {
        let (a, end) = (self.a.handle, self.world.guest_pages);
        let reserved = ("only reserved", self.reserved);
        for (what, h) in self.bad_handles().into_iter().chain([reserved]) {
            self.refused(what, H::UnshareGuest, [h, GFN, 1, 0], Invalid);
            self.refused(what, H::Wrprotect, [h, GFN, 1, 0], Invalid);
            self.refused(what, H::TestClearYoung, [h, GFN, 1, 1], Invalid);
            self.refused(what, H::TlbFlushVmid, [h, 0, 0, 0], Invalid);
            self.refused(what, H::AuditVm, [h, 0, 0, 0], Invalid);
            self.refused(what, H::UnmapGicv, [h, GFN, 0, 0], Invalid);
            self.refused(what, H::VmStats, [h, 0, 0, 0], Invalid);
        }
        for (what, gfn, code) in [
            ("gfn all ones", ONES, OutOfRange),
            ("gfn 2^63", TOP, OutOfRange),
            ("gfn plus 2^52", GFN | 1 << 52, OutOfRange),
            ("gfn 2^36", FRAMES, OutOfRange),
            ("gfn below 2^36", FRAMES - 1, OutOfRange),
            ("gfn at the end of the IPA space", end, OutOfRange),
        ] {
            self.refused(what, H::UnshareGuest, [a, gfn, 1, 0], code);
            self.refused(what, H::Wrprotect, [a, gfn, 1, 0], code);
            self.refused(what, H::TestClearYoung, [a, gfn, 1, 1], code);
            self.refused(what, H::UnmapGicv, [a, gfn, 0, 0], code);
        }
        for nr in [0, 2, 511, 512, 1 << 52 | 1, TOP, ONES] {
            self.refused("number of pages", H::UnshareGuest, [a, GFN, nr, 0], Invalid);
        }
        self.refused("nothing mapped", H::UnshareGuest, [a, GFN + 1, 1, 0], NotFound);
        self.refused("nothing mapped, no table", H::UnshareGuest, [a, 0x8_0000, 1, 0], NotFound);
        self.refused("no pages", H::Wrprotect, [a, GFN, 0, 0], Invalid);
        for nr in [end, end - GFN + 1, TOP, ONES] {
            self.refused("beyond the IPA space", H::Wrprotect, [a, GFN, nr, 0], OutOfRange);
        }
        for nr in [0, 65, TOP, ONES] {
            self.refused("number of pages", H::TestClearYoung, [a, GFN, nr, 1], Invalid);
        }
        for mkold in [2, TOP, ONES] {
            self.refused("mkold", H::TestClearYoung, [a, GFN, 1, mkold], Invalid);
        }
        self.refused("over the end", H::TestClearYoung, [a, end - 1, 2, 1], OutOfRange);
        self.refused("a guest page", H::UnmapGicv, [a, GFN, 0, 0], NotPermitted);
        self.refused("nothing mapped", H::UnmapGicv, [a, GFN + 1, 0, 0], NotFound);
    }

    /// Calls that only read.
    fn reads(&self) {
        for pfn in [FRAMES, FRAMES - 1, TOP, ONES] {
            self.refused("beyond RAM", H::AuditHost, [pfn, 0, 0, 0], NotFound);
        }
        for gfn in [self.world.guest_pages, FRAMES, TOP, ONES] {
            self.refused("beyond the IPA space", H::AuditVm, [self.a.handle, gfn, 0, 0], NotFound);
        }
    }

    fn nothing_loaded(&self) {
        self.refused("none loaded", H::VcpuRun, [0; 4], Invalid);
        self.refused("none loaded", H::VcpuPut, [0; 4], Invalid);
        self.refused("none loaded", H::VcpuSyncState, [0; 4], Invalid);
        self.refused("none loaded", H::ShareGuest, [self.free, GFN + 1, 1, RWX], Invalid);
        self.refused("none loaded", H::RelaxPerms, [GFN, RWX, 0, 0], Invalid);
        self.refused("none loaded", H::Mkyoung, [GFN, 0, 0, 0], Invalid);
        self.refused("none loaded", H::MemcacheTopup, [self.free, 0, 0, 0], Invalid);
        self.refused("none loaded", H::MapGicv, [0x8010, 0, 0, 0], Invalid);
    }

    /// Calls on the loaded vCPU's VM.
    fn mappings(&self) {
        let end = self.world.guest_pages;
        let free = self.free;
        for (what, page, code) in self.bad_pages(NotPermitted) {
            // A page that a guest has already may be shared again: that is no refusal.
            if page != self.a_page && page != self.dying_page {
                self.refused(what, H::ShareGuest, [page, GFN + 1, 1, RWX], code);
            }
            self.refused(what, H::MemcacheTopup, [page, 0, 0, 0], code);
        }
        self.refused("another VM's page", H::MemcacheTopup, [self.b_page, 0, 0, 0], NotPermitted);
        for (what, gfn, code) in [
            ("gfn all ones", ONES, OutOfRange),
            ("gfn 2^63", TOP, OutOfRange),
            ("gfn plus 2^52", (GFN + 1) | 1 << 52, OutOfRange),
            ("gfn 2^36", FRAMES, OutOfRange),
            ("gfn below 2^36", FRAMES - 1, OutOfRange),
            ("gfn at the end of the IPA space", end, OutOfRange),
            ("gfn taken", GFN, NotPermitted),
            ("no memory for tables", 0x8_0000, NoMemory),
        ] {
            self.refused(what, H::ShareGuest, [free, gfn, 1, RWX], code);
            if matches!(code, Invalid | OutOfRange) {
                self.refused(what, H::RelaxPerms, [gfn, RWX, 0, 0], code);
                self.refused(what, H::Mkyoung, [gfn, 0, 0, 0], code);
            }
            let code = if self.world.gicv2 { code } else { Invalid };
            self.refused(what, H::MapGicv, [gfn, 0, 0, 0], code);
        }
        for nr in [0, 2, 511, 512, 1 << 52 | 1, TOP, ONES] {
            self.refused("number of pages", H::ShareGuest, [free, GFN + 1, nr, RWX], Invalid);
        }
        // PX without UX, or UX without PX, is nothing that every CPU can do.
        for prot in [16, 31, 1 << 8 | 1, TOP | RWX, ONES, 1 | 4, 1 | 8] {
            self.refused("rights", H::ShareGuest, [free, GFN + 1, 1, prot], Invalid);
            self.refused("rights", H::RelaxPerms, [GFN, prot, 0, 0], Invalid);
        }
        self.refused("nothing mapped", H::RelaxPerms, [GFN + 1, RWX, 0, 0], Raced);
        self.refused("nothing mapped, no table", H::RelaxPerms, [0x8_0000, RWX, 0, 0], Raced);
        let fine = Answer { x0: 0, x1: 0, rest: [0; 4] };
        self.expect("a hole is no error", H::Mkyoung, [GFN + 1, 0, 0, 0], fine);
    }

    /// Entry words of the run page that must not let the guest run.
    fn running(&self) {
        let flags = self.a.run + 8 * run::ENTRY_FLAGS as u64;
        let pairs = entry::COMPLETE | entry::SET_RESULT;
        for bad in [
            entry::MASK + 1,
            TOP,
            ONES,
            1 << 32,
            pairs,
            entry::COMPLETE | entry::INJECT_ABORT,
            entry::INJECT_ABORT | entry::INJECT_UNDEF,
            entry::MASK,
        ] {
            poke(flags, bad);
            self.refused("entry flags", H::VcpuRun, [0; 4], Invalid);
        }
        poke(flags, 0);
    }

    /// One page in two VMs and at two gfns: it is the host's alone again after the last.
    fn sharing(&self) {
        println!("one page, three mappings");
        let state = |what: &str, shares: u64| {
            let run = host::page_state(self.a_page);
            let host = if shares == 0 { PageState::Owned } else { PageState::SharedOwned };
            let found = run.map(|r| (r.host, r.hyp, r.shares, r.pins));
            check_eq!(found, Some((host, PageState::NoPage, shares, 0)), "{what}: share count");
        };
        state("mapped once", 1);
        self.a.load();
        must(H::ShareGuest, [self.a_page, GFN + 1, 1, RWX]);
        state("at two gfns", 2);
        self.refused(
            "gfn taken by itself",
            H::ShareGuest,
            [self.a_page, GFN, 1, RWX],
            NotPermitted,
        );
        Vm::put();
        self.b.load();
        must(H::ShareGuest, [self.a_page, GFN + 1, 1, RWX]);
        Vm::put();
        state("in two VMs", 3);
        for (what, which, args) in [
            ("mapped", H::ShareHyp, [self.a_page, 0, 0, 0]),
            ("mapped", H::UnshareHyp, [self.a_page, 0, 0, 0]),
        ] {
            self.refused(what, which, args, NotPermitted);
        }
        must(H::UnshareGuest, [self.a.handle, GFN, 1, 0]);
        state("one taken back", 2);
        must(H::UnshareGuest, [self.b.handle, GFN + 1, 1, 0]);
        state("two taken back", 1);
        must(H::UnshareGuest, [self.a.handle, GFN + 1, 1, 0]);
        state("all taken back", 0);
    }

    /// Tables that run full.
    fn full(&self) {
        println!("full tables");
        self.b.load();
        let mut n = 0;
        let mut page = pfn();
        while hcall::call(H::MemcacheTopup, [page, 0, 0, 0]).x1 > 0 {
            n += 1;
            page = pfn();
        }
        check!((4..=64).contains(&n), "a memcache holds {n} pages, then is full");
        self.refused("full", H::MemcacheTopup, [page, 0, 0, 0], Busy);
        Vm::put();
        let mut handles = [0; MAX_VMS];
        let mut n = 0;
        loop {
            let a = hcall::call(H::ReserveVm, [0; 4]);
            if a.x1 < 0 {
                check_eq!(a, refusal(NoMemory), "the 65th VM is refused: -12");
                break;
            }
            if let Some(slot) = handles.get_mut(n) {
                *slot = a.x1 as u64;
            }
            n += 1;
            if n > MAX_VMS {
                break;
            }
        }
        check_eq!(n, MAX_VMS - 4, "there are 64 slots");
        self.refused("none free", H::ReserveVm, [0; 4], NoMemory);
        for h in &handles[..n.min(MAX_VMS)] {
            must(H::UnreserveVm, [*h, 0, 0, 0]);
        }
    }

    fn end(&self) {
        self.a.end();
        self.b.end();
        self.dying.drain();
        must(H::FinalizeTeardownVm, [self.dying.handle, 0, 0, 0]);
        must(H::UnshareHyp, [self.dying.run >> 12, 0, 0, 0]);
        must(H::UnreserveVm, [self.reserved, 0, 0, 0]);
        for h in [self.a.handle, self.dying.handle, self.reserved] {
            for which in [H::VmStats, H::TlbFlushVmid, H::FinalizeTeardownVm, H::UnreserveVm] {
                check_eq!(
                    hcall::call(which, [h, 0, 0, 0]),
                    refusal(Invalid),
                    "{} of an ended VM: -22",
                    which.name()
                );
            }
        }
    }
}
