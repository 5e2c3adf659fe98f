//! The boot memory plan: which RAM becomes EL2's own.
//!
//! Knows how much EL2 needs for a given memory map and where that fits. Must not know where the
//! numbers come from, nor write to any memory.
//!
//! Invariants of a [`Plan`]:
//! - I1: the carve-out lies in one RAM region, begins and ends on 2 MiB, and has no page in common
//!   with anything that is occupied.
//! - I2: its parts lie side by side and fill it.

use alloc::vec::Vec;

use hyp_abi::addr::ADDR_BITS;
use hyp_abi::{PAGE_SIZE, Pfn};
use hyp_s2::Geometry;

use crate::memmap::{MAX_REGIONS, MapError, MemMap, PageRange};

/// Pages of EL2's heap: 4 MiB for 64 VMs of 8 vCPUs.
pub const HEAP_PAGES: u64 = 1024;
/// Pages of the pool beyond the host's RAM: tables for device space, which is mapped in blocks but
/// cut up where a page of it is EL2's own.
pub const DEVICE_TABLE_PAGES: u64 = 64;
/// Pages in 2 MiB: the carve-out's unit, and what one level-3 table maps.
const BLOCK: u64 = 512;
/// Pages in 1 GiB: what one level-2 table maps.
const GIB: u64 = BLOCK * 512;
/// Bytes of metadata for each page.
const META_BYTES: u64 = 8;

/// Something that lies in RAM and must stay as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The EL2 image: code, data, stacks.
    Image,
    /// The EL1 payload.
    Payload,
    /// The device tree.
    Dtb,
    /// The initrd.
    Initrd,
}

/// What is already in memory.
#[derive(Clone, Copy, Debug)]
pub struct Occupied<'a> {
    /// The EL2 image.
    pub image: PageRange,
    /// The EL1 payload, with the memory its image header asks for.
    pub payload: PageRange,
    /// The device tree.
    pub dtb: PageRange,
    /// The initrd, if there is one.
    pub initrd: Option<PageRange>,
    /// What the device tree reserves; may overlap anything.
    pub reserved: &'a [PageRange],
}

/// EL2's carve-out and its parts, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// All of it.
    pub carve_out: PageRange,
    /// Root tables of the host's stage 2, side by side, aligned to their size.
    pub host_root: PageRange,
    /// Page metadata, 8 bytes for each RAM page.
    pub meta: PageRange,
    /// EL2's heap.
    pub heap: PageRange,
    /// Pool for the host's tables.
    pub pool: PageRange,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The memory map itself is bad.
    Map(MapError),
    /// An item is not wholly inside one RAM region.
    NotRam(Item),
    /// Two items overlap.
    Overlap(Item, Item),
    /// No region has so many pages free, aligned to 2 MiB.
    NoRoom {
        /// Pages needed.
        pages: u64,
    },
}

impl core::error::Error for PlanError {}

impl core::fmt::Display for PlanError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Map(e) => write!(f, "bad memory map: {e:?}"),
            Self::NotRam(item) => write!(f, "the {item:?} is not inside one region of RAM"),
            Self::Overlap(a, b) => write!(f, "the {a:?} and the {b:?} overlap"),
            Self::NoRoom { pages } => write!(f, "no {pages} free pages of RAM in one piece"),
        }
    }
}

/// The memory map: all RAM without what is `no-map`. `ram` and `no_map` are (base, size) in bytes;
/// a page that is only partly RAM, or partly `no-map`, is not in it.
///
/// # Errors
/// [`PlanError::Map`]: nothing is left, too many pieces, or RAM regions overlap.
pub fn memory_map(ram: &[(u64, u64)], no_map: &[(u64, u64)]) -> Result<MemMap, PlanError> {
    // Cut at the end of the address space first: a hole that seems to wrap is a hole to the end.
    let hole = |&(base, size): &(u64, u64)| {
        PageRange::outward(base, size.min((1_u64 << ADDR_BITS).saturating_sub(base)))
    };
    let mut pieces = [None; MAX_REGIONS];
    let mut used = 0_usize;
    for &(base, size) in ram {
        let Some(mut rest) = PageRange::inward(base, size) else { continue };
        // Cuts off the piece below the lowest hole of what is left, until no hole is left.
        loop {
            let holes = no_map.iter().filter_map(hole);
            let lowest = holes.filter(|h| h.overlaps(rest)).min_by_key(|h| h.start());
            let below = lowest.map_or(Some(rest), |h| between(rest.start(), h.start()));
            if let Some(piece) = below {
                let slot = pieces.get_mut(used).ok_or(PlanError::Map(MapError::TooMany))?;
                *slot = Some(piece);
                used = used.saturating_add(1);
            }
            match lowest.and_then(|h| between(h.end(), rest.end())) {
                Some(above) => rest = above,
                None => break,
            }
        }
    }
    MemMap::new(pieces.into_iter().flatten()).map_err(PlanError::Map)
}

