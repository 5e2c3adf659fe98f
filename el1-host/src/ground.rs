//! What host-vmm asks of the image around it, for one guest: frames, run pages, time, the console, EL2.

use core::sync::atomic::{AtomicU64, Ordering};

use host_vmm::host::{Clock, Console, Frames, Hypercalls, RunPage, RunPages};
use hyp_abi::{Hypercall, PAGE_SIZE, Pfn, Ret};

use crate::arch::phys::PAGE_WORDS;
use crate::arch::timer;
use crate::console;
use crate::el2::El2;
use crate::shim::Shim;

/// The ground that a guest stands on.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// The host.
    pub shim: &'a Shim,
    /// The guest's number.
    pub guest: usize,
    /// Frames that it has.
    pub frames: &'a AtomicU64,
}

impl Hypercalls for Ground<'_> {
    fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret {
        El2.call(call, args)
    }
}

impl Frames for Ground<'_> {
    fn alloc_frame(&self) -> Option<Pfn> {
        let frame = self.shim.frames.lock().take()?;
        self.frames.fetch_add(1, Ordering::Relaxed);
        Some(frame)
    }

    fn alloc_pair(&self) -> Option<Pfn> {
        let first = self.shim.frames.lock().take_pair()?;
        self.frames.fetch_add(2, Ordering::Relaxed);
        Some(first)
    }

    fn free_frame(&self, frame: Pfn) {
        let put = self.shim.frames.lock().put(frame);
        // Only a bug of the host gives back what is not out; going on would hand it out twice.
        assert!(put.is_ok(), "{frame:?} came back: {put:?}");
        self.frames.fetch_sub(1, Ordering::Relaxed);
    }

    fn zero(&self, frame: Pfn) {
        self.shim.memory.zero(frame);
    }

    fn fill(&self, frame: Pfn, offset: usize, bytes: &[u8]) {
        let room = (PAGE_SIZE as usize).saturating_sub(offset);
        let bytes = &bytes[..bytes.len().min(room)];
        self.shim.memory.write(frame, offset.min(PAGE_SIZE as usize), bytes);
    }
}

/// A run page, word by word: EL2 writes it while the host holds it.
#[derive(Clone, Copy)]
pub struct Page(&'static [AtomicU64; PAGE_WORDS]);

impl RunPage for Page {
    fn read(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn write(&self, index: usize, value: u64) {
        if let Some(word) = self.0.get(index) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

impl RunPages for Ground<'_> {
    type Page = Page;

    fn run_page(&self, frame: Pfn) -> Page {
        Page(self.shim.memory.words(frame))
    }
}

impl Clock for Ground<'_> {
    fn now(&self) -> u64 {
        timer::now()
    }

    fn frequency(&self) -> u64 {
        timer::frequency()
    }
}

impl Console for Ground<'_> {
    fn put(&self, byte: u8) {
        if let Some(tend_at) = console::put(self.guest, byte) {
            self.shim.set_alarm(tend_at);
        }
    }
}
