//! What goes into the list registers, and what comes back.

use hyp_abi::run::vgic_hcr::NPIE;

use super::*;

const P: u64 = lr::STATE_PENDING;
const A: u64 = lr::STATE_ACTIVE;

/// A GIC with these SPIs enabled, all with priority 0xa0.
fn spis(version: Version, intids: &[u32]) -> Vgic {
    let mut g = gic(version, 1);
    set_up(&mut g, 0, intids);
    for intid in intids {
        g.write_dist(0, access(0x400 + u64::from(*intid), 1), 0xa0);
    }
    g
}

/// Makes an SPI edge-triggered.
fn edge(g: &mut Vgic, intid: u32) {
    let at = access(0xc00 + u64::from(intid / 16) * 4, 4);
    let now = g.read_dist(0, at);
    g.write_dist(0, at, now | (2 << (intid % 16 * 2)));
}

fn pulse(g: &mut Vgic, intid: u32) {
    g.set_line(0, intid, true);
    g.set_line(0, intid, false);
}

fn pending(g: &Vgic, intid: u32) -> bool {
    g.read_dist(0, access(0x200 + u64::from(intid / 32) * 4, 4)) >> (intid % 32) & 1 != 0
}

fn active(g: &Vgic, intid: u32) -> bool {
    g.read_dist(0, access(0x300 + u64::from(intid / 32) * 4, 4)) >> (intid % 32) & 1 != 0
}

#[test]
fn nothing_pending_needs_nothing() {
    let mut g = spis(Version::V3, &[40]);
    assert_eq!(g.fill(0), Filled::default());
    g.fold(0, &[0; lr::MAX]);
    assert_eq!(g.fill(9), Filled::default());
}

#[test]
fn a_level_interrupt_asks_to_be_told_of_its_end() {
    let mut g = spis(Version::V3, &[40]);
    g.write_dist(0, access(0x84, 4), 1 << 8);
    g.set_line(0, 40, true);
    let filled = g.fill(0);
    let word = P | lr::GROUP1 | lr::EOI | (0xa0 << lr::PRIORITY_SHIFT) | 40;
    assert_eq!((filled.lrs[0], filled.used, filled.hcr), (word, 1, 0));
    g.write_dist(0, access(0x84, 4), 0);
    g.fold(0, &filled.lrs);
    assert_eq!(g.fill(0).lrs[0], word & !lr::GROUP1);
}

#[test]
fn a_level_interrupt_comes_again_until_its_line_falls() {
    let mut g = spis(Version::V2, &[40]);
    g.set_line(0, 40, true);
    let mut lrs = g.fill(0).lrs;
    acknowledge(&mut lrs, 0);
    g.fold(0, &lrs);
    assert!(active(&g, 40) && pending(&g, 40));
    // Active: not offered as pending too, its end will be told.
    let mut lrs = g.fill(0).lrs;
    assert_eq!(lrs[0] & (lr::STATE_MASK | lr::EOI), A | lr::EOI);
    deactivate(&mut lrs, 0);
    g.fold(0, &lrs);
    assert!(!active(&g, 40));
    assert_eq!(listed(&g.fill(0)), [(40, P)]);
    g.fold(0, &[P | 40]);
    g.set_line(0, 40, false);
    assert_eq!(g.fill(0).used, 0, "not acknowledged, and the line fell");
}

#[test]
fn an_edge_interrupt_comes_once_and_a_second_edge_while_active_is_kept() {
    let mut g = spis(Version::V3, &[40]);
    edge(&mut g, 40);
    pulse(&mut g, 40);
    let mut lrs = g.fill(0).lrs;
    assert_eq!(lrs[0], P | (0xa0 << lr::PRIORITY_SHIFT) | 40, "no word of its end is needed");
    acknowledge(&mut lrs, 0);
    pulse(&mut g, 40); // while it runs
    g.fold(0, &lrs);
    assert!(active(&g, 40) && pending(&g, 40));
    let mut lrs = g.fill(0).lrs;
    assert_eq!(lrs[0] & (lr::STATE_MASK | lr::EOI), P | A);
    deactivate(&mut lrs, 0);
    g.fold(0, &lrs);
    assert!(!active(&g, 40) && pending(&g, 40));
    let mut lrs = g.fill(0).lrs;
    acknowledge(&mut lrs, 0);
    deactivate(&mut lrs, 0);
    g.fold(0, &lrs);
    assert!(!active(&g, 40) && !pending(&g, 40));
}

