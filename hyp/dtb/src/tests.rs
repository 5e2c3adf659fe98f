//! What real trees say, and what each kind of bad one is refused for.

mod edges;

use crate::check::{check, reservations};
use crate::{
    Chosen, Cpu, Dtb, DtbError, Enable, Gic, HEADER_BYTES, MAX_BYTES, MAX_DEPTH, Psci, Region,
    Reserved, Timer, Uart, UartKind, header_size, strip_nops,
};

pub(crate) const VIRT2: &[u8] = include_bytes!("../../../tests/data/virt-gicv2.dtb");
pub(crate) const VIRT3: &[u8] = include_bytes!("../../../tests/data/virt-gicv3.dtb");
pub(crate) const PI4: &[u8] = include_bytes!("../../../tests/data/rpi4-shape.dtb");
pub(crate) const ODD: &[u8] = include_bytes!("../../../tests/data/odd-ram.dtb");
const EMPTY: &[u8] = include_bytes!("../../../tests/data/no-memory.dtb");

/// Miri takes minutes to read about QEMU's sixty devices; the smaller trees take the same paths.
const TREES: &[&[u8]] = if cfg!(miri) { &[PI4, ODD] } else { &[VIRT2, VIRT3, PI4, ODD] };

const TIMER: Timer = Timer { secure: 29, physical: 30, virt: 27, hyp: 26 };

fn region(base: u64, size: u64) -> Region {
    Region { base, size }
}

#[cfg(not(miri))] // see TREES
#[test]
fn qemu_virt_with_a_gicv2_is_read_whole() {
    let dtb = Dtb::parse(VIRT2).unwrap();
    assert_eq!(*dtb.ram().unwrap(), [region(0x4000_0000, 0x4000_0000)]);
    assert!(dtb.reserved().unwrap().is_empty());
    let gic = Gic::V2 {
        gicd: region(0x0800_0000, 0x1_0000),
        gicc: region(0x0801_0000, 0x1_0000),
        gich: region(0x0803_0000, 0x1_0000),
        gicv: region(0x0804_0000, 0x1_0000),
        maintenance: 25,
    };
    assert_eq!(dtb.gic(), Ok(gic));
    assert_eq!(dtb.timer(), Ok(TIMER));
    assert_eq!(dtb.psci(), Ok(Some(Psci::Smc)));
    assert_eq!(*dtb.cpus().unwrap(), [Cpu { mpidr: 0, enable: Enable::Unknown }]);
    let registers = region(0x0900_0000, 0x1000);
    assert_eq!(dtb.uart(), Ok(Some(Uart { kind: UartKind::Pl011, registers, intid: Some(33) })));
    let stdout = Some("/pl011@9000000");
    assert_eq!(dtb.chosen(), Ok(Chosen { bootargs: None, initrd: None, stdout }));
}

#[cfg(not(miri))] // see TREES
#[test]
fn qemu_virt_with_a_gicv3_has_redistributors() {
    let dtb = Dtb::parse(VIRT3).unwrap();
    let Gic::V3 { gicd, gicr, stride, maintenance } = dtb.gic().unwrap() else { panic!() };
    assert_eq!(gicd, region(0x0800_0000, 0x1_0000));
    assert_eq!(*gicr, [region(0x080a_0000, 0xf6_0000)]);
    assert_eq!((stride, maintenance), (None, 25));
    assert_eq!(dtb.timer(), Ok(TIMER));
}

#[test]
fn devices_of_a_pi_are_translated_through_the_soc_bus() {
    let dtb = Dtb::parse(PI4).unwrap();
    let gic = Gic::V2 {
        gicd: region(0xff84_1000, 0x1000),
        gicc: region(0xff84_2000, 0x2000),
        gich: region(0xff84_4000, 0x2000),
        gicv: region(0xff84_6000, 0x2000),
        maintenance: 25,
    };
    assert_eq!(dtb.gic(), Ok(gic));
    let registers = region(0xfe21_5040, 0x40);
    assert_eq!(dtb.uart(), Ok(Some(Uart { kind: UartKind::Mini, registers, intid: Some(125) })));
    assert_eq!(dtb.timer(), Ok(TIMER));
    assert_eq!(dtb.psci(), Ok(None));
}

