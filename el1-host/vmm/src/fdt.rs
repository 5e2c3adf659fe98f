//! The device tree a guest gets: memory, CPUs, PSCI, timer, GIC, UART, clock, and what it is to boot.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use vm_fdt::{Error, FdtWriter};

use crate::image::{DTB_MAX, Layout};
use crate::memmap::{
    GICC, GICC_SIZE, GICD, GICD_SIZE, GICR, GICR_SIZE, RTC, RTC_INTID, RTC_SIZE, UART, UART_INTID,
    UART_SIZE,
};
use crate::vgic::Version;

/// What the tree describes.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// RAM as (base, size), the main one first.
    pub ram: &'a [(u64, u64)],
    /// vCPUs.
    pub vcpus: u8,
    /// Interrupt controller.
    pub gic: Version,
    /// Kernel command line.
    pub cmdline: &'a str,
    /// Where things lie.
    pub layout: Layout,
}

/// Why no tree could be made.
#[derive(Debug, PartialEq, Eq)]
pub enum BadTree {
    /// The writer refused a value.
    Writer(Error),
    /// Larger than the room kept for it.
    TooLarge,
}

impl From<Error> for BadTree {
    fn from(error: Error) -> Self {
        Self::Writer(error)
    }
}

const PHANDLE_GIC: u32 = 1;
const PHANDLE_CLOCK: u32 = 2;
/// The reference clock that QEMU's virt names too.
const CLOCK_HZ: u32 = 24_000_000;

/// Cells of an interrupt specifier (arm,gic binding).
mod irq {
    pub const SPI: u32 = 0;
    pub const PPI: u32 = 1;
    pub const LEVEL_HIGH: u32 = 4;
    /// First INTID of an SPI.
    pub const SPI_BASE: u32 = 32;
}

/// Writes the tree.
///
/// # Errors
/// A command line with a NUL, or a tree that does not fit its room.
pub fn build(machine: &Machine<'_>) -> Result<Vec<u8>, BadTree> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string_list("compatible", strings(&["redan,vm", "linux,dummy-virt"]))?;
    fdt.property_string("model", "Redan guest")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", PHANDLE_GIC)?;
    chosen(&mut fdt, machine)?;
    for (base, size) in machine.ram {
        let memory = fdt.begin_node(&format!("memory@{base:x}"))?;
        fdt.property_string("device_type", "memory")?;
        fdt.property_array_u64("reg", &[*base, *size])?;
        fdt.end_node(memory)?;
    }
    cpus(&mut fdt, machine.vcpus)?;
    psci(&mut fdt)?;
    timer(&mut fdt, machine)?;
    gic(&mut fdt, machine)?;
    uart(&mut fdt)?;
    rtc(&mut fdt)?;
    fdt.end_node(root)?;
    let tree = fdt.finish()?;
    let fits = u64::try_from(tree.len()).is_ok_and(|len| len <= DTB_MAX);
    if fits { Ok(tree) } else { Err(BadTree::TooLarge) }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn chosen(fdt: &mut FdtWriter, machine: &Machine<'_>) -> Result<(), Error> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", machine.cmdline)?;
    fdt.property_string("stdout-path", &format!("/pl011@{UART:x}"))?;
    let Layout { initrd, initrd_len, .. } = machine.layout;
    if initrd_len > 0 {
        fdt.property_u64("linux,initrd-start", initrd)?;
        fdt.property_u64("linux,initrd-end", initrd.saturating_add(initrd_len))?;
    }
    fdt.end_node(node)
}

fn cpus(fdt: &mut FdtWriter, vcpus: u8) -> Result<(), Error> {
    let node = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for n in 0..vcpus {
        let cpu = fdt.begin_node(&format!("cpu@{n:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_u32("reg", u32::from(n))?;
        fdt.property_string("enable-method", "psci")?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(node)
}

fn psci(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("psci")?;
    // Software that knows only the first version takes the numbers from here; they are the same.
    let versions = ["arm,psci-1.0", "arm,psci-0.2", "arm,psci"];
    fdt.property_string_list("compatible", strings(&versions))?;
    fdt.property_string("method", "hvc")?;
    fdt.property_u32("cpu_suspend", 0xc400_0001)?;
    fdt.property_u32("cpu_off", 0x8400_0002)?;
    fdt.property_u32("cpu_on", 0xc400_0003)?;
    fdt.end_node(node)
}

fn timer(fdt: &mut FdtWriter, machine: &Machine<'_>) -> Result<(), Error> {
    // GICv2: the vCPUs a PPI goes to, in bits 15:8 of the flags.
    let all = (1_u32.wrapping_shl(u32::from(machine.vcpus))).wrapping_sub(1);
    let flags = match machine.gic {
        Version::V2 => irq::LEVEL_HIGH | ((all & 0xff) << 8),
        Version::V3 => irq::LEVEL_HIGH,
    };
    let node = fdt.begin_node("timer")?;
    fdt.property_string_list("compatible", strings(&["arm,armv8-timer", "arm,armv7-timer"]))?;
    // Secure physical, non-secure physical, virtual, hypervisor: the binding wants all places filled.
    let cells: Vec<u32> =
        [13, 14, 11, 10].into_iter().flat_map(|ppi| [irq::PPI, ppi, flags]).collect();
    fdt.property_array_u32("interrupts", &cells)?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

fn gic(fdt: &mut FdtWriter, machine: &Machine<'_>) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("intc@{GICD:x}"))?;
    let (compatible, base, size) = match machine.gic {
        Version::V2 => ("arm,cortex-a15-gic", GICC, GICC_SIZE),
        Version::V3 => ("arm,gic-v3", GICR, GICR_SIZE.saturating_mul(u64::from(machine.vcpus))),
    };
    fdt.property_string("compatible", compatible)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    fdt.property_array_u64("reg", &[GICD, GICD_SIZE, base, size])?;
    fdt.property_phandle(PHANDLE_GIC)?;
    fdt.end_node(node)
}

fn uart(fdt: &mut FdtWriter) -> Result<(), Error> {
    let clock = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", CLOCK_HZ)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(PHANDLE_CLOCK)?;
    fdt.end_node(clock)?;
    let node = fdt.begin_node(&format!("pl011@{UART:x}"))?;
    fdt.property_string_list("compatible", strings(&["arm,pl011", "arm,primecell"]))?;
    fdt.property_array_u64("reg", &[UART, UART_SIZE])?;
    let spi = UART_INTID.saturating_sub(irq::SPI_BASE);
    fdt.property_array_u32("interrupts", &[irq::SPI, spi, irq::LEVEL_HIGH])?;
    fdt.property_array_u32("clocks", &[PHANDLE_CLOCK, PHANDLE_CLOCK])?;
    fdt.property_string_list("clock-names", strings(&["uartclk", "apb_pclk"]))?;
    fdt.end_node(node)
}

fn rtc(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("pl031@{RTC:x}"))?;
    fdt.property_string_list("compatible", strings(&["arm,pl031", "arm,primecell"]))?;
    fdt.property_array_u64("reg", &[RTC, RTC_SIZE])?;
    let spi = RTC_INTID.saturating_sub(irq::SPI_BASE);
    fdt.property_array_u32("interrupts", &[irq::SPI, spi, irq::LEVEL_HIGH])?;
    fdt.property_array_u32("clocks", &[PHANDLE_CLOCK])?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(node)
}

#[cfg(test)]
mod tests;
