//! The machine's device tree, and the memory plan that EL2 makes from it.

use hyp_core::board::Config;
use hyp_core::devices::Devices;
use hyp_core::fake::FakeMachine;
use hyp_core::hyp::{Gic, Hyp};
use hyp_core::memmap::{MemMap, PageRange};
use hyp_core::plan::{HEAP_PAGES, Occupied, Plan, memory_map, plan};
use hyp_core::sysreg::ID_REGISTERS;
use hyp_dtb::dma::Role;
use hyp_dtb::{Dtb, DtbError, Region, strip_nops};
use hyp_s2::{Geometry, TablePfn};

use crate::Tape;

const PAGE: u64 = 4096;
const BLOCK: u64 = 2 << 20;
/// RAM of machines that are small enough to pretend.
const SMALL: usize = 1 << 14;

/// Reads any bytes as a device tree. What follows the tree says where things lie in memory.
///
/// NOPs can be taken out, once; nothing behind the tree counts; addresses do not wrap. RAM becomes a
/// memory map that is sorted, disjoint and all RAM but what must not be mapped. The memory plan
/// touches nothing that is in memory already, and a hypervisor can be made from it.
pub fn dtb(bytes: &[u8]) {
    let before = Dtb::parse(bytes);
    let mut stripped = bytes.to_vec();
    let nops = strip_nops(&mut stripped);
    match nops {
        Ok(n) => {
            assert_eq!(stripped == bytes, n == 0, "{n} NOPs");
            assert_eq!(strip_nops(&mut stripped), Ok(0), "NOPs are left");
        }
        Err(_) => assert_eq!(stripped, bytes, "a refused tree was changed"),
    }
    if before.is_ok() {
        assert_eq!(nops, Ok(0), "the check lets NOPs through");
    }
    let Ok(tree) = Dtb::parse(&stripped) else { return };
    let own = tree.bytes();
    let alone = Dtb::parse(own).expect("the tree without what follows it");
    assert_eq!(read(&tree), read(&alone));
    withheld(&tree);
    let mut at = Tape::new(&stripped[own.len()..]);
    let Some(ram) = map(&tree) else { return };
    planned(&tree, &ram, &mut at);
}

/// Everything there is to read, and that its numbers are sound.
fn read(tree: &Dtb<'_>) -> String {
    let sound = |r: &Region| assert!(r.base.checked_add(r.size).is_some(), "{r:?} wraps");
    let (ram, reserved, chosen) = (tree.ram(), tree.reserved(), tree.chosen());
    let (gic, uart) = (tree.gic(), tree.uart());
    if let Ok(ram) = &ram {
        assert!(!ram.is_empty() && ram.iter().all(|r| r.size > 0));
        ram.iter().for_each(sound);
    }
    if let Ok(reserved) = &reserved {
        reserved.iter().for_each(|r| sound(&r.region));
    }
    match &gic {
        Ok(hyp_dtb::Gic::V2 { gicd, gicc, gich, gicv, .. }) => {
            [gicd, gicc, gich, gicv].into_iter().for_each(sound);
        }
        Ok(hyp_dtb::Gic::V3 { gicd, gicr, .. }) => {
            assert!(!gicr.is_empty());
            sound(gicd);
            gicr.iter().for_each(sound);
        }
        Err(_) => {}
    }
    if let Ok(Some(uart)) = &uart {
        sound(&uart.registers);
        assert!(uart.intid.is_none_or(|i| (16..1020).contains(&i)));
    }
    if let Ok(chosen) = &chosen {
        chosen.initrd.iter().for_each(|r| {
            sound(r);
            assert!(r.size > 0);
        });
    }
    if let Ok(timer) = tree.timer() {
        let all = [timer.secure, timer.physical, timer.virt, timer.hyp];
        assert!(all.iter().all(|i| (16..1020).contains(i)), "{timer:?}");
    }
    for error in [ram.as_ref().err(), reserved.as_ref().err(), gic.as_ref().err()] {
        assert!(error.is_none_or(|e: &DtbError| e.to_string().starts_with("device tree: ")));
    }
    let lists = (ram.map(|l| l.to_vec()), reserved.map(|l| l.to_vec()));
    format!("{lists:?} {:?} {gic:?} {uart:?} {chosen:?}", (tree.cpus(), tree.psci(), tree.timer()))
}

