//! The state as it is found, against the state as it is foreseen.
//!
//! Knows how numbers are stored (`hyp_core::word`, `hyp_core::pool`, by their documentation). Must not use their
//! code, which it judges.

use alloc::format;
use alloc::vec::Vec;

use hyp_abi::{Gfn, PageState, Pfn};
use hyp_core::machine::Machine;
use hyp_core::observe::{Chain, Place, VcpuFacts, VmFacts};
use hyp_core::{CpuLocal, Hyp};
use hyp_model::{Map, Page, Phase, State, Vcpu, Vm};

use crate::walk::{self, Host, Met};
use crate::{Divergence, Oracle, same};

/// In a metadata word: the page is in a free list.
const FREE: u64 = 1 << 4;

/// What a metadata word says. A page of EL2's counts table entries where others count pins.
fn page(word: u64) -> Page {
    let hyp = PageState::from_bits(word >> 2 ^ 3);
    let pins = if hyp == PageState::Owned { 0 } else { (word >> 16) as u16 };
    Page { host: PageState::from_bits(word), hyp, shares: (word >> 32) as u32, pins }
}

fn reader<M: Machine>(hyp: &Hyp<M>) -> impl Fn(Pfn, usize) -> u64 {
    |pfn, word| hyp.machine().read(pfn, word)
}

impl Oracle {
    /// Compares everything.
    ///
    /// # Errors
    /// Something differs.
    pub fn compare<M: Machine>(
        &mut self,
        hyp: &Hyp<M>,
        cpu: &mut CpuLocal,
    ) -> Result<(), Divergence> {
        self.rounds += 1;
        self.compare_pages(hyp)?;
        for slot in 0..self.model.slots.len() {
            self.compare_slot(hyp, cpu, slot)?;
            self.compare_memory(hyp, cpu, slot)?;
        }
        self.compare_host(hyp)
    }

    pub(crate) fn compare_page<M: Machine>(
        &self,
        hyp: &Hyp<M>,
        pfn: Pfn,
    ) -> Result<(), Divergence> {
        let ram = self.model.world.is_ram(pfn).then(|| self.model.page(pfn));
        same(format_args!("{pfn:?}"), hyp.observe_page(pfn).map(page), ram)
    }

    fn compare_pages<M: Machine>(&self, hyp: &Hyp<M>) -> Result<(), Divergence> {
        let mut special = self.model.pages.iter().peekable();
        for (first, nr) in &self.model.world.ram {
            for pfn in (0..*nr).filter_map(|n| first.add(n)) {
                let expected =
                    special.next_if(|(of, _)| **of == pfn).map_or(Page::HOST, |(_, p)| *p);
                let found = hyp.observe_page(pfn).map(page);
                if found != Some(expected) {
                    return same(format_args!("{pfn:?}"), found, Some(expected));
                }
            }
        }
        same("a page that is no RAM", special.next(), None)
    }

    /// This CPU's vCPU, and what it has of it.
    pub(crate) fn compare_loaded(&mut self, cpu: &CpuLocal) -> Result<(), Divergence> {
        let number = cpu.cpu();
        let found = cpu.observe_loaded();
        let expected = self.model.loaded(number).and_then(|(slot, idx)| {
            Some((self.model.slots.get(slot)?.as_ref()?.handle, idx as u64))
        });
        same("the loaded vCPU", found.map(|(handle, idx, _)| (handle, idx)), expected)?;
        if let Some(away) = self.away.get_mut(number) {
            *away = found.map(|(_, _, facts)| facts);
        }
        Ok(())
    }

    /// A VM's life, its vCPUs and its counts.
    pub(crate) fn compare_slot<M: Machine>(
        &self,
        hyp: &Hyp<M>,
        cpu: &mut CpuLocal,
        slot: usize,
    ) -> Result<(), Divergence> {
        let found = hyp.observe_slot(cpu, slot);
        let expected = self.model.slots.get(slot).and_then(Option::as_ref);
        let life = found.as_ref().map(|found| {
            let phase = match &found.vm {
                None => Phase::Reserved,
                Some(vm) if vm.dying => Phase::Dying,
                Some(_) => Phase::Ready,
            };
            (found.handle, phase, found.vm.as_ref().map(|vm| (vm.root, vm.nr_vcpus)))
        });
        let foreseen =
            expected.map(|vm| (vm.handle, vm.phase, vm.root.map(|root| (root, vm.vcpus.len()))));
        same(format_args!("slot {slot}"), life, foreseen)?;
        let Some((found, expected)) = found.and_then(|found| found.vm).zip(expected) else {
            return Ok(());
        };
        for (n, (found, expected)) in found.vcpus.iter().zip(&expected.vcpus).enumerate() {
            self.compare_vcpu(found, expected.as_ref())
                .map_err(|why| why.at(format_args!("vCPU {n} of slot {slot}")))?;
        }
        let mapped = found.shared + found.devices;
        same(format_args!("mappings of slot {slot}"), mapped, expected.maps.len() as u64)?;
        same(format_args!("table pages of slot {slot}"), found.given, expected.donated.len())
    }

