//! One hypervisor on the fake machine, and the specification beside it.

use hyp_abi::run::ENTRY_FLAGS;
use hyp_abi::{Gfn, Handle, Hypercall, Ipa, PageState, Pfn, Prot, Ret, Vmid};
use hyp_core::fake::{Access, FakeMachine, become_cpu};
use hyp_core::hyp::{Config, CpuLocal, Gic, GuestNext, HostAbort, Hyp, Outcome, RawExit};
use hyp_core::memmap::{MemMap, PageRange};
use hyp_core::sysreg::ID_REGISTERS;
use hyp_model::{Page, State, World, broken};
use hyp_oracle::{Divergence, Oracle};
use hyp_s2::{Geometry, Regime, TablePfn};

pub(crate) const CPUS: usize = 3;
pub(crate) const EL2_FIRST: u64 = 0x40200;
const EL2_PAGES: u64 = 64;
pub(crate) const GICV: u64 = 0x8040;
pub(crate) const GICH: u64 = 0x8030;

/// The pair under test.
#[derive(Debug)]
pub struct Rig {
    hyp: Hyp<FakeMachine>,
    cpus: Vec<CpuLocal>,
    oracle: Oracle,
    pub(crate) handles: Vec<u64>,
    /// Calls so far.
    pub calls: u64,
    /// Refused calls so far.
    pub refused: u64,
}

fn pfn(n: u64) -> Pfn {
    Pfn::new(n).expect("a frame")
}

fn sound<T>(judged: Result<T, Divergence>) -> T {
    judged.unwrap_or_else(|why| panic!("{why}"))
}

impl Rig {
    /// A machine with two RAM regions, a hole, EL2's memory in the middle of the first region.
    #[must_use]
    pub fn new() -> Self {
        Self::with_ram([(0x40000, 0x400), (0x80000, 0x40)])
    }

    /// The same with other RAM, as (first page, number of pages); the first region holds EL2's.
    #[must_use]
    pub fn with_ram(ram: [(u64, u64); 2]) -> Self {
        let range = |first, n| PageRange::of(pfn(first), n).expect("a range");
        let memmap = MemMap::new(ram.map(|(first, n)| range(first, n))).expect("a memory map");
        let machine = FakeMachine::new(&memmap, CPUS);
        let owned = range(EL2_FIRST, EL2_PAGES);
        let host_root = TablePfn::new(pfn(EL2_FIRST));
        let hyp = Hyp::new(
            machine,
            Config {
                memmap,
                el2_owned: &[owned],
                private_devices: &[range(GICH, 2), range(GICV, 2)],
                host_root,
                host_ipa_bits: 40,
                guest_ipa_bits: 40,
                pool: &[range(EL2_FIRST + 2, EL2_PAGES - 2)],
                gic: Gic::V2 { gicv: Some(pfn(GICV)) },
                nr_lrs: 4,
                lr_priority_bits: 5,
                id_values: [0; ID_REGISTERS.len()],
                vtimer_intid: 27,
            },
        )
        .expect("a hypervisor");
        let geometry = Geometry::new(40).expect("40 bits");
        hyp.machine().watch(Regime { vmid: Vmid::HOST, root: host_root }, geometry);
        let world = World {
            ram: ram.map(|(first, n)| (pfn(first), n)).to_vec(),
            private: vec![(pfn(GICH), 2), (pfn(GICV), 2)],
            host_pages: 1 << 28,
            guest_pages: 1 << 28,
            gicv: Some(pfn(GICV)),
            cpus: CPUS,
            memcache: 32,
        };
        let model = State::boot(world, owned.iter());
        let cpus = (0..CPUS).map(CpuLocal::new).collect();
        let oracle = Oracle::new(model, u32::MAX);
        Self { hyp, cpus, oracle, handles: vec![], calls: 0, refused: 0 }
    }

    /// The state that both sides agree on.
    #[must_use]
    pub fn model(&self) -> &State {
        self.oracle.model()
    }