#[test]
fn what_was_not_acknowledged_stays_pending() {
    let mut g = spis(Version::V3, &[40]);
    edge(&mut g, 40);
    pulse(&mut g, 40);
    let filled = g.fill(0);
    assert!(pending(&g, 40), "as it was when it went into the list register");
    g.fold(0, &filled.lrs);
    assert!(pending(&g, 40));
    // Set pending by software, level-sensitive: the same.
    let mut g = spis(Version::V3, &[41]);
    g.write_dist(0, access(0x204, 4), 1 << 9);
    let mut lrs = g.fill(0).lrs;
    g.fold(0, &lrs);
    assert!(pending(&g, 41));
    lrs = g.fill(0).lrs;
    acknowledge(&mut lrs, 0);
    g.fold(0, &lrs);
    assert!(!pending(&g, 41) && active(&g, 41));
}

#[test]
fn higher_priorities_go_first_then_lower_numbers() {
    let mut g = spis(Version::V3, &[40, 50, 60, 70, 80, 90]);
    for (intid, priority) in [(60, 0x20), (90, 0x10), (50, 0xf0)] {
        g.write_dist(0, access(0x400 + intid, 1), priority);
    }
    for intid in [40, 50, 60, 70, 80, 90] {
        g.set_line(0, intid, true);
    }
    let filled = g.fill(0);
    assert_eq!(listed(&filled), [(90, P), (60, P), (40, P), (70, P)]);
    assert_eq!(filled.hcr, NPIE, "two did not fit");
    g.fold(0, &filled.lrs);
    g.set_line(0, 90, false);
    g.set_line(0, 60, false);
    let filled = g.fill(0);
    assert_eq!(listed(&filled), [(40, P), (70, P), (80, P), (50, P)]);
    assert_eq!(filled.hcr, 0, "all fit");
}

#[test]
fn active_interrupts_have_their_list_registers_before_pending_ones() {
    let mut g = spis(Version::V3, &[40, 41, 42, 43, 44]);
    g.write_dist(0, access(0x404 + 40, 1), 0);
    for intid in 40..45 {
        g.set_line(0, intid, true);
    }
    g.write_dist(0, access(0x304, 4), 1 << 11); // 43, by software
    g.write_dist(0, access(0x400 + 43, 1), 0xf8);
    g.write_dist(0, access(0x400 + 44, 1), 0x00);
    let filled = g.fill(0);
    assert_eq!(listed(&filled), [(43, A), (44, P), (40, P), (41, P)]);
    assert_eq!(filled.hcr, NPIE);
}

#[test]
fn when_active_ones_fill_all_each_tells_its_end() {
    let mut g = spis(Version::V3, &[40, 41, 42, 43, 44]);
    for intid in 40..45 {
        edge(&mut g, intid);
    }
    g.write_dist(0, access(0x304, 4), 0xf << 8);
    pulse(&mut g, 44);
    let filled = g.fill(0);
    // One is for what is pending: it may pre-empt all of them.
    assert_eq!(listed(&filled), [(40, A), (41, A), (42, A), (44, P)]);
    assert_eq!(filled.hcr, NPIE);
    assert!(filled.lrs[..4].iter().all(|w| w & lr::EOI != 0));
    let mut lrs = filled.lrs;
    deactivate(&mut lrs, 2);
    g.fold(0, &lrs);
    assert_eq!(listed(&g.fill(0)), [(40, A), (41, A), (43, A), (44, P)]);
}

