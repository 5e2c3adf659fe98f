//! The boot memory plan: which RAM becomes EL2's own.
//!
//! Knows how much EL2 needs for a given memory map and where that fits. Must not know where the
//! numbers come from, nor write to any memory.
//!
//! Invariants of a [`Plan`]:
//! - I1: the carve-out lies in one RAM region, begins and ends on 2 MiB, and has no page in common
//!   with anything that is occupied.
//! - I2: its parts lie side by side and fill it.

use hyp_s2::Geometry;

use crate::memmap::{MAX_REGIONS, MapError, MemMap, PageRange};
use hyp_abi::{PAGE_SIZE, Pfn};

/// Pages of EL2's heap: 4 MiB for 64 VMs of 8 vCPUs.
pub const HEAP_PAGES: u64 = 1024;
/// Pages for EL2's own stage-1 tables. All RAM in largest blocks takes at most 5 a region (one for
/// 512 GiB, and two of each lower level for ragged ends), 16 regions; the image and each of a
/// handful of devices take at most 3.
pub const EL2_TABLE_PAGES: u64 = 128;
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
    /// Tables of EL2's stage 1.
    pub el2_tables: PageRange,
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
    let mut pieces = [None; MAX_REGIONS];
    let mut used = 0_usize;
    for &(base, size) in ram {
        let Some(mut rest) = PageRange::inward(base, size) else { continue };
        // Cuts off the piece below the lowest hole of what is left, until no hole is left.
        loop {
            let holes = no_map.iter().filter_map(|&(b, s)| PageRange::outward(b, s));
            let hole = holes.filter(|h| h.overlaps(rest)).min_by_key(|h| h.start());
            let below = hole.map_or(Some(rest), |h| between(rest.start(), h.start()));
            if let Some(piece) = below {
                let slot = pieces.get_mut(used).ok_or(PlanError::Map(MapError::TooMany))?;
                *slot = Some(piece);
                used = used.saturating_add(1);
            }
            match hole.and_then(|h| between(h.end(), rest.end())) {
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
    let mut items = occupied.items();
    while let Some((item, range)) = items.next() {
        if !ram.regions().any(|r| r.start() <= range.start() && range.end() <= r.end()) {
            return Err(PlanError::NotRam(item));
        }
        if let Some((other, _)) = items.clone().find(|(_, later)| later.overlaps(range)) {
            return Err(PlanError::Overlap(item, other));
        }
    }
    let needs = Needs::of(ram, host);
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
    pool: u64,
}

impl Needs {
    fn of(ram: &MemMap, host: Geometry) -> Self {
        // The worst case: the host has touched all its RAM, page by page.
        let host_tables = ram.regions().map(|r| {
            let level3 = touched(r, BLOCK);
            level3.saturating_add(touched(r, GIB)).saturating_add(touched(r, GIB * 512))
        });
        let pool = host_tables.fold(DEVICE_TABLE_PAGES, u64::saturating_add);
        let meta_bytes = (ram.pages() as u64).saturating_mul(META_BYTES);
        Self { host_root: host.root_pages(), meta: meta_bytes.div_ceil(PAGE_SIZE), pool }
    }

    /// Pages of the carve-out: whole 2 MiB.
    fn total(&self) -> u64 {
        let parts = [self.host_root, EL2_TABLE_PAGES, self.meta, HEAP_PAGES, self.pool];
        let sum = parts.into_iter().fold(0, u64::saturating_add);
        sum.div_ceil(BLOCK).saturating_mul(BLOCK)
    }

    /// Side by side, the roots first because they want alignment; the pool takes the rest.
    fn lay_out(&self, carve_out: PageRange) -> Option<Plan> {
        let (host_root, rest) = split(carve_out, self.host_root)?;
        let (el2_tables, rest) = split(rest, EL2_TABLE_PAGES)?;
        let (meta, rest) = split(rest, self.meta)?;
        let (heap, pool) = split(rest, HEAP_PAGES)?;
        Some(Plan { carve_out, host_root, el2_tables, meta, heap, pool })
    }
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