/// With `dma=strict`: no page of anything that could write to memory is the host's, and every other
/// device's is.
fn withheld(tree: &Dtb<'_>) {
    let mut all: Vec<(PageRange, Role)> = Vec::new();
    let visited = tree.each_device(|device| {
        let Region { base, size } = device.registers;
        assert!(size > 0 && base.checked_add(size).is_some(), "{device:?}");
        all.extend(PageRange::outward(base, size).map(|pages| (pages, device.role)));
        Ok(())
    });
    let mut devices = Devices::only();
    let mut add = |(pages, role): &(PageRange, Role)| match role {
        Role::Harmless => devices.allow(*pages),
        Role::Master => devices.deny(*pages),
    };
    if visited.is_err() || all.iter().any(|device| add(device).is_err()) {
        return;
    }
    let hole = PageRange::of(hyp_abi::Pfn::new(0).expect("a frame"), 1 << 36).expect("a range");
    for page in all.iter().flat_map(|(pages, _)| [pages.start(), pages.end() - 1, pages.end()]) {
        let Some(pfn) = hyp_abi::Pfn::new(page) else { continue };
        let of = |wanted| all.iter().any(|(pages, role)| *role == wanted && pages.contains(pfn));
        let may = of(Role::Harmless) && !of(Role::Master);
        assert_eq!(devices.around(pfn, hole), PageRange::of(pfn, 1).filter(|_| may), "{page:#x}");
    }
}

fn bytes(region: &Region) -> (u64, u64) {
    (region.base, region.size)
}

/// The memory map, compared with what it was made of.
fn map(tree: &Dtb<'_>) -> Option<MemMap> {
    let (ram, reserved) = (tree.ram().ok()?, tree.reserved().ok()?);
    let ram: Vec<(u64, u64)> = ram.iter().map(bytes).collect();
    let holes = reserved.iter().filter(|r| r.no_map);
    let holes: Vec<(u64, u64)> = holes.map(|r| bytes(&r.region)).collect();
    let map = memory_map(&ram, &holes).ok()?;
    let regions: Vec<PageRange> = map.regions().collect();
    assert!(regions.iter().all(|r| r.start() < r.end() && r.end() <= 1 << 36));
    assert!(regions.is_sorted_by(|a, b| a.end() <= b.start()), "{regions:x?}");
    assert_eq!(map.pages() as u64, regions.iter().map(|r| r.pages()).sum::<u64>());
    let is_ram = |page: u64| {
        let (base, end) = (page * PAGE, (page + 1) * PAGE);
        let within = |(b, size): &(u64, u64)| *b <= base && end <= b.saturating_add(*size);
        let touches = |(b, size): &(u64, u64)| *b < end && base < b.saturating_add(*size);
        ram.iter().any(within) && !holes.iter().any(touches)
    };
    // Whether a page is RAM can change at these addresses only.
    let edges = ram.iter().chain(&holes).flat_map(|(b, size)| [*b, b.saturating_add(*size)]);
    for page in edges.map(|edge| edge / PAGE).flat_map(|p| [p.wrapping_sub(1), p, p + 1]) {
        let Some(pfn) = hyp_abi::Pfn::new(page) else { continue };
        assert_eq!(map.contains(pfn), is_ram(page), "page {page:#x} of {regions:x?}");
        assert_eq!(map.hole_of(pfn).is_some(), !map.contains(pfn));
        assert_eq!(map.hole_of(pfn).is_some_and(|h| h.contains(pfn)), !map.contains(pfn));
    }
    let mut rank = 0;
    for region in &regions {
        let index = |page: u64| hyp_abi::Pfn::new(page).and_then(|pfn| map.index(pfn));
        assert_eq!(index(region.start()), Some(rank));
        rank += region.pages() as usize;
        assert_eq!(index(region.end() - 1), Some(rank - 1));
    }
    Some(map)
}

