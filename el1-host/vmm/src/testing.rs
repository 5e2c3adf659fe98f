//! A host for tests: frames that are plain memory, a clock that stands still, a console that remembers.
//! One [`TestHost`] a CPU; they share the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use host_mirror::Hypercalls;
use host_mirror::fake::{FakeCpu, FakeEl2, pfn};
use hyp_abi::{Hypercall, Pfn, Ret};

use crate::host::{Clock, Console, Frames, RunPage, RunPages};

/// First frame of the host's RAM.
const BASE: u64 = 0x4_0000;

/// A number that all CPUs see.
#[derive(Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::SeqCst);
    }
}

/// What the CPUs share.
#[derive(Default)]
pub(crate) struct Shared {
    pages: Mutex<BTreeMap<u64, Vec<u8>>>,
    used: Mutex<BTreeSet<u64>>,
    /// Frames there are.
    pub limit: Number,
    pub now: Number,
    out: Mutex<Vec<u8>>,
}

/// The host, on one CPU.
pub(crate) struct TestHost<'a> {
    el2: &'a FakeEl2,
    pub cpu: FakeCpu<'a>,
    pub shared: Arc<Shared>,
}

/// A run page in such memory.
pub(crate) struct TestPage {
    shared: Arc<Shared>,
    frame: u64,
}

impl std::ops::Deref for TestHost<'_> {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl<'a> TestHost<'a> {
    pub fn new(el2: &'a FakeEl2) -> Self {
        let shared = Arc::<Shared>::default();
        shared.limit.set(4096);
        shared.now.set(1000);
        Self { el2, cpu: el2.cpu(), shared }
    }

    /// Another CPU of this machine.
    pub fn on(el2: &'a FakeEl2, shared: &Arc<Shared>) -> Self {
        Self { el2, cpu: el2.cpu(), shared: Arc::clone(shared) }
    }
}

impl Shared {
    fn used(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.used.lock().unwrap()
    }

    /// Frames handed out and not given back.
    pub fn in_use(&self) -> usize {
        self.used().len()
    }

    /// A frame's bytes.
    pub fn bytes(&self, frame: u64) -> Vec<u8> {
        let pages = self.pages.lock().unwrap();
        pages.get(&frame).cloned().unwrap_or_else(|| vec![0xaa; 4096])
    }

    /// What was sent to the console.
    pub fn out(&self) -> Vec<u8> {
        self.out.lock().unwrap().clone()
    }

    fn take(&self, used: &mut BTreeSet<u64>, frame: u64) -> bool {
        let free = frame < BASE + self.limit.get() && used.insert(frame);
        if free {
            // What the last owner left there.
            self.pages.lock().unwrap().insert(frame, vec![0xaa; 4096]);
        }
        free
    }
}

impl Hypercalls for TestHost<'_> {
    fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret {
        self.cpu.call(call, args)
    }
}

impl Frames for TestHost<'_> {
    fn alloc_frame(&self) -> Option<Pfn> {
        let mut used = self.used();
        (BASE..BASE + self.limit.get()).find(|n| self.take(&mut used, *n)).map(pfn)
    }
    fn alloc_pair(&self) -> Option<Pfn> {
        let mut used = self.used();
        let mut pairs = (BASE..(BASE + self.limit.get()).saturating_sub(1)).step_by(2);
        let first = pairs.find(|n| !used.contains(n) && !used.contains(&(n + 1)))?;
        (self.take(&mut used, first) && self.take(&mut used, first + 1)).then(|| pfn(first))
    }
    fn free_frame(&self, frame: Pfn) {
        assert!(self.el2.is_exclusive(frame.raw()), "{frame:?} is not ours to give back");
        assert!(self.used().remove(&frame.raw()), "{frame:?} was free");
    }
    fn zero(&self, frame: Pfn) {
        self.pages.lock().unwrap().insert(frame.raw(), vec![0; 4096]);
    }
    fn fill(&self, frame: Pfn, offset: usize, bytes: &[u8]) {
        let mut pages = self.pages.lock().unwrap();
        let page = pages.get_mut(&frame.raw()).unwrap();
        page[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

impl RunPages for TestHost<'_> {
    type Page = TestPage;
    fn run_page(&self, frame: Pfn) -> TestPage {
        assert!(self.used().contains(&frame.raw()), "{frame:?} is free");
        TestPage { shared: Arc::clone(&self.shared), frame: frame.raw() }
    }
}

impl RunPage for TestPage {
    fn read(&self, index: usize) -> u64 {
        let pages = self.shared.pages.lock().unwrap();
        let bytes = pages[&self.frame].get(index * 8..index * 8 + 8);
        bytes.map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()))
    }
    fn write(&self, index: usize, value: u64) {
        let mut pages = self.shared.pages.lock().unwrap();
        let page = pages.get_mut(&self.frame).unwrap();
        if let Some(bytes) = page.get_mut(index * 8..index * 8 + 8) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
}

impl Clock for TestHost<'_> {
    fn now(&self) -> u64 {
        self.now.get()
    }

    fn frequency(&self) -> u64 {
        1000
    }
}

impl Console for TestHost<'_> {
    fn put(&self, byte: u8) {
        self.out.lock().unwrap().push(byte);
    }
}

/// A little-endian arm64 Image of `len` bytes whose text says where each page is.
pub(crate) fn image(len: usize, image_size: u64, text_offset: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|n| (n >> 12) as u8 ^ n as u8).collect();
    bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
    bytes[24..32].copy_from_slice(&0xa_u64.to_le_bytes());
    bytes[56..60].copy_from_slice(b"ARMd");
    bytes[4..8].fill(0);
    bytes[0] = 0;
    bytes
}
