//! What the architecture forbids: the judge of every store to a table.
//!
//! The judge knows which pages a walker may take for a table, at which level and for which
//! addresses, by following the table descriptors as they are stored.

use hyp_abi::{Ipa, Vmid};

use super::{Inner, Place, Tree, WORDS};
use crate::geometry::Geometry;
use crate::hw::Regime;

const VALID: u64 = 1;
const TABLE: u64 = 1 << 1;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// S2AP, AF, XN and the software bits may change while a descriptor is live.
const LIVE_CHANGE: u64 = 3 << 6 | 1 << 10 | 3 << 53 | 0xf << 55;

/// A page that walkers may take for a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) vmid: Vmid,
    pub(super) level: u8,
    /// First address that it translates.
    base: u64,
    root: bool,
}

/// A descriptor that walkers and TLBs may still hold although memory does not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stale {
    vmid: Vmid,
    base: u64,
    level: u8,
    /// The table it pointed to.
    table: Option<u64>,
}

impl Stale {
    /// Whether an invalidation by IPA removes it: a hint names the level of a leaf.
    fn ends_with(&self, vmid: Vmid, ipa: u64, hint: Option<u8>) -> bool {
        let bits = entry_bits(self.level);
        let meant = hint.is_none_or(|level| self.table.is_none() && level == self.level);
        self.vmid == vmid && ipa >> bits == self.base >> bits && meant
    }
}

fn entry_bits(level: u8) -> u32 {
    39 - 9 * u32::from(level)
}

fn table_of(desc: u64, level: u8) -> Option<u64> {
    (desc & VALID != 0 && desc & TABLE != 0 && level < 3).then_some((desc & ADDRESS) >> 12)
}

impl Inner {
    pub(super) fn watch(&mut self, regime: Regime, geometry: Geometry) {
        if self.trees.iter().any(|tree| tree.regime == regime) {
            return;
        }
        if self.trees.iter().any(|tree| tree.regime.vmid == regime.vmid) {
            self.violations.push(format!("VMID {:?} belongs to two trees", regime.vmid));
        }
        self.trees.push(Tree { regime, geometry, flushed: false });
        let level = geometry.start().number();
        for n in 0..geometry.root_pages() {
            let base = (n * WORDS as u64) << entry_bits(level);
            let root = regime.root.pfn().raw() + n;
            self.attach(root, Node { vmid: regime.vmid, level, base, root: true });
        }
    }
    /// The tables that a table points to, with their places.
    fn tables_in(&self, pfn: u64, level: u8) -> Vec<(usize, u64)> {
        let used = self.page(pfn);
        used.filter_map(|(index, desc)| Some((index, table_of(desc, level)?))).collect()
    }
    /// A page becomes a table, with all that hangs below it.
    fn attach(&mut self, pfn: u64, node: Node) {
        if self.tables.insert(pfn, node).is_some() {
            self.violations.push(format!("frame {pfn:#x} is linked into two places"));
            return;
        }
        for (index, child) in self.tables_in(pfn, node.level) {
            self.attach(child, child_of(&node, index));
        }
    }
    /// No walker can find a table any more, nor what hangs below it.
    fn detach(&mut self, pfn: u64) {
        let Some(node) = self.tables.remove(&pfn) else { return };
        for (_, child) in self.tables_in(pfn, node.level) {
            self.detach(child);
        }
        let children: Vec<_> = self.stale.keys().copied().filter(|place| place.0 == pfn).collect();
        for place in children {
            if let Some(table) = self.stale.remove(&place).and_then(|stale| stale.table) {
                self.detach(table);
            }
        }
    }
    /// Judges a store, and learns from it.
    pub(super) fn judge(&mut self, place: Place, old: u64, new: u64) {
        let (pfn, index) = place;
        let Some(node) = self.tables.get(&pfn).copied() else { return };
        let level = node.level;
        if self.stale.values().any(|stale| stale.table == Some(pfn)) {
            self.violations.push(format!("store to {place:#x?}, unlinked but not invalidated"));
        }
        let (was, is) = (old & VALID != 0, new & VALID != 0);
        if was && is && (old ^ new) & !LIVE_CHANGE == 0 {
            return;
        }
        if was && is {
            self.violations.push(format!("{place:#x?}: {old:#x} to {new:#x} without break"));
        } else if is && self.stale.contains_key(&place) {
            self.violations.push(format!("{place:#x?}: made before it was invalidated"));
        }
        if was {
            let base = child_of(&node, index).base;
            let table = table_of(old, level);
            self.stale.insert(place, Stale { vmid: node.vmid, base, level, table });
        }
        if is {
            if let Some(tree) = self.trees.iter_mut().find(|tree| tree.regime.vmid == node.vmid) {
                tree.flushed = false;
            }
            if let Some(child) = table_of(new, level) {
                self.attach(child, child_of(&node, index));
            }
        }
    }
    /// A page is used for data.
    pub(super) fn reuse(&mut self, pfn: u64) {
        let Some(node) = self.tables.get(&pfn).copied() else { return };
        let tree = self.trees.iter().position(|tree| tree.regime.vmid == node.vmid);
        let empty = self.page(pfn).next().is_none();
        let flushed = tree.and_then(|tree| self.trees.get(tree)).is_some_and(|tree| tree.flushed);
        let cached = self.tlbs.iter().any(|tlb| tlb.knows_vmid(node.vmid));
        if !(node.root && empty && flushed) || cached {
            self.violations.push(format!("frame {pfn:#x} re-used while a table: {node:x?}"));
        }
        // A regime ends when its root is used for something else.
        self.detach(pfn);
        let root_left = self.tables.values().any(|other| other.root && other.vmid == node.vmid);
        if let (Some(tree), false) = (tree, root_left) {
            self.trees.remove(tree);
        }
    }
    pub(super) fn settle_ipa(&mut self, vmid: Vmid, ipa: Ipa, hint: Option<u8>) {
        self.end_stale(|stale| stale.ends_with(vmid, ipa.raw(), hint));
    }
    pub(super) fn settle_vmid(&mut self, vmid: Vmid) {
        self.end_stale(|stale| stale.vmid == vmid);
        for tree in self.trees.iter_mut().filter(|tree| tree.regime.vmid == vmid) {
            tree.flushed = true;
        }
    }
    fn end_stale(&mut self, ends: impl Fn(&Stale) -> bool) {
        let ended: Vec<_> = self.stale.iter().filter(|(_, s)| ends(s)).map(|(p, _)| *p).collect();
        for place in ended {
            if let Some(table) = self.stale.remove(&place).and_then(|stale| stale.table) {
                self.detach(table);
            }
        }
    }
    pub(super) fn settle(&mut self) {
        for (place, stale) in &self.stale {
            self.violations.push(format!("{place:#x?}: never invalidated: {stale:x?}"));
        }
        for (place, old) in &self.pending {
            let new = self.read(*place);
            let live = (old ^ new) & !LIVE_CHANGE == 0;
            let matters = (new | old) & VALID != 0 && !live;
            if matters && self.tables.contains_key(&place.0) && !self.stale.contains_key(place) {
                self.violations.push(format!("{place:#x?}: {new:#x} was never published"));
            }
        }
    }
}

/// What the table at entry `index` of `node` translates.
fn child_of(node: &Node, index: usize) -> Node {
    let base = node.base + ((index as u64) << entry_bits(node.level));
    Node { vmid: node.vmid, level: node.level + 1, base, root: false }
}