#[test]
fn a_pi_has_two_ram_ranges_reserved_memory_and_spinning_cpus() {
    let dtb = Dtb::parse(PI4).unwrap();
    let ram = [region(0, 0x3b40_0000), region(0x4000_0000, 0xbc00_0000)];
    assert_eq!(*dtb.ram().unwrap(), ram);
    let reserved = [
        Reserved { region: region(0, 0x1000), no_map: false, reusable: false },
        Reserved { region: region(0x2000_0000, 0x2000), no_map: true, reusable: false },
        Reserved { region: region(0x3000_0000, 0x1000), no_map: false, reusable: false },
    ];
    assert_eq!(*dtb.reserved().unwrap(), reserved);
    let cpus = [
        Cpu { mpidr: 0, enable: Enable::SpinTable(0xd8) },
        Cpu { mpidr: 1, enable: Enable::SpinTable(0xe0) },
    ];
    assert_eq!(*dtb.cpus().unwrap(), cpus);
    let chosen = Chosen {
        bootargs: Some("redan.nonce=n1 console=ttyS0"),
        initrd: Some(region(0x0800_0000, 0x12_3456)),
        stdout: Some("serial0"),
    };
    assert_eq!(dtb.chosen(), Ok(chosen));
}

#[test]
fn odd_ram_is_told_as_it_stands_and_disabled_nodes_are_not() {
    let dtb = Dtb::parse(ODD).unwrap();
    let ram = [region(0x8000_0123, 0x765_4321), region(0x1_0000_0800, 0xffff_f800)];
    assert_eq!(*dtb.ram().unwrap(), ram);
    let cpus = [
        Cpu { mpidr: 0x1_0000_0002, enable: Enable::Psci },
        Cpu { mpidr: 0x100, enable: Enable::Unknown },
    ];
    assert_eq!(*dtb.cpus().unwrap(), cpus);
    assert_eq!(dtb.chosen(), Ok(Chosen::default()));
}

#[test]
fn a_gicv3_may_have_several_regions_a_stride_and_four_cells() {
    let dtb = Dtb::parse(ODD).unwrap();
    let Gic::V3 { gicr, stride, maintenance, .. } = dtb.gic().unwrap() else { panic!() };
    assert_eq!(*gicr, [region(0x2f10_0000, 0x8_0000), region(0x2f20_0000, 0x8_0000)]);
    assert_eq!((stride, maintenance), (Some(0x4_0000), 25));
    assert_eq!(dtb.timer(), Ok(TIMER));
}

#[test]
fn without_stdout_path_the_first_known_uart_is_the_console() {
    // Its interrupt goes to a controller that is not the GIC, so it has no INTID.
    let registers = region(0x0900_0000, 0x1000);
    let uart = Dtb::parse(ODD).unwrap().uart();
    assert_eq!(uart, Ok(Some(Uart { kind: UartKind::Pl011, registers, intid: None })));
}

#[test]
fn a_tree_without_anything_says_what_is_missing() {
    let dtb = Dtb::parse(EMPTY).unwrap();
    assert_eq!(dtb.ram(), Err(DtbError::Missing("memory")));
    assert_eq!(dtb.cpus(), Err(DtbError::Missing("CPUs")));
    assert_eq!(dtb.gic(), Err(DtbError::Missing("GIC")));
    assert_eq!(dtb.timer(), Err(DtbError::Missing("timer")));
    assert_eq!(dtb.psci(), Ok(None));
    assert_eq!(dtb.uart(), Ok(None));
    assert_eq!(dtb.chosen(), Ok(Chosen { bootargs: Some(""), ..Chosen::default() }));
}

