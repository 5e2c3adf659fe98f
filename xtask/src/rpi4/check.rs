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

use super::{card, config};
use crate::image;

/// What EL2 uses: 40 bits.
const IPA_BITS: u8 = 40;
/// Guest memory is the rest; a board whose EL2 takes more than this of it would be of little use.
const EL2_MOST_MIB: u64 = 48;

/// RAM of each board as its firmware writes it to `/memory`, in (base, bytes): the first gigabyte less the
/// GPU's 76 MiB, what lies between that and the registers at 0xfc000000, and the rest above 4 GiB.
pub const BOARDS: [(u64, &[(u64, u64)]); 4] = [
    (1, &[(0, 0x3b40_0000)]),
    (2, &[(0, 0x3b40_0000), (0x4000_0000, 0x4000_0000)]),
    (4, &[(0, 0x3b40_0000), (0x4000_0000, 0xbc00_0000)]),
    (8, &[(0, 0x3b40_0000), (0x4000_0000, 0xbc00_0000), (0x1_0000_0000, 0x1_0000_0000)]),
];

/// Checks a card's image.
///
/// # Errors
/// The first thing that would keep the board from booting, or EL2 from being safe on it.
pub fn card(bytes: &[u8]) -> Result<()> {
    let range = card::partition(bytes)?;
    ensure!(range.start.is_multiple_of(1 << 20), "the partition is not at a multiple of 1 MiB");
    ensure!(range.end <= bytes.len(), "the partition is longer than the card");
    let files = card::read(bytes)?;
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
    for (_, name) in config::TREES {
        tree(file(name)?, *address, header.image_size, (*at, bundle.len() as u64))
            .with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// Checks a device tree, and that there is a memory plan for every board that may have it.
fn tree(bytes: &[u8], kernel: u64, size: u64, bundle: (u64, u64)) -> Result<()> {
    let tree = Dtb::parse(bytes)?;
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
    ensure!(tree.psci()?.is_none(), "there is PSCI, which the stub does not have");

    let reserved: Vec<_> =
        tree.reserved()?.iter().map(|r| (r.region.base, r.region.size)).collect();
    ensure!(reserved.first() == Some(&(0, 0x1000)), "page 0, the stub's, is not reserved");
    let pages = |(base, size)| PageRange::outward(base, size).context("a range outside memory");
    let reserved = reserved.into_iter().map(pages).collect::<Result<Vec<_>>>()?;
    let geometry = Geometry::new(IPA_BITS).context("geometry")?;
    for (gib, ram) in BOARDS {
        let map = memory_map(ram, &[])?;
        // QEMU and the firmware both put the tree below the first gigabyte's end.
        let occupied = Occupied {
            image: pages((kernel, 2 << 20))?,
            payload: pages((kernel + (2 << 20), size - (2 << 20)))?,
            dtb: pages((0x2eff_0000, bytes.len() as u64))?,
            initrd: Some(pages(bundle)?),
            reserved: &reserved,
        };
        let plan = plan(&map, &occupied, geometry).with_context(|| format!("{gib} GiB"))?;
        let mib = plan.carve_out.pages() >> 8;
        ensure!(mib <= EL2_MOST_MIB, "{gib} GiB: EL2 takes {mib} MiB");
    }
    masters(&tree)
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
