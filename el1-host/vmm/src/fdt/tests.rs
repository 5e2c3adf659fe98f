//! The tree, read back by another crate.

use fdt::Fdt;

use super::*;

fn layout(initrd_len: u64) -> Layout {
    Layout { kernel: 0x4000_0000, initrd: 0x4fd0_0000, initrd_len, dtb: 0x4fe0_0000 }
}

fn tree(gic: Version, vcpus: u8, ram: &[(u64, u64)], initrd: u64) -> Vec<u8> {
    let cmdline = "console=ttyAMA0 quiet";
    build(&Machine { ram, vcpus, gic, cmdline, layout: layout(initrd) }).unwrap()
}

fn cells(tree: &Fdt<'_>, node: &str, property: &str) -> Vec<u32> {
    let node = tree.find_node(node).unwrap_or_else(|| panic!("no {node}"));
    let value = node.property(property).unwrap_or_else(|| panic!("no {property}")).value;
    value.chunks(4).map(|c| u32::from_be_bytes(c.try_into().unwrap())).collect()
}

fn text<'a>(tree: &'a Fdt<'_>, node: &str, property: &str) -> Vec<&'a str> {
    let value = tree.find_node(node).unwrap().property(property).unwrap().value;
    std::str::from_utf8(value).unwrap().trim_end_matches('\0').split('\0').collect()
}

const RAM: &[(u64, u64)] = &[(0x4000_0000, 0x1000_0000)];

