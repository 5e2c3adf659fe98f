//! The abstract state: sets and maps, no more.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use hyp_abi::{Gfn, Handle, PageState, Pfn, Prot};

/// What never changes after boot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// RAM, as (first page, number of pages).
    pub ram: Vec<(Pfn, u64)>,
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
        self.ram.iter().any(|(first, n)| pfn.since(*first).is_some_and(|i| i < *n))
    }
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
            donated: BTreeSet::new(),
        }
    }

    /// The tables that a set of mappings needs below the root: one for each 2 MiB and one for
    /// each 1 GiB of the IPA space in which anything is mapped.
    #[must_use]
    pub fn tables(&self) -> usize {
        let covers =
            |shift: u32| self.maps.keys().map(|g| g.raw() >> shift).collect::<BTreeSet<_>>().len();
        covers(9) + covers(18)
    }

    /// Tables to add before `gfn` can be mapped.
    #[must_use]
    pub fn tables_missing(&self, gfn: Gfn) -> usize {
        let absent = |shift: u32| !self.maps.keys().any(|g| g.raw() >> shift == gfn.raw() >> shift);
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
