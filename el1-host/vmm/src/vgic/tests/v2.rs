//! GICv2 distributor.

use super::*;

fn read(gic: &Vgic, vcpu: usize, offset: u64) -> u64 {
    gic.read_dist(vcpu, access(offset, 4))
}

fn write(gic: &mut Vgic, vcpu: usize, offset: u64, value: u64) {
    gic.write_dist(vcpu, access(offset, 4), value);
}

#[test]
fn it_says_what_it_is() {
    let one = gic(Version::V2, 1);
    assert_eq!(read(&one, 0, 0x004), 8);
    assert_eq!(read(&gic(Version::V2, 4), 0, 0x004), 8 | (3 << 5));
    assert_eq!(read(&one, 0, 0xfe8) >> 4 & 15, 2);
    assert_eq!(read(&one, 0, 0x008) & 0xfff, 0x43b);
    assert_eq!(one.redist_size(), 0);
    let ids = [4, 0, 0, 0, 0x90, 0xb4, 0x2b, 0, 0x0d, 0xf0, 0x05, 0xb1];
    for (at, id) in (0xfd0..).step_by(4).zip(ids) {
        assert_eq!(read(&one, 0, at), id, "{at:#x}");
    }
}

#[test]
fn the_control_register_has_two_enables() {
    let mut g = gic(Version::V2, 1);
    assert_eq!(read(&g, 0, 0), 0);
    write(&mut g, 0, 0, u64::MAX);
    assert_eq!(read(&g, 0, 0), 3);
    write(&mut g, 0, 0, 2);
    assert_eq!(read(&g, 0, 0), 2);
}

#[test]
fn read_only_registers_stay() {
    let mut g = gic(Version::V2, 2);
    for offset in [0x004, 0x008, 0xfe8, 0xc00, 0xc04, 0x800, 0x81c] {
        let before = read(&g, 0, offset);
        write(&mut g, 0, offset, 0xa5a5_5a5a);
        assert_eq!(read(&g, 0, offset), before, "{offset:#x}");
    }
}

#[test]
fn bits_are_set_by_one_register_and_cleared_by_the_other() {
    for (set, clear) in [(0x100, 0x180), (0x200, 0x280), (0x300, 0x380)] {
        let mut g = gic(Version::V2, 1);
        for bank in 1..9 {
            let at = bank * 4;
            write(&mut g, 0, set + at, 0x8000_0021);
            write(&mut g, 0, set + at, 0x10);
            assert_eq!(read(&g, 0, set + at), 0x8000_0031, "{set:#x} bank {bank}");
            assert_eq!(read(&g, 0, clear + at), 0x8000_0031);
            write(&mut g, 0, clear + at, 0x21);
            assert_eq!(read(&g, 0, set + at), 0x8000_0010);
        }
        // Interrupts that do not exist.
        for bank in 9..32 {
            write(&mut g, 0, set + bank * 4, u64::MAX);
            assert_eq!(read(&g, 0, set + bank * 4), 0);
        }
    }
}

#[test]
fn groups_are_read_and_written_whole() {
    let mut g = gic(Version::V2, 1);
    for bank in 0..9 {
        assert_eq!(read(&g, 0, 0x80 + bank * 4), 0);
        write(&mut g, 0, 0x80 + bank * 4, 0xf0f0_0f0f);
        assert_eq!(read(&g, 0, 0x80 + bank * 4), 0xf0f0_0f0f);
    }
    write(&mut g, 0, 0x80, 1);
    assert_eq!(read(&g, 0, 0x80), 1);
    write(&mut g, 0, 0x80 + 36, u64::MAX);
    assert_eq!(read(&g, 0, 0x80 + 36), 0);
}

