//! Descriptors, bit by bit.

use super::*;

fn pfn(n: u64) -> Pfn {
    Pfn::new(n).unwrap()
}
fn every_attribute() -> impl Iterator<Item = Attrs> {
    let prots = (0..16).filter_map(|bits| Rights::new(Prot::from_bits(bits).unwrap()));
    prots.flat_map(|rights| {
        (0..16u64).map(move |n| Attrs {
            rights,
            state: PageState::from_bits(n),
            young: n & 4 != 0,
            device: n & 8 != 0,
        })
    })
}

#[test]
fn the_bits_are_those_of_the_architecture() {
    let page = Desc::leaf(Level::L3, pfn(0x12345), Attrs::HOST_RAM);
    assert_eq!(page.raw(), 0x1234_5000 | 0b11 | 0b1111 << 2 | 3 << 6 | 3 << 8 | 1 << 10);
    let device = Desc::leaf(Level::L2, pfn(0x12345), Attrs::HOST_MMIO);
    let expected = 0x1220_0000 | 0b01 | 0b0001 << 2 | 3 << 6 | 3 << 8 | 1 << 10 | 1 << 54;
    assert_eq!(device.raw(), expected);
    assert_eq!(Desc::table(TablePfn::new(pfn(0x777))).raw(), 0x77_7003);
    let lent = Attrs { state: PageState::SharedBorrowed, ..Attrs::HOST_RAM };
    assert_eq!(Desc::leaf(Level::L3, pfn(0), lent).raw() >> 53, 0b1000);
    let owner = Annotation::new(Annotation::GUEST, 0xab);
    assert_eq!(Desc::donated(owner).raw(), 2 << 60 | 0xab << 4 | 2 << 1);
}

#[test]
fn execution_at_one_level_only_cannot_be_written() {
    assert!(Rights::new(Prot::PX).is_none());
    assert!(Rights::new(Prot::UX.union(Prot::RW)).is_none());
    assert!(Rights::new(Prot::RX).is_some());
    for attrs in every_attribute() {
        let raw = Desc::leaf(Level::L3, pfn(1), attrs).raw();
        assert_eq!(raw & 1 << 53, 0, "RES0 without FEAT_XNX");
    }
}

#[test]
fn leaves_read_back_as_written() {
    let top = pfn((1 << 36) - 1);
    for attrs in every_attribute() {
        for (level, first) in [
            (Level::L1, (1 << 36) - (1 << 18)),
            (Level::L2, (1 << 36) - 512),
            (Level::L3, (1 << 36) - 1),
        ] {
            let kind = Desc::leaf(level, top, attrs).kind(level);
            assert_eq!(kind, Kind::Leaf(pfn(first), attrs));
        }
    }
}

#[test]
fn a_descriptor_means_something_else_at_another_level() {
    let block = Desc::leaf(Level::L2, pfn(512), Attrs::HOST_RAM);
    let page = Desc::leaf(Level::L3, pfn(512), Attrs::HOST_RAM);
    assert_eq!(block.kind(Level::L3), Kind::Unknown);
    assert_eq!(block.kind(Level::L0), Kind::Unknown);
    assert_eq!(page.kind(Level::L2), Kind::Table(TablePfn::new(pfn(512))));
    assert!(Desc::leaf(Level::L0, pfn(0), Attrs::HOST_RAM).is_empty());
}

#[test]
fn annotations_are_invalid_never_empty_and_read_back() {
    for owner in 0..8 {
        for meta in [0, 1, (1 << 56) - 1] {
            let desc = Desc::donated(Annotation::new(owner, meta));
            assert!(!desc.is_valid() && !desc.is_empty());
            let Kind::Donated(read) = desc.kind(Level::L3) else { panic!("{desc:?}") };
            assert_eq!((read.owner(), read.meta()), (owner, meta));
        }
    }
    let poison = Desc::from_raw(3 << 60);
    assert_eq!(poison.kind(Level::L3), Kind::Unknown);
}

#[test]
fn changes_touch_their_own_bits_only() {
    for attrs in every_attribute() {
        let desc = Desc::leaf(Level::L3, pfn(9), attrs);
        let read = |desc: Desc| match desc.kind(Level::L3) {
            Kind::Leaf(frame, attrs) if frame == pfn(9) => attrs,
            kind => panic!("{kind:?}"),
        };
        let prot = attrs.rights.prot();
        assert_eq!(read(desc.young()), Attrs { young: true, ..attrs });
        assert_eq!(read(desc.old()), Attrs { young: false, ..attrs });
        let protected = Rights::new(prot.without(Prot::W)).unwrap();
        assert_eq!(read(desc.read_only()), Attrs { rights: protected, ..attrs });
        for more in [Prot::NONE, Prot::R, Prot::W, Prot::X, Prot::RWX] {
            let rights = Rights::new(prot.union(more)).unwrap();
            let relaxed = desc.relaxed(Rights::new(more).unwrap());
            assert_eq!(read(relaxed), Attrs { rights, ..attrs });
        }
    }
}

#[test]
fn it_is_shown_as_the_number_that_a_table_holds() {
    assert_eq!(format!("{:?}", Desc::from_raw(0x7fd)), "Desc(0x00000000000007fd)");
}
