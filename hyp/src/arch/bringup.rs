//! The steps of the boot that touch memory or registers by address: what `el2` decides, done.
//!
//! Each function is called once, in the order in which they stand here, on one CPU ([`release`] for
//! each of the others); the last two on every other CPU too, whenever it comes up.

use core::sync::atomic::{AtomicU64, Ordering};

use hyp_abi::PAGE_SHIFT;
use hyp_core::machine::Frames;
use hyp_core::memmap::PageRange;
use hyp_dtb::{Dtb, HEADER_BYTES, Region, Uart, UartKind, header_size, strip_nops};
use hyp_s2::Regime;

use super::boot::{self, Part};
use super::cpu::{self, Features, Traps};
use super::gic::Vgic;
use super::{cache, mmu, percpu, pm, smc, switch, sysreg, timer, vectors};
use crate::el2::BootError;
use crate::machine::Hw;
use crate::stage1::{Kind, Map, MapError};
use crate::survey::Memory;
use crate::{console, heap};

/// Start and end of a range of pages, in bytes.
pub fn bytes_of(range: PageRange) -> Part {
    (range.start() << PAGE_SHIFT, range.end() << PAGE_SHIFT)
}

/// The pages that `size` bytes at `start` touch.
fn around(start: u64, size: u64) -> Result<Part, MapError> {
    PageRange::outward(start, size).map(bytes_of).ok_or(MapError::Range)
}

/// Adds to the map in use.
fn add_now(map: &mut Map, part: Part, kind: Kind) -> Result<(), MapError> {
    map.add(part, kind)?;
    mmu::publish();
    Ok(())
}

/// Lets `f` read memory that is in no final map yet.
fn peek<X>(
    map: &mut Map,
    at: u64,
    size: u64,
    kind: Kind,
    f: impl FnOnce(&[u8]) -> X,
) -> Result<X, MapError> {
    add_now(map, around(at, size)?, kind)?;
    // SAFETY:
    // 1. The bytes are mapped, just now, and not at address zero (an address space that has one
    //    would make the reference null).
    // 2. Nobody writes them: EL1 has not run, other CPUs wait, and devices are idle (arm64 boot
    //    protocol). The reference does not outlive `f`.
    Ok(f(unsafe { core::slice::from_raw_parts(at as *const u8, size as usize) }))
}