/// The Pi's tree with `stdout-path` cut down to (or replaced by) something as long or shorter.
fn pi_with_console(path: &str) -> Vec<u8> {
    let mut bytes = PI4.to_vec();
    let at = bytes.windows(8).position(|w| w == b"serial0:").unwrap();
    for (i, slot) in bytes[at..at + 16].iter_mut().enumerate() {
        *slot = path.as_bytes().get(i).copied().unwrap_or(0);
    }
    bytes
}

#[test]
fn the_console_is_found_by_alias_or_path_and_never_in_circles() {
    let uart = |path| Dtb::parse(&pi_with_console(path)).unwrap().uart();
    let base = |path| uart(path).map(|u| u.map(|u| u.registers.base));
    assert_eq!(base("serial1"), Ok(Some(0xfe20_1000)));
    // An alias that names itself, and one that is not there.
    assert_eq!(base("loop"), Ok(None));
    assert_eq!(base("serial2"), Ok(None));
    // A path may leave the unit address out; then the first of the name is meant.
    assert_eq!(base("/soc/serial"), Ok(Some(0xfe20_1000)));
    assert_eq!(base("/soc/ser"), Ok(None));
    assert_eq!(base("/timer"), Ok(None));
    assert_eq!(base("/"), Ok(None));
}

#[test]
fn an_address_outside_every_window_or_across_the_end_of_one_is_refused() {
    let dtb = Dtb::parse(PI4).unwrap();
    let at = |path| dtb.at_path(path, |n| n.reg().unwrap().next().unwrap()).unwrap();
    assert_eq!(at("/soc/serial@50000000"), Err(DtbError::Untranslatable(0x5000_0000)));
    assert_eq!(at("/soc/serial@7f7fff00"), Err(DtbError::Untranslatable(0x7f7f_ff00)));
    assert_eq!(at("/soc/serial@7e201000"), Ok(region(0xfe20_1000, 0x200)));
}

/// Overwrites the big-endian word at `offset`.
fn with_word(tree: &[u8], offset: usize, word: u32) -> Vec<u8> {
    let mut bytes = tree.to_vec();
    bytes[offset..offset + 4].copy_from_slice(&word.to_be_bytes());
    bytes
}

fn refusal(bytes: &[u8]) -> DtbError {
    Dtb::parse(bytes).unwrap_err()
}

#[test]
fn the_header_alone_says_how_much_to_read() {
    assert_eq!(header_size(&VIRT2[..HEADER_BYTES]), Ok(VIRT2.len()));
    assert_eq!(header_size(&VIRT2[..7]), Err(DtbError::TooShort));
    assert_eq!(header_size(&[]), Err(DtbError::TooShort));
    assert_eq!(header_size(&[0; 40]), Err(DtbError::Magic(0)));
    let size = |n: u32| header_size(&with_word(VIRT2, 4, n)[..HEADER_BYTES]);
    assert_eq!(size(39), Err(DtbError::TotalSize(39)));
    assert_eq!(size(40), Ok(40));
    assert_eq!(size(MAX_BYTES as u32), Ok(MAX_BYTES));
    assert_eq!(size(MAX_BYTES as u32 + 1), Err(DtbError::TotalSize(MAX_BYTES as u32 + 1)));
    assert_eq!(size(u32::MAX), Err(DtbError::TotalSize(u32::MAX)));
}

#[test]
fn a_cut_off_tree_is_too_short_and_a_padded_one_is_cut_to_size() {
    assert_eq!(refusal(&VIRT2[..VIRT2.len() - 1]), DtbError::TooShort);
    let mut padded = VIRT2.to_vec();
    padded.extend([0xff; 100]);
    assert_eq!(Dtb::parse(&padded).unwrap().bytes(), VIRT2);
}