#[test]
fn a_disabled_or_foreign_interrupt_is_not_listed_but_an_active_one_is() {
    let mut g = spis(Version::V3, &[40]);
    g.set_line(0, 40, true);
    g.write_dist(0, access(0x184, 4), 1 << 8);
    assert_eq!(g.fill(0).used, 0);
    g.fold(0, &[]);
    g.write_dist(0, access(0x304, 4), 1 << 8);
    assert_eq!(listed(&g.fill(0)), [(40, A)]);
    g.fold(0, &[A | 40]);
    g.write_dist(0, access(0x384, 4), 1 << 8);
    assert_eq!(g.fill(0).used, 0);
}

#[test]
fn the_timer_is_linked_to_its_physical_interrupt() {
    let mut g = gic(Version::V3, 1);
    set_up(&mut g, 0, &[27, 30]);
    assert!(!g.hardware_active(0));
    g.set_line(0, 27, true);
    assert!(g.hardware_active(0));
    let mut lrs = g.fill(0).lrs;
    assert_eq!(lrs[0], P | lr::HW | (27 << lr::PINTID_SHIFT) | 27);
    assert!(g.hardware_active(0));
    acknowledge(&mut lrs, 0);
    g.fold(0, &lrs);
    // The line is still high: active only, hardware holds the rest.
    let mut lrs = g.fill(0).lrs;
    assert_eq!(lrs[0] & lr::STATE_MASK, A);
    deactivate(&mut lrs, 0);
    g.set_line(0, 27, false);
    assert!(g.hardware_active(0), "until the run's end is seen");
    g.fold(0, &lrs);
    assert!(!g.hardware_active(0));
    // Not linked: the physical timer.
    g.set_line(0, 30, true);
    assert!(!g.hardware_active(0));
    assert_eq!(g.fill(0).lrs[0] & lr::HW, 0);
}

#[test]
fn a_timer_whose_interrupt_is_disabled_is_held_active_all_the_same() {
    let mut g = gic(Version::V3, 1);
    g.set_line(0, 27, true);
    assert!(g.hardware_active(0));
    assert_eq!(g.fill(0).used, 0);
    g.fold(0, &[]);
    g.write_redist(access(0x1_0300, 4), 1 << 27);
    g.set_line(0, 27, false);
    assert!(g.hardware_active(0), "active by software");
    g.deactivate(0, 27);
    assert!(!g.hardware_active(0));
}

#[test]
fn the_timer_has_no_link_while_its_end_must_be_told() {
    let mut g = gic(Version::V3, 1);
    set_up(&mut g, 0, &[27, 40, 41, 42, 43]);
    g.write_redist(access(0x1_0300, 4), 1 << 27);
    assert_eq!(g.fill(0).lrs[0] & (lr::HW | lr::EOI), lr::HW);
    // Too many: each end makes room.
    g.write_dist(0, access(0x304, 4), 0xf << 8);
    let filled = g.fill(0);
    assert_eq!((filled.used, filled.lrs[0]), (4, A | lr::EOI | 27));
    assert!(filled.lrs[1..4].iter().all(|w| w & lr::EOI != 0));
    assert!(g.hardware_active(0));
    g.fold(0, &filled.lrs);
    g.write_dist(0, access(0x384, 4), 0xf << 8);
    // Set pending while it is active: its end must lead to its being pending.
    g.write_redist(access(0x1_0200, 4), 1 << 27);
    assert_eq!(g.fill(0).lrs[0], A | lr::EOI | 27);
}

#[test]
fn gicv2_sgis_come_one_sender_at_a_time() {
    let mut g = gic(Version::V2, 3);
    set_up(&mut g, 0, &[]);
    for from in [2, 0, 1] {
        g.write_dist(from, access(0xf00, 4), 0x0001_0003);
    }
    let source = |w: u64| w >> lr::SOURCE_SHIFT & 7;
    for (from, more) in [(0, true), (1, true), (2, false)] {
        let filled = g.fill(0);
        assert_eq!(listed(&filled), [(3, P)]);
        let mut lrs = filled.lrs;
        assert_eq!((source(lrs[0]), lrs[0] & lr::EOI != 0), (from, more));
        acknowledge(&mut lrs, 0);
        g.fold(0, &lrs);
        let mut lrs = g.fill(0).lrs;
        assert_eq!((lrs[0] & lr::STATE_MASK, source(lrs[0])), (A, from));
        assert_eq!(lrs[0] & lr::EOI != 0, more);
        deactivate(&mut lrs, 0);
        g.fold(0, &lrs);
    }
    assert_eq!(g.fill(0).used, 0);
}

