//! A VM's manifest, and what is made of it: where its files go, its device tree.

use host_vmm::fdt::{self, Machine};
use host_vmm::image::Layout;
use host_vmm::manifest::{Manifest, parse};
use host_vmm::memmap::{DEVICES, DEVICES_END, IPA_BITS, RAM};
use host_vmm::vgic::Version;
use hyp_dtb::{Dtb, Region};

const MIB: u64 = 1 << 20;

/// Reads any text as a manifest.
///
/// A refusal has a line. What is accepted is sound, survives being written and read again, puts its
/// files side by side into RAM, and gives a device tree that EL2's own strict reader accepts and that says
/// what the manifest says.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    let manifest = match parse(text) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert!((1..=text.lines().count() + 1).contains(&error.line), "{error}");
            assert!(!error.reason.is_empty());
            return;
        }
    };
    sound(&manifest);
    let written = manifest.to_toml();
    let again = parse(&written).expect("a manifest of our own");
    assert_eq!(fields(&again), fields(&manifest));
    assert_eq!(again.to_toml(), written);
    files(&manifest);
}

/// Everything but line numbers.
fn fields(m: &Manifest) -> impl PartialEq + core::fmt::Debug + '_ {
    let options = (m.vcpus, m.gic, &m.services, &m.regions);
    (&m.name, &m.kernel, &m.initrd, &m.cmdline, m.memory_mib, options)
}

fn sound(m: &Manifest) {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    assert!(!m.name.is_empty() && m.name.chars().all(plain));
    assert!((1..=8).contains(&m.vcpus) && m.memory_mib > 0);
    assert!(!m.cmdline.contains(char::is_control));
    for file in m.files() {
        assert!(file.split('/').all(|part| !["", ".", ".."].contains(&part)), "{file:?}");
        assert!(file != "vm.toml" && !file.contains(char::is_control));
    }
    let mut spans = vec![(DEVICES, DEVICES_END), (RAM, RAM + m.memory_bytes())];
    for region in &m.regions {
        assert_eq!(region.base % 4096, 0);
        spans.push((region.base, region.base + region.mib * MIB));
    }
    spans.sort_unstable();
    assert!(spans.iter().all(|(base, end)| base < end && *end <= 1 << IPA_BITS));
    assert!(spans.is_sorted_by(|a, b| a.1 <= b.0), "{spans:x?}");
}

/// Files whose sizes follow from their names, so that the input decides them.
fn files(manifest: &Manifest) {
    let hash = |name: &str| {
        let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
        name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
    };
    let kernel = image(hash(&manifest.kernel));
    let other = vec![0x5a; 3000 + (hash(&manifest.name) % 9000) as usize];
    let find = |name: &str| {
        let file = if name == manifest.kernel { &kernel } else { &other };
        Some(file.as_slice())
    };
    let Ok(layout) = manifest.check_files(find) else { return };
    let initrd = if manifest.initrd.is_some() { find("").map_or(0, <[u8]>::len) as u64 } else { 0 };
    let needs = u64::from_le_bytes(kernel[16..24].try_into().expect("8 bytes"));
    let needs = needs.max(kernel.len() as u64);
    let parts = [(layout.kernel, needs), (layout.dtb, 0x1_0000), (layout.initrd, initrd)];
    let mut spans = vec![];
    for (base, size) in parts.into_iter().filter(|(_, size)| *size > 0) {
        assert!(base >= RAM && base + size <= RAM + manifest.memory_bytes(), "{layout:x?}");
        spans.push((base, base + size));
    }
    spans.sort_unstable();
    assert!(spans.is_sorted_by(|a, b| a.1 <= b.0), "{layout:x?}: {spans:x?}");
    for gic in [Version::V2, Version::V3] {
        tree(manifest, layout, initrd, gic);
    }
}

/// An Image of a few pages that says it needs up to 64 MiB, at an offset of up to 2 MiB.
fn image(hash: u64) -> Vec<u8> {
    let mut image = vec![0; 4096 + (hash % 8192) as usize];
    image[8..16].copy_from_slice(&(((hash >> 13) % (2 * MIB)) & !0xfff).to_le_bytes());
    let needs = if hash >> 60 == 0 { 0 } else { (hash >> 34) % (64 * MIB) };
    image[16..24].copy_from_slice(&needs.to_le_bytes());
    image[24..32].copy_from_slice(&0xa_u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARMd");
    image
}

fn tree(manifest: &Manifest, layout: Layout, initrd: u64, gic: Version) {
    let mut ram = vec![(RAM, manifest.memory_bytes())];
    let more = manifest.regions.iter().filter(|region| !region.readonly);
    ram.extend(more.map(|region| (region.base, region.mib * MIB)));
    let (vcpus, cmdline) = (manifest.vcpus, manifest.cmdline.as_str());
    let Ok(tree) = fdt::build(&Machine { ram: &ram, vcpus, gic, cmdline, layout }) else { return };
    let dtb = Dtb::parse(&tree).expect("a tree of our own");
    let region = |(base, size): &(u64, u64)| Region { base: *base, size: *size };
    match dtb.ram() {
        Ok(found) => assert_eq!(*found, *ram.iter().map(region).collect::<Vec<_>>()),
        // EL2's reader has room for 16; a guest's may have more.
        Err(why) => assert!(ram.len() > 16, "{why}"),
    }
    assert_eq!(dtb.cpus().expect("CPUs").len(), usize::from(vcpus));
    let chosen = dtb.chosen().expect("chosen");
    assert_eq!(chosen.bootargs.unwrap_or_default(), cmdline);
    assert_eq!(chosen.initrd.map_or(0, |r| r.size), initrd);
    assert!(chosen.initrd.is_none_or(|r| r.base == layout.initrd));
    assert!(dtb.timer().is_ok() && dtb.psci().is_ok_and(|p| p.is_some()) && dtb.uart().is_ok());
}
