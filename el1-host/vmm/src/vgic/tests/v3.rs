//! GICv3 distributor, redistributors and SGI registers.

use super::*;

fn read(gic: &Vgic, offset: u64) -> u64 {
    gic.read_dist(0, access(offset, 4))
}

fn write(gic: &mut Vgic, offset: u64, value: u64) {
    gic.write_dist(0, access(offset, 4), value);
}

/// A word of vCPU `of`'s redistributor.
fn rd(gic: &Vgic, of: u64, offset: u64) -> u64 {
    gic.read_redist(access(of * 0x2_0000 + offset, 4))
}

fn rw(gic: &mut Vgic, of: u64, offset: u64, value: u64) {
    gic.write_redist(access(of * 0x2_0000 + offset, 4), value);
}

#[test]
fn it_says_what_it_is() {
    let mut g = gic(Version::V3, 4);
    assert_eq!(read(&g, 0x004), 8 | (9 << 19) | (3 << 24));
    assert_eq!(read(&g, 0xffe8) >> 4 & 15, 3);
    assert_eq!(rd(&g, 3, 0xffe8) >> 4 & 15, 3);
    assert_eq!(read(&g, 0xfe8), 0);
    assert_eq!(read(&g, 0x008), rd(&g, 0, 0x004));
    let ids = |part: u64| [0x44, 0, 0, 0, part, 0xb4, 0x3b, 0, 0x0d, 0xf0, 0x05, 0xb1];
    for (n, (dist, redist)) in (0..).zip(ids(0x92).into_iter().zip(ids(0x93))) {
        let at = 0xffd0 + n * 4;
        assert_eq!((read(&g, at), rd(&g, 1, at)), (dist, redist), "{at:#x}");
    }
    assert_eq!(read(&g, 0), 0x50);
    write(&mut g, 0, u64::MAX);
    assert_eq!(read(&g, 0), 0x53);
    write(&mut g, 0, 0);
    assert_eq!(read(&g, 0), 0x50);
    assert_eq!(g.redist_size(), 4 * 0x2_0000);
}

#[test]
fn private_interrupts_are_not_in_the_distributor() {
    let mut g = gic(Version::V3, 2);
    for offset in [0x080, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0x400, 0x41c, 0xc00, 0xc04] {
        write(&mut g, offset, u64::MAX);
        assert_eq!(read(&g, offset), 0, "{offset:#x}");
    }
    g.write_dist(0, access(0x400, 1), 0xff);
    assert_eq!(g.read_dist(0, access(0x400, 1)), 0);
    for legacy in [0x800, 0x820, 0xf00, 0xf10, 0xf20] {
        write(&mut g, legacy, 0x00ff_0001);
        assert_eq!(read(&g, legacy), 0, "{legacy:#x}");
        assert_eq!(rd(&g, 0, 0x1_0200), 0);
    }
    assert_eq!(rd(&g, 0, 0x1_0100), 0, "SGIs start disabled");
}

#[test]
fn shared_interrupts_are_as_in_a_gicv2() {
    let mut g = gic(Version::V3, 1);
    write(&mut g, 0x104, 0x10);
    write(&mut g, 0x084, 0x30);
    write(&mut g, 0x424, 0xa0b0_c0d0);
    write(&mut g, 0xc08, 0xffff_ffff);
    assert_eq!((read(&g, 0x104), read(&g, 0x184), read(&g, 0x084)), (0x10, 0x10, 0x30));
    assert_eq!((read(&g, 0x424), read(&g, 0xc08)), (0xa0b0_c0d0, 0xaaaa_aaaa));
}