#[test]
fn a_gicv2_sgi_not_taken_keeps_its_sender_and_one_sent_meanwhile_is_added() {
    let mut g = gic(Version::V2, 3);
    set_up(&mut g, 0, &[]);
    g.write_dist(1, access(0xf00, 4), 0x0001_0003);
    let filled = g.fill(0);
    g.write_dist(2, access(0xf00, 4), 0x0001_0003);
    g.fold(0, &filled.lrs);
    assert_eq!(g.read_dist(0, access(0xf23, 1)), 0b110);
    // Taken this time.
    let mut lrs = g.fill(0).lrs;
    acknowledge(&mut lrs, 0);
    deactivate(&mut lrs, 0);
    g.fold(0, &lrs);
    assert_eq!(g.read_dist(0, access(0xf23, 1)), 0b100);
    assert_eq!(g.read_dist(0, access(0x200, 4)), 8);
}

#[test]
fn a_gicv3_sgi_has_no_sender() {
    let mut g = gic(Version::V3, 2);
    set_up(&mut g, 1, &[3]);
    g.write_sgi_register(0, (3 << 24) | 2, false);
    let filled = g.fill(1);
    assert_eq!((filled.lrs[0], filled.used), (P | 3, 1));
    let mut lrs = filled.lrs;
    acknowledge(&mut lrs, 0);
    g.write_sgi_register(0, (3 << 24) | 2, false);
    g.fold(1, &lrs);
    assert_eq!(g.fill(1).lrs[0], P | A | 3, "active, and sent again");
}

#[test]
fn an_spi_is_in_one_vcpus_list_registers_at_a_time() {
    let mut g = gic(Version::V2, 2);
    set_up(&mut g, 0, &[40]);
    edge(&mut g, 40);
    pulse(&mut g, 40);
    let mut lrs = g.fill(0).lrs;
    // Retargeted and raised again while vCPU 0 has it.
    g.write_dist(0, access(0x800 + 40, 1), 2);
    pulse(&mut g, 40);
    assert_eq!(g.fill(1).used, 0);
    g.fold(1, &[]);
    acknowledge(&mut lrs, 0);
    g.fold(0, &lrs);
    // Active on vCPU 0, pending for vCPU 1, which must not see it yet.
    let of_0 = g.fill(0);
    assert_eq!(listed(&of_0), [(40, A)]);
    g.fold(0, &of_0.lrs);
    assert_eq!(g.fill(1).used, 0);
    g.fold(1, &[]);
    assert!(!g.pending_for(1));
    let mut lrs = g.fill(0).lrs;
    deactivate(&mut lrs, 0);
    g.fold(0, &lrs);
    assert!(g.pending_for(1) && !g.pending_for(0));
    assert_eq!(listed(&g.fill(1)), [(40, P)]);
}

#[test]
fn an_active_interrupt_wakes_nobody_though_it_is_pending_again() {
    let mut g = spis(Version::V3, &[40]);
    g.set_line(0, 40, true);
    assert!(g.pending_for(0));
    g.write_dist(0, access(0x304, 4), 1 << 8);
    assert!(!g.pending_for(0));
}

#[test]
fn an_spi_made_active_by_a_vcpu_is_active_there() {
    let mut g = gic(Version::V2, 2);
    g.write_dist(1, access(0x304, 4), 0x8000_0001);
    assert_eq!(g.fill(0).used, 0);
    assert_eq!(listed(&g.fill(1)), [(32, A), (63, A)]);
}

