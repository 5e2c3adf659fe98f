//! A machine whose device tree is broken on purpose.
//!
//! QEMU edits every tree it passes on and refuses those it cannot read, so the broken one is put
//! into RAM behind its back: the image, the bundle and the tree by the generic loader, and a stub
//! of six instructions that enters the image as QEMU's own boot stub does.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::child::Task;
use crate::paths;
use crate::qemu::{IMAGE_BASE, Machine, Qemu, joined};

/// RAM of `virt` begins here.
const RAM: u64 = 0x4000_0000;
/// Between the tree that QEMU leaves at the start of RAM and the image.
const STUB: u64 = 0x4018_0000;
/// Where firmware is said to live.
const FIRMWARE: u64 = 0x4600_0000;
const MIB: u64 = 1 << 20;

/// Where the header has the total size, and offset and size of the structure and of the strings.
const TOTAL_SIZE: usize = 4;
const OFF_STRUCT: usize = 8;
const OFF_RESERVED: usize = 16;
const OFF_STRINGS: usize = 12;
const SIZE_STRINGS: usize = 32;
const SIZE_STRUCT: usize = 36;

/// `machine`, started with its own tree changed by `spoil`.
pub fn boot_with(
    mut machine: Machine,
    qemu: &Qemu,
    spoil: impl Fn(&mut Vec<u8>, u64) -> Result<()>,
) -> Result<Machine> {
    let folder = machine.folder.clone();
    let dumped = folder.join("good.dtb");
    let mut dumper = machine.clone();
    dumper.extra.extend(["-M".into(), joined("dumpdtb=", &dumped)]);
    Task::new("qemu dumpdtb", dumper.command(qemu), Duration::from_secs(60)).stdout()?;
    let mut tree = paths::read(&dumped).context("QEMU wrote no device tree")?;
    spoil(&mut tree, machine.board.ram_mib() * MIB)?;

    // Where QEMU would have put them: the bundle at half of RAM or 128 MiB, the tree after it.
    let bundle_at = RAM + (machine.board.ram_mib() * MIB / 2).min(128 * MIB);
    let bundle_len = match &machine.initrd {
        Some(file) => std::fs::metadata(file)?.len(),
        None => 0,
    };
    let tree_at = (bundle_at + bundle_len).next_multiple_of(2 * MIB);
    let (tree_file, stub_file) = (folder.join("spoilt.dtb"), folder.join("stub.bin"));
    paths::write(&tree_file, &tree)?;
    paths::write(&stub_file, &stub(tree_at, IMAGE_BASE))?;

    let image = machine.image.take().context("no image to boot")?;
    load(&mut machine, &image, IMAGE_BASE);
    load(&mut machine, &tree_file, tree_at);
    load(&mut machine, &stub_file, STUB);
    if let Some(bundle) = machine.initrd.take() {
        load(&mut machine, &bundle, bundle_at);
    }
    machine.extra.extend(["-device".into(), format!("loader,addr={STUB:#x},cpu-num=0").into()]);
    Ok(machine)
}

/// Cut a tree in the middle of its structure block; what follows in RAM is zeros.
pub fn truncate(tree: &mut Vec<u8>, _ram: u64) -> Result<()> {
    let cut = word(tree, OFF_STRUCT)? + word(tree, SIZE_STRUCT)? / 2;
    tree.truncate(cut);
    Ok(())
}

/// Let RAM begin and end at addresses that are no multiple of anything.
pub fn odd_ram(tree: &mut Vec<u8>, ram: u64) -> Result<()> {
    let mut reg = RAM.to_be_bytes().to_vec();
    reg.extend(ram.to_be_bytes());
    let mut odd = (RAM + 0x123).to_be_bytes().to_vec();
    odd.extend((ram - 0x4321).to_be_bytes());
    let at = tree.windows(reg.len()).position(|w| w == reg).context("no RAM in the tree")?;
    tree.splice(at..at + reg.len(), odd);
    Ok(())
}

/// Let the second CPU wait in a spin table.
pub fn spin_table(tree: &mut Vec<u8>, _ram: u64) -> Result<()> {
    const NAMES: &[u8] = b"enable-method\0cpu-release-addr\0";
    const NODE: &[u8] = b"\0\0\0\x01cpu@1\0\0\0";
    let (strings, size) = (word(tree, OFF_STRINGS)?, word(tree, SIZE_STRINGS)?);
    ensure!(strings > word(tree, OFF_STRUCT)?, "the strings are not behind the structure");
    let end = strings + size;
    tree.splice(end..end, NAMES.iter().copied());
    let node = tree.windows(NODE.len()).position(|w| w == NODE).context("no CPU in the tree")?;
    let names = u32::try_from(size)?;
    let mut props = Tokens::default();
    props.property(names, b"spin-table\0");
    props.property(names + 14, &0xd8_u64.to_be_bytes());
    let added = props.0.len();
    tree.splice(node + NODE.len()..node + NODE.len(), props.0);
    let sizes = [
        (TOTAL_SIZE, tree.len()),
        (OFF_STRINGS, strings + added),
        (SIZE_STRINGS, size + NAMES.len()),
        (SIZE_STRUCT, word(tree, SIZE_STRUCT)? + added),
    ];
    for (at, value) in sizes {
        tree.splice(at..at + 4, u32::try_from(value)?.to_be_bytes());
    }
    Ok(())
}

