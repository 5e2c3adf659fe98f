//! Values on the very edge of what is allowed, and of what counts.

use super::{ODD, PI4, Tokens, refusal, region, with_word};
use crate::{Cpu, Dtb, DtbError, Enable};

/// The tree with another value, as long as the old one, of every property `name`.
fn with_value(tree: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    let word = |offset: usize| u32::from_be_bytes(*tree[offset..].first_chunk().unwrap());
    let strings = word(12) as usize;
    let name = [b"\0", name, b"\0"].concat();
    let at = tree[strings..].windows(name.len()).position(|w| w == name).unwrap() + 1;
    let head = [3, value.len() as u32, at as u32].map(u32::to_be_bytes).concat();
    let mut bytes = tree.to_vec();
    let found = (0..strings).step_by(4).filter(|o| tree[*o..].starts_with(&head));
    let found: Vec<_> = found.map(|o| o + head.len()).collect();
    assert!(!found.is_empty());
    for offset in found {
        bytes[offset..offset + value.len()].copy_from_slice(value);
    }
    bytes
}

#[test]
fn a_tree_that_only_version_17_can_read_is_read() {
    assert!(Dtb::parse(&with_word(PI4, 24, 17)).is_ok());
    assert_eq!(refusal(&with_word(PI4, 24, 18)), DtbError::Version(17));
}

#[test]
fn a_reservation_block_that_is_not_aligned_is_refused_even_if_it_ends() {
    let tree = Tokens::new().begin(b"").prop(0, &[0; 32]).end().word(9).build();
    assert!(Dtb::parse(&with_word(&tree, 16, 80)).is_ok());
    assert_eq!(refusal(&with_word(&tree, 16, 76)), DtbError::Reservations);
}

#[test]
fn a_reservation_of_no_bytes_reserves_nothing() {
    let offset = u32::from_be_bytes(*PI4[16..].first_chunk().unwrap()) as usize;
    let mut tree = PI4.to_vec();
    for (long, value) in [0x1000_u64, 0].into_iter().enumerate() {
        tree[offset + 8 * long..][..8].copy_from_slice(&value.to_be_bytes());
    }
    let (before, after) = (Dtb::parse(PI4).unwrap(), Dtb::parse(&tree).unwrap());
    assert_eq!(after.reserved().unwrap()[..], before.reserved().unwrap()[1..]);
}

#[test]
fn an_initrd_of_no_bytes_is_none() {
    let initrd = |end: u32| {
        let tree = with_value(PI4, b"linux,initrd-end", &end.to_be_bytes());
        Dtb::parse(&tree).unwrap().chosen().map(|c| c.initrd)
    };
    assert_eq!(initrd(0x0800_0001), Ok(Some(region(0x0800_0000, 1))));
    assert_eq!(initrd(0x0800_0000), Ok(None));
    assert_eq!(initrd(0x07ff_ffff), Err(DtbError::Bad("initrd")));
}

#[test]
fn a_uart_that_is_switched_off_is_no_console() {
    let uart = |status: &[u8]| {
        let mut tree = Tokens::new().begin(b"").begin(b"uart@1000");
        tree.strings.extend(b"compatible\0status\0");
        // Without a word about cells: two for the address, one for the size.
        let reg = [0, 0x1000, 0x100].map(u32::to_be_bytes).concat();
        let tree = tree.prop(5, &reg).prop(16, b"arm,pl011\0").prop(27, status);
        let tree = tree.end().end().word(9).build();
        Dtb::parse(&tree).unwrap().uart().unwrap().map(|uart| uart.registers)
    };
    assert_eq!(uart(b"okay\0"), Some(region(0x1000, 0x100)));
    assert_eq!(uart(b"disabled\0"), None);
}

#[test]
fn a_cpu_that_is_switched_off_still_waits_in_its_spin_table() {
    let cpus = |method: &[u8], status: &[u8]| {
        let mut tree = Tokens::new().begin(b"").begin(b"cpus").begin(b"cpu@7");
        let names: [&[u8]; 5] =
            [b"device_type\0", b"reg\0", b"enable-method\0", b"cpu-release-addr\0", b"status\0"];
        let [kind, reg, enable, release, switch] = names.map(|name| {
            tree.strings.extend(name);
            (tree.strings.len() - name.len()) as u32
        });
        let seven = [0, 7, 0].map(u32::to_be_bytes).concat();
        let tree = tree.prop(kind, b"cpu\0").prop(reg, &seven).prop(enable, method);
        let tree = tree.prop(release, &0xd8_u64.to_be_bytes()).prop(switch, status);
        let tree = tree.end().end().end().word(9).build();
        Dtb::parse(&tree).unwrap().cpus().map(|cpus| cpus.to_vec())
    };
    let spins = vec![Cpu { mpidr: 7, enable: Enable::SpinTable(0xd8) }];
    for status in [&b"okay\0"[..], b"disabled\0", b"fail\0"] {
        assert_eq!(cpus(b"spin-table\0", status), Ok(spins.clone()));
    }
    assert_eq!(cpus(b"psci\0", b"okay\0"), Ok(vec![Cpu { mpidr: 7, enable: Enable::Psci }]));
    assert_eq!(cpus(b"psci\0", b"disabled\0"), Err(DtbError::Missing("CPUs")));
}

#[test]
fn an_interrupt_for_another_controller_than_the_gic_is_not_taken_for_its() {
    let intid = |tree: &[u8]| Dtb::parse(tree).unwrap().uart().unwrap().unwrap().intid;
    assert_eq!(intid(PI4), Some(125));
    let elsewhere = with_value(PI4, b"interrupt-parent", &77_u32.to_be_bytes());
    assert_eq!(intid(&elsewhere), None);
}

#[test]
fn a_device_without_registers_is_none() {
    let reg = [[0, 0x1000, 0], [0, 0x2000, 1]].concat();
    let reg: Vec<u8> = reg.into_iter().flat_map(u32::to_be_bytes).collect();
    let tree = Tokens::new().begin(b"").begin(b"d@1000").prop(5, &reg).end().end().word(9).build();
    let mut all = Vec::new();
    let walk = Dtb::parse(&tree).unwrap().each_device(|device| {
        all.push((device.name.to_owned(), device.registers));
        Ok(())
    });
    assert_eq!((walk, all), (Ok(()), vec![("d@1000".to_owned(), region(0x2000, 1))]));
}

#[test]
fn a_machine_is_each_of_the_kinds_that_its_root_names() {
    let pi = Dtb::parse(PI4).unwrap();
    assert!(pi.is_machine("raspberrypi,4-model-b") && pi.is_machine("brcm,bcm2711"));
    assert!(!pi.is_machine("arm,cortex-a72") && !pi.is_machine(""));
    assert!(!Dtb::parse(ODD).unwrap().is_machine("brcm,bcm2711"));
}

#[test]
fn regions_and_lists_of_them_differ_and_say_what_they_are() {
    let ram = |tree| Dtb::parse(tree).unwrap().ram().unwrap();
    assert!(ram(PI4) == ram(PI4) && ram(PI4) != ram(ODD));
    assert_eq!(format!("{:?}", region(0x1000, 0x20)), "0x1000+0x20");
}
