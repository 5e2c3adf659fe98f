//! What the device tree says: memory, console, GIC, PSCI conduit, command line.

use core::cell::UnsafeCell;

use fdt::Fdt;
use fdt::node::FdtNode;

use crate::cpu::CPUS;

/// The GIC of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GicBases {
    /// GICv2: distributor and CPU interface.
    V2 {
        /// Distributor.
        dist: u64,
        /// CPU interface.
        cpu: u64,
    },
    /// GICv3: distributor and the first redistributor.
    V3 {
        /// Distributor.
        dist: u64,
        /// First redistributor frame.
        redist: u64,
    },
}

/// The machine as described.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Address of the device tree.
    pub dtb: u64,
    /// Size of the device tree.
    pub dtb_size: u64,
    /// First RAM region.
    pub ram: (u64, u64),
    /// PL011.
    pub uart: u64,
    /// GIC.
    pub gic: GicBases,
    /// CPUs in the tree.
    pub cpus: u64,
    /// `reg` of the first CPU.
    pub cpu0: u64,
    /// `reg` of each CPU, in the order of MPIDR_EL1.Aff0.
    pub mpidrs: [u64; CPUS],
    /// PSCI by HVC, not SMC.
    pub hvc: bool,
    /// `verdict=semihosting` on the command line, or no command line says otherwise (test hosts).
    pub semihosting: bool,
    /// `machine=reference` on the command line: plain QEMU, which is laxer than we are here and
    /// there.
    pub reference: bool,
}

struct Cell(UnsafeCell<Machine>);
// SAFETY:
// 1. Written once by `init`, on the only CPU, before anybody reads.
unsafe impl Sync for Cell {}

static MACHINE: Cell = Cell(UnsafeCell::new(Machine {
    dtb: 0,
    dtb_size: 0,
    ram: (0x4000_0000, 0),
    uart: 0x0900_0000,
    gic: GicBases::V2 { dist: 0x0800_0000, cpu: 0x0801_0000 },
    cpus: 1,
    cpu0: 0,
    mpidrs: [u64::MAX; CPUS],
    hvc: true,
    semihosting: false,
    reference: false,
}));

/// The machine, after [`init`].
#[must_use]
pub fn get() -> Machine {
    // SAFETY:
    // 1. `init` ran before every caller; nothing writes after it.
    unsafe { *MACHINE.0.get() }
}

/// What PSCI calls CPU `n`; no CPU's name if there is none.
#[must_use]
pub fn mpidr(n: usize) -> u64 {
    get().mpidrs.get(n).copied().unwrap_or(u64::MAX)
}

/// The command line.
#[must_use]
pub fn bootargs() -> &'static str {
    tree().and_then(|t| t.chosen().bootargs()).unwrap_or("")
}

/// Whether QEMU counts instructions for time (`redan.counted`): what executes none for ever then never
/// ends, not even by a timer.
#[must_use]
pub fn counted() -> bool {
    bootargs().split(' ').any(|word| word == "redan.counted")
}

/// The tree itself.
#[must_use]
pub fn tree() -> Option<Fdt<'static>> {
    let dtb = get().dtb as *const u8;
    // SAFETY:
    // 1. The loader's x0: a device tree by the boot protocol; `from_ptr` checks magic and size.
    // 2. Nobody writes to it while we run.
    unsafe { Fdt::from_ptr(dtb) }.ok()
}

fn regs(node: &FdtNode<'_, '_>) -> [u64; 2] {
    let mut found = [0; 2];
    if let Some(list) = node.reg() {
        for (slot, region) in found.iter_mut().zip(list) {
            *slot = region.starting_address as u64;
        }
    }
    found
}

/// A device's address as a CPU sees it: a Raspberry Pi has its devices on a bus of its own, with
/// ranges of one cell for the bus, two for the CPU and one for the size.
fn on_bus(tree: &Fdt<'_>, at: u64) -> u64 {
    let ranges = tree.find_node("/soc").and_then(|soc| soc.property("ranges"));
    let (cells, _) = ranges.map_or(&[][..], |ranges| ranges.value).as_chunks::<4>();
    let cell = |bytes: &[u8; 4]| u64::from(u32::from_be_bytes(*bytes));
    for range in cells.as_chunks::<4>().0 {
        let [child, high, low, size] = range.each_ref().map(cell);
        if (child..child + size).contains(&at) {
            return (high << 32 | low) + (at - child);
        }
    }
    at
}