/// Makes the plan: the highest place in RAM that is free.
///
/// # Errors
/// See [`PlanError`].
pub fn plan(ram: &MemMap, occupied: &Occupied<'_>, host: Geometry) -> Result<Plan, PlanError> {
    plan_with(ram, occupied, host, HEAP_PAGES)
}

/// The same with another size of the heap.
///
/// # Errors
/// See [`PlanError`].
pub fn plan_with(
    ram: &MemMap,
    occupied: &Occupied<'_>,
    host: Geometry,
    heap: u64,
) -> Result<Plan, PlanError> {
    let mut items = occupied.items();
    while let Some((item, range)) = items.next() {
        if !ram.regions().any(|r| r.start() <= range.start() && range.end() <= r.end()) {
            return Err(PlanError::NotRam(item));
        }
        if let Some((other, _)) = items.clone().find(|(_, later)| later.overlaps(range)) {
            return Err(PlanError::Overlap(item, other));
        }
    }
    let needs = Needs::of(ram, host, heap);
    let pages = needs.total();
    let found = ram.regions().filter_map(|region| occupied.highest_gap(region, pages)).last();
    found.and_then(|carve_out| needs.lay_out(carve_out)).ok_or(PlanError::NoRoom { pages })
}

impl Occupied<'_> {
    fn items(&self) -> impl Iterator<Item = (Item, PageRange)> + Clone + use<> {
        [
            Some((Item::Image, self.image)),
            Some((Item::Payload, self.payload)),
            Some((Item::Dtb, self.dtb)),
            self.initrd.map(|r| (Item::Initrd, r)),
        ]
        .into_iter()
        .flatten()
    }

    /// The highest free run of `pages` in a region, aligned to 2 MiB. Each step down goes below
    /// something that is in the way, so there are at most as many steps as such things.
    fn highest_gap(&self, region: PageRange, pages: u64) -> Option<PageRange> {
        let mut end = align_down(region.end());
        loop {
            let gap = between(end.checked_sub(pages)?, end)?;
            if gap.start() < region.start() {
                return None;
            }
            let busy = self.items().map(|(_, r)| r).chain(self.reserved.iter().copied());
            match busy.filter(|r| r.overlaps(gap)).map(PageRange::start).min() {
                Some(lowest) => end = align_down(lowest),
                None => return Some(gap),
            }
        }
    }
}

/// How many pages each part takes.
struct Needs {
    host_root: u64,
    meta: u64,
    heap: u64,
    pool: u64,
}

impl Needs {
    fn of(ram: &MemMap, host: Geometry, heap: u64) -> Self {
        // The worst case: the host has touched all its RAM, page by page.
        let host_tables = ram.regions().map(|r| {
            let level3 = touched(r, BLOCK);
            level3.saturating_add(touched(r, GIB)).saturating_add(touched(r, GIB * 512))
        });
        let pool = host_tables.fold(DEVICE_TABLE_PAGES, u64::saturating_add);
        let meta_bytes = (ram.pages() as u64).saturating_mul(META_BYTES);
        Self { host_root: host.root_pages(), meta: meta_bytes.div_ceil(PAGE_SIZE), heap, pool }
    }

    /// Pages of the carve-out: whole 2 MiB.
    fn total(&self) -> u64 {
        let parts = [self.host_root, self.meta, self.heap, self.pool];
        let sum = parts.into_iter().fold(0, u64::saturating_add);
        sum.div_ceil(BLOCK).saturating_mul(BLOCK)
    }

    /// Side by side, the roots first because they want alignment; the pool takes the rest.
    fn lay_out(&self, carve_out: PageRange) -> Option<Plan> {
        let (host_root, rest) = split(carve_out, self.host_root)?;
        let (meta, rest) = split(rest, self.meta)?;
        let (heap, pool) = split(rest, self.heap)?;
        Some(Plan { carve_out, host_root, meta, heap, pool })
    }
}

