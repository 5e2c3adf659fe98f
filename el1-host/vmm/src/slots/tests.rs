//! Slots and what their pages hold.

use host_mirror::fake::{FakeEl2, gfn};

use super::*;
use crate::testing::TestHost;

fn content(slots: &Slots<'_>, at: u64) -> Vec<u8> {
    let el2 = FakeEl2::new();
    let host = TestHost::new(&el2);
    let frame = host.alloc_frame().unwrap();
    slots.find(gfn(at)).unwrap().fill(&host, gfn(at), frame);
    host.bytes(frame.raw())
}

#[test]
fn slots_are_found_by_their_frames_only() {
    let mut slots = Slots::new();
    slots.add(0x4000_0000, 0x3000, Prot::RWX).unwrap();
    slots.add(0x8000_0000, 0x1000, Prot::RX).unwrap();
    let found = |at| slots.find(gfn(at)).map(|s| (s.start().raw(), s.nr(), s.prot()));
    assert_eq!(found(0x3_ffff), None);
    for at in 0x4_0000..0x4_0003 {
        assert_eq!(found(at), Some((0x4_0000, 3, Prot::RWX)));
    }
    assert_eq!(found(0x4_0003), None);
    assert_eq!(found(0x8_0000), Some((0x8_0000, 1, Prot::RX)));
    assert_eq!(slots.iter().count(), 2);
}

#[test]
fn slots_may_touch_but_not_overlap() {
    let mut slots = Slots::new();
    slots.add(0x2000, 0x2000, Prot::RW).unwrap();
    for (base, size) in [(0x1000, 0x2000), (0x3000, 0x1000), (0x2000, 0x1000), (0, 0x10000)] {
        assert_eq!(slots.add(base, size, Prot::RW), Err(BadSlot::Overlap));
    }
    assert_eq!(slots.add(0x1000, 0x1000, Prot::RW), Ok(()));
    assert_eq!(slots.add(0x4000, 0x1000, Prot::RW), Ok(()));
}

#[test]
fn malformed_slots_are_refused() {
    let mut slots = Slots::new();
    let end = 1 << 48;
    for (base, size) in [(1, 0x1000), (0, 0x1001), (0, 0), (end, 0x1000), (end - 0x1000, 0x2000)] {
        assert_eq!(slots.add(base, size, Prot::RW), Err(BadSlot::Malformed), "{base:#x}");
    }
    assert_eq!(slots.add(0x1000, !0xfff, Prot::RW), Err(BadSlot::Malformed));
    assert_eq!(slots.add(end - 0x1000, 0x1000, Prot::RW), Ok(()));
}

#[test]
fn sources_lie_in_one_slot_and_apart() {
    let mut slots = Slots::new();
    slots.add(0x1000, 0x2000, Prot::RW).unwrap();
    slots.add(0x3000, 0x1000, Prot::RW).unwrap();
    let put = |slots: &mut Slots<'_>, at, len| slots.put(at, Cow::Owned(vec![1; len]));
    assert_eq!(put(&mut slots, 0xfff, 1), Err(BadSlot::Outside));
    assert_eq!(put(&mut slots, 0x2000, 0x1001), Err(BadSlot::Outside));
    assert_eq!(put(&mut slots, 1 << 60, 1), Err(BadSlot::Outside));
    assert_eq!(put(&mut slots, 0x1800, 0x1000), Ok(()));
    assert_eq!(put(&mut slots, 0x27ff, 1), Err(BadSlot::Overlap));
    assert_eq!(put(&mut slots, 0x1000, 0x801), Err(BadSlot::Overlap));
    assert_eq!(put(&mut slots, 0x1000, 0x800), Ok(()));
    assert_eq!(put(&mut slots, 0x2800, 0x800), Ok(()));
}

#[test]
fn a_page_without_source_is_zero_whatever_the_frame_held() {
    let mut slots = Slots::new();
    slots.add(0x1000, 0x4000, Prot::RW).unwrap();
    slots.put(0x2000, Cow::Borrowed(&[9; 0x1000])).unwrap();
    assert_eq!(content(&slots, 1), vec![0; 4096]);
    assert_eq!(content(&slots, 2), vec![9; 4096]);
    assert_eq!(content(&slots, 3), vec![0; 4096]);
}

#[test]
fn sources_fall_on_pages_byte_by_byte() {
    let bytes: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8 + 1).collect();
    let mut slots = Slots::new();
    slots.add(0x1000, 0x8000, Prot::RW).unwrap();
    slots.put(0x1f80, Cow::Borrowed(&bytes)).unwrap();
    slots.put(0x1000, Cow::Borrowed(&[0x55; 16])).unwrap();
    slots.put(0x4f00, Cow::Borrowed(&[0x77; 8])).unwrap();
    let mut expected = vec![0; 0x8000];
    expected[0xf80..0xf80 + 10_000].copy_from_slice(&bytes);
    expected[..16].fill(0x55);
    expected[0x3f00..0x3f08].fill(0x77);
    for page in 0..8_u64 {
        let from = page as usize * 4096;
        assert_eq!(content(&slots, 1 + page), &expected[from..from + 4096], "page {page}");
    }
}