#[test]
fn a_gicv3_machine_is_described() {
    let bytes = tree(Version::V3, 2, RAM, 0x5000);
    let t = Fdt::new(&bytes).unwrap();
    assert_eq!(cells(&t, "/", "#address-cells"), [2]);
    assert_eq!(cells(&t, "/", "#size-cells"), [2]);
    assert_eq!(cells(&t, "/", "interrupt-parent"), cells(&t, "/intc@8000000", "phandle"));
    assert_eq!(cells(&t, "/memory@40000000", "reg"), [0, 0x4000_0000, 0, 0x1000_0000]);
    assert_eq!(text(&t, "/memory@40000000", "device_type"), ["memory"]);
    assert_eq!(text(&t, "/intc@8000000", "compatible"), ["arm,gic-v3"]);
    assert_eq!(cells(&t, "/intc@8000000", "#interrupt-cells"), [3]);
    let reg = [0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0x4_0000];
    assert_eq!(cells(&t, "/intc@8000000", "reg"), reg);
    let ppis = [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4];
    assert_eq!(cells(&t, "/timer", "interrupts"), ppis);
    assert_eq!(text(&t, "/timer", "compatible"), ["arm,armv8-timer", "arm,armv7-timer"]);
    assert_eq!(text(&t, "/psci", "method"), ["hvc"]);
    assert_eq!(text(&t, "/psci", "compatible"), ["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]);
    for (name, id) in [("suspend", 0xc400_0001), ("off", 0x8400_0002), ("on", 0xc400_0003)] {
        assert_eq!(cells(&t, "/psci", &format!("cpu_{name}")), [id]);
    }
    for (cpu, reg) in [("/cpus/cpu@0", 0), ("/cpus/cpu@1", 1)] {
        assert_eq!(cells(&t, cpu, "reg"), [reg]);
        assert_eq!(text(&t, cpu, "enable-method"), ["psci"]);
        assert_eq!(text(&t, cpu, "device_type"), ["cpu"]);
    }
    assert!(t.find_node("/cpus/cpu@2").is_none());
}

#[test]
fn a_gicv2_machine_is_described() {
    let bytes = tree(Version::V2, 3, RAM, 0);
    let t = Fdt::new(&bytes).unwrap();
    assert_eq!(text(&t, "/intc@8000000", "compatible"), ["arm,cortex-a15-gic"]);
    let reg = [0, 0x800_0000, 0, 0x1_0000, 0, 0x801_0000, 0, 0x2000];
    assert_eq!(cells(&t, "/intc@8000000", "reg"), reg);
    // The PPI goes to each of the three vCPUs.
    assert_eq!(cells(&t, "/timer", "interrupts")[..3], [1, 13, 0x704]);
}

#[test]
fn eight_vcpus_are_named_and_have_their_redistributors_and_ppis() {
    let bytes = tree(Version::V3, 8, RAM, 0);
    let t = Fdt::new(&bytes).unwrap();
    for n in 0..8 {
        assert_eq!(cells(&t, &format!("/cpus/cpu@{n}"), "reg"), [n]);
    }
    assert_eq!(cells(&t, "/intc@8000000", "reg")[6..], [0, 0x10_0000]);
    assert_eq!(cells(&t, "/timer", "interrupts")[2], 4);
    let bytes = tree(Version::V2, 8, RAM, 0);
    let t = Fdt::new(&bytes).unwrap();
    assert_eq!(cells(&t, "/timer", "interrupts")[2], 0xff04);
}

#[test]
fn the_uart_has_its_clock_and_interrupt() {
    let bytes = tree(Version::V3, 1, RAM, 0);
    let t = Fdt::new(&bytes).unwrap();
    let rtc = "/pl031@9010000";
    assert_eq!(text(&t, rtc, "compatible"), ["arm,pl031", "arm,primecell"]);
    let uart = "/pl011@9000000";
    assert_eq!(text(&t, uart, "compatible"), ["arm,pl011", "arm,primecell"]);
    assert_eq!(cells(&t, uart, "reg"), [0, 0x900_0000, 0, 0x1000]);
    assert_eq!(cells(&t, uart, "interrupts"), [0, 1, 4]);
    let clock = cells(&t, "/apb-pclk", "phandle")[0];
    assert_eq!(cells(&t, uart, "clocks"), [clock, clock]);
    assert_eq!(text(&t, uart, "clock-names"), ["uartclk", "apb_pclk"]);
    assert_eq!(cells(&t, "/apb-pclk", "clock-frequency"), [24_000_000]);
    assert_ne!(cells(&t, "/", "interrupt-parent")[0], clock);
}

#[test]
fn chosen_says_what_to_boot() {
    let bytes = tree(Version::V3, 1, RAM, 0x5000);
    let t = Fdt::new(&bytes).unwrap();
    assert_eq!(text(&t, "/chosen", "bootargs"), ["console=ttyAMA0 quiet"]);
    assert_eq!(text(&t, "/chosen", "stdout-path"), ["/pl011@9000000"]);
    assert_eq!(cells(&t, "/chosen", "linux,initrd-start"), [0, 0x4fd0_0000]);
    assert_eq!(cells(&t, "/chosen", "linux,initrd-end"), [0, 0x4fd0_5000]);
    let bytes = tree(Version::V3, 1, RAM, 0);
    let t = Fdt::new(&bytes).unwrap();
    assert!(t.find_node("/chosen").unwrap().property("linux,initrd-start").is_none());
}

#[test]
fn every_piece_of_ram_is_listed() {
    let bytes = tree(Version::V3, 1, &[RAM[0], (0x80_0000_0000, 0x10_0000)], 0);
    let t = Fdt::new(&bytes).unwrap();
    assert_eq!(cells(&t, "/memory@8000000000", "reg"), [0x80, 0, 0, 0x10_0000]);
}

#[test]
fn a_tree_that_cannot_be_written_or_is_too_large_is_refused() {
    let machine =
        |cmdline| Machine { ram: RAM, vcpus: 8, gic: Version::V3, cmdline, layout: layout(0) };
    assert!(matches!(build(&machine("a\0b")), Err(BadTree::Writer(_))));
    let long = "x".repeat(0x1_0000);
    assert_eq!(build(&machine(&long)), Err(BadTree::TooLarge));
    let widest = "x".repeat(2047);
    assert!(build(&machine(&widest)).is_ok());
}
