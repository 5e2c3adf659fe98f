//! What is true of every state: the legal combinations of pkvm's section 2.2, and the counts.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use hyp_abi::{PageState, Pfn};

use crate::state::{Page, Phase, State};

/// The first invariant that `state` breaks, in words; `None` if all hold.
#[must_use]
pub fn broken(state: &State) -> Option<String> {
    let mut shares: BTreeMap<Pfn, u32> = BTreeMap::new();
    let mut tables: BTreeMap<Pfn, u32> = BTreeMap::new();
    let mut pins: BTreeMap<Pfn, u16> = BTreeMap::new();
    for vm in state.slots.iter().flatten() {
        for map in vm.maps.values().filter(|m| !m.device) {
            *shares.entry(map.pfn).or_default() += 1;
        }
        for pfn in &vm.donated {
            *tables.entry(*pfn).or_default() += 1;
        }
        for vcpu in vm.vcpus.iter().flatten() {
            *pins.entry(vcpu.run).or_default() += 1;
        }
        if let (Phase::Ready | Phase::Dying, Some(root)) = (vm.phase, vm.root) {
            for page in [Some(root), root.add(1)].into_iter().flatten() {
                *tables.entry(page).or_default() += 1;
            }
        }
        if vm.phase == Phase::Dying && vm.in_use() {
            return Some(format!("{:?} is dying and loaded", vm.handle));
        }
    }
    if let Some((pfn, n)) = tables.iter().find(|(_, n)| **n != 1) {
        return Some(format!("{pfn:?} is a table page {n} times"));
    }
    for pfn in tables.keys() {
        if state.page(*pfn) != Page::EL2 {
            return Some(format!("table page {pfn:?} is {:?}", state.page(*pfn)));
        }
    }
    for pfn in state.pages.keys().chain(shares.keys()).chain(pins.keys()) {
        let page = state.page(*pfn);
        let counted = shares.get(pfn).copied().unwrap_or(0);
        let pinned = pins.get(pfn).copied().unwrap_or(0);
        if !state.world.is_ram(*pfn) {
            return Some(format!("{pfn:?} has an owner and is no RAM"));
        }
        if page.shares != counted || page.pins != pinned {
            return Some(format!("{pfn:?} is {page:?}, mapped {counted}, pinned {pinned} times"));
        }
        let legal = match (page.host, page.hyp) {
            (PageState::Owned, PageState::NoPage) | (PageState::NoPage, PageState::Owned) => {
                counted == 0 && pinned == 0
            }
            (PageState::SharedOwned, PageState::SharedBorrowed) => counted == 0,
            (PageState::SharedOwned, PageState::NoPage) => counted > 0 && pinned == 0,
            _ => false,
        };
        if !legal {
            return Some(format!("{pfn:?} is {page:?}"));
        }
    }
    None
}