#[test]
fn private_interrupts_are_each_vcpus_own() {
    let mut g = gic(Version::V2, 2);
    write(&mut g, 0, 0x100, 1 << 27);
    write(&mut g, 1, 0x80, 2);
    write(&mut g, 1, 0x41c, 0x1122_3344);
    assert_eq!(read(&g, 0, 0x100), 0xffff | (1 << 27));
    assert_eq!(read(&g, 1, 0x100), 0xffff);
    assert_eq!((read(&g, 0, 0x80), read(&g, 1, 0x80)), (0, 2));
    assert_eq!((read(&g, 0, 0x41c), read(&g, 1, 0x41c)), (0, 0x1020_3040));
    // SPIs are shared.
    write(&mut g, 0, 0x104, 4);
    assert_eq!(read(&g, 1, 0x104), 4);
}

#[test]
fn sgis_start_enabled_and_can_be_disabled() {
    let mut g = gic(Version::V2, 1);
    assert_eq!(read(&g, 0, 0x100), 0xffff);
    write(&mut g, 0, 0x180, 0xff);
    assert_eq!(read(&g, 0, 0x100), 0xff00);
}

#[test]
fn priorities_have_five_bits_and_byte_access() {
    let mut g = gic(Version::V2, 1);
    for intid in [0_u64, 1, 31, 32, 100, 287] {
        g.write_dist(0, access(0x400 + intid, 1), 0xff);
        assert_eq!(g.read_dist(0, access(0x400 + intid, 1)), 0xf8, "{intid}");
    }
    write(&mut g, 0, 0x420, 0x0102_80ff);
    assert_eq!(read(&g, 0, 0x420), 0x0000_80f8);
    assert_eq!(g.read_dist(0, access(0x421, 1)), 0x80);
    g.write_dist(0, access(0x423, 1), 0x78);
    assert_eq!(read(&g, 0, 0x420), 0x7800_80f8);
    for beyond in [288, 1019] {
        g.write_dist(0, access(0x400 + beyond, 1), 0xff);
        assert_eq!(g.read_dist(0, access(0x400 + beyond, 1)), 0);
    }
}

#[test]
fn targets_are_of_existing_vcpus_and_private_ones_are_the_reader() {
    let mut g = gic(Version::V2, 3);
    assert_eq!(read(&g, 0, 0x800), 0x0101_0101);
    assert_eq!(read(&g, 2, 0x81c), 0x0404_0404);
    write(&mut g, 0, 0x820, 0xff02_0107);
    assert_eq!(read(&g, 0, 0x820), 0x0702_0107);
    g.write_dist(0, access(0x821, 1), 4);
    assert_eq!(g.read_dist(0, access(0x821, 1)), 4);
    assert_eq!(read(&g, 0, 0x820), 0x0702_0407);
    write(&mut g, 0, 0x800 + 288, u64::MAX);
    assert_eq!(read(&g, 0, 0x800 + 288), 0);
}

#[test]
fn with_one_vcpu_targets_are_zero_and_ignored() {
    let mut g = gic(Version::V2, 1);
    write(&mut g, 0, 0x820, u64::MAX);
    assert_eq!((read(&g, 0, 0x800), read(&g, 0, 0x820)), (0, 0));
    set_up(&mut g, 0, &[40]);
    g.set_line(0, 40, true);
    assert!(g.pending_for(0));
}

#[test]
fn configuration_is_two_bits_of_which_the_upper_counts() {
    let mut g = gic(Version::V2, 1);
    assert_eq!(read(&g, 0, 0xc00), 0xaaaa_aaaa);
    assert_eq!(read(&g, 0, 0xc04), 0);
    write(&mut g, 0, 0xc08, 0xffff_ffff);
    assert_eq!(read(&g, 0, 0xc08), 0xaaaa_aaaa);
    assert_eq!(read(&g, 0, 0xc0c), 0);
    write(&mut g, 0, 0xc0c, 0x8000_0002);
    assert_eq!(read(&g, 0, 0xc0c), 0x8000_0002);
    assert_eq!(read(&g, 0, 0xc08), 0xaaaa_aaaa);
    write(&mut g, 0, 0xc08, 0x8);
    assert_eq!(read(&g, 0, 0xc08), 8);
    assert_eq!(read(&g, 0, 0xc0c), 0x8000_0002);
    write(&mut g, 0, 0xc00 + 4 * 18, u64::MAX);
    assert_eq!(read(&g, 0, 0xc00 + 4 * 18), 0);
}

