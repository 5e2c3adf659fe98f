//! A pretended machine, for tests on a PC: [`FakeMmu`] (RAM, walkers, TLBs) plus page metadata and
//! caches.
//!
//! Like the fake below it, it is as bad as the architecture allows. Data that was not cleaned to
//! the point of coherency is old to whoever reads with caches off; code that was not synchronised
//! is old to instruction fetch. A frame outside RAM, a table page used for data, a missing
//! break-before-make are violations, and a machine that is dropped with one panics.
//!
//! A thread is a CPU: see [`become_cpu`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use hyp_abi::{Ipa, Pa, Pfn, Vmid};
use hyp_s2::fake::sync::{Mutex, MutexGuard};
use hyp_s2::fake::{FakeMmu, Invalidations, this_cpu};
use hyp_s2::{Geometry, Regime, TablePfn, Tables, Tlb};

use crate::machine::{Cpu, Frames, Meta};
use crate::memmap::MemMap;

pub use hyp_s2::fake::{Access, Fault, become_cpu};

/// RAM, page metadata and some CPUs.
#[derive(Debug)]
pub struct FakeMachine {
    map: MemMap,
    mmu: FakeMmu,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    meta: Vec<u64>,
    /// Frames written since they were last cleaned, with what memory behind the caches holds.
    dirty: BTreeMap<u64, BTreeMap<usize, u64>>,
    /// Frames whose instructions may be old in some CPU's instruction cache.
    old_code: BTreeSet<u64>,
}

/// Everything that a refused call must leave as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    words: BTreeMap<(u64, usize), u64>,
    meta: Vec<u64>,
}

impl FakeMachine {
    /// A machine with zeroed RAM and metadata.
    #[must_use]
    pub fn new(map: &MemMap, cpus: usize) -> Self {
        let state = State { meta: vec![0; map.pages()], ..State::default() };
        Self { map: map.clone(), mmu: FakeMmu::new(cpus), state: Mutex::new(state) }
    }
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// EL2 touches a frame; whether there is RAM.
    fn is_ram(&self, pfn: Pfn) -> bool {
        let ram = self.map.contains(pfn);
        if !ram {
            self.mmu.report(format!("EL2 touches {pfn:?}, which is no RAM"));
        }
        ram
    }
    /// A frame is about to be written through the caches.
    fn soil(&self, pfn: Pfn) {
        let mut state = self.state();
        state.dirty.entry(pfn.raw()).or_insert_with(|| self.mmu.page(pfn));
        state.old_code.insert(pfn.raw());
    }
    fn soil_table(&self, table: TablePfn) {
        if self.is_ram(table.pfn()) {
            self.soil(table.pfn());
        }
    }

    /// A regime came to life: walkers may use its tables at any moment from now on.
    pub fn watch(&self, regime: Regime, geometry: Geometry) {
        self.mmu.watch(regime, geometry);
    }
    /// What the hardware of `cpu` makes of an access in a regime that is watched.
    ///
    /// # Errors
    /// The fault that it takes.
    pub fn access(&self, cpu: usize, vmid: Vmid, ipa: Ipa, kind: Access) -> Result<Pa, Fault> {
        self.mmu.access(cpu, vmid, ipa, kind)
    }
    /// A vCPU runs on a CPU and leaves stage-1 entries there; see [`FakeMmu::run_vcpu`].
    pub fn run_vcpu(&self, cpu: usize, vmid: Vmid, vcpu: usize) {
        self.mmu.run_vcpu(cpu, vmid, vcpu);
    }
    /// The host or a guest writes a word (it is up to the test that it may).
    pub fn poke(&self, pfn: Pfn, word: usize, value: u64) {
        self.soil(pfn);
        self.mmu.poke(pfn, word, value);
    }
    /// What an observer with caches on reads.
    #[must_use]
    pub fn peek(&self, pfn: Pfn, word: usize) -> u64 {
        self.mmu.peek(pfn, word)
    }
    /// What an observer with caches off reads: what was there when the frame was last cleaned.
    #[must_use]
    pub fn peek_uncached(&self, pfn: Pfn, word: usize) -> u64 {
        match self.state().dirty.get(&pfn.raw()) {
            Some(behind) => behind.get(&word).copied().unwrap_or(0),
            None => self.mmu.peek(pfn, word),
        }
    }
    /// Whether nothing was written to a frame since it was last cleaned.
    #[must_use]
    pub fn is_clean(&self, pfn: Pfn) -> bool {
        !self.state().dirty.contains_key(&pfn.raw())
    }
    /// Whether every CPU would fetch what was last written.
    #[must_use]
    pub fn is_code_synced(&self, pfn: Pfn) -> bool {
        !self.state().old_code.contains(&pfn.raw())
    }
    /// Whether a frame is all zero.
    #[must_use]
    pub fn is_zero(&self, pfn: Pfn) -> bool {
        self.mmu.is_zero(pfn)
    }
    /// Whether a walker may take a frame for a table.
    #[must_use]
    pub fn is_table(&self, pfn: Pfn) -> bool {
        self.mmu.is_table(pfn)
    }
    /// Between two calls into the core nothing may be left to invalidate or to publish.
    pub fn settle(&self) {
        self.mmu.settle();
    }
    /// How many invalidations there were.
    #[must_use]
    pub fn invalidations(&self) -> Invalidations {
        self.mmu.invalidations()
    }
    /// The violations so far; whoever takes them answers for them.
    #[must_use]
    pub fn take_violations(&self) -> Vec<String> {
        self.mmu.take_violations()
    }
    /// Runs `race` just before the next compare-and-exchange on a table.
    pub fn before_next_exchange(&self, race: impl FnOnce(&FakeMmu) + Send + 'static) {
        self.mmu.before_next_exchange(race);
    }
    /// RAM and metadata as they are.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { words: self.mmu.snapshot(), meta: self.state().meta.clone() }
    }
}

