//! Whether a card would boot: everything about it that can be seen without the board.
//!
//! Reads the card back as the firmware does (table, file system, config.txt, the files it names) and the
//! device trees by the code that EL2 runs, with the memory of each board as its firmware fills it in.

use anyhow::{Context, Result, ensure};
use hyp_core::memmap::PageRange;
use hyp_core::plan::{Occupied, memory_map, plan};
use hyp_dtb::dma::Role;
use hyp_dtb::{Dtb, Enable, Gic, Region, UartKind};
use hyp_s2::Geometry;

use super::firmware::{self, BOARDS, Console, Ram};
use super::{card, config, fat, tree};
use crate::image;

/// What EL2 uses: 40 bits.
const IPA_BITS: u8 = 40;
/// Guest memory is the rest; a board whose EL2 takes more than this of it would be of little use.
const EL2_MOST_MIB: u64 = 48;
/// TF-A reserves so much from 0 on (plat/rpi/rpi4, `atf@0`).
const ARMSTUB_MOST: usize = 0x8_0000;

/// Checks a card's image.
///
/// # Errors
/// The first thing that would keep the board from booting, or EL2 from being safe on it.
pub fn card(bytes: &[u8]) -> Result<()> {
    let range = card::partition(bytes)?;
    ensure!(range.start.is_multiple_of(1 << 20), "the partition is not at a multiple of 1 MiB");
    ensure!(range.end <= bytes.len(), "the partition is longer than the card");
    let files = card::read(bytes)?;
    let volume = bytes.get(range).context("the partition is longer than the card")?;
    let again = fat::read(volume).context("the file system")?;
    ensure!(again == files, "two readers of the file system find different files");
    let file = |name: &str| files.get(name).with_context(|| format!("there is no {name}"));
    let text = std::str::from_utf8(file("config.txt")?).context("config.txt")?;
    let config = config::read(text).context("config.txt")?;
    let (kernel, address) = &config.kernel;
    let kernel = file(kernel)?;
    let header = image::check(kernel).context("the kernel")?;
    // The arm64 boot protocol: a 2 MiB base, and image_size bytes free from there on.
    ensure!(address.is_multiple_of(2 << 20), "the kernel's address is no multiple of 2 MiB");
    ensure!(header.image_size >= kernel.len() as u64, "the kernel is longer than it says");
    let (bundle, at) = config.initramfs.as_ref().context("config.txt names no initramfs")?;
    let bundle = file(bundle)?;
    ensure!(address + header.image_size <= *at, "the kernel's bss reaches into the initramfs");
    let cmdline = file(config::CMDLINE)?;
    ensure!(
        cmdline.iter().filter(|byte| **byte == b'\n').count() <= 1,
        "cmdline.txt has two lines"
    );
    if let Some(name) = &config.armstub {
        ensure!(file(name)?.len() <= ARMSTUB_MOST, "{name} is longer than what TF-A reserves");
    }
    for (_, name) in config::TREES {
        let check = Tree {
            blob: file(name)?,
            kernel: (*address, header.image_size),
            bundle: (*at, bundle.len() as u64),
            tf_a: config.armstub.is_some(),
        };
        check.all().with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// A device tree, and what else is in memory.
struct Tree<'a> {
    blob: &'a [u8],
    kernel: (u64, u64),
    bundle: (u64, u64),
    tf_a: bool,
}

impl Tree<'_> {
    /// Checks a device tree, and that there is a memory plan for every board that may have it.
    fn all(&self) -> Result<()> {
        let tree = Dtb::parse(self.blob)?;
        processors(&tree)?;
        ensure!(tree.psci()?.is_none(), "there is PSCI, which only TF-A can add");
        if self.tf_a {
            let mut edited = tree::Tree::parse(self.blob)?;
            let aliases = edited.node("/aliases").context("there are no aliases")?;
            let same = aliases.get("serial0") == aliases.get("serial1");
            ensure!(same, "TF-A would make the Bluetooth chip's UART the console");
        }
        for (gib, ram) in BOARDS {
            self.plan(ram).with_context(|| format!("{gib} GiB"))?;
        }
        masters(&tree)
    }

    /// The tree as the firmware of a board with this RAM fills it in, and EL2's plan for that.
    fn plan(&self, ram: &Ram) -> Result<()> {
        let (start, size) = self.bundle;
        let ends = (start, start + size);
        let blob = firmware::filled_in(self.blob, "redan.dma=strict", ends, ram, Console::Mini)?;
        let tree = Dtb::parse(&blob)?;
        let found: Vec<_> = tree.ram()?.iter().map(|r| (r.base, r.size)).collect();
        let map = memory_map(&found, &[])?;
        let promised: u64 = ram.iter().map(|(_, size)| size).sum();
        ensure!(map.pages() as u64 == promised >> 12, "RAM is missing from the tree");
        let initrd = tree.chosen()?.initrd.context("the initramfs is not in the tree")?;
        ensure!((initrd.base, initrd.size) == self.bundle, "the initramfs is elsewhere");
        let reserved = tree.reserved()?;
        let first = reserved.iter().next().map(|r| (r.region.base, r.region.size));
        ensure!(first == Some((0, 0x1000)), "page 0, the stub's, is not reserved");
        let pages = |(base, size)| PageRange::outward(base, size).context("outside memory");
        let reserved = reserved.iter().map(|r| pages((r.region.base, r.region.size)));
        let reserved = reserved.collect::<Result<Vec<_>>>()?;
        let (kernel, size) = self.kernel;
        let occupied = Occupied {
            image: pages((kernel, 2 << 20))?,
            payload: pages((kernel + (2 << 20), size - (2 << 20)))?,
            // The firmware puts the tree below this end.
            dtb: pages((0x2eff_0000, blob.len() as u64))?,
            initrd: Some(pages(self.bundle)?),
            reserved: &reserved,
        };
        let geometry = Geometry::new(IPA_BITS).context("geometry")?;
        let plan = plan(&map, &occupied, geometry)?;
        let mib = plan.carve_out.pages() >> 8;
        ensure!(mib <= EL2_MOST_MIB, "EL2 takes {mib} MiB");
        Ok(())
    }
}