/// What the host must not reach of memory that firmware lives in: the parts of `reserved` inside `space`,
/// each page once, without `others`. Boot loaders also reserve what they have loaded, and that is the
/// host's, or EL2's already; what lies beside it in the same range may be firmware's all the same.
#[must_use]
pub fn withheld(
    space: &[PageRange],
    reserved: &[PageRange],
    others: &[PageRange],
) -> Vec<PageRange> {
    let mut chosen: Vec<PageRange> = Vec::new();
    for range in reserved {
        for region in space {
            let end = range.end().min(region.end());
            let mut at = range.start().max(region.start());
            while at < end {
                let taken = others.iter().chain(&chosen);
                let over = taken.clone().find(|t| (t.start()..t.end()).contains(&at));
                at = match over {
                    Some(over) => over.end(),
                    None => {
                        let starts = taken.map(|t| t.start()).filter(|s| (at..end).contains(s));
                        let next = starts.min().unwrap_or(end);
                        chosen.extend(between(at, next));
                        next
                    }
                };
            }
        }
    }
    chosen
}

/// How many spans of `unit` pages (a power of two) a range touches.
fn touched(range: PageRange, unit: u64) -> u64 {
    let first = range.start().checked_div(unit).unwrap_or(0);
    range.end().div_ceil(unit).saturating_sub(first)
}

fn align_down(page: u64) -> u64 {
    page & !(BLOCK - 1)
}

/// The pages `start .. end`, unless there are none.
fn between(start: u64, end: u64) -> Option<PageRange> {
    PageRange::of(Pfn::new(start)?, end.checked_sub(start)?)
}