#[test]
fn every_header_field_is_checked() {
    assert_eq!(refusal(&with_word(VIRT2, 20, 16)), DtbError::Version(16));
    assert_eq!(refusal(&with_word(VIRT2, 24, 18)), DtbError::Version(17));
    assert!(Dtb::parse(&with_word(VIRT2, 20, 18)).is_ok());
    let len = VIRT2.len() as u32;
    for offset in [44, 36, len - 8, len, u32::MAX - 7] {
        assert_eq!(refusal(&with_word(VIRT2, 16, offset)), DtbError::Reservations, "{offset}");
    }
    for offset in [57, 36, len, u32::MAX - 3] {
        assert_eq!(refusal(&with_word(VIRT2, 8, offset)), DtbError::Structure, "{offset}");
    }
    for length in [len + 4, u32::MAX - 3, 5] {
        assert_eq!(refusal(&with_word(VIRT2, 36, length)), DtbError::Structure, "{length}");
    }
    assert_eq!(refusal(&with_word(VIRT2, 12, 39)), DtbError::Strings);
    assert_eq!(refusal(&with_word(VIRT2, 32, len)), DtbError::Strings);
}

#[test]
fn reservations_end_with_zeros_and_a_block_without_end_is_refused() {
    let all: Vec<_> = reservations(PI4).collect();
    assert_eq!(all, [Ok((0, 0x1000))]);
    let offset = u32::from_be_bytes(*PI4[16..].first_chunk().unwrap()) as usize;
    let mut endless = PI4.to_vec();
    endless.truncate(offset + 24);
    assert_eq!(reservations(&endless).last(), Some(Err(DtbError::Reservations)));
    // A range that wraps around is refused when asked for.
    let mut wrapping = PI4.to_vec();
    wrapping[offset..offset + 16].fill(0xff);
    assert_eq!(Dtb::parse(&wrapping).unwrap().reserved(), Err(DtbError::Reservations));
}

/// A tree made of tokens, to break the rules one by one.
pub(crate) struct Tokens {
    structure: Vec<u8>,
    pub(crate) strings: Vec<u8>,
}

impl Tokens {
    pub(crate) fn new() -> Self {
        Self { structure: Vec::new(), strings: b"name\0reg\0ranges\0".to_vec() }
    }
    pub(crate) fn word(mut self, word: u32) -> Self {
        self.structure.extend(word.to_be_bytes());
        self
    }
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.structure.extend(bytes);
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
        self
    }
    pub(crate) fn begin(self, name: &[u8]) -> Self {
        self.word(1).bytes(&[name, &[0]].concat())
    }
    pub(crate) fn end(self) -> Self {
        self.word(2)
    }
    pub(crate) fn prop(self, name: u32, value: &[u8]) -> Self {
        self.word(3).word(value.len() as u32).word(name).bytes(value)
    }
    pub(crate) fn build(self) -> Vec<u8> {
        let strings = 56 + self.structure.len() as u32;
        let total = strings + self.strings.len() as u32;
        let (sizes, structure) = (self.strings.len() as u32, self.structure.len() as u32);
        let header = [0xd00d_feed, total, 56, strings, 40, 17, 16, 0, sizes, structure];
        let header = header.into_iter().flat_map(u32::to_be_bytes);
        header.chain([0; 16]).chain(self.structure).chain(self.strings).collect()
    }
}

#[test]
fn the_smallest_tree_is_a_root_and_an_end() {
    let tree = Tokens::new().begin(b"").end().word(9).build();
    assert_eq!(check(&tree), Ok(&tree[..]));
    assert!(Dtb::parse(&tree).unwrap().at_path("/", |_| ()).is_some());
}

#[test]
fn tokens_in_the_wrong_place_are_refused_where_they_stand() {
    let token = |offset, token| DtbError::Token { offset, token };
    let root = || Tokens::new().begin(b"");
    assert_eq!(refusal(&Tokens::new().word(9).build()), token(56, 9));
    assert_eq!(refusal(&Tokens::new().end().build()), token(56, 2));
    assert_eq!(refusal(&Tokens::new().prop(0, b"").build()), token(56, 3));
    assert_eq!(refusal(&root().word(4).end().word(9).build()), token(64, 4));
    assert_eq!(refusal(&root().word(9).build()), token(64, 9));
    assert_eq!(refusal(&root().end().begin(b"").end().word(9).build()), token(68, 1));
    assert_eq!(refusal(&root().end().end().word(9).build()), token(68, 2));
    assert_eq!(refusal(&root().end().word(9).word(9).build()), token(68, 9));
    assert_eq!(refusal(&root().end().build()), DtbError::Truncated { offset: 68 });
    assert_eq!(refusal(&root().build()), DtbError::Truncated { offset: 64 });
    let late = root().begin(b"a").end().prop(0, b"x").end().word(9).build();
    assert_eq!(refusal(&late), DtbError::LateProperty { offset: 76 });
}