    /// The hypervisor alone. What is called here, the specification does not learn.
    #[must_use]
    pub fn hyp(&self) -> &Hyp<FakeMachine> {
        &self.hyp
    }

    /// A CPU as EL2 has it.
    pub fn cpu(&mut self, cpu: usize) -> &mut CpuLocal {
        &mut self.cpus[cpu]
    }

    /// `vcpu_run`, with what the run page says; whether it is accepted.
    pub fn run(&mut self, cpu: usize) -> bool {
        self.call(cpu, [Hypercall::VcpuRun.function_id(), 0, 0, 0, 0]).is_none()
    }

    /// The guest on a CPU exits.
    ///
    /// # Panics
    /// If the host is told what no exit can say.
    pub fn exit(&mut self, cpu: usize, raw: RawExit) -> GuestNext {
        become_cpu(cpu);
        let next = sound(self.oracle.guest_exit(&self.hyp, &mut self.cpus[cpu], raw));
        self.hyp.machine().settle();
        let violations = self.hyp.machine().take_violations();
        assert!(violations.is_empty(), "{raw:x?}: {violations:?}");
        next
    }

    /// The run page of the vCPU loaded on a CPU.
    #[must_use]
    pub fn run_page(&self, cpu: usize) -> Option<Pfn> {
        let (slot, idx) = self.model().loaded(cpu)?;
        self.model().slots[slot].as_ref()?.vcpus[idx].as_ref().map(|vcpu| vcpu.run)
    }

    /// One call on both sides.
    ///
    /// # Panics
    /// On any difference.
    pub fn call(&mut self, cpu: usize, regs: [u64; 5]) -> Option<Ret> {
        become_cpu(cpu);
        self.calls += 1;
        let before = self.hyp.machine().snapshot();
        let page = self.run_page(cpu);
        let entry = || page.map_or(0, |page| self.hyp.machine().peek(page, ENTRY_FLAGS));
        let judged = self.oracle.hypercall(&self.hyp, &mut self.cpus[cpu], regs, entry);
        let outcome = sound(judged);
        let name = Hypercall::from_function_id(regs[0]);
        let seen = if let Outcome::Ret(ret) = outcome { ret.x1 } else { 0 };
        if seen < 0 || outcome == Outcome::NotSupported {
            let same = self.hyp.machine().snapshot() == before;
            assert!(same, "{name:?} {regs:x?} was refused and changed something");
        }
        self.refused += u64::from(seen < 0);
        if name == Some(Hypercall::ReserveVm) && seen > 0 {
            let handle = seen as u64;
            assert!(!self.handles.contains(&handle), "handle {handle:#x} minted twice");
            self.handles.push(handle);
        }
        if name == Some(Hypercall::InitVm) && seen == 0 {
            let regime = Regime {
                vmid: Vmid::new(Handle::from_raw(regs[1]).index() as u8 + 1),
                root: TablePfn::new(pfn(regs[3])),
            };
            self.hyp.machine().watch(regime, Geometry::new(40).expect("40 bits"));
        }
        self.hyp.machine().settle();
        let violations = self.hyp.machine().take_violations();
        assert!(violations.is_empty(), "{name:?} {regs:x?}: {violations:?}");
        match outcome {
            Outcome::Ret(ret) => Some(ret),
            _ => None,
        }
    }

    /// Compares the whole abstract state.
    ///
    /// # Panics
    /// On any difference.
    pub fn compare(&mut self) {
        assert_eq!(broken(self.model()), None);
        self.compare_ownership();
        become_cpu(0);
        sound(self.oracle.compare(&self.hyp, &mut self.cpus[0]));
    }

