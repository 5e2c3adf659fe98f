//! What the board's firmware does between reading a card and the first instruction of an Arm core; in QEMU,
//! which has no such firmware, xtask does it.
//!
//! Sources: config.txt's documentation (what is loaded where, what `/chosen` and `/memory` get) and the
//! published source of the stub (armstub8.S): the words at 0xf0, the spin table, the state at EL2. Knows
//! [`Loaded`], the contents of a card. Must not know QEMU.

use anyhow::{Context, Result, ensure};

use super::Loaded;
use super::tree::Tree;

/// Ranges of RAM: base and bytes.
pub type Ram = [(u64, u64)];

/// RAM of each board, by its GiB, as its firmware writes it to `/memory`: the first gigabyte less the
/// GPU's 76 MiB, what lies between that and the registers at 0xfc000000, and the rest above 4 GiB.
pub const BOARDS: [(u64, &Ram); 4] = [
    (1, &[(0, 0x3b40_0000)]),
    (2, &[(0, 0x3b40_0000), (0x4000_0000, 0x4000_0000)]),
    (4, &[(0, 0x3b40_0000), (0x4000_0000, 0xbc00_0000)]),
    (8, &[(0, 0x3b40_0000), (0x4000_0000, 0xbc00_0000), (0x1_0000_0000, 0x1_0000_0000)]),
];

/// The end of the device tree in memory: below what 32-bit addresses of old kernels reach.
const TREE_END: u64 = 0x2f00_0000;
/// TF-A makes the tree larger where it is.
const TREE_ROOM: u64 = 0x10_0000;
/// A stub says by this word that it wants to be told where the others are, and reads it as 0 then.
const MAGIC: (usize, u32) = (0xf0, 0x5afe_570b);
/// Where it is told: the tree's address, the kernel's.
const TREE_AT: usize = 0xf8;
const KERNEL_AT: usize = 0xfc;

/// Bytes at an address of the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What it is, as a name for a file.
    pub name: &'static str,
    /// Where.
    pub at: u64,
    /// What.
    pub bytes: Vec<u8>,
}

/// Which UART a tree names as its console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Console {
    /// The mini UART on the header, as the trees have it.
    #[default]
    Mini,
    /// The PL011, which the firmware's `dtoverlay=disable-bt` puts there.
    Pl011,
}

/// Memory when the first Arm core starts, at 0 and EL3: what the card holds, with `words` more on the
/// command line, on a board with this RAM.
///
/// # Errors
/// The card asks for something that overlaps, or its tree is not one of this board's.
pub fn place(loaded: Loaded, words: &str, ram: &Ram, console: Console) -> Result<Vec<Piece>> {
    let Loaded { kernel, initrd, tree, cmdline, armstub } = loaded;
    let mut stub = armstub.unwrap_or_else(own_stub);
    let ends = (initrd.1, initrd.1 + initrd.0.len() as u64);
    let bootargs = format!("{words} {cmdline}").trim().to_owned();
    let tree = filled_in(&tree, &bootargs, ends, ram, console)?;
    let tree_at = (TREE_END - tree.len() as u64 - TREE_ROOM) & !0xfff;
    introduce(&mut stub, tree_at, kernel.1)?;
    let pieces = vec![
        Piece { name: "armstub8.bin", at: 0, bytes: stub },
        Piece { name: "kernel8.img", at: kernel.1, bytes: kernel.0 },
        Piece { name: "initramfs", at: initrd.1, bytes: initrd.0 },
        Piece { name: "board.dtb", at: tree_at, bytes: tree },
    ];
    for pair in pieces.windows(2) {
        if let [low, high] = pair {
            let end = low.at + low.bytes.len() as u64;
            ensure!(end <= high.at, "{} reaches into {}", low.name, high.name);
        }
    }
    Ok(pieces)
}

