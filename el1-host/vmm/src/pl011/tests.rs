//! The UART's registers, FIFOs and interrupts.

use super::*;

const DR: u64 = 0x000;
const FR: u64 = 0x018;
const LCR_H: u64 = 0x02c;
const CR: u64 = 0x030;
const IFLS: u64 = 0x034;
const IMSC: u64 = 0x038;
const RIS: u64 = 0x03c;
const MIS: u64 = 0x040;
const ICR: u64 = 0x044;

fn set(uart: &mut Pl011, offset: u64, value: u32) {
    assert_eq!(uart.write(offset, value), None);
}

/// Enabled, FIFOs on, receive interrupts unmasked.
fn ready() -> Pl011 {
    let mut uart = Pl011::new();
    set(&mut uart, CR, 0x301);
    set(&mut uart, LCR_H, 0x70);
    set(&mut uart, IMSC, int::RX | int::RT);
    uart
}

#[test]
fn reset_values_are_those_of_the_manual() {
    let mut uart = Pl011::default();
    for (offset, value) in [
        (DR, 0),
        (0x004, 0),
        (FR, 0x90),
        (0x020, 0),
        (0x024, 0),
        (0x028, 0),
        (LCR_H, 0),
        (CR, 0x300),
        (IFLS, 0x12),
        (IMSC, 0),
        (RIS, 0),
        (MIS, 0),
        (0x048, 0),
        (0xfe0, 0x11),
        (0xfe4, 0x10),
        (0xfe8, 0x14),
        (0xfec, 0),
        (0xff0, 0x0d),
        (0xff4, 0xf0),
        (0xff8, 0x05),
        (0xffc, 0xb1),
        (0x008, 0),
        (0x080, 0),
        (0xfdc, 0),
        (0xfe1, 0),
        (0x1000, 0),
        (u64::MAX, 0),
    ] {
        assert_eq!(uart.read(offset), value, "{offset:#x}");
    }
    assert!(!uart.line() && !uart.can_receive());
}

#[test]
fn registers_keep_the_bits_they_have() {
    let mut uart = Pl011::new();
    for (offset, mask) in [
        (0x020, 0xff),
        (0x024, 0xffff),
        (0x028, 0x3f),
        (LCR_H, 0xff),
        (CR, 0xff87),
        (IFLS, 0x3f),
        (IMSC, 0x7ff),
        (0x048, 7),
    ] {
        set(&mut uart, offset, u32::MAX);
        assert_eq!(uart.read(offset), mask, "{offset:#x}");
        set(&mut uart, offset, 0);
        assert_eq!(uart.read(offset), 0, "{offset:#x}");
    }
    for read_only in [FR, RIS, MIS, 0xfe0, 0x004] {
        let before = uart.read(read_only);
        set(&mut uart, read_only, u32::MAX);
        assert_eq!(uart.read(read_only), before);
    }
}

#[test]
fn a_byte_written_goes_out_and_the_transmit_interrupt_follows() {
    let mut uart = Pl011::new();
    assert_eq!(uart.write(DR, 0x341), Some(0x41));
    assert_eq!(uart.read(RIS), int::TX);
    assert!(!uart.line());
    set(&mut uart, IMSC, int::TX);
    assert_eq!(uart.read(MIS), int::TX);
    assert!(uart.line());
    set(&mut uart, ICR, int::TX);
    assert_eq!((uart.read(RIS), uart.line()), (0, false));
    assert_eq!(uart.read(FR), 0x90);
    assert_eq!(uart.write(DR, 0), Some(0));
    assert!(uart.line());
}

#[test]
fn without_fifos_one_byte_is_held() {
    let mut uart = Pl011::new();
    set(&mut uart, CR, 0x301);
    set(&mut uart, IMSC, int::RX);
    assert!(uart.can_receive());
    uart.receive(b'a');
    assert_eq!(uart.read(RIS), int::RX);
    assert_eq!(uart.read(FR), 0x80 | fr::RXFF);
    assert!(!uart.can_receive() && uart.line());
    uart.receive(b'b');
    assert_eq!(uart.read(DR), u32::from(b'a'));
    assert_eq!((uart.read(DR), uart.read(RIS), uart.read(FR)), (0, 0, 0x90));
}

