//! A host for tests: frames that are plain memory, a clock that stands still, a console that remembers.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use host_mirror::Hypercalls;
use host_mirror::fake::{FakeCpu, FakeEl2, pfn};
use hyp_abi::{Hypercall, Pfn, Ret};

use crate::host::{Clock, Console, Frames, RunPage, RunPages};

/// First frame of the host's RAM.
const BASE: u64 = 0x4_0000;

type Pages = Rc<RefCell<BTreeMap<u64, Vec<u8>>>>;

/// The host.
pub(crate) struct TestHost<'a> {
    el2: &'a FakeEl2,
    pub cpu: FakeCpu<'a>,
    pages: Pages,
    used: RefCell<BTreeSet<u64>>,
    /// Frames there are.
    pub limit: Cell<u64>,
    pub now: Cell<u64>,
    pub out: RefCell<Vec<u8>>,
}

/// A run page in such memory.
pub(crate) struct TestPage {
    pages: Pages,
    frame: u64,
}

impl<'a> TestHost<'a> {
    pub fn new(el2: &'a FakeEl2) -> Self {
        Self {
            el2,
            cpu: el2.cpu(),
            pages: Rc::default(),
            used: RefCell::default(),
            limit: Cell::new(4096),
            now: Cell::new(1000),
            out: RefCell::default(),
        }
    }

    /// Frames handed out and not given back.
    pub fn in_use(&self) -> usize {
        self.used.borrow().len()
    }

    /// A frame's bytes.
    pub fn bytes(&self, frame: u64) -> Vec<u8> {
        self.pages.borrow().get(&frame).cloned().unwrap_or_else(|| vec![0xaa; 4096])
    }

    fn take(&self, frame: u64) -> bool {
        let free = frame < BASE + self.limit.get() && !self.used.borrow().contains(&frame);
        if free {
            self.used.borrow_mut().insert(frame);
            // What the last owner left there.
            self.pages.borrow_mut().insert(frame, vec![0xaa; 4096]);
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
        (BASE..BASE + self.limit.get()).find(|n| self.take(*n)).map(pfn)
    }
    fn alloc_pair(&self) -> Option<Pfn> {
        let used = |n: &u64| self.used.borrow().contains(n);
        let mut pairs = (BASE..(BASE + self.limit.get()).saturating_sub(1)).step_by(2);
        let first = pairs.find(|n| !used(n) && !used(&(n + 1)))?;
        (self.take(first) && self.take(first + 1)).then(|| pfn(first))
    }
    fn free_frame(&self, frame: Pfn) {
        assert!(self.used.borrow_mut().remove(&frame.raw()), "{frame:?} was free");
        assert!(self.el2.is_exclusive(frame.raw()), "{frame:?} is not ours to give back");
    }
    fn zero(&self, frame: Pfn) {
        self.pages.borrow_mut().insert(frame.raw(), vec![0; 4096]);
    }
    fn fill(&self, frame: Pfn, offset: usize, bytes: &[u8]) {
        let mut pages = self.pages.borrow_mut();
        let page = pages.get_mut(&frame.raw()).unwrap();
        page[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

impl RunPages for TestHost<'_> {
    type Page = TestPage;
    fn run_page(&self, frame: Pfn) -> TestPage {
        assert!(self.used.borrow().contains(&frame.raw()), "{frame:?} is free");
        TestPage { pages: Rc::clone(&self.pages), frame: frame.raw() }
    }
}

impl RunPage for TestPage {
    fn read(&self, index: usize) -> u64 {
        let pages = self.pages.borrow();
        let bytes = pages[&self.frame].get(index * 8..index * 8 + 8);
        bytes.map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()))
    }
    fn write(&self, index: usize, value: u64) {
        let mut pages = self.pages.borrow_mut();
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
}

impl Console for TestHost<'_> {
    fn put(&self, byte: u8) {
        self.out.borrow_mut().push(byte);
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