#[test]
fn other_sizes_and_odd_offsets_read_zero_and_write_nothing() {
    let mut g = gic(Version::V2, 2);
    write(&mut g, 0, 0x104, 0xffff_ffff);
    write(&mut g, 0, 0x420, 0xf8f8_f8f8);
    for (offset, size) in [
        (0x104, 1),
        (0x104, 2),
        (0x105, 4),
        (0x104, 8),
        (0x106, 4),
        (0x420, 2),
        (0x421, 4),
        (0x420, 8),
        (0x100, 3),
    ] {
        assert_eq!(g.read_dist(0, access(offset, size)), 0, "{offset:#x}/{size}");
    }
    for (offset, size) in
        [(0x184, 1), (0x184, 2), (0x185, 4), (0x180, 8), (0x420, 2), (0x421, 4), (0x420, 8)]
    {
        g.write_dist(0, access(offset, size), u64::MAX / 3);
    }
    assert_eq!((read(&g, 0, 0x104), read(&g, 0, 0x420)), (0xffff_ffff, 0xf8f8_f8f8));
    for reserved in [
        0x00c,
        0x040,
        0xbfc,
        0xd00,
        0xe00,
        0xf00,
        0xf30,
        0xfcc,
        0x1000,
        0x6100,
        0xffe8,
        0xfffc,
        u64::MAX - 3,
    ] {
        assert_eq!(read(&g, 0, reserved), 0, "{reserved:#x}");
        write(&mut g, 0, reserved & !0xf00, 0);
    }
}

#[test]
fn a_level_interrupt_is_pending_while_its_line_is_high_or_it_is_set_pending() {
    let mut g = gic(Version::V2, 1);
    g.set_line(0, 40, true);
    assert_eq!(read(&g, 0, 0x204), 1 << 8);
    write(&mut g, 0, 0x284, 1 << 8);
    assert_eq!(read(&g, 0, 0x204), 1 << 8, "the line is high");
    g.set_line(0, 40, false);
    assert_eq!(read(&g, 0, 0x204), 0);
    write(&mut g, 0, 0x204, 1 << 8);
    assert_eq!(read(&g, 0, 0x284), 1 << 8);
    write(&mut g, 0, 0x284, 1 << 8);
    assert_eq!(read(&g, 0, 0x204), 0);
}

#[test]
fn an_edge_interrupt_is_pending_from_its_edge_until_cleared() {
    let mut g = gic(Version::V2, 1);
    write(&mut g, 0, 0xc08, 2 << 16);
    g.set_line(0, 40, true);
    g.set_line(0, 40, false);
    assert_eq!(read(&g, 0, 0x204), 1 << 8);
    write(&mut g, 0, 0x284, 1 << 8);
    g.set_line(0, 40, true);
    write(&mut g, 0, 0x284, 1 << 8);
    g.set_line(0, 40, true);
    assert_eq!(read(&g, 0, 0x204), 0, "the line did not rise again");
}

#[test]
fn lines_of_sgis_and_of_nothing_change_nothing() {
    let mut g = gic(Version::V2, 1);
    for intid in [0, 15, 288, 1023, u32::MAX] {
        g.set_line(0, intid, true);
        g.set_line(7, intid, true);
    }
    assert!((0..9).all(|bank| read(&g, 0, 0x200 + bank * 4) == 0));
}