#[test]
fn the_receive_interrupt_comes_at_its_level_and_goes_below_it() {
    for (ifls, level) in [(0, 2), (1, 4), (2, 8), (3, 12), (4, 14), (7, 14)] {
        let mut uart = ready();
        set(&mut uart, IFLS, ifls << 3);
        for n in 1..=16 {
            uart.receive(n);
            let raised = uart.read(RIS) & int::RX != 0;
            assert_eq!(raised, usize::from(n) >= level, "IFLS {ifls} byte {n}");
        }
        assert_eq!(uart.read(FR), 0x80 | fr::RXFF);
        assert!(!uart.can_receive());
        for left in (0..16).rev() {
            assert_eq!(uart.read(DR), 16 - left);
            assert_eq!(uart.read(RIS) & int::RX != 0, left as usize >= level, "{left} left");
            assert_eq!(uart.read(RIS) & int::RT != 0, left > 0);
            assert!(uart.can_receive());
        }
    }
}

#[test]
fn a_single_byte_raises_the_timeout_interrupt() {
    let mut uart = ready();
    uart.receive(b'x');
    assert_eq!((uart.read(RIS), uart.read(MIS), uart.line()), (int::RT, int::RT, true));
    set(&mut uart, ICR, int::RT);
    assert!(!uart.line());
    uart.receive(b'y');
    assert!(uart.line());
    assert_eq!((uart.read(DR), uart.read(DR)), (u32::from(b'x'), u32::from(b'y')));
    assert!(!uart.line());
}

#[test]
fn turning_the_fifos_on_or_off_empties_them() {
    let mut uart = ready();
    for n in 0..10 {
        uart.receive(n);
    }
    set(&mut uart, LCR_H, 0x72);
    assert_eq!(uart.read(FR), 0x80);
    set(&mut uart, LCR_H, 0x60);
    assert_eq!((uart.read(FR), uart.read(RIS)), (0x90, 0));
}

#[test]
fn loopback_returns_what_is_sent() {
    let mut uart = ready();
    set(&mut uart, CR, 0x381);
    assert_eq!(uart.write(DR, 0x5a), None);
    assert!(!uart.can_receive(), "the line is cut");
    assert_eq!(uart.read(RIS), int::TX | int::RT);
    assert_eq!(uart.read(DR), 0x5a);
}

#[test]
fn input_waits_until_somebody_waits_for_it() {
    let mut uart = Pl011::new();
    set(&mut uart, LCR_H, 0x70);
    set(&mut uart, IMSC, int::TX);
    for (cr, ready) in [(0x300, false), (0x101, false), (0x201, false)] {
        set(&mut uart, CR, cr);
        assert_eq!(uart.can_receive(), ready);
    }
    set(&mut uart, CR, 0x301);
    assert!(!uart.can_receive());
    for mask in [int::RX, int::RT] {
        set(&mut uart, IMSC, mask);
        assert!(uart.can_receive());
    }
    for (cr, ready) in [(0x300, false), (0x101, false), (0x201, true), (0x301, true)] {
        set(&mut uart, CR, cr);
        assert_eq!(uart.can_receive(), ready, "{cr:#x}");
    }
    // Receive interrupts masked: polling the flags eight times in a row counts as waiting.
    set(&mut uart, IMSC, int::TX);
    for n in 1..=8 {
        assert!(!uart.can_receive());
        uart.read(FR);
        assert_eq!(uart.can_receive(), n == 8);
    }
    uart.read(RIS);
    assert!(!uart.can_receive());
    for _ in 0..8 {
        uart.read(FR);
    }
    set(&mut uart, 0x024, 1);
    assert!(!uart.can_receive());
}