    /// The audit stream against the specification's pages.
    fn compare_ownership(&mut self) {
        let mut at = 0u64;
        let mut covered = 0u64;
        loop {
            become_cpu(0);
            let regs = [Hypercall::AuditHost.function_id(), at, 0, 0, 0];
            let Outcome::Ret(ret) = self.hyp.hypercall(&mut self.cpus[0], regs) else {
                panic!("audit_host did not answer")
            };
            if ret.x1 < 0 {
                break;
            }
            for n in ret.x2..ret.x2 + ret.x1 as u64 {
                let found = Page {
                    host: PageState::from_bits(ret.x3),
                    hyp: PageState::from_bits(ret.x3 >> 8),
                    shares: ret.x4 as u32,
                    pins: (ret.x4 >> 32) as u16,
                };
                assert_eq!(found, self.model().page(pfn(n)), "page {n:#x}: found, expected");
                covered += 1;
            }
            assert!(ret.x5 > at, "the audit does not move on");
            at = ret.x5;
        }
        let pages = self.model().world.ram.iter().map(|(_, n)| n).sum::<u64>();
        assert_eq!(covered, pages, "the audit left pages out");
    }

    /// The host touches a page: it gets exactly its own, wherever TLBs stand.
    ///
    /// # Panics
    /// If it can or cannot, against the specification.
    pub fn touch(&mut self, cpu: usize, page: Pfn) {
        become_cpu(cpu);
        let ipa = page.pa().raw();
        let ipa = Ipa::new(ipa).expect("an address");
        let private =
            (GICH..GICH + 2).contains(&page.raw()) || (GICV..GICV + 2).contains(&page.raw());
        let beyond = page.raw() >= 1 << 28;
        let may = !beyond && !private && self.model().page(page).host != PageState::NoPage;
        let m = self.hyp.machine();
        let mut reached = m.access(cpu, Vmid::HOST, ipa, Access::Write).ok();
        if reached.is_none() {
            match sound(self.oracle.host_abort(&self.hyp, &mut self.cpus[cpu], ipa)) {
                HostAbort::Retry => {
                    reached = m.access(cpu, Vmid::HOST, ipa, Access::Write).ok();
                    assert!(reached.is_some(), "told to retry {page:?} in vain");
                }
                HostAbort::Inject => {}
            }
        }
        assert_eq!(reached.is_some(), may, "the host touched {page:?}");
        if let Some(pa) = reached {
            assert_eq!(pa.raw(), ipa.raw(), "the host's map is the identity");
        }
        m.settle();
        let violations = m.take_violations();
        assert!(violations.is_empty(), "touch {page:?}: {violations:?}");
    }

    /// A guest touches a gfn: it reaches exactly what is mapped, with exactly those rights.
    ///
    /// # Panics
    /// If it does not.
    pub fn guest_touch(&mut self, cpu: usize, slot: usize, gfn: Gfn, write: bool) {
        let Some(vm) = &self.model().slots[slot] else { return };
        if vm.root.is_none() {
            return;
        }
        let kind = if write { Access::Write } else { Access::Read };
        let right = if write { Prot::W } else { Prot::R };
        let m = self.hyp.machine();
        let vmid = Vmid::new(slot as u8 + 1);
        let found = m.access(cpu, vmid, gfn.ipa(), kind).ok().map(hyp_abi::Pa::frame);
        let Some(map) = vm.maps.get(&gfn).copied() else {
            return assert_eq!(found, None, "{gfn:?} of {:?} is not mapped", vm.handle);
        };
        // A right taken away without a flush, or a cleared access flag, may live on in a TLB.
        if let Some(found) = found {
            assert_eq!(found, map.pfn, "{gfn:?} of {:?}", vm.handle);
        } else if map.young && map.prot.contains(right) {
            // `relax_perms` tells its own CPU only, so another may take one fault more; what it
            // remembers is the lack of a right, and nothing else.
            let handle = vm.handle.raw();
            self.call(cpu, [Hypercall::TlbFlushVmid.function_id(), handle, 0, 0, 0]);
            let found = self.hyp.machine().access(cpu, vmid, gfn.ipa(), kind);
            assert_eq!(found.ok().map(hyp_abi::Pa::frame), Some(map.pfn), "{gfn:?} was refused");
        }
    }
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}