/// Checks the device tree at `pa` and lets `f` read it. NOPs, which whoever edits a tree leaves
/// behind, are taken out of it in place.
pub fn with_device_tree<X>(
    map: &mut Map,
    pa: u64,
    f: impl FnOnce(&mut Map, &Dtb<'_>) -> Result<X, BootError>,
) -> Result<X, BootError> {
    // The boot protocol wants it at a multiple of 8; a loader that has none passes 0 or a relic.
    if pa == 0 || !pa.is_multiple_of(8) {
        return Err(BootError::NoDeviceTree(pa));
    }
    let size = peek(map, pa, HEADER_BYTES as u64, Kind::Data, header_size)?? as u64;
    add_now(map, around(pa, size)?, Kind::Data)?;
    // SAFETY: as in `peek`, and the pages are writable.
    let bytes = unsafe { core::slice::from_raw_parts_mut(pa as *mut u8, size as usize) };
    if strip_nops(bytes)? > 0 {
        // The host reads it next, with its caches off.
        cache::clean_to_poc(pa, size);
    }
    f(map, &Dtb::parse(bytes)?)
}

/// The first 64 bytes at `pa`, as words.
pub fn header(map: &mut Map, pa: u64) -> Result<[u64; 8], MapError> {
    peek(map, pa, 64, Kind::RoData, |bytes| {
        let mut words = [0; 8];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        words
    })
}

/// Errors are told to a UART that may be at `pa`, until the device tree has been read.
pub fn guess_console(map: &mut Map, (kind, pa): (UartKind, u64)) {
    if around(pa, 1).and_then(|page| add_now(map, page, Kind::Device)).is_ok() {
        // SAFETY: 1. It is mapped as device memory, 2. which is not used unless the boot fails.
        unsafe { console::guess(kind, pa) };
    }
}

/// Sends text to this UART from now on, or to nobody.
pub fn use_console(map: &mut Map, uart: Option<Uart>) -> Result<(), MapError> {
    let Some(Uart { kind, registers, .. }) = uart else {
        console::close();
        return Ok(());
    };
    add_now(map, around(registers.base, registers.size)?, Kind::Device)?;
    // SAFETY: 1. The device tree says that it is one; 2. the final map keeps it.
    unsafe { console::open(kind, registers.base) };
    Ok(())
}

/// Turns the final map on and puts the carve-out to use. `devices` are those of EL2's.
pub fn take_over(
    memory: &Memory,
    devices: impl IntoIterator<Item = Option<Region>>,
) -> Result<Hw, MapError> {
    let mut map = mmu::last();
    map.add(boot::text(), Kind::Text)?;
    map.add(boot::rodata(), Kind::RoData)?;
    map.add(boot::data(), Kind::Data)?;
    for number in 0..percpu::CPUS {
        map.add(boot::stack(number), Kind::Data)?;
        map.add(boot::emergency_stack(number), Kind::Data)?;
    }
    let (image_start, image_end) = bytes_of(memory.image);
    for region in memory.ram.regions() {
        // The image's block is mapped above, page by page; the rest of it stays out.
        let (start, end) = bytes_of(region);
        map.add((start, end.min(image_start)), Kind::Data)?;
        map.add((start.max(image_end), end), Kind::Data)?;
    }
    for device in devices.into_iter().flatten() {
        map.add(around(device.base, device.size)?, Kind::Device)?;
    }
    // SAFETY: 1. Above are the image, all stacks, all RAM and the devices that EL2 uses.
    unsafe { mmu::activate(&map) };
    // SAFETY: 1. RAM is mapped. 2. Parts of a plan are disjoint from each other and from all else
    //    that is in use (`hyp_core::plan`, I1 and I2), and this one is named nowhere else.
    unsafe { heap::init(memory.plan.heap) };
    // SAFETY: as above.
    let hw = unsafe { Hw::new(memory.plan.meta, memory.ram.pages()) }.ok_or(MapError::Range)?;
    memory.plan.host_root.iter().for_each(|pfn| hw.zero(pfn));
    Ok(hw)
}

/// The virtual interface of a GICv2.
pub fn gicv2(gich: Region) -> Vgic {
    // SAFETY: 1. The device tree says that it is there, and the final map has it; 2. called once.
    unsafe { Vgic::v2(gich.base) }
}

/// The registers that turn the machine off.
pub fn power(registers: Region) {
    // SAFETY: 1. The board has it there, and the final map has it.
    unsafe { pm::open(registers) };
}

/// Lets a CPU out of its spin table, into EL2.
pub fn release(pa: u64) {
    // SAFETY:
    // 1. The caller has seen that the word is aligned and in RAM, which is all mapped, and the device
    //    tree says that it is there for this.
    // 2. Nobody of ours uses it otherwise.
    let word = unsafe { AtomicU64::from_ptr(pa as *mut u64) };
    word.store(boot::secondary_entry(), Ordering::Relaxed);
    cache::clean_to_poc(pa, size_of::<u64>() as u64); // the CPU reads past the caches
    sysreg::send_event();
}

/// Prepares this CPU for the host: registers, traps, stage 2. Each CPU does it whenever it comes up.
pub fn prepare_cpu(features: &Features, host: Regime, vtcr: u64) {
    let speculation = smc::speculation();
    let traps = Traps::new(features, speculation.at_entry());
    cpu::init_once(features);
    timer::init();
    switch::first_regime(host, vtcr, &traps);
    // SAFETY: 1. EL1 does not run on this CPU, and no exception from it is still being dealt with: a CPU
    //    that turned itself off has abandoned that (`boot::come_up_again`).
    unsafe { percpu::init(traps, features.at_el1, speculation) };
}

/// Enters the host at EL1: `entry` with `x0`.
pub fn enter_host(entry: u64, x0: u64) -> ! {
    // SAFETY: 1. `prepare_cpu` has turned the host's stage 2 on, with tables that map nothing of
    //    EL2's.
    unsafe { vectors::enter_host(entry, x0) }
}