#[test]
fn names_are_terminated_bounded_and_utf8() {
    let bad = DtbError::NodeName { offset: 56 };
    assert_eq!(refusal(&Tokens::new().begin(b"root").end().word(9).build()), bad);
    let child = |name: &[u8]| Tokens::new().begin(b"").begin(name).end().end().word(9).build();
    let bad = DtbError::NodeName { offset: 64 };
    assert_eq!(refusal(&child(b"")), bad);
    assert_eq!(refusal(&child(b"\xff")), bad);
    assert_eq!(refusal(&child(&[b'n'; 256])), bad);
    assert!(Dtb::parse(&child(&[b'n'; 255])).is_ok());
    assert_eq!(
        refusal(&Tokens::new().word(1).word(u32::MAX).build()),
        DtbError::NodeName { offset: 56 }
    );
    let prop = |name, strings: &[u8]| {
        let mut tokens = Tokens::new().begin(b"").prop(name, b"").end().word(9);
        tokens.strings = strings.to_vec();
        Dtb::parse(&tokens.build()).map(|_| ())
    };
    let bad = Err(DtbError::PropertyName { offset: 64 });
    assert_eq!(prop(0, b"name\0"), Ok(()));
    assert_eq!(prop(4, b"name\0"), Ok(()));
    assert_eq!(prop(5, b"name\0"), bad);
    assert_eq!(prop(u32::MAX, b"name\0"), bad);
    assert_eq!(prop(0, b"name"), bad);
    assert_eq!(prop(0, b"n\xc3\0"), bad);
}

#[test]
fn a_property_longer_than_the_block_is_refused() {
    let tree = |length| {
        let tokens = Tokens::new().begin(b"").word(3).word(length).word(0);
        Dtb::parse(&tokens.end().word(9).build()).map(|_| ())
    };
    assert_eq!(tree(0), Ok(()));
    for length in [9, 12, u32::MAX, u32::MAX - 3] {
        assert_eq!(tree(length), Err(DtbError::Truncated { offset: 64 }), "{length}");
    }
    // 8 swallows the two tokens behind it, to the block's very end.
    assert_eq!(tree(8), Err(DtbError::Truncated { offset: 84 }));
}

#[test]
fn nesting_stops_at_the_limit() {
    let nested = |depth: usize| {
        let open = (1..depth).fold(Tokens::new().begin(b""), |t, _| t.begin(b"n"));
        Dtb::parse(&(0..depth).fold(open, |t, _| t.end()).word(9).build()).map(|_| ())
    };
    assert_eq!(nested(MAX_DEPTH), Ok(()));
    let offset = 56 + 8 * MAX_DEPTH;
    assert_eq!(nested(MAX_DEPTH + 1), Err(DtbError::Depth { offset }));
}

/// The tree with NOPs before every token; `count` of them in all.
fn with_nops(tree: &[u8]) -> (Vec<u8>, usize) {
    let word = |o: usize| u32::from_be_bytes(*tree[o..].first_chunk().unwrap()) as usize;
    let (start, length, strings) = (word(8), word(36), word(12));
    assert_eq!(start + length, strings, "strings follow the structure");
    let (mut out, mut at, mut count) = (tree[..start].to_vec(), start, 0);
    while at < strings {
        let size = match word(at) {
            1 => 4 + (tree[at + 4..].iter().position(|b| *b == 0).unwrap() + 1),
            3 => 12 + word(at + 4),
            _ => 4,
        };
        let size = size.next_multiple_of(4);
        for _ in 0..count % 3 + 1 {
            out.extend(4_u32.to_be_bytes());
        }
        count += count % 3 + 1;
        out.extend(&tree[at..at + size]);
        at += size;
    }
    out.extend(&tree[strings..]);
    for (field, value) in [(4, out.len()), (12, strings + 4 * count), (36, length + 4 * count)] {
        out[field..field + 4].copy_from_slice(&(value as u32).to_be_bytes());
    }
    (out, count)
}