/// Let firmware live in RAM: one piece in the reservation block and one that must not be mapped,
/// side by side.
pub fn firmware(tree: &mut Vec<u8>, _ram: u64) -> Result<()> {
    const NAMES: &[u8] = b"#address-cells\0#size-cells\0ranges\0reg\0no-map\0";
    const SIZE: u64 = 0x1_0000;
    let piece = |n: u64| [FIRMWARE + n * SIZE, SIZE].map(u64::to_be_bytes).concat();
    let (strings, size) = (word(tree, OFF_STRINGS)?, word(tree, SIZE_STRINGS)?);
    let (structure, length) = (word(tree, OFF_STRUCT)?, word(tree, SIZE_STRUCT)?);
    let reserved = word(tree, OFF_RESERVED)?;
    ensure!(reserved < structure && structure < strings, "the blocks are not where they were");
    let names = u32::try_from(size)?;
    let mut node = Tokens::default();
    node.begin("reserved-memory");
    node.property(names, &2_u32.to_be_bytes());
    node.property(names + 15, &2_u32.to_be_bytes());
    node.property(names + 27, &[]);
    node.begin("firmware");
    node.property(names + 34, &piece(1));
    node.property(names + 38, &[]);
    node.words(&[2, 2]);
    // From the end to the beginning, so that offsets stay right.
    tree.splice(strings + size..strings + size, NAMES.iter().copied());
    let root_end = structure + length - 8;
    tree.splice(root_end..root_end, node.0.iter().copied());
    tree.splice(reserved..reserved, piece(0));
    let sizes = [
        (TOTAL_SIZE, tree.len()),
        (OFF_STRUCT, structure + 16),
        (OFF_STRINGS, strings + node.0.len() + 16),
        (SIZE_STRINGS, size + NAMES.len()),
        (SIZE_STRUCT, length + node.0.len()),
    ];
    for (at, value) in sizes {
        tree.splice(at..at + 4, u32::try_from(value)?.to_be_bytes());
    }
    Ok(())
}

/// A piece of a structure block.
#[derive(Default)]
struct Tokens(Vec<u8>);

impl Tokens {
    fn words(&mut self, words: &[u32]) {
        self.0.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    }

    fn begin(&mut self, name: &str) {
        self.words(&[1]);
        self.0.extend(name.bytes().chain([0]));
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn property(&mut self, name: u32, value: &[u8]) {
        self.words(&[3, value.len() as u32, name]);
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

fn load(machine: &mut Machine, file: &Path, addr: u64) {
    let mut argument = joined("loader,file=", file);
    argument.push(format!(",addr={addr:#x},force-raw=on"));
    machine.extra.extend(["-device".into(), argument]);
}

/// x0 = tree, x1..x3 = 0, jump to `entry`: the arm64 boot protocol.
fn stub(tree: u64, entry: u64) -> Vec<u8> {
    let code: [u32; 6] = [
        0x5800_00c0, // ldr x0, tree
        0xd280_0001, // mov x1, #0
        0xd280_0002, // mov x2, #0
        0xd280_0003, // mov x3, #0
        0x5800_0084, // ldr x4, entry
        0xd61f_0080, // br x4
    ];
    let mut bytes: Vec<u8> = code.iter().flat_map(|c| c.to_le_bytes()).collect();
    bytes.extend(tree.to_le_bytes());
    bytes.extend(entry.to_le_bytes());
    bytes
}

fn word(tree: &[u8], at: usize) -> Result<usize> {
    ensure!(tree.starts_with(&0xd00d_feed_u32.to_be_bytes()), "this is no device tree");
    let bytes = tree.get(at..at + 4).context("the tree has no header")?;
    Ok(usize::try_from(u32::from_be_bytes(bytes.try_into()?))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_ram_changes_the_one_property() {
        let mut tree = vec![0xd0, 0x0d, 0xfe, 0xed];
        tree.extend(RAM.to_be_bytes());
        tree.extend((512 * MIB).to_be_bytes());
        let len = tree.len();
        odd_ram(&mut tree, 512 * MIB).unwrap();
        assert_eq!(tree.len(), len);
        assert_eq!(tree[4..12], 0x4000_0123_u64.to_be_bytes());
        assert!(odd_ram(&mut tree, 512 * MIB).is_err());
    }

    #[test]
    fn truncation_cuts_the_structure_block() {
        let mut tree = vec![0; 400];
        tree[..4].copy_from_slice(&0xd00d_feed_u32.to_be_bytes());
        tree[OFF_STRUCT..OFF_STRUCT + 4].copy_from_slice(&56_u32.to_be_bytes());
        tree[SIZE_STRUCT..SIZE_STRUCT + 4].copy_from_slice(&200_u32.to_be_bytes());
        truncate(&mut tree, 0).unwrap();
        assert_eq!(tree.len(), 156);
        assert!(truncate(&mut vec![0; 100], 0).is_err());
    }
}
