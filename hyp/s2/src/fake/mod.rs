//! Table memory and TLBs of a pretended machine, for tests on a PC.
//!
//! It is the adversary that the architecture allows: stores reach walkers only at a barrier, every
//! CPU keeps each translation and each table pointer that it ever walked until the right
//! invalidate with the right VMID arrives, and a level hint is taken at its word. Sequences that
//! the architecture forbids are recorded as violations; dropping a [`FakeMmu`] with a violation
//! that nobody took panics, so no test has to remember to ask.
//!
//! Its walker is written from DDI0487 D8 and `VTCR_EL2`, and shares no code with the real one.

mod rules;
mod tlb;

/// The lock and the CPU-local state of whatever makes the schedule: the machine, or shuttle.
pub mod sync {
    #[cfg(shuttle)]
    pub use shuttle::sync::{Mutex, MutexGuard};
    #[cfg(shuttle)]
    pub use shuttle::thread_local;
    #[cfg(not(shuttle))]
    pub use std::sync::{Mutex, MutexGuard};
    #[cfg(not(shuttle))]
    pub use std::thread_local;
}

use std::collections::BTreeMap;
use std::fmt;
use std::sync::PoisonError;

use hyp_abi::{Ipa, Pa, Pfn, Vmid};

use crate::geometry::Geometry;
use crate::hw::{Regime, TablePfn, Tables, Tlb};

use rules::{Node, Stale};
use sync::{Mutex, MutexGuard};
use tlb::CpuTlb;

pub use tlb::{Access, Fault};

/// Words in a page.
const WORDS: usize = 512;
/// A descriptor's place: frame number and index.
type Place = (u64, usize);
/// What another CPU does meanwhile.
type Race = Box<dyn FnOnce(&FakeMmu) + Send>;

sync::thread_local! {
    static CPU: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Makes this thread CPU `n`.
pub fn become_cpu(n: usize) {
    CPU.with(|cpu| cpu.set(n));
}
/// Which CPU this thread is: 0 unless [`become_cpu`] said otherwise.
#[must_use]
pub fn this_cpu() -> usize {
    CPU.with(std::cell::Cell::get)
}

/// How often each kind of invalidation was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Invalidations {
    /// By IPA, everywhere.
    pub ipa: usize,
    /// Of a whole VMID.
    pub vmid: usize,
    /// By IPA, on one CPU.
    pub local: usize,
    /// Of one CPU's stage 1, between two vCPUs of a VM.
    pub vcpu: usize,
}

/// Table memory (which is all of RAM), its walkers and their TLBs.
pub struct FakeMmu {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// All words that are not zero.
    words: BTreeMap<Place, u64>,
    /// What walkers still see of words that were stored since the last barrier.
    pending: BTreeMap<Place, u64>,
    tlbs: Vec<CpuTlb>,
    trees: Vec<Tree>,
    /// Every page that a walker may take for a table.
    tables: BTreeMap<u64, Node>,
    /// Descriptors that were valid, are not, and were not invalidated yet.
    stale: BTreeMap<Place, Stale>,
    violations: Vec<String>,
    invalidations: Invalidations,
    race: Option<Race>,
}

/// A translation regime that walkers may use.
#[derive(Clone, Copy)]
struct Tree {
    regime: Regime,
    geometry: Geometry,
    /// Nothing was walked or made valid since the VMID was flushed.
    flushed: bool,
}

impl FakeMmu {
    /// A machine with zeroed memory.
    #[must_use]
    pub fn new(cpus: usize) -> Self {
        let tlbs = (0..cpus).map(|_| CpuTlb::default()).collect();
        Self { inner: Mutex::new(Inner { tlbs, ..Inner::default() }) }
    }
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test that failed while it held the lock has said enough.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// From now on walkers may use this regime at any moment, so its tables are watched.
    pub fn watch(&self, regime: Regime, geometry: Geometry) {
        self.lock().watch(regime, geometry);
    }
    /// What the hardware of `cpu` makes of an access: walks, and fills the TLB as it goes.
    ///
    /// # Errors
    /// The fault that it takes.
    pub fn access(&self, cpu: usize, vmid: Vmid, ipa: Ipa, kind: Access) -> Result<Pa, Fault> {
        self.lock().access(cpu, vmid, ipa, kind)
    }
    /// A vCPU of a VM runs on `cpu`, and fills the CPU's stage-1 TLB. A violation if another vCPU
    /// of that VM did before, and nobody said so: they may share an ASID.
    pub fn run_vcpu(&self, cpu: usize, vmid: Vmid, vcpu: usize) {
        let mut inner = self.lock();
        let before = inner.tlbs.get_mut(cpu).and_then(|tlb| tlb.run_vcpu(vmid, vcpu));
        if let Some(before) = before.filter(|before| *before != vcpu) {
            inner.violations.push(format!("vCPU {vcpu} of {vmid:?} uses entries of {before}"));
        }
    }
    /// Reads a word, as a CPU does.
    #[must_use]
    pub fn peek(&self, pfn: Pfn, word: usize) -> u64 {
        self.lock().read((pfn.raw(), word))
    }
    /// Writes a word as data: a violation if a walker may take the page for a table.
    pub fn poke(&self, pfn: Pfn, word: usize, value: u64) {
        let mut inner = self.lock();
        inner.reuse(pfn.raw());
        inner.store_word((pfn.raw(), word), value);
    }
    /// Zeroes a page as data: a violation if a walker may take it for a table.
    pub fn clear(&self, pfn: Pfn) {
        let mut inner = self.lock();
        inner.reuse(pfn.raw());
        let used: Vec<_> = inner.page(pfn.raw()).collect();
        for (word, _) in used {
            inner.store_word((pfn.raw(), word), 0);
        }
    }
    /// Whether a walker may take this page for a table, now or by a stale entry.
    #[must_use]
    pub fn is_table(&self, pfn: Pfn) -> bool {
        self.lock().tables.contains_key(&pfn.raw())
    }
    /// Every frame that a walker may take for a table.
    #[must_use]
    pub fn tables(&self) -> Vec<u64> {
        self.lock().tables.keys().copied().collect()
    }
    /// Whether a page is all zero.
    #[must_use]
    pub fn is_zero(&self, pfn: Pfn) -> bool {
        self.used(pfn) == 0
    }
    /// How many words of a page are not zero.
    #[must_use]
    pub fn used(&self, pfn: Pfn) -> usize {
        self.lock().page(pfn.raw()).count()
    }
    /// Runs `race` just before the next compare-and-exchange: another CPU's move.
    pub fn before_next_exchange(&self, race: impl FnOnce(&Self) + Send + 'static) {
        self.lock().race = Some(Box::new(race));
    }
    /// How many invalidations there were.
    #[must_use]
    pub fn invalidations(&self) -> Invalidations {
        self.lock().invalidations
    }
    /// The violations so far; whoever takes them answers for them.
    #[must_use]
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().violations)
    }
    /// Records a violation if a removed entry is not invalidated yet, or a new one not published:
    /// between two operations neither may be so.
    pub fn settle(&self) {
        self.lock().settle();
    }
    /// Records a violation that somebody around this fake has seen.
    pub fn report(&self, violation: String) {
        self.lock().violations.push(violation);
    }
    /// All words that are not zero, by frame number and place.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<(u64, usize), u64> {
        self.lock().words.clone()
    }
    /// The words of one page that are not zero.
    #[must_use]
    pub fn page(&self, pfn: Pfn) -> BTreeMap<usize, u64> {
        self.lock().page(pfn.raw()).collect()
    }
}