/// The tree as a core gets it.
pub fn filled_in(
    blob: &[u8],
    bootargs: &str,
    (start, end): (u64, u64),
    ram: &Ram,
    console: Console,
) -> Result<Vec<u8>> {
    let mut tree = Tree::parse(blob)?;
    let cells = |name| tree.root.get(name).and_then(|value| value.last().copied());
    ensure!(
        (cells("#address-cells"), cells("#size-cells")) == (Some(2), Some(1)),
        "addresses of two cells and sizes of one are what these boards have"
    );
    let memory = tree.node("/memory@0").context("there is no /memory@0")?;
    memory.set("reg", reg(ram));
    let chosen = tree.node("/chosen").context("there is no /chosen")?;
    chosen.set_text("bootargs", bootargs);
    chosen.set("linux,initrd-start", start.to_be_bytes().to_vec());
    chosen.set("linux,initrd-end", end.to_be_bytes().to_vec());
    if console == Console::Pl011 {
        chosen.set_text("stdout-path", "serial0:115200n8");
    }
    Ok(tree.to_bytes())
}

/// One cell of size cannot say 4 GiB: such a range becomes two.
fn reg(ram: &Ram) -> Vec<u8> {
    const MOST: u64 = 2 << 30;
    let mut reg = Vec::new();
    for (base, size) in ram {
        let step = if u32::try_from(*size).is_ok() { *size } else { MOST };
        let mut at = 0;
        while at < *size {
            reg.extend((base + at).to_be_bytes());
            reg.extend((step.min(size - at) as u32).to_be_bytes());
            at += step;
        }
    }
    reg
}

/// Tells a stub where tree and kernel are.
fn introduce(stub: &mut [u8], tree: u64, kernel: u64) -> Result<()> {
    let mut put = |at: usize, word: u32| -> Option<u32> {
        let bytes = stub.get_mut(at..at + 4)?;
        let old = u32::from_le_bytes(bytes.try_into().ok()?);
        bytes.copy_from_slice(&word.to_le_bytes());
        Some(old)
    };
    ensure!(put(MAGIC.0, 0) == Some(MAGIC.1), "the stub has no magic number at {:#x}", MAGIC.0);
    put(TREE_AT, u32::try_from(tree)?);
    put(KERNEL_AT, u32::try_from(kernel).context("a stub knows 32-bit addresses")?);
    Ok(())
}