    fn compare_vcpu(&self, found: &Place, expected: Option<&Vcpu>) -> Result<(), Divergence> {
        let facts = match (found, expected.and_then(|vcpu| vcpu.on)) {
            (Place::Here(facts), None) => Some(*facts),
            (Place::Loaded, Some(cpu)) => self.away.get(cpu).copied().flatten(),
            (Place::Absent, None) => None,
            (found, on) => {
                return Err(format!("found {found:x?}, expected on CPU {on:?}").into());
            }
        };
        let found = facts.map(|facts| (facts.run_page, facts.memcache.len));
        same("run page and memcache", found, expected.map(|vcpu| (vcpu.run, vcpu.memcache)))
    }

    pub(crate) fn compare_gfn<M: Machine>(
        &mut self,
        hyp: &Hyp<M>,
        slot: usize,
        gfn: Gfn,
    ) -> Result<(), Divergence> {
        let pages = self.model.world.guest_pages;
        let Some(vm) = self.model.slots.get(slot).and_then(Option::as_ref) else { return Ok(()) };
        let Some(root) = vm.root.filter(|_| gfn.raw() < pages) else { return Ok(()) };
        let (level, entry) = walk::one(&reader(hyp), root, gfn.raw());
        let found = walk::mapping(level, entry)?;
        let expected = vm.maps.get(&gfn).copied();
        compare_mapping(&mut self.model, slot, gfn, found, expected)
    }

    /// A VM's stage 2, and every page that was given for its tables.
    fn compare_memory<M: Machine>(
        &mut self,
        hyp: &Hyp<M>,
        cpu: &mut CpuLocal,
        slot: usize,
    ) -> Result<(), Divergence> {
        let Some(facts) = hyp.observe_slot(cpu, slot).and_then(|found| found.vm) else {
            return Ok(());
        };
        let Some(Some(vm)) = self.model.slots.get_mut(slot) else { return Ok(()) };
        let vm: &mut Vm = vm;
        let (mut donated, mut tables) = (Vec::new(), 0);
        let ran = vm.ran;
        let mut expected = vm.maps.iter_mut();
        walk::all(&reader(hyp), facts.root, self.model.world.guest_pages, &mut |met| match met {
            Met::Leaf(level, frame, entry) => {
                let found = walk::mapping(level, entry)?;
                let next = expected.next();
                if let (Some(found), Some((gfn, map))) = (found, next)
                    && gfn.raw() == frame
                {
                    map.young |= found.young && ran;
                    return same(format_args!("{gfn:?} of slot {slot}"), found, *map);
                }
                Err(format!("gfn {frame:#x} of slot {slot} is mapped, and should not be").into())
            }
            Met::Table(at, entries, root) => {
                if !root {
                    donated.push(at);
                    tables += 1;
                }
                compare_count(hyp, at, entries)
            }
        })?;
        let lost = expected.next().map(|(gfn, _)| *gfn);
        same(format_args!("a mapping of slot {slot} that is not there"), lost, None)?;
        same(format_args!("tables of slot {slot}"), (tables, facts.tables), {
            let tables = vm.tables();
            (tables, tables)
        })?;
        for chain in self.chains(cpu, slot, &facts) {
            follow(hyp, chain, &mut donated)?;
        }
        donated.sort_unstable();
        let Some(Some(vm)) = self.model.slots.get(slot) else { return Ok(()) };
        if donated.iter().eq(&vm.donated) {
            return Ok(());
        }
        same(
            format_args!("table pages of slot {slot}"),
            donated,
            vm.donated.iter().copied().collect(),
        )
    }

    /// Every list of free pages that a VM has.
    fn chains(&self, cpu: &CpuLocal, slot: usize, facts: &VmFacts) -> Vec<Chain> {
        let mut chains = Vec::from([facts.freed]);
        let own = cpu.observe_loaded().map(|(.., facts)| facts);
        let vcpus = self.model.slots.get(slot).and_then(Option::as_ref).map(|vm| &vm.vcpus);
        for (place, vcpu) in facts.vcpus.iter().zip(vcpus.into_iter().flatten()) {
            let away = || {
                vcpu.as_ref()?
                    .on
                    .and_then(|on| if on == cpu.cpu() { own } else { *self.away.get(on)? })
            };
            let vcpu: Option<VcpuFacts> = match place {
                Place::Absent => None,
                Place::Here(facts) => Some(*facts),
                Place::Loaded => away(),
            };
            chains.extend(vcpu.map(|vcpu| vcpu.memcache));
        }
        chains
    }