/// The plan, around an image and a payload at a place of the tape's choice.
fn planned(tree: &Dtb<'_>, ram: &MemMap, at: &mut Tape<'_>) {
    let Ok(reserved) = tree.reserved() else { return };
    let first = ram.regions().next().map_or(0, PageRange::start) * PAGE;
    let mut place = |size: u64| {
        let offset = u64::from(at.half()) * 0x1_0000;
        PageRange::outward(first.saturating_add(offset) & !(BLOCK - 1), size)
    };
    let (Some(image), Some(payload)) = (place(BLOCK), place(BLOCK / 2)) else { return };
    let Some(dtb) = place(tree.bytes().len() as u64) else { return };
    let initrd = tree.chosen().ok().and_then(|c| c.initrd);
    let initrd = initrd.and_then(|r| PageRange::outward(r.base, r.size));
    let mapped = reserved.iter().filter(|r| !r.no_map);
    let reserved: Vec<PageRange> =
        mapped.filter_map(|r| PageRange::outward(r.region.base, r.region.size)).collect();
    let occupied = Occupied { image, payload, dtb, initrd, reserved: &reserved };
    for bits in [36, 40] {
        let geometry = Geometry::new(bits).expect("a width that exists");
        let Ok(plan) = plan(ram, &occupied, geometry) else { continue };
        let items = [Some(image), Some(payload), Some(dtb), initrd].into_iter().flatten();
        let busy: Vec<PageRange> = items.chain(reserved.iter().copied()).collect();
        sound(&plan, ram, &busy, geometry);
        if ram.pages() <= SMALL {
            boots(&plan, ram, image, bits);
        }
    }
}

fn sound(plan: &Plan, ram: &MemMap, busy: &[PageRange], geometry: Geometry) {
    let all = plan.carve_out;
    assert!(ram.regions().any(|r| r.start() <= all.start() && all.end() <= r.end()), "{plan:x?}");
    assert!((all.start() | all.end()).is_multiple_of(512), "{plan:x?}");
    assert!(!busy.iter().any(|b| b.overlaps(all)), "{plan:x?} in {busy:x?}");
    let parts = [plan.host_root, plan.meta, plan.heap, plan.pool];
    let mut next = all.start();
    for part in parts {
        assert_eq!(part.start(), next);
        next = part.end();
    }
    assert_eq!(next, all.end());
    assert_eq!(plan.host_root.pages(), geometry.root_pages());
    assert_eq!(plan.host_root.start() % geometry.root_pages(), 0);
    assert!(plan.meta.pages() * PAGE >= ram.pages() as u64 * 8);
    assert_eq!(plan.heap.pages(), HEAP_PAGES);
}

/// A hypervisor takes the machine over, and hides from the host what is its own.
fn boots(plan: &Plan, ram: &MemMap, image: PageRange, host_ipa_bits: u8) {
    let machine = FakeMachine::new(ram, 1);
    let root = hyp_abi::Pfn::new(plan.host_root.start()).expect("a frame");
    let highest = ram.regions().last().map_or(0, PageRange::end);
    if highest > 1 << (host_ipa_bits - 12) {
        return; // beyond what such a stage 2 can map
    }
    let config = Config {
        memmap: ram.clone(),
        el2_owned: &[image, plan.carve_out],
        private_devices: &[],
        host_root: TablePfn::new(root),
        host_ipa_bits,
        guest_ipa_bits: host_ipa_bits,
        pool: &[plan.pool],
        gic: Gic::V3,
        nr_lrs: 4,
        lr_priority_bits: 5,
        id_values: [0; ID_REGISTERS.len()],
        vtimer_intid: 27,
    };
    let hyp = Hyp::new(machine, config);
    assert!(hyp.is_ok(), "{:?} of {plan:x?}", hyp.err());
}