#[test]
fn routes_are_64_bits_in_one_access_or_two() {
    let mut g = gic(Version::V3, 2);
    let at = 0x6000 + 8 * 40;
    g.write_dist(0, access(at, 8), u64::MAX);
    assert_eq!(g.read_dist(0, access(at, 8)), 0xff_00ff_ffff);
    write(&mut g, at, 0x0000_0001);
    assert_eq!(g.read_dist(0, access(at, 8)), 0xff_0000_0001);
    write(&mut g, at + 4, 0xffff_ff02);
    assert_eq!(g.read_dist(0, access(at, 8)), 0x02_0000_0001);
    assert_eq!((read(&g, at), read(&g, at + 4)), (1, 2));
    // Not of private interrupts, nor of those that do not exist, nor unaligned.
    for at in [0x6000, 0x60f8, 0x6000 + 8 * 288, 0x7fd8] {
        g.write_dist(0, access(at, 8), 1);
        assert_eq!(g.read_dist(0, access(at, 8)), 0, "{at:#x}");
    }
    g.write_dist(0, access(at + 4, 8), 0x7777);
    assert_eq!(g.read_dist(0, access(at, 8)), 0x02_0000_0001);
    assert_eq!(g.read_dist(0, access(at + 4, 8)), 0);
    // Double words are for routes only.
    g.write_dist(0, access(0x108, 8), u64::MAX);
    assert_eq!((read(&g, 0x108), g.read_dist(0, access(0x108, 8))), (0, 0));
}

#[test]
fn an_spi_goes_to_the_vcpu_its_route_names() {
    let mut g = gic(Version::V3, 2);
    set_up(&mut g, 0, &[40]);
    g.set_line(0, 40, true);
    assert!(g.pending_for(0) && !g.pending_for(1));
    for (route, to) in [(1, Some(1)), (0x100, None), (1 << 32, None), (2, None), (0, Some(0))] {
        g.write_dist(0, access(0x6000 + 8 * 40, 8), route);
        assert_eq!((g.pending_for(0), g.pending_for(1)), (to == Some(0), to == Some(1)));
    }
}

#[test]
fn redistributors_name_their_vcpu_and_the_last_says_so() {
    let g = gic(Version::V3, 3);
    for of in 0..3_u64 {
        let last = if of == 2 { 1 << 4 } else { 0 };
        let typer = (of << 32) | (of << 8) | last;
        assert_eq!(g.read_redist(access(of * 0x2_0000 + 8, 8)), typer);
        assert_eq!(rd(&g, of, 8) | (rd(&g, of, 12) << 32), typer);
    }
    assert_eq!(rd(&g, 3, 8), 0, "no fourth");
    assert_eq!(rd(&g, 3, 4), 0);
}

#[test]
fn a_redistributor_wakes_when_told() {
    let mut g = gic(Version::V3, 2);
    assert_eq!((rd(&g, 0, 0x14), rd(&g, 1, 0x14)), (6, 6));
    rw(&mut g, 1, 0x14, 0);
    assert_eq!((rd(&g, 0, 0x14), rd(&g, 1, 0x14)), (6, 0));
    rw(&mut g, 1, 0x14, u64::MAX);
    assert_eq!(rd(&g, 1, 0x14), 6);
    rw(&mut g, 1, 0x14, 4);
    assert_eq!(rd(&g, 1, 0x14), 0);
}

#[test]
fn the_sgi_frame_holds_the_private_interrupts_of_its_vcpu() {
    let mut g = gic(Version::V3, 2);
    for (set, clear) in [(0x1_0100, 0x1_0180), (0x1_0200, 0x1_0280), (0x1_0300, 0x1_0380)] {
        rw(&mut g, 1, set, 0x8000_0013);
        rw(&mut g, 1, clear, 0x0000_0010);
        assert_eq!(
            (rd(&g, 1, set), rd(&g, 1, clear), rd(&g, 0, set)),
            (0x8000_0003, 0x8000_0003, 0)
        );
        // The next word would be of shared interrupts.
        rw(&mut g, 1, set + 4, u64::MAX);
        assert_eq!((rd(&g, 1, set + 4), read(&g, set - 0x1_0000 + 4)), (0, 0));
    }
    rw(&mut g, 1, 0x1_0080, 0xffff_0000);
    assert_eq!((rd(&g, 1, 0x1_0080), rd(&g, 0, 0x1_0080)), (0xffff_0000, 0));
    assert_eq!((rd(&g, 0, 0x1_0c00), rd(&g, 0, 0x1_0c04)), (0xaaaa_aaaa, 0));
    rw(&mut g, 0, 0x1_0c04, u64::MAX);
    assert_eq!(rd(&g, 0, 0x1_0c04), 0);
}