#[test]
fn dir_deactivates_what_exists_and_nothing_else() {
    let mut g = gic(Version::V2, 1);
    g.write_dist(0, access(0x304, 4), 1 << 8);
    g.write_dist(0, access(0x300, 4), 1 << 8);
    for other in [41, 296, 1023, 40 + 1024, u32::MAX] {
        g.deactivate(0, other);
    }
    g.deactivate(5, 8);
    assert!(active(&g, 40) && active(&g, 8));
    g.deactivate(0, 40);
    assert!(!active(&g, 40) && active(&g, 8));
    g.deactivate(0, 8);
    assert!(!active(&g, 8));
}

#[test]
fn fewer_list_registers_are_respected() {
    let mut g = Vgic::new(Version::V3, 1, 1, 27);
    set_up(&mut g, 0, &[40, 41]);
    g.set_line(0, 40, true);
    g.set_line(0, 41, true);
    assert_eq!((g.fill(0).used, Vgic::new(Version::V3, 1, 99, 27).lrs), (1, lr::MAX));
}

#[test]
fn hostile_register_accesses_never_panic() {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let rounds = if cfg!(miri) { 300 } else { 200_000 };
    for version in [Version::V2, Version::V3] {
        let mut g = gic(version, 8);
        for _ in 0..rounds {
            let (word, value, pick) = (next(), next(), next());
            let at = access(word & 0xf_ffff & !(pick >> 60 & 3), 1 << (pick & 3));
            let vcpu = (pick >> 8 & 7) as usize;
            match pick >> 16 & 7 {
                0 => g.write_redist(at, value),
                1 => drop(g.read_redist(at)),
                2 => g.write_dist(vcpu, Access { offset: at.offset & 0xfff, ..at }, value),
                3 => drop(g.read_dist(vcpu, Access { offset: at.offset & 0xfff, ..at })),
                4 => g.write_sgi_register(vcpu, value, pick & 1 != 0),
                5 => g.deactivate(vcpu, value as u32),
                6 => g.set_line(vcpu, value as u32 & 0x1ff, pick & 1 != 0),
                _ => {
                    let filled = g.fill(vcpu);
                    assert!(filled.used <= 4);
                    let mut seen = Vec::new();
                    for (intid, state) in listed(&filled) {
                        assert!(intid < INTIDS && state != 0 && !seen.contains(&intid));
                        seen.push(intid);
                    }
                    // EL2 may write back anything.
                    g.fold(vcpu, &[next(), next(), next()]);
                }
            }
        }
    }
}

/// More candidates than any GIC has list registers: each comes, once.
#[test]
fn sixteen_sgis_and_more_all_come_once() {
    for version in [Version::V2, Version::V3] {
        for group in [0, 0xffff_ffff] {
            let mut g = gic(version, 1);
            set_up(&mut g, 0, &[40, 41]);
            g.set_line(0, 41, true);
            let frame = if version == Version::V3 { 0x1_0000 } else { 0 };
            let write = |g: &mut Vgic, offset: u64, value: u64| match version {
                Version::V2 => g.write_dist(0, access(offset, 4), value),
                Version::V3 => g.write_redist(access(frame + offset, 4), value),
            };
            write(&mut g, 0x80, group);
            write(&mut g, 0x100, 0xffff);
            for sgi in 0..16 {
                match version {
                    Version::V2 => g.write_dist(0, access(0xf00, 4), 0x0200_0000 | sgi),
                    Version::V3 => g.write_sgi_register(0, sgi << 24 | 1, group != 0),
                }
            }
            let mut taken = Vec::new();
            for _ in 0..100 {
                let mut lrs = g.fill(0).lrs;
                let Some(at) = lrs.iter().position(|w| w & P != 0 && lr::vintid(*w) < 16) else {
                    break;
                };
                taken.push(lr::vintid(lrs[at]));
                acknowledge(&mut lrs, at);
                g.fold(0, &lrs);
                let mut lrs = g.fill(0).lrs;
                assert_eq!(lrs[0] & A, A);
                deactivate(&mut lrs, 0);
                g.fold(0, &lrs);
            }
            taken.sort_unstable();
            assert!(taken.iter().copied().eq(0..16), "{version:?}: {taken:?}");
        }
    }
}
