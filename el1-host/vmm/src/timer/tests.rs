//! Timers by the rules of DDI0487 D11.2.

use super::*;

#[test]
fn the_line_is_high_when_enabled_unmasked_and_due() {
    let mut t = Timer::default();
    t.set_cval(100);
    assert!(!t.line(100));
    t.set_ctl(1);
    assert!(!t.line(99) && t.line(100) && t.line(u64::MAX));
    t.set_ctl(3);
    assert!(!t.line(100));
    t.set_ctl(2);
    assert!(!t.line(100));
}

#[test]
fn istatus_shows_the_condition_masked_or_not_and_cannot_be_written() {
    let mut t = Timer::default();
    t.set_cval(100);
    t.set_ctl(u64::MAX);
    assert_eq!((t.ctl(99), t.ctl(100)), (3, 7));
    t.set_ctl(5);
    assert_eq!((t.ctl(99), t.ctl(100)), (1, 5));
    t.set_ctl(4);
    assert_eq!(t.ctl(100), 0);
}

#[test]
fn tval_is_what_is_left_as_a_signed_32_bit_number() {
    let mut t = Timer::default();
    t.set_tval(1000, 50);
    assert_eq!((t.cval(), t.tval(1000), t.tval(1049)), (1050, 50, 1));
    assert_eq!(t.tval(1051), 0xffff_ffff);
    t.set_tval(1000, 0xffff_fff6);
    assert_eq!(t.cval(), 990);
    t.set_tval(1000, 0x7fff_ffff);
    assert_eq!(t.cval(), 1000 + 0x7fff_ffff);
    // The upper half does not count.
    t.set_tval(1000, 0xdead_0000_0000_0001);
    assert_eq!(t.cval(), 1001);
    t.set_tval(5, 0x8000_0000);
    assert_eq!(t.cval(), 5_u64.wrapping_sub(0x8000_0000));
}

#[test]
fn there_is_a_deadline_only_while_one_is_ahead() {
    let t = |ctl, cval| Timer::new(ctl, cval).deadline(100);
    assert_eq!(t(1, 101), Some(101));
    assert_eq!(t(1, 100), None);
    assert_eq!(t(3, 101), None);
    assert_eq!(t(0, 101), None);
    assert_eq!(t(5, 101), Some(101));
}