impl Inner {
    fn read(&self, place: Place) -> u64 {
        assert!(place.1 < WORDS, "word {} of frame {:#x}", place.1, place.0);
        self.words.get(&place).copied().unwrap_or(0)
    }
    fn write(&mut self, place: Place, value: u64) {
        assert!(place.1 < WORDS, "word {} of frame {:#x}", place.1, place.0);
        if value == 0 {
            self.words.remove(&place);
        } else {
            self.words.insert(place, value);
        }
    }
    /// The words of a page that are not zero.
    fn page(&self, pfn: u64) -> impl Iterator<Item = (usize, u64)> {
        self.words.range((pfn, 0)..(pfn, WORDS)).map(|((_, word), value)| (*word, *value))
    }
    /// What a hardware walker reads: of an unpublished store, the value before it.
    fn walker_read(&self, place: Place) -> u64 {
        self.pending.get(&place).copied().unwrap_or_else(|| self.read(place))
    }
    /// A store to a table.
    fn store(&mut self, place: Place, pte: u64) {
        let old = self.read(place);
        self.judge(place, old, pte);
        self.store_word(place, pte);
    }
    /// Any store: walkers go on reading the word before it until a barrier.
    fn store_word(&mut self, place: Place, value: u64) {
        let old = self.read(place);
        self.pending.entry(place).or_insert(old);
        self.write(place, value);
    }
}

impl Tables for FakeMmu {
    fn load(&self, table: TablePfn, index: usize) -> u64 {
        self.peek(table.pfn(), index)
    }
    fn store(&self, table: TablePfn, index: usize, pte: u64) {
        self.lock().store((table.pfn().raw(), index), pte);
    }
    fn compare_exchange(
        &self,
        table: TablePfn,
        index: usize,
        old: u64,
        new: u64,
    ) -> Result<(), u64> {
        let race = self.lock().race.take();
        if let Some(race) = race {
            race(self);
        }
        let mut inner = self.lock();
        let place = (table.pfn().raw(), index);
        let found = inner.read(place);
        if found != old {
            return Err(found);
        }
        inner.store(place, new);
        Ok(())
    }
}

impl Tlb for FakeMmu {
    fn publish(&self) {
        self.lock().pending.clear();
    }
    fn inval_ipa(&self, regime: Regime, ipa: Ipa, level: Option<u8>) {
        let mut inner = self.lock();
        inner.pending.clear();
        inner.invalidations.ipa += 1;
        for tlb in &mut inner.tlbs {
            tlb.drop_ipa(regime.vmid, ipa, level);
        }
        inner.settle_ipa(regime.vmid, ipa, level);
    }
    fn inval_vmid(&self, regime: Regime) {
        let mut inner = self.lock();
        inner.pending.clear();
        inner.invalidations.vmid += 1;
        for tlb in &mut inner.tlbs {
            tlb.drop_vmid(regime.vmid);
        }
        inner.settle_vmid(regime.vmid);
    }
    fn inval_ipa_local(&self, regime: Regime, ipa: Ipa, level: Option<u8>) {
        let mut inner = self.lock();
        inner.invalidations.local += 1;
        if let Some(tlb) = inner.tlbs.get_mut(this_cpu()) {
            tlb.drop_ipa(regime.vmid, ipa, level);
        }
    }
    fn switch_vcpu(&self, regime: Regime) {
        let mut inner = self.lock();
        inner.invalidations.vcpu += 1;
        if let Some(tlb) = inner.tlbs.get_mut(this_cpu()) {
            tlb.forget_vcpu(regime.vmid);
        }
    }
}

impl fmt::Debug for FakeMmu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        write!(f, "FakeMmu({} words, {} tables)", inner.words.len(), inner.tables.len())
    }
}

impl Drop for FakeMmu {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let violations = &inner.violations;
        assert!(
            std::thread::panicking() || violations.is_empty(),
            "the architecture forbids: {violations:#?}"
        );
    }
}