#[test]
fn sgis_go_where_the_filter_says_and_name_their_sender() {
    let senders = |g: &Vgic, vcpu, sgi: u64| g.read_dist(vcpu, access(0xf20 + sgi, 1));
    let sent = |value: u64| {
        let mut g = gic(Version::V2, 3);
        g.write_dist(1, access(0xf00, 4), value);
        [0, 1, 2].map(|vcpu| senders(&g, vcpu, 5))
    };
    assert_eq!(sent(0x0005_0005), [2, 0, 2]);
    assert_eq!(sent(0x0002_0005), [0, 2, 0]);
    assert_eq!(sent(0x00f8_0005), [0, 0, 0]);
    assert_eq!(sent(0x0100_0005), [2, 0, 2]);
    assert_eq!(sent(0x0200_0005), [0, 2, 0]);
    assert_eq!(sent(0x03ff_0005), [0, 0, 0]);
    assert_eq!(sent(0x0005_8005), [2, 0, 2]);
}

#[test]
fn pending_sgis_are_read_set_and_cleared_by_sender() {
    let mut g = gic(Version::V2, 2);
    write(&mut g, 0, 0xf20, 0x0000_0201);
    assert_eq!(read(&g, 0, 0xf20), 0x0000_0201);
    assert_eq!(read(&g, 0, 0xf10), 0x0000_0201);
    assert_eq!(read(&g, 0, 0x200), 3);
    assert_eq!(read(&g, 1, 0xf20), 0);
    write(&mut g, 0, 0xf24, 0xffff_ffff);
    assert_eq!(read(&g, 0, 0xf24), 0x0303_0303, "only vCPUs that exist");
    g.write_dist(0, access(0xf10, 1), 0xff);
    assert_eq!(read(&g, 0, 0xf20), 0x0000_0200);
    assert_eq!(read(&g, 0, 0x200) & 3, 2);
    g.write_dist(0, access(0xf2f, 1), 1);
    assert_eq!(read(&g, 0, 0x200) >> 15, 1);
    g.write_dist(0, access(0xf1f, 1), 1);
    assert_eq!(read(&g, 0, 0x200) >> 15, 0);
}

#[test]
fn the_pending_bits_of_sgis_are_read_only_those_of_ppis_are_not() {
    let mut g = gic(Version::V2, 1);
    write(&mut g, 0, 0x200, u64::MAX);
    assert_eq!(read(&g, 0, 0x200), 0xffff_0000);
    write(&mut g, 0, 0xf20, 1);
    write(&mut g, 0, 0x280, u64::MAX);
    assert_eq!(read(&g, 0, 0x200), 1);
}

#[test]
fn only_enabled_interrupts_of_enabled_groups_wake_their_targets() {
    let mut g = gic(Version::V2, 2);
    g.set_line(0, 40, true);
    g.write_dist(0, access(0x800 + 40, 1), 2);
    write(&mut g, 0, 0x104, 1 << 8);
    assert!(!g.pending_for(0) && !g.pending_for(1), "distributor off");
    write(&mut g, 0, 0, 2);
    assert!(!g.pending_for(1), "its group off");
    write(&mut g, 0, 0, 1);
    assert!(!g.pending_for(0) && g.pending_for(1));
    write(&mut g, 0, 0x84, 1 << 8);
    assert!(!g.pending_for(1));
    write(&mut g, 0, 0, 2);
    assert!(g.pending_for(1));
    write(&mut g, 0, 0x184, 1 << 8);
    assert!(!g.pending_for(1));
    write(&mut g, 0, 0x104, 1 << 8);
    g.write_dist(0, access(0x800 + 40, 1), 3);
    assert!(g.pending_for(0) && !g.pending_for(1), "one of two takes it");
    g.write_dist(0, access(0x800 + 40, 1), 0);
    assert!(!g.pending_for(0) && !g.pending_for(1), "no target");
    assert!(!g.pending_for(7));
}

#[test]
fn sgi_system_registers_are_none_of_a_gicv2() {
    let mut g = gic(Version::V2, 2);
    g.write_sgi_register(0, 3, true);
    g.write_sgi_register(0, 3, false);
    assert_eq!((read(&g, 0, 0x200), read(&g, 1, 0x200)), (0, 0));
    g.write_redist(access(0x1_0200, 4), u64::MAX);
}