/// Ours, in the place of the one that is built into the firmware: SMC is undefined, all interrupts are
/// EL2's (group 1), the first core goes to the kernel and the others wait, all at EL2.
///
/// It leaves out what QEMU has not: cache latencies, the frequency of the timer, coherency.
fn own_stub() -> Vec<u8> {
    #[rustfmt::skip]
    const CODE: [u32; 42] = [
        0xd538_00a6, // mrs  x6, mpidr_el1
        0x9240_04c6, // and  x6, x6, #3
        0xd280_b621, // mov  x1, #0x5b1         RW, HCE, SMD, RES1, NS
        0xd51e_1101, // msr  scr_el3, x1
        0xd51e_115f, // msr  cptr_el3, xzr
        0xd51c_e07f, // msr  cntvoff_el2, xzr
        0xd2bf_f082, // mov  x2, #0xff840000
        0xf282_0002, // movk x2, #0x1000        GICD
        0x5280_0064, // mov  w4, #3
        0xb900_0044, // str  w4, [x2]           GICD_CTLR: both groups
        0x1280_0004, // mov  w4, #-1
        0xd280_1005, // mov  x5, #0x80          GICD_IGROUPR0..7
        0xb825_6844, // str  w4, [x2, x5]       <- all of them group 1
        0x9100_10a5, // add  x5, x5, #4
        0xf102_80bf, // cmp  x5, #0xa0
        0x54ff_ffa1, // b.ne .-12
        0x9140_0442, // add  x2, x2, #0x1000    GICC
        0x5280_3ce4, // mov  w4, #0x1e7
        0xb900_0044, // str  w4, [x2]           GICC_CTLR: both groups, no bypass
        0x5280_1fe4, // mov  w4, #0xff
        0xb900_0444, // str  w4, [x2, #4]       GICC_PMR: EL2 may use the lower half
        0xd2a6_18a1, // mov  x1, #0x30c50000
        0xf281_0601, // movk x1, #0x0830
        0xd51c_1001, // msr  sctlr_el2, x1      MMU and caches off
        0xd280_7921, // mov  x1, #0x3c9         EL2h, all masked
        0xd51e_4001, // msr  spsr_el3, x1
        0x1000_0061, // adr  x1, .+12
        0xd51e_4021, // msr  elr_el3, x1
        0xd69f_03e0, // eret
        0xaa1f_03e0, // mov  x0, xzr            <- at EL2
        0xaa1f_03e1, // mov  x1, xzr
        0xaa1f_03e2, // mov  x2, xzr
        0xaa1f_03e3, // mov  x3, xzr
        0xd280_1b05, // mov  x5, #0xd8          the spin table
        0xb400_00a6, // cbz  x6, .+20
        0xd503_205f, // wfe
        0xf866_78a4, // ldr  x4, [x5, x6, lsl #3]
        0xb4ff_ffc4, // cbz  x4, .-8
        0xd61f_0080, // br   x4
        0xb940_20a0, // ldr  w0, [x5, #0x20]    TREE_AT
        0xb940_24a4, // ldr  w4, [x5, #0x24]    KERNEL_AT
        0xd61f_0080, // br   x4
    ];
    let mut stub: Vec<u8> = CODE.iter().flat_map(|word| word.to_le_bytes()).collect();
    stub.resize(0x100, 0);
    stub.splice(MAGIC.0..MAGIC.0 + 4, MAGIC.1.to_le_bytes());
    stub
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::small;
    use super::*;

    fn loaded() -> Loaded {
        Loaded {
            kernel: (vec![1; 5000], 0x20_0000),
            initrd: (vec![2; 3000], 0x800_0000),
            tree: small().to_bytes(),
            cmdline: "redan.dma=strict".into(),
            armstub: None,
        }
    }

    #[test]
    fn the_stub_is_told_where_tree_and_kernel_are() {
        let pieces = place(loaded(), "redan.nonce=x", BOARDS[1].1, Console::Mini).unwrap();
        let [stub, kernel, initrd, tree] = pieces.as_slice() else { panic!("{pieces:?}") };
        let word = |at: usize| u32::from_le_bytes(stub.bytes[at..at + 4].try_into().unwrap());
        assert_eq!((stub.at, word(0xf0)), (0, 0));
        assert_eq!((u64::from(word(0xf8)), u64::from(word(0xfc))), (tree.at, kernel.at));
        assert_eq!((kernel.at, initrd.at), (0x20_0000, 0x800_0000));
        assert!(stub.bytes[0xd8..0xf8].iter().all(|byte| *byte == 0), "nobody is called");
    }

    #[test]
    fn the_tree_tells_of_memory_command_line_and_initramfs() {
        let pieces = place(loaded(), "redan.nonce=x", BOARDS[1].1, Console::Mini).unwrap();
        let tree = hyp_dtb::Dtb::parse(&pieces[3].bytes).unwrap();
        let chosen = tree.chosen().unwrap();
        assert_eq!(chosen.bootargs, Some("redan.nonce=x redan.dma=strict"));
        let initrd = chosen.initrd.unwrap();
        assert_eq!((initrd.base, initrd.size), (0x800_0000, 3000));
    }

    #[test]
    fn every_board_s_memory_survives_cells_of_32_bits() {
        for (gib, ram) in BOARDS {
            let blob = filled_in(&small().to_bytes(), "", (1, 2), ram, Console::Mini).unwrap();
            let tree = hyp_dtb::Dtb::parse(&blob).unwrap();
            let found: Vec<_> = tree.ram().unwrap().iter().map(|r| (r.base, r.size)).collect();
            let total = |ram: &[(u64, u64)]| ram.iter().map(|(_, size)| size).sum::<u64>();
            assert_eq!(total(&found), total(ram), "{gib} GiB: {found:x?}");
            // What is the GPU's or registers is nobody's RAM.
            assert_eq!(gib * 1024 - (total(ram) >> 20), if gib < 4 { 76 } else { 140 });
        }
    }

    #[test]
    fn what_overlaps_or_is_no_stub_is_refused() {
        let mut long = loaded();
        long.kernel.0 = vec![0; 0x800_0000];
        let why = place(long, "", BOARDS[0].1, Console::Mini).unwrap_err().to_string();
        assert!(why.contains("kernel8.img reaches into initramfs"), "{why}");
        let odd = Loaded { armstub: Some(vec![0; 4096]), ..loaded() };
        let why = place(odd, "", BOARDS[0].1, Console::Mini).unwrap_err().to_string();
        assert!(why.contains("no magic number"), "{why}");
    }
}