#[test]
fn nops_are_refused_and_taken_out_leave_the_tree_that_was() {
    for tree in TREES {
        let (mut nopped, count) = with_nops(tree);
        assert!(matches!(refusal(&nopped), DtbError::Token { token: 4, .. }));
        assert_eq!(strip_nops(&mut nopped), Ok(count));
        let start = u32::from_be_bytes(*tree[8..].first_chunk().unwrap()) as usize;
        let length = u32::from_be_bytes(*tree[36..].first_chunk().unwrap()) as usize;
        assert_eq!(nopped[start..start + length], tree[start..start + length]);
        assert_eq!(nopped[36..40], tree[36..40]);
        let (stripped, original) = (Dtb::parse(&nopped).unwrap(), Dtb::parse(tree).unwrap());
        assert_eq!(stripped.ram(), original.ram());
        assert_eq!(stripped.gic(), original.gic());
        assert_eq!(stripped.uart(), original.uart());
        assert_eq!(strip_nops(&mut nopped), Ok(0));
    }
}

#[test]
fn a_tree_without_nops_or_without_sense_stays_as_it_is() {
    let unchanged = |tree: &[u8]| {
        let mut bytes = tree.to_vec();
        let answer = strip_nops(&mut bytes);
        assert_eq!(bytes, tree);
        answer
    };
    assert_eq!(unchanged(PI4), Ok(0));
    assert_eq!(unchanged(&PI4[..20]), Err(DtbError::TooShort));
    assert_eq!(unchanged(&with_word(PI4, 8, 57)), Err(DtbError::Structure));
    let root = || Tokens::new().begin(b"").word(4);
    let token = Err(DtbError::Token { offset: 68, token: 7 });
    assert_eq!(unchanged(&root().word(7).end().word(9).build()), token);
    let mut cut = root().word(3).word(u32::MAX).word(0).build();
    assert_eq!(unchanged(&cut), Err(DtbError::Truncated { offset: 68 }));
    // A value that ends behind the block, though inside the tree.
    cut[72..76].copy_from_slice(&4_u32.to_be_bytes());
    assert_eq!(unchanged(&cut), Err(DtbError::Truncated { offset: 84 }));
    let mut nameless = root().word(1).word(u32::MAX);
    nameless.strings = vec![1; 300];
    assert_eq!(unchanged(&nameless.build()), Err(DtbError::NodeName { offset: 68 }));
}

#[test]
fn a_refusal_is_one_line() {
    let offset = 0x44;
    let all = [
        DtbError::TooShort,
        DtbError::Magic(1),
        DtbError::TotalSize(1),
        DtbError::Version(1),
        DtbError::Reservations,
        DtbError::Structure,
        DtbError::Strings,
        DtbError::Token { offset, token: 4 },
        DtbError::Truncated { offset },
        DtbError::NodeName { offset },
        DtbError::PropertyName { offset },
        DtbError::LateProperty { offset },
        DtbError::Depth { offset },
        DtbError::Reader,
        DtbError::Missing("GIC"),
        DtbError::Bad("reg"),
        DtbError::Cells,
        DtbError::Untranslatable(0x5000_0000),
        DtbError::TooMany("CPUs"),
    ];
    let texts: Vec<_> = all.iter().map(ToString::to_string).collect();
    assert!(texts.iter().all(|t| t.starts_with("device tree: ") && !t.contains('\n')));
    let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
    assert_eq!(distinct.len(), all.len());
    assert_eq!(texts[7], "device tree: unexpected token 0x4 at 0x44");
    assert_eq!(texts[17], "device tree: no ranges lead to address 0x50000000");
}
