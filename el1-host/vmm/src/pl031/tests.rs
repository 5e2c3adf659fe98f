use super::register::{CR, DR, ICR, IMSC, LR, MIS, MR, RIS};
use super::*;

const HZ: u64 = 1000;

fn at(now: u64) -> Pl031 {
    let mut clock = Pl031::new(HZ);
    clock.tick(now);
    clock
}

#[test]
fn it_says_what_it_is() {
    let clock = at(0);
    let ids: Vec<u32> = (0..8).map(|n| clock.read(0xfe0 + 4 * n)).collect();
    assert_eq!(ids, [0x31, 0x10, 0x14, 0, 0x0d, 0xf0, 0x05, 0xb1]);
    assert_eq!(
        (clock.read(CR), clock.read(0x20), clock.read(0xfdc), clock.read(0xfe1)),
        (1, 0, 0, 0)
    );
}

#[test]
fn it_counts_whole_seconds_from_what_was_loaded() {
    let mut clock = at(2999);
    assert_eq!(clock.read(DR), 2);
    clock.tick(3000);
    assert_eq!(clock.read(DR), 3);
    clock.write(LR, 1_700_000_000);
    assert_eq!((clock.read(DR), clock.read(LR)), (1_700_000_000, 1_700_000_000));
    clock.tick(3999);
    assert_eq!(clock.read(DR), 1_700_000_000);
    clock.tick(4000);
    assert_eq!(clock.read(DR), 1_700_000_001);
    // The counter does not go back, and nobody can stop it or set it by its data register.
    clock.tick(0);
    clock.write(DR, 5);
    clock.write(CR, 0);
    assert_eq!((clock.read(DR), clock.read(CR)), (1_700_000_001, 1));
    clock.write(LR, u32::MAX);
    clock.tick(5000);
    assert_eq!(clock.read(DR), 0, "it wraps");
}

#[test]
fn a_match_raises_the_interrupt_which_the_mask_lets_through() {
    let mut clock = at(1500);
    clock.write(MR, 3);
    assert_eq!((clock.read(MR), clock.deadline()), (3, None), "masked");
    clock.write(IMSC, 1);
    assert_eq!((clock.read(IMSC), clock.deadline()), (1, Some(3000)));
    clock.tick(2999);
    assert_eq!((clock.read(RIS), clock.line()), (0, false));
    clock.write(IMSC, 0);
    clock.tick(3000);
    assert_eq!((clock.read(RIS), clock.read(MIS), clock.line()), (1, 0, false));
    clock.write(IMSC, 1);
    assert_eq!((clock.read(RIS), clock.read(MIS), clock.line()), (1, 1, true));
    assert_eq!(clock.deadline(), None, "it has risen");
    for constant in [RIS, MIS, 0xfe0] {
        clock.write(constant, 0xdead_beef);
    }
    assert!(clock.line());
    clock.write(ICR, 0x8000_0000);
    assert_eq!((clock.read(RIS), clock.read(MIS), clock.line()), (0, 0, false));
    clock.tick(9000);
    assert!(!clock.line(), "once");
}

#[test]
fn a_match_with_now_is_at_once_and_one_with_the_past_is_far_away() {
    let mut clock = at(2500);
    clock.write(IMSC, 1);
    clock.write(MR, 2);
    assert!(clock.line());
    clock.write(ICR, 1);
    clock.write(MR, 1);
    assert!(!clock.line());
    assert_eq!(clock.deadline(), Some(((1 << 32) + 1) * HZ));
    // Set back, it comes to the match again.
    clock.write(LR, 0);
    assert_eq!(clock.deadline(), Some(3500));
}

#[test]
fn absurd_counts_do_not_overflow() {
    let mut clock = at(u64::MAX);
    for value in [0, 1, u32::MAX] {
        clock.write(LR, value);
        clock.write(MR, value.wrapping_sub(1));
        clock.write(IMSC, 1);
        let _ = (clock.read(DR), clock.deadline());
    }
    assert_eq!(Pl031::new(0).read(DR), 0);
}
