//! What the device tree says, in the form that the core wants it.
//!
//! Knows device tree types and core types. Must not know registers or pointers.

use alloc::vec::Vec;

use hyp_abi::{PAGE_SIZE, Pfn};
use hyp_core::Gic;
use hyp_core::devices::{Devices, TooMany};
use hyp_core::memmap::{MemMap, PageRange};
use hyp_core::plan::{self, HEAP_PAGES, Occupied, Plan, memory_map, plan_with};
use hyp_dtb::dma::{Device, Role};
use hyp_dtb::system::{MAX_RAM, MAX_RESERVED};
use hyp_dtb::{Dtb, DtbError, Region, Reserved};
use hyp_s2::geometry::Geometry;

use crate::arch::boot;
use crate::el2::BootError;
use crate::payload::Payload;

/// RAM, and what EL2 takes of it.
pub struct Memory {
    /// All of it.
    pub ram: MemMap,
    /// The block of EL2's image.
    pub image: PageRange,
    /// The carve-out.
    pub plan: Plan,
    /// What the host put, or had put for it, where it is: payload, device tree, initrd.
    loaded: [Option<PageRange>; 3],
}

/// All RAM, without what must not be mapped.
pub fn ram(tree: &Dtb<'_>) -> Result<MemMap, BootError> {
    let mut ram = [(0, 0); MAX_RAM];
    for (slot, region) in ram.iter_mut().zip(tree.ram()?.iter()) {
        *slot = (region.base, region.size);
    }
    let mut no_map = [(0, 0); MAX_RESERVED];
    for (slot, found) in no_map.iter_mut().zip(tree.reserved()?.iter().filter(|r| r.no_map)) {
        *slot = (found.region.base, found.region.size);
    }
    Ok(memory_map(&ram, &no_map)?)
}

impl Memory {
    /// Makes the plan, around everything that the boot loader has put somewhere.
    pub fn survey(
        tree: &Dtb<'_>,
        ram: MemMap,
        payload: &Payload,
        dtb: u64,
        host: Geometry,
    ) -> Result<Self, BootError> {
        let image = touched(boot::base(), boot::BLOCK)?;
        let mut reserved = [image; MAX_RESERVED]; // the image is in nobody's way but its own
        for (slot, found) in reserved.iter_mut().zip(tree.reserved()?.iter().filter(|r| !r.no_map))
        {
            *slot = touched(found.region.base, found.region.size)?;
        }
        let initrd = tree.chosen()?.initrd;
        let occupied = Occupied {
            image,
            payload: touched(payload.start, payload.size)?,
            dtb: touched(dtb, tree.bytes().len() as u64)?,
            initrd: initrd.map(|r| touched(r.base, r.size)).transpose()?,
            reserved: &reserved,
        };
        let plan = plan_with(&ram, &occupied, host, heap_pages(&ram))?;
        let loaded = [Some(occupied.payload), Some(occupied.dtb), occupied.initrd];
        Ok(Self { ram, image, plan, loaded })
    }

    /// RAM that firmware lives in, as far as the tree says so by reserving it. What runs there, or
    /// is read there, at EL3 or by a CPU that waits at EL2, must not be the host's to write.
    pub fn firmware(&self, tree: &Dtb<'_>) -> Result<Vec<PageRange>, BootError> {
        let others: Vec<_> = self.loaded.iter().copied().flatten().chain(self.own()).collect();
        let reserved = reserved_pages(tree, |reserved| !reserved.no_map && !reserved.reusable)?;
        Ok(plan::withheld(&self.ram.regions().collect::<Vec<_>>(), &reserved, &others))
    }

    /// The same where the tree says that it must not even be mapped, and so is no RAM of ours.
    pub fn unmapped(&self, tree: &Dtb<'_>, host: Geometry) -> Result<Vec<PageRange>, BootError> {
        let space = Pfn::new(0).and_then(|first| PageRange::of(first, host.frames()));
        let ram: Vec<_> = self.ram.regions().collect();
        let reserved = reserved_pages(tree, |reserved| reserved.no_map)?;
        Ok(plan::withheld(space.as_slice(), &reserved, &ram))
    }