impl Tables for FakeMachine {
    fn load(&self, table: TablePfn, index: usize) -> u64 {
        if self.is_ram(table.pfn()) { self.mmu.load(table, index) } else { 0 }
    }
    fn store(&self, table: TablePfn, index: usize, pte: u64) {
        self.soil_table(table);
        self.mmu.store(table, index, pte);
    }
    fn compare_exchange(
        &self,
        table: TablePfn,
        index: usize,
        old: u64,
        new: u64,
    ) -> Result<(), u64> {
        self.soil_table(table);
        self.mmu.compare_exchange(table, index, old, new)
    }
}

impl Tlb for FakeMachine {
    fn publish(&self) {
        self.mmu.publish();
    }
    fn inval_ipa(&self, regime: Regime, ipa: Ipa, level: Option<u8>) {
        self.mmu.inval_ipa(regime, ipa, level);
    }
    fn inval_vmid(&self, regime: Regime) {
        self.mmu.inval_vmid(regime);
    }
    fn inval_ipa_local(&self, regime: Regime, ipa: Ipa, level: Option<u8>) {
        self.mmu.inval_ipa_local(regime, ipa, level);
    }
    fn switch_vcpu(&self, regime: Regime) {
        self.mmu.switch_vcpu(regime);
    }
}

impl Frames for FakeMachine {
    fn read(&self, pfn: Pfn, word: usize) -> u64 {
        if self.is_ram(pfn) { self.mmu.peek(pfn, word) } else { 0 }
    }
    fn write(&self, pfn: Pfn, word: usize, value: u64) {
        if self.is_ram(pfn) {
            self.poke(pfn, word, value);
        }
    }
    fn zero(&self, pfn: Pfn) {
        if self.is_ram(pfn) {
            self.soil(pfn);
            self.mmu.clear(pfn);
        }
    }
    fn clean_to_poc(&self, pfn: Pfn) {
        if self.is_ram(pfn) {
            self.state().dirty.remove(&pfn.raw());
        }
    }
    fn sync_icache(&self, pfn: Pfn) {
        if self.is_ram(pfn) {
            self.state().old_code.remove(&pfn.raw());
        }
    }
}

impl Meta for FakeMachine {
    fn meta_load(&self, index: usize) -> u64 {
        let word = self.state().meta.get(index).copied();
        assert!(word.is_some(), "metadata of page {index}");
        word.unwrap_or_default()
    }
    fn meta_store(&self, index: usize, value: u64) {
        let mut state = self.state();
        assert!(index < state.meta.len(), "metadata of page {index}");
        if let Some(word) = state.meta.get_mut(index) {
            *word = value;
        }
    }
}

impl Cpu for FakeMachine {
    fn cpu(&self) -> usize {
        this_cpu()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memmap::PageRange;

    fn machine() -> FakeMachine {
        let map = MemMap::new(PageRange::inward(0x4000_0000, 0x10_0000)).unwrap();
        FakeMachine::new(&map, 2)
    }
    fn pfn(n: u64) -> Pfn {
        Pfn::new(0x40000 + n).unwrap()
    }

    #[test]
    fn it_can_be_shared_by_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<FakeMachine>();
    }

    #[test]
    fn what_is_not_cleaned_is_old_to_a_reader_with_caches_off() {
        let m = machine();
        m.poke(pfn(1), 3, 0x5ec2e7);
        m.clean_to_poc(pfn(1));
        m.zero(pfn(1));
        assert_eq!((m.peek(pfn(1), 3), m.peek_uncached(pfn(1), 3)), (0, 0x5ec2e7));
        assert!(!m.is_clean(pfn(1)));
        m.clean_to_poc(pfn(1));
        assert_eq!(m.peek_uncached(pfn(1), 3), 0);
        assert!(m.is_clean(pfn(1)));
    }

    #[test]
    fn written_code_is_old_until_it_is_synchronised() {
        let m = machine();
        m.write(pfn(2), 0, 0xd503_201f);
        assert!(!m.is_code_synced(pfn(2)));
        m.sync_icache(pfn(2));
        assert!(m.is_code_synced(pfn(2)));
    }

    #[test]
    fn a_frame_outside_ram_is_a_violation() {
        let m = machine();
        let hole = Pfn::new(0x9000).unwrap();
        assert_eq!(m.read(hole, 0), 0);
        m.zero(hole);
        assert_eq!(m.take_violations().len(), 2);
    }

    #[test]
    #[should_panic = "forbids"]
    fn a_violation_that_nobody_took_fails_the_test() {
        machine().clean_to_poc(Pfn::new(1).unwrap());
    }

    #[test]
    fn snapshots_see_memory_and_metadata() {
        let m = machine();
        let before = m.snapshot();
        m.meta_store(255, 1);
        assert_ne!(m.snapshot(), before);
        m.meta_store(255, 0);
        m.write(pfn(0), 511, 1);
        assert_ne!(m.snapshot(), before);
        m.zero(pfn(0));
        assert_eq!(m.snapshot(), before);
    }

    #[test]
    fn each_thread_is_a_cpu() {
        let m = machine();
        assert_eq!(m.cpu(), 0);
        std::thread::scope(|s| {
            s.spawn(|| {
                become_cpu(1);
                assert_eq!(m.cpu(), 1);
            });
        });
        assert_eq!(m.cpu(), 0);
    }
}