#[test]
fn private_priorities_have_words_and_bytes() {
    let mut g = gic(Version::V3, 2);
    rw(&mut g, 1, 0x1_0404, 0x0810_20ff);
    assert_eq!(rd(&g, 1, 0x1_0404), 0x0810_20f8);
    g.write_redist(access(0x2_0000 + 0x1_041f, 1), 0x9f);
    assert_eq!(g.read_redist(access(0x2_0000 + 0x1_041f, 1)), 0x98);
    assert_eq!(rd(&g, 1, 0x1_041c), 0x9800_0000);
    rw(&mut g, 1, 0x1_0420, u64::MAX);
    assert_eq!((rd(&g, 1, 0x1_0420), rd(&g, 0, 0x1_0404)), (0, 0));
}

#[test]
fn other_accesses_to_redistributors_do_nothing() {
    let mut g = gic(Version::V3, 1);
    rw(&mut g, 0, 0x1_0100, 0xffff);
    for (offset, size) in
        [(0x1_0100, 1), (0x1_0100, 2), (0x1_0102, 4), (0x1_0100, 8), (4, 8), (0x70, 8)]
    {
        assert_eq!(g.read_redist(access(offset, size)), 0, "{offset:#x}/{size}");
        g.write_redist(access(offset + 0x80, size), 0xffff);
    }
    assert_eq!(rd(&g, 0, 0x1_0100), 0xffff);
    for reserved in [0x0, 0x10, 0x70, 0x78, 0x80, 0x100, 0x1_0d00, 0x1_0e00, 0x1_ffe8] {
        rw(&mut g, 0, reserved, u64::MAX);
        assert_eq!(rd(&g, 0, reserved), 0, "{reserved:#x}");
    }
    assert_eq!(g.read_redist(access(u64::MAX - 7, 4)), 0);
}

#[test]
fn sgis_go_to_the_target_list_or_to_all_others() {
    let sent = |value: u64| {
        let mut g = gic(Version::V3, 4);
        for of in 0..4 {
            rw(&mut g, of, 0x1_0080, 0xffff);
        }
        g.write_sgi_register(1, value, true);
        [0, 1, 2, 3].map(|of| rd(&g, of, 0x1_0200))
    };
    let sgi = 7_u64 << 24;
    assert_eq!(sent(sgi | 0b1010), [0, 0x80, 0, 0x80]);
    assert_eq!(sent(sgi | 0xffff), [0x80; 4]);
    assert_eq!(sent(sgi), [0; 4]);
    assert_eq!(sent(sgi | (1 << 40)), [0x80, 0, 0x80, 0x80]);
    assert_eq!(sent(sgi | (1 << 40) | 2), [0x80, 0, 0x80, 0x80]);
    // Other affinities and ranges name nobody.
    for other in [1 << 16, 1 << 32, 1 << 48, 1 << 44] {
        assert_eq!(sent(sgi | other | 0xf), [0; 4], "{other:#x}");
    }
    assert_eq!(sent((15 << 24) | 1), [0x8000, 0, 0, 0]);
}

#[test]
fn an_sgi_is_sent_only_in_its_group() {
    let mut g = gic(Version::V3, 1);
    rw(&mut g, 0, 0x1_0080, 0b01);
    for (sgi, group1, pending) in [(0, true, 1), (1, true, 0), (0, false, 0), (1, false, 2)] {
        rw(&mut g, 0, 0x1_0280, u64::MAX);
        g.write_sgi_register(0, (sgi << 24) | 1, group1);
        assert_eq!(rd(&g, 0, 0x1_0200), pending, "{sgi} {group1}");
    }
}

#[test]
fn sgis_may_be_set_pending_by_register() {
    let mut g = gic(Version::V3, 1);
    rw(&mut g, 0, 0x1_0200, 3);
    assert_eq!(rd(&g, 0, 0x1_0200), 3);
    rw(&mut g, 0, 0x1_0280, 1);
    assert_eq!(rd(&g, 0, 0x1_0200), 2);
}