    /// Whether the host's stage 2 lets it reach this page, or could.
    pub(crate) fn compare_reach<M: Machine>(
        &self,
        hyp: &Hyp<M>,
        page: Option<Pfn>,
    ) -> Result<(), Divergence> {
        let Some(page) = page.filter(|page| page.raw() < self.model.world.host_pages) else {
            return Ok(());
        };
        let (level, entry) = walk::one(&reader(hyp), hyp.host_regime().root.pfn(), page.raw());
        let first = page.raw() >> (9 * (3 - u32::from(level))) << (9 * (3 - u32::from(level)));
        if entry == 0 {
            return Ok(());
        }
        compare_entry(&self.model, level, first, entry).map(drop)
    }

    /// The host's stage 2: an identity map of what is the host's, and a mark at all that is not.
    fn compare_host<M: Machine>(&self, hyp: &Hyp<M>) -> Result<(), Divergence> {
        let root = hyp.host_regime().root.pfn();
        let frames = self.model.world.host_pages;
        let mut hidden = 0;
        walk::all(&reader(hyp), root, frames, &mut |met| match met {
            Met::Leaf(level, frame, entry) => {
                let what = compare_entry(&self.model, level, frame, entry)?;
                hidden += u64::from(what == Host::Hidden);
                Ok(())
            }
            Met::Table(at, entries, _) => compare_count(hyp, at, entries),
        })?;
        let taken = self.model.pages.values().filter(|page| page.host == PageState::NoPage).count();
        let private: u64 = self.model.world.private.iter().map(|(_, nr)| nr).sum();
        same("pages hidden from the host", hidden, taken as u64 + private)
    }
}

/// One mapping. A page that the guest touched is young without a call's doing.
fn compare_mapping(
    model: &mut State,
    slot: usize,
    gfn: Gfn,
    found: Option<Map>,
    expected: Option<Map>,
) -> Result<(), Divergence> {
    let mut expected = expected;
    if let (Some(found), Some(map)) = (found, &mut expected)
        && found.young
        && !map.young
    {
        model.touched(slot, gfn);
        let vm = model.slots.get(slot).and_then(Option::as_ref);
        map.young = vm.and_then(|vm| vm.maps.get(&gfn)).is_some_and(|map| map.young);
    }
    same(format_args!("{gfn:?} of slot {slot}"), found, expected)
}

/// One entry of the host's, against the owners of all that it covers.
fn compare_entry(model: &State, level: u8, frame: u64, entry: u64) -> Result<Host, Divergence> {
    let what = walk::identity(level, frame, entry)?;
    let nr = 1u64 << (9 * (3 - u32::from(level)));
    let (Some(first), end) = (Pfn::new(frame), frame + nr) else {
        return Err(format!("an entry at frame {frame:#x}").into());
    };
    let overlaps = |(start, n): &(Pfn, u64)| start.raw() < end && frame < start.raw() + n;
    let inside = |(start, n): &(Pfn, u64)| start.raw() <= frame && end <= start.raw() + n;
    let mut special = model.pages.range(first..).take_while(|(pfn, _)| pfn.raw() < end);
    let taken = special.any(|(_, page)| page.host == PageState::NoPage);
    let private = model.world.private.iter().any(overlaps);
    let (ram, any_ram) = (model.world.ram.iter().any(inside), model.world.ram.iter().any(overlaps));
    let right = match what {
        Host::Hidden => taken || model.world.is_private(first),
        Host::Reaches { device: false } => ram && !taken,
        Host::Reaches { device: true } => !any_ram && !private,
    };
    if right {
        return Ok(what);
    }
    let owner = model.page(first);
    Err(format!("{nr} pages from {first:?} are {what:?} for the host, the first being {owner:?}")
        .into())
}

/// A table's count: one for being a table, one for each entry.
fn compare_count<M: Machine>(hyp: &Hyp<M>, at: Pfn, entries: u16) -> Result<(), Divergence> {
    let word = hyp.observe_page(at).unwrap_or(0);
    if page(word) != Page::EL2 || word & FREE != 0 {
        return Err(format!(
            "table {at:?} is {:?}, in a free list: {}",
            page(word),
            word & FREE != 0
        )
        .into());
    }
    same(format_args!("count of table {at:?}"), (word >> 16) as u16, entries + 1)
}

/// Collects the pages of a free list, each of which must be EL2's and marked as free.
fn follow<M: Machine>(hyp: &Hyp<M>, chain: Chain, to: &mut Vec<Pfn>) -> Result<(), Divergence> {
    let mut at = chain.head;
    for n in 0..chain.len {
        let Some(pfn) = at else {
            return Err(format!("a free list has {n} pages, not {}", chain.len).into());
        };
        let word = hyp.observe_page(pfn).unwrap_or(0);
        if page(word) != Page::EL2 || word & FREE == 0 {
            return Err(format!("free page {pfn:?} is {:?}, word {word:#x}", page(word)).into());
        }
        to.push(pfn);
        at = hyp.machine().read(pfn, 0).checked_sub(1).and_then(Pfn::new);
    }
    same("the end of a free list", at, None)
}