/// CPUs, interrupts, timers and the console.
fn processors(tree: &Dtb<'_>) -> Result<()> {
    let cpus = tree.cpus()?;
    let waits: Vec<u64> = cpus
        .iter()
        .filter_map(|cpu| match cpu.enable {
            Enable::SpinTable(address) => Some(address),
            _ => None,
        })
        .collect();
    ensure!(waits == [0xd8, 0xe0, 0xe8, 0xf0], "not four CPUs in the stub's table: {waits:x?}");
    let Gic::V2 { gicd, gicc, gich, gicv, maintenance } = tree.gic()? else {
        anyhow::bail!("the interrupt controller is no GICv2")
    };
    let at = [gicd, gicc, gich, gicv].map(|region: Region| region.base);
    ensure!(at == [0xff84_1000, 0xff84_2000, 0xff84_4000, 0xff84_6000], "the GIC is at {at:x?}");
    ensure!(gicv.size >= 0x1000 && maintenance == 25, "the GIC has no virtual interface");
    let timer = tree.timer()?;
    let intids = (timer.physical, timer.virt, timer.hyp);
    ensure!(intids == (30, 27, 26), "the timer's interrupts are {intids:?}");
    let uart = tree.uart()?.context("no console")?;
    let console = (uart.kind, uart.registers.base, uart.intid);
    ensure!(console == (UartKind::Mini, 0xfe21_5040, Some(125)), "the console is {console:x?}");
    Ok(())
}

/// What `dma=strict` must take from the host, and what it must leave.
fn masters(tree: &Dtb<'_>) -> Result<()> {
    let mut all = Vec::new();
    tree.each_device(|device| {
        all.push((device.name.to_owned(), device.registers, device.role));
        Ok(())
    })?;
    let has =
        |prefix: &str, role| all.iter().any(|(name, _, r)| name.starts_with(prefix) && *r == role);
    for name in [
        "dma@",
        "dma-controller@",
        "mailbox@",
        "mmc@7e340000",
        "usb@",
        "hvs@",
        "pcie@",
        "ethernet@",
    ] {
        let found = all.iter().any(|(n, ..)| n.starts_with(name));
        ensure!(!found || !has(name, Role::Harmless), "{name} moves data by itself");
    }
    for name in ["mailbox@", "pcie@"] {
        ensure!(has(name, Role::Master), "{name} is not among the bus masters");
    }
    for name in ["serial@7e201000", "serial@7e215040", "interrupt-controller@40041000"] {
        ensure!(has(name, Role::Harmless), "{name} is not harmless");
    }
    let page = |region: &Region| region.base >> 12..=(region.base + region.size - 1) >> 12;
    let uart = 0xfe21_5000 >> 12;
    let shared =
        all.iter().find(|(_, region, role)| *role == Role::Master && page(region).contains(&uart));
    ensure!(
        shared.is_none(),
        "the console shares its page with {:?}",
        shared.map(|(name, ..)| name)
    );
    Ok(())
}