/// The first `pages` of a range, and the rest, which is not empty.
fn split(range: PageRange, pages: u64) -> Option<(PageRange, PageRange)> {
    let middle = range.start().checked_add(pages)?;
    Some((between(range.start(), middle)?, between(middle, range.end())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB_BYTES: u64 = 1 << 30;
    const RAM: u64 = 0x4000_0000;

    fn bytes(base: u64, size: u64) -> PageRange {
        PageRange::outward(base, size).unwrap()
    }

    fn forty() -> Geometry {
        Geometry::new(40).unwrap()
    }

    /// What QEMU leaves in RAM of a `virt` machine, with an initrd of 3 MiB.
    fn qemu(size: u64) -> Occupied<'static> {
        let initrd = RAM + (size / 2).min(128 * MIB);
        Occupied {
            image: bytes(RAM + 2 * MIB, 2 * MIB),
            payload: bytes(RAM + 4 * MIB, 3 * MIB),
            dtb: bytes(initrd + 4 * MIB, MIB),
            initrd: Some(bytes(initrd, 3 * MIB)),
            reserved: &[],
        }
    }

    /// What a Pi's firmware leaves, with its boot stub and a hole for the GPU reserved.
    fn pi() -> Occupied<'static> {
        static RESERVED: std::sync::LazyLock<[PageRange; 2]> =
            std::sync::LazyLock::new(|| [bytes(0, 4096), bytes(0x3ec0_0000, 0x10_0000)]);
        Occupied {
            image: bytes(2 * MIB, 2 * MIB),
            payload: bytes(4 * MIB, 3 * MIB),
            dtb: bytes(0x2eff_4000, 0xc000),
            initrd: Some(bytes(0x2e00_0000, 0x12_3456)),
            reserved: &*RESERVED,
        }
    }

    /// I1 and I2, and that each part is as large as it must be.
    fn assert_sound(plan: &Plan, ram: &MemMap, occupied: &Occupied<'_>, host: Geometry) {
        let all = plan.carve_out;
        assert!(all.start().is_multiple_of(BLOCK) && all.end().is_multiple_of(BLOCK));
        assert!(ram.regions().any(|r| r.start() <= all.start() && all.end() <= r.end()));
        for (item, range) in occupied.items() {
            assert!(!range.overlaps(all), "{item:?}");
        }
        assert!(occupied.reserved.iter().all(|r| !r.overlaps(all)));
        let parts = [plan.host_root, plan.meta, plan.heap, plan.pool];
        let mut at = all.start();
        for part in parts {
            assert_eq!(part.start(), at);
            at = part.end();
        }
        assert_eq!(at, all.end());
        assert_eq!(plan.host_root.pages(), host.root_pages());
        assert_eq!(plan.host_root.start() % host.root_pages(), 0);
        assert_eq!(plan.heap.pages(), HEAP_PAGES);
        let pages = ram.pages() as u64;
        assert!(plan.meta.pages() * PAGE_SIZE >= pages * META_BYTES);
        assert!((plan.meta.pages() - 1) * PAGE_SIZE < pages * META_BYTES);
        // A level-3 table for each 2 MiB of RAM at the least, and what devices take.
        assert!(plan.pool.pages() >= pages.div_ceil(BLOCK) + DEVICE_TABLE_PAGES);
    }

    #[test]
    fn qemu_machines_of_every_size_have_room_at_their_top() {
        for size in [128, 256, 512, 1024, 2048, 3072, 4096, 8192].map(|mib| mib * MIB) {
            let ram = memory_map(&[(RAM, size)], &[]).unwrap();
            let plan = plan(&ram, &qemu(size), forty()).unwrap();
            assert_sound(&plan, &ram, &qemu(size), forty());
            assert_eq!(plan.carve_out.end() << 12, RAM + size);
        }
    }

    #[test]
    fn the_numbers_for_one_gigabyte_are_these() {
        let ram = memory_map(&[(RAM, GIB_BYTES)], &[]).unwrap();
        let plan = plan(&ram, &qemu(GIB_BYTES), forty()).unwrap();
        // 2 + 512 + 1024 + (512 + 1 + 1 + 64) = 2116 pages, rounded up to 2560: 10 MiB.
        assert_eq!(plan.carve_out, bytes(0x7f60_0000, 0xa0_0000));
        assert_eq!(plan.host_root, bytes(0x7f60_0000, 0x2000));
        assert_eq!(plan.meta, bytes(0x7f60_2000, 0x20_0000));
        assert_eq!(plan.heap, bytes(0x7f80_2000, 0x40_0000));
        assert_eq!(plan.pool, bytes(0x7fc0_2000, 0x3f_e000));
    }

    #[test]
    fn the_pool_has_a_table_for_every_span_that_ram_touches() {
        // Two pages on both sides of 2 MiB, 1 GiB and 512 GiB: two tables of each kind; three
        // pages inside one of each: one.
        let needs =
            |base, size| Needs::of(&memory_map(&[(base, size)], &[]).unwrap(), forty(), HEAP_PAGES);
        let pool = |base, size| needs(base, size).pool - DEVICE_TABLE_PAGES;
        assert_eq!(pool(512 * GIB_BYTES - 4096, 8192), 6);
        assert_eq!(pool(513 * GIB_BYTES - 4096, 8192), 5);
        assert_eq!(pool(513 * GIB_BYTES - 2 * MIB - 4096, 8192), 4);
        assert_eq!(pool(0x4000_3000, 3 * 4096), 3);
        assert_eq!(pool(RAM, 2 * GIB_BYTES), 1024 + 2 + 1);
        assert_eq!(needs(RAM, 511 * 4096).meta, 1);
        assert_eq!(needs(RAM, 512 * 4096).meta, 1);
        assert_eq!(needs(RAM, 513 * 4096).meta, 2);
    }

    /// RAM of a Pi 4, as its firmware describes it: below the GPU, up to the peripherals, above
    /// 4 GiB.
    fn pi_ram(gib: u64) -> Vec<(u64, u64)> {
        let low = (0, 0x3b40_0000);
        match gib {
            1 => vec![low],
            2 => vec![low, (RAM, RAM)],
            4 => vec![low, (RAM, 0xbc00_0000)],
            _ => vec![low, (RAM, 0xbc00_0000), (4 * GIB_BYTES, 4 * GIB_BYTES)],
        }
    }

    #[test]
    fn pis_of_every_size_have_room_in_their_highest_region() {
        for (gib, top) in [(1, 0x3b40_0000), (2, 0x8000_0000), (4, 0xfc00_0000), (8, 1 << 33)] {
            let ram = memory_map(&pi_ram(gib), &[]).unwrap();
            let plan = plan(&ram, &pi(), forty()).unwrap();
            assert_sound(&plan, &ram, &pi(), forty());
            assert_eq!(plan.carve_out.end() << 12, top, "{gib} GiB");
        }
    }

    #[test]
    fn whatever_lies_at_the_top_the_carve_out_goes_below_it() {
        let ram = memory_map(&[(RAM, 64 * MIB)], &[]).unwrap();
        let free = Occupied { dtb: bytes(RAM, 4096), initrd: None, ..qemu(64 * MIB) };
        let size = plan(&ram, &free, forty()).unwrap().carve_out.pages() << 12;
        let top = RAM + 64 * MIB;
        // Slid down over the last 24 MiB, page by page and of any size: never on top of it.
        let step = if cfg!(miri) { 0x3f_f000 } else { 0x1000 };
        for pages in [1, 511, 512, 513, 2048] {
            for start in (top - 24 * MIB..top).step_by(step) {
                let length = (pages << 12).min(top - start);
                let dtb = bytes(start, length);
                let occupied = Occupied { dtb, ..free };
                let found = plan(&ram, &occupied, forty()).unwrap();
                assert_sound(&found, &ram, &occupied, forty());
                let above = (start + length).next_multiple_of(2 * MIB) + size <= top;
                let end = if above { top } else { start & !(2 * MIB - 1) };
                assert_eq!(found.carve_out.end() << 12, end, "{dtb:?}");
            }
        }
    }

    #[test]
    fn several_things_in_the_way_are_all_avoided() {
        let ram = memory_map(&[(RAM, 64 * MIB)], &[]).unwrap();
        let reserved: Vec<_> =
            (0..6).map(|i| bytes(RAM + 60 * MIB - i * 7 * MIB, 0x1000)).collect();
        let occupied = Occupied {
            dtb: bytes(RAM, 4096),
            initrd: Some(bytes(RAM + 63 * MIB, MIB)),
            reserved: &reserved,
            ..qemu(64 * MIB)
        };
        // 6 MiB do not fit between things 7 MiB apart at odd places, but where 2 MiB align they do.
        let found = plan(&ram, &occupied, forty()).unwrap();
        assert_sound(&found, &ram, &occupied, forty());
        assert_eq!(found.carve_out.pages() << 12, 6 * MIB);
        assert_eq!(found.carve_out.end() << 12, RAM + 60 * MIB);
    }

    #[test]
    fn a_region_that_is_full_sends_the_carve_out_to_a_lower_one() {
        let ram = memory_map(&[(RAM, 64 * MIB), (2 * GIB_BYTES, 8 * MIB)], &[]).unwrap();
        let full = [bytes(2 * GIB_BYTES + 4 * MIB, 4096)];
        let base = Occupied { dtb: bytes(RAM, 4096), initrd: None, ..qemu(64 * MIB) };
        let end = |reserved: &[PageRange]| {
            let occupied = Occupied { reserved, ..base };
            plan(&ram, &occupied, forty()).unwrap().carve_out.end() << 12
        };
        assert_eq!(end(&[]), 2 * GIB_BYTES + 8 * MIB);
        assert_eq!(end(&full), RAM + 64 * MIB);
    }

    #[test]
    fn a_region_that_is_exactly_large_enough_is_taken() {
        let place = |base, size| {
            let ram = memory_map(&[(RAM, 16 * MIB), (base, size)], &[]).unwrap();
            let occupied = Occupied { dtb: bytes(RAM, 4096), initrd: None, ..qemu(16 * MIB) };
            plan(&ram, &occupied, forty()).unwrap().carve_out
        };
        let high = 2 * GIB_BYTES;
        assert_eq!(place(high, 6 * MIB), bytes(high, 6 * MIB));
        assert_eq!(place(high + 4096, 6 * MIB - 4096), bytes(RAM + 10 * MIB, 6 * MIB));
    }

    #[test]
    fn without_room_the_refusal_says_how_much_was_wanted() {
        let tiny = |size| {
            let ram = memory_map(&[(RAM, size)], &[]).unwrap();
            let occupied = Occupied { dtb: bytes(RAM, 4096), initrd: None, ..qemu(size) };
            plan(&ram, &occupied, forty()).map(|p| p.carve_out)
        };
        // Image and payload end at 7 MiB; the carve-out of 6 MiB begins at 8 MiB or nowhere.
        assert_eq!(tiny(14 * MIB), Ok(bytes(RAM + 8 * MIB, 6 * MIB)));
        let refusal = Err(PlanError::NoRoom { pages: 1536 });
        assert_eq!(tiny(14 * MIB - 4096), refusal);
        assert_eq!(tiny(8 * MIB), refusal);
    }

    #[test]
    fn everything_must_lie_in_one_region_of_ram() {
        let ram = memory_map(&[(RAM, 64 * MIB), (RAM + 65 * MIB, 64 * MIB)], &[]).unwrap();
        let good = Occupied { initrd: None, dtb: bytes(RAM, 4096), ..qemu(64 * MIB) };
        assert!(plan(&ram, &good, forty()).is_ok());
        let outside = bytes(RAM + 63 * MIB, 2 * MIB);
        let cases = [
            (Occupied { image: outside, ..good }, Item::Image),
            (Occupied { payload: outside, ..good }, Item::Payload),
            (Occupied { dtb: outside, ..good }, Item::Dtb),
            (Occupied { initrd: Some(outside), ..good }, Item::Initrd),
        ];
        for (occupied, item) in cases {
            assert_eq!(plan(&ram, &occupied, forty()), Err(PlanError::NotRam(item)));
        }
        let below = Occupied { image: bytes(RAM - 4096, 2 * MIB), ..good };
        assert_eq!(plan(&ram, &below, forty()), Err(PlanError::NotRam(Item::Image)));
    }

    #[test]
    fn firmware_s_memory_is_withheld_each_page_once() {
        let pages = |start: u64, end| between(start, end).unwrap();
        let ram = [pages(0, 100), pages(200, 300)];
        let take = |reserved: &[PageRange], others: &[PageRange]| -> Vec<(u64, u64)> {
            let parts = withheld(&ram, reserved, others);
            parts.iter().map(|part| (part.start(), part.end())).collect()
        };
        assert_eq!(take(&[pages(0, 1)], &[]), [(0, 1)]);
        // What is no RAM is not there; the rest on both sides is.
        assert_eq!(take(&[pages(90, 210)], &[]), [(90, 100), (200, 210)]);
        assert_eq!(take(&[pages(120, 130)], &[]), []);
        // Ranges over each other, in whichever order.
        assert_eq!(take(&[pages(10, 20), pages(15, 30), pages(10, 20)], &[]), [(10, 20), (20, 30)]);
        assert_eq!(take(&[pages(15, 20), pages(10, 30)], &[]), [(15, 20), (10, 15), (20, 30)]);
        // The initrd is often reserved, too, and is the host's; what lies beside it is not.
        assert_eq!(take(&[pages(10, 20), pages(40, 50)], &[pages(10, 20)]), [(40, 50)]);
        assert_eq!(take(&[pages(10, 20), pages(40, 50)], &[pages(19, 25)]), [(10, 19), (40, 50)]);
        assert_eq!(take(&[pages(10, 20)], &[pages(12, 15), pages(5, 11)]), [(11, 12), (15, 20)]);
        assert_eq!(take(&[pages(10, 20)], &[pages(20, 25), pages(5, 10)]), [(10, 20)]);
    }

    #[test]
    fn no_two_things_may_overlap_by_a_page() {
        let ram = memory_map(&[(RAM, 128 * MIB)], &[]).unwrap();
        let at = |mib| bytes(RAM + mib * MIB, 2 * MIB);
        let apart = [at(2), at(4), at(6), at(8)];
        let items = [Item::Image, Item::Payload, Item::Dtb, Item::Initrd];
        let with = |r: [PageRange; 4]| {
            let [image, payload, dtb, initrd] = r;
            let occupied = Occupied { image, payload, dtb, initrd: Some(initrd), reserved: &[] };
            plan(&ram, &occupied, forty()).map(|_| ())
        };
        assert_eq!(with(apart), Ok(()));
        for first in 0..4 {
            for second in first + 1..4 {
                // Where the first lies, but for all of it except its last page.
                let mut ranges = apart;
                let start = Pfn::new(apart[first].end() - 1).unwrap();
                ranges[second] = PageRange::of(start, 1).unwrap();
                let refusal = PlanError::Overlap(items[first], items[second]);
                assert_eq!(with(ranges), Err(refusal));
            }
        }
    }

    #[test]
    fn reserved_memory_may_overlap_anything() {
        let ram = memory_map(&[(RAM, 128 * MIB)], &[]).unwrap();
        let base = qemu(128 * MIB);
        let reserved = [base.dtb, base.image, bytes(0, 4096), bytes(RAM + 127 * MIB, 8 * MIB)];
        let occupied = Occupied { reserved: &reserved, ..base };
        let found = plan(&ram, &occupied, forty()).unwrap();
        assert_sound(&found, &ram, &occupied, forty());
        assert_eq!(found.carve_out.end() << 12, RAM + 126 * MIB);
    }

    fn regions(map: &MemMap) -> Vec<(u64, u64)> {
        map.regions().map(|r| (r.start() << 12, r.end() << 12)).collect()
    }

    #[test]
    fn holes_that_may_not_be_mapped_are_cut_out_of_ram() {
        let map = |ram: &[_], holes: &[_]| regions(&memory_map(ram, holes).unwrap());
        let ram = (0x10_0000, 0x10_0000);
        assert_eq!(map(&[ram], &[]), [(0x10_0000, 0x20_0000)]);
        // In the middle, at each end, beyond both, and unaligned: outward.
        let cut = map(&[ram], &[(0x18_0000, 0x1000)]);
        assert_eq!(cut, [(0x10_0000, 0x18_0000), (0x18_1000, 0x20_0000)]);
        assert_eq!(map(&[ram], &[(0x10_0000, 0x1000)]), [(0x10_1000, 0x20_0000)]);
        assert_eq!(map(&[ram], &[(0x1f_f000, 0x1000)]), [(0x10_0000, 0x1f_f000)]);
        assert_eq!(map(&[ram], &[(0, 0x10_0001)]), [(0x10_1000, 0x20_0000)]);
        assert_eq!(map(&[ram], &[(0x1f_ffff, u64::MAX)]), [(0x10_0000, 0x1f_f000)]);
        assert_eq!(map(&[ram], &[(0, 0x10_0000), (0x20_0000, 0x1000)]), [(0x10_0000, 0x20_0000)]);
        // Out of order, overlapping each other, and an empty one.
        let holes = [(0x1c_0000, 0x2000), (0x14_0000, 0x2000), (0x14_1000, 0x3000), (0x16_0000, 0)];
        let cut = [(0x10_0000, 0x14_0000), (0x14_4000, 0x1c_0000), (0x1c_2000, 0x20_0000)];
        assert_eq!(map(&[ram], &holes), cut);
    }

    #[test]
    fn ram_at_odd_addresses_loses_its_ragged_pages_and_a_region_without_a_whole_one_is_none() {
        let map = memory_map(&[(0x8000_0123, 0x765_4321), (0x1000, 0xfff), (0, 0)], &[]).unwrap();
        assert_eq!(regions(&map), [(0x8000_1000, 0x8765_4000)]);
        let error = |e| Err(PlanError::Map(e));
        assert_eq!(memory_map(&[(0x1001, 0x1ffe)], &[]), error(MapError::Empty));
        assert_eq!(memory_map(&[(0x1000, 0x1000)], &[(0x1fff, 1)]), error(MapError::Empty));
        assert_eq!(memory_map(&[], &[]), error(MapError::Empty));
        assert_eq!(memory_map(&[(0, 0x2000), (0x1000, 0x1000)], &[]), error(MapError::Overlap));
    }

    #[test]
    fn too_many_pieces_are_refused_and_exactly_as_many_as_fit_are_not() {
        let holes: Vec<_> = (1..=16).map(|i| (i * 0x2000, 0x1000)).collect();
        let pieces = |n| memory_map(&[(0x1000, 0x10_0000)], &holes[..n]).map(|m| regions(&m).len());
        assert_eq!(pieces(15), Ok(16));
        assert_eq!(pieces(16), Err(PlanError::Map(MapError::TooMany)));
    }

    #[test]
    fn a_refusal_is_one_line() {
        let text = |e: PlanError| e.to_string();
        assert_eq!(text(PlanError::Map(MapError::Empty)), "bad memory map: Empty");
        assert_eq!(
            text(PlanError::NotRam(Item::Initrd)),
            "the Initrd is not inside one region of RAM"
        );
        assert_eq!(
            text(PlanError::Overlap(Item::Dtb, Item::Initrd)),
            "the Dtb and the Initrd overlap"
        );
        let no_room = PlanError::NoRoom { pages: 1536 };
        assert_eq!(text(no_room), "no 1536 free pages of RAM in one piece");
    }
}