    /// What is EL2's own.
    pub fn own(&self) -> [PageRange; 2] {
        [self.image, self.plan.carve_out]
    }
}

/// The specification's state lives in the heap too: 256 bytes for each page of RAM are twice what a
/// page takes that is mapped once.
fn heap_pages(ram: &MemMap) -> u64 {
    let specification = if cfg!(feature = "oracle") { ram.pages() as u64 / 16 } else { 0 };
    HEAP_PAGES + specification
}

fn reserved_pages(
    tree: &Dtb<'_>,
    pick: impl Fn(&Reserved) -> bool,
) -> Result<Vec<PageRange>, BootError> {
    let reserved = tree.reserved()?;
    let picked = reserved.iter().filter(|reserved| pick(reserved));
    picked.map(|reserved| touched(reserved.region.base, reserved.region.size)).collect()
}

/// The interrupt controller, as far as EL2 is concerned.
pub struct Interrupts {
    /// For the core.
    pub gic: Gic,
    /// GICH of a GICv2.
    pub gich: Option<Region>,
    private: Option<[PageRange; 2]>,
}

impl Interrupts {
    /// Finds it.
    pub fn survey(tree: &Dtb<'_>) -> Result<Self, BootError> {
        Ok(match tree.gic()? {
            hyp_dtb::Gic::V2 { gich, gicv, .. } => {
                let pages = touched(gicv.base, gicv.size)?;
                // A guest gets the first page; it must hold nothing but GICV.
                let alone = gicv.base.is_multiple_of(PAGE_SIZE) && gicv.size >= PAGE_SIZE;
                let first = pages.iter().next().filter(|_| alone);
                Self {
                    gic: Gic::V2 { gicv: first },
                    gich: Some(gich),
                    private: Some([touched(gich.base, gich.size)?, pages]),
                }
            }
            hyp_dtb::Gic::V3 { .. } => Self { gic: Gic::V3, gich: None, private: None },
        })
    }

    /// Device pages that the host must not touch.
    pub fn private(&self) -> &[PageRange] {
        self.private.as_ref().map_or(&[], |pages| pages.as_slice())
    }
}

/// A word of the command line.
const DMA: &str = "redan.dma=";

/// Whether the command line asks to withhold devices that move data by themselves.
pub fn strict(tree: &Dtb<'_>) -> Result<bool, BootError> {
    let words = tree.chosen()?.bootargs.unwrap_or_default().split_ascii_whitespace();
    let mut strict = false;
    for value in words.filter_map(|word| word.strip_prefix(DMA)) {
        // A word too much or misspelt must not leave open what somebody wanted shut.
        strict = match value {
            "strict" => true,
            _ => return Err(BootError::Dma),
        };
    }
    Ok(strict)
}

/// The devices that the host may have in a strict machine. Says which it may not.
pub fn harmless_devices(tree: &Dtb<'_>) -> Result<Devices, BootError> {
    let mut devices = Devices::only();
    tree.each_device(|Device { name, registers, role }| {
        let full = |TooMany| DtbError::TooMany("devices");
        let pages = touched(registers.base, registers.size).map_err(|_| DtbError::Bad("reg"))?;
        if role == Role::Harmless {
            return devices.allow(pages).map_err(full);
        }
        log::info!("withheld from the host: {name} at {:#x}", registers.base);
        devices.deny(pages).map_err(full)
    })?;
    Ok(devices)
}

/// How many ranges of registers belong to devices that move data by themselves.
pub fn masters(tree: &Dtb<'_>) -> Result<usize, BootError> {
    let mut count = 0;
    tree.each_device(|device| {
        count += usize::from(device.role == Role::Master);
        Ok(())
    })?;
    Ok(count)
}

/// The pages of something that the tree, or a header, says is somewhere.
fn touched(base: u64, size: u64) -> Result<PageRange, BootError> {
    PageRange::outward(base, size).ok_or(BootError::Nowhere { base, size })
}
