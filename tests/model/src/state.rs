//! The abstract state: sets and maps, no more.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use hyp_abi::{Gfn, Handle, PageState, Pfn, Prot};

/// What never changes after boot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// RAM, as (first page, number of pages).
    pub ram: Vec<(Pfn, u64)>,
    /// Device pages that the host may not touch, as (first page, number of pages).
    pub private: Vec<(Pfn, u64)>,
    /// How many pages the host's address space has.
    pub host_pages: u64,
    /// How many pages a guest's IPA space has.
    pub guest_pages: u64,
    /// The GICv2 virtual CPU interface, if the machine has one with a page of its own.
    pub gicv: Option<Pfn>,
    /// How many CPUs there are.
    pub cpus: usize,
    /// Most pages that a vCPU's memcache holds.
    pub memcache: usize,
}

impl World {
    /// Whether a page is RAM.
    #[must_use]
    pub fn is_ram(&self, pfn: Pfn) -> bool {
        within(&self.ram, pfn)
    }
    /// Whether a page is a device that the host may not touch.
    #[must_use]
    pub fn is_private(&self, pfn: Pfn) -> bool {
        within(&self.private, pfn)
    }
}

fn within(ranges: &[(Pfn, u64)], pfn: Pfn) -> bool {
    ranges.iter().any(|(first, n)| pfn.since(*first).is_some_and(|i| i < *n))
}

/// One page of RAM as its three parties see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Page {
    /// The host's view.
    pub host: PageState,
    /// EL2's view.
    pub hyp: PageState,
    /// In how many (VM, gfn) it is mapped.
    pub shares: u32,
    /// How often EL2 relies on it.
    pub pins: u16,
}

impl Page {
    /// An ordinary page of the host: what every page is at boot unless it is EL2's.
    pub const HOST: Self =
        Self { host: PageState::Owned, hyp: PageState::NoPage, shares: 0, pins: 0 };
    /// A page of EL2.
    pub const EL2: Self =
        Self { host: PageState::NoPage, hyp: PageState::Owned, shares: 0, pins: 0 };
}

/// One mapping of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// The page.
    pub pfn: Pfn,
    /// The guest's rights.
    pub prot: Prot,
    /// Accessed since last aged.
    pub young: bool,
    /// It is the GICV page, no RAM and never shared.
    pub device: bool,
}

/// A virtual CPU.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vcpu {
    /// Its run page.
    pub run: Pfn,
    /// How many pages its memcache has.
    pub memcache: usize,
    /// The CPU it is loaded on.
    pub on: Option<usize>,
    /// Which entry flags would answer what it last exited with: bits of `hyp_abi::run::entry`.
    pub answers: u64,
}

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Only a handle.
    Reserved,
    /// It may run.
    Ready,
    /// It may not; what it holds goes back.
    Dying,
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vm {
    /// Its name for life.
    pub handle: Handle,
    /// Where it is in its life.
    pub phase: Phase,
    /// One place for each vCPU that `init_vm` promised.
    pub vcpus: Vec<Option<Vcpu>>,
    /// First of its two root pages; meaningless while reserved.
    pub root: Option<Pfn>,
    /// The guest's memory.
    pub maps: BTreeMap<Gfn, Map>,
    /// It has run, so that any mapping may be young without a call's doing.
    pub ran: bool,
    /// Every page donated for its tables and not yet back with the host: in memcaches, in use as
    /// tables, or free. The roots are not among them.
    pub donated: BTreeSet<Pfn>,
}

impl Vm {
    /// A slot just reserved.
    #[must_use]
    pub fn reserved(handle: Handle) -> Self {
        Self {
            handle,
            phase: Phase::Reserved,
            vcpus: Vec::new(),
            root: None,
            maps: BTreeMap::new(),
            ran: false,
            donated: BTreeSet::new(),
        }
    }

    /// The tables that the mappings need below the root: one for each 2 MiB and one for each
    /// 1 GiB of the IPA space in which anything is mapped.
    #[must_use]
    pub fn tables(&self) -> usize {
        self.spans(9) + self.spans(18)
    }