/// Where the first device of this kind is.
#[must_use]
pub fn device(kind: &str) -> Option<u64> {
    let tree = tree()?;
    let node = tree.find_compatible(&[kind])?;
    let at = node.reg()?.next()?.starting_address as u64;
    Some(on_bus(&tree, at))
}

/// How many bytes of RAM the tree tells of.
#[must_use]
pub fn ram_bytes() -> u64 {
    let bytes = |tree: Fdt<'_>| -> u64 {
        let nodes = tree.all_nodes().filter(|node| {
            node.property("device_type").and_then(|kind| kind.as_str()) == Some("memory")
        });
        nodes
            .flat_map(|node| node.reg().into_iter().flatten())
            .map(|region| region.size.unwrap_or(0) as u64)
            .sum()
    };
    tree().map_or(0, bytes)
}

/// A GICv2's parts for a hypervisor, GICH and the GICV page pair that guests have, as (address, bytes).
#[must_use]
pub fn virtual_interface() -> Option<[(u64, u64); 2]> {
    let tree = tree()?;
    let node = tree.find_compatible(&["arm,cortex-a15-gic", "arm,gic-400"])?;
    let mut parts = node
        .reg()?
        .skip(2)
        .map(|part| (on_bus(&tree, part.starting_address as u64), part.size.unwrap_or(0) as u64));
    let (gich, gicv) = (parts.next()?, parts.next()?);
    // Whatever room it has been given, two pages of it are registers (IHI0048 4.1.2).
    Some([gich, (gicv.0, gicv.1.min(0x2000))])
}

/// The mini UART of a Raspberry Pi 4, which is that board's console.
#[must_use]
pub fn mini_uart() -> Option<u64> {
    let tree = tree()?;
    let node = tree.find_compatible(&["brcm,bcm2835-aux-uart"])?;
    Some(on_bus(&tree, regs(&node)[0]))
}

/// Where the tree names no PSCI: EL2 offers it to its host all the same, by SMC.
pub fn assume_smc() {
    let m = get();
    let named = tree().is_some_and(|tree| {
        tree.find_compatible(&["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]).is_some()
    });
    if !named {
        store(Machine { hvc: false, ..m });
    }
}

/// Reads the tree at `dtb`; with none, the defaults above stand.
pub fn init(dtb: u64) {
    let mut m = Machine { dtb, ..get() };
    // Kept first, because `tree` reads it.
    store(m);
    if let Some(tree) = tree() {
        m.dtb_size = tree.total_size() as u64;
        if let Some(region) = tree.memory().regions().next() {
            m.ram = (region.starting_address as u64, region.size.unwrap_or(0) as u64);
        }
        let devices =
            |names| tree.find_compatible(names).map(|node| regs(&node).map(|at| on_bus(&tree, at)));
        if let Some([uart, _]) = devices(&["arm,pl011"]) {
            m.uart = uart;
        }
        if let Some([dist, redist]) = devices(&["arm,gic-v3"]) {
            m.gic = GicBases::V3 { dist, redist };
        } else if let Some([dist, cpu]) = devices(&["arm,cortex-a15-gic", "arm,gic-400"]) {
            m.gic = GicBases::V2 { dist, cpu };
        }
        m.cpus = tree.cpus().count() as u64;
        m.cpu0 = tree.cpus().next().map_or(0, |c| c.ids().first() as u64);
        for mpidr in tree.cpus().map(|cpu| cpu.ids().first() as u64) {
            m.mpidrs[mpidr as usize % CPUS] = mpidr;
        }
        if let Some(node) = tree.find_compatible(&["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]) {
            m.hvc = node.property("method").and_then(|p| p.as_str()) == Some("hvc");
        }
        let args = tree.chosen().bootargs().unwrap_or("");
        m.semihosting = args.split(' ').any(|w| w == "verdict=semihosting");
        m.reference = args.split(' ').any(|w| w == "machine=reference");
    }
    store(m);
}

fn store(m: Machine) {
    // SAFETY:
    // 1. Only `init` calls this, on the only CPU, with no reference to the cell alive.
    unsafe { *MACHINE.0.get() = m }
}
