//! The operations against the fake hardware.

mod fake;
mod guest;
mod host;
mod random;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use hyp_abi::{Gfn, Ipa, Pfn, Vmid};

use crate::fake::{Access, FakeMmu, Fault};
use crate::{Geometry, Mmu, Refs, Regime, TablePfn, TableSource};

/// Where root tables are: aligned to 16 pages.
const ROOT: u64 = 0x100;
/// Where other tables come from.
const TABLES: u64 = 0x200;
/// IPA sizes around each change of start level and number of roots.
const SIZES: &[u8] =
    if cfg!(miri) { &[32, 40, 48] } else { &[32, 34, 35, 36, 39, 40, 43, 44, 47, 48] };

fn pfn(n: u64) -> Pfn {
    Pfn::new(n).unwrap()
}
fn gfn(n: u64) -> Gfn {
    Gfn::new(n).unwrap()
}

/// Counts of live entries.
#[derive(Default)]
struct Counts(RefCell<BTreeMap<TablePfn, u16>>);

impl Refs for Counts {
    fn get(&self, table: TablePfn) -> u16 {
        self.0.borrow().get(&table).copied().unwrap_or(0)
    }
    fn set(&self, table: TablePfn, count: u16) {
        self.0.borrow_mut().insert(table, count);
    }
}

/// A supply of table pages that looks at what comes back.
struct Pages {
    hw: Arc<FakeMmu>,
    free: Vec<u64>,
}

impl TableSource for Pages {
    fn available(&self) -> usize {
        self.free.len()
    }
    fn take(&mut self) -> Option<TablePfn> {
        self.free.pop().map(|n| TablePfn::new(pfn(n)))
    }
    fn give(&mut self, table: TablePfn) {
        assert!(!self.hw.is_table(table.pfn()), "{table:?} is given back while walkers can use it");
        assert!(self.hw.is_zero(table.pfn()), "{table:?} is given back with entries");
        self.free.push(table.pfn().raw());
    }
}

/// A machine with one regime.
struct World {
    hw: Arc<FakeMmu>,
    refs: Counts,
    pages: Pages,
    geometry: Geometry,
    regime: Regime,
}

impl World {
    fn new(ipa_bits: u8, vmid: Vmid, tables: usize) -> Self {
        let hw = Arc::new(FakeMmu::new(2));
        let geometry = Geometry::new(ipa_bits).unwrap();
        let regime = Regime { vmid, root: TablePfn::new(pfn(ROOT)) };
        hw.watch(regime, geometry);
        let pages = Pages { hw: hw.clone(), free: (TABLES..).take(tables).collect() };
        Self { hw, refs: Counts::default(), pages, geometry, regime }
    }
    fn mmu(&self) -> Mmu<'_, FakeMmu, Counts> {
        Mmu { hw: &self.hw, refs: &self.refs }
    }
    /// What CPU `cpu` gets for the first byte of a page.
    fn touch(&self, cpu: usize, page: u64, kind: Access) -> Result<Pfn, Fault> {
        let ipa = Ipa::new(page << 12).unwrap();
        self.hw.access(cpu, self.regime.vmid, ipa, kind).map(|pa| pa.frame())
    }
    /// Between two operations: nothing left to invalidate, every count right, no table lost.
    fn check(&self, tables: usize) {
        self.hw.settle();
        assert_eq!(self.hw.take_violations(), Vec::<String>::new());
        let reachable = self.hw.tables();
        for table in &reachable {
            let entries = self.hw.used(pfn(*table));
            let count = self.refs.get(TablePfn::new(pfn(*table)));
            assert_eq!(usize::from(count), entries + 1, "count of table {table:#x}");
            assert!(*table < TABLES || entries > 0, "empty table {table:#x} is kept");
        }
        let roots = usize::try_from(self.geometry.root_pages()).unwrap();
        for free in &self.pages.free {
            assert_eq!(self.refs.get(TablePfn::new(pfn(*free))), 0, "count of free {free:#x}");
        }
        assert_eq!(reachable.len() + self.pages.available(), roots + tables, "lost tables");
    }
}