    /// In how many spans of `1 << shift` gfns anything is mapped.
    fn spans(&self, shift: u32) -> usize {
        let first_from = |from| self.maps.range(from..).next().map(|(gfn, _)| gfn.raw() >> shift);
        let start = |span: u64| Gfn::new(span << shift);
        let first = start(0).and_then(first_from);
        core::iter::successors(first, |span| first_from(start(span + 1)?)).count()
    }

    /// Tables to add before `gfn` can be mapped.
    #[must_use]
    pub fn tables_missing(&self, gfn: Gfn) -> usize {
        let absent = |shift: u32| {
            let first = Gfn::new(gfn.raw() >> shift << shift).unwrap_or(gfn);
            let next = self.maps.range(first..).next();
            next.is_none_or(|(found, _)| found.raw() >> shift != gfn.raw() >> shift)
        };
        usize::from(absent(9)) + usize::from(absent(18))
    }

    /// Donated pages that are in no memcache and no table.
    #[must_use]
    pub fn free(&self) -> usize {
        let cached: usize = self.vcpus.iter().flatten().map(|v| v.memcache).sum();
        self.donated.len() - cached - self.tables()
    }

    /// Whether any vCPU is loaded.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.vcpus.iter().flatten().any(|v| v.on.is_some())
    }
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What never changes.
    pub world: World,
    /// Pages that are not [`Page::HOST`].
    pub pages: BTreeMap<Pfn, Page>,
    /// VM slots.
    pub slots: Vec<Option<Vm>>,
}

impl State {
    /// The state at boot: all RAM is the host's but `el2`.
    #[must_use]
    pub fn boot(world: World, el2: impl IntoIterator<Item = Pfn>) -> Self {
        let pages = el2.into_iter().map(|p| (p, Page::EL2)).collect();
        Self { world, pages, slots: (0..hyp_abi::hcall::MAX_VMS).map(|_| None).collect() }
    }

    /// A page as its parties see it.
    #[must_use]
    pub fn page(&self, pfn: Pfn) -> Page {
        self.pages.get(&pfn).copied().unwrap_or(Page::HOST)
    }

    /// Changes a page.
    pub fn set(&mut self, pfn: Pfn, page: Page) {
        if page == Page::HOST {
            self.pages.remove(&pfn);
        } else {
            self.pages.insert(pfn, page);
        }
    }

    /// Whether the host may touch a page: if so, EL2 answers its abort with a mapping.
    #[must_use]
    pub fn host_may(&self, pfn: Pfn) -> bool {
        let own = self.page(pfn).host != PageState::NoPage;
        pfn.raw() < self.world.host_pages && own && !self.world.is_private(pfn)
    }

    /// A guest accessed one of its pages. Only one that has run can.
    pub fn touched(&mut self, slot: usize, gfn: Gfn) {
        let vm = self.slots.get_mut(slot).and_then(Option::as_mut).filter(|vm| vm.ran);
        if let Some(map) = vm.and_then(|vm| vm.maps.get_mut(&gfn)) {
            map.young = true;
        }
    }

    /// The slot of a VM that has been initialised.
    #[must_use]
    pub fn vm(&self, handle: Handle) -> Option<usize> {
        self.slots.iter().position(|s| {
            s.as_ref().is_some_and(|vm| vm.handle == handle && vm.phase != Phase::Reserved)
        })
    }

    /// Slot and index of the vCPU loaded on a CPU.
    #[must_use]
    pub fn loaded(&self, cpu: usize) -> Option<(usize, usize)> {
        self.slots.iter().enumerate().find_map(|(s, slot)| {
            let vcpus = &slot.as_ref()?.vcpus;
            let on = |v: &Option<Vcpu>| v.as_ref().is_some_and(|v| v.on == Some(cpu));
            Some((s, vcpus.iter().position(on)?))
        })
    }
}
