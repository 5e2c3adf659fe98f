//! What one vCPU does to an interrupt that another has in a list register.

use super::*;

const P: u64 = lr::STATE_PENDING;
const A: u64 = lr::STATE_ACTIVE;

/// Three vCPUs that are on; these SPIs are enabled and go to vCPU 1.
fn three(version: Version, spis: &[u32]) -> Vgic {
    let mut g = gic(version, 3);
    (0..3).for_each(|vcpu| g.set_power(vcpu, true));
    set_up(&mut g, 1, spis);
    for spi in spis {
        if version == Version::V3 {
            g.write_dist(0, access(0x6000 + u64::from(*spi) * 8, 8), 1);
        }
        g.write_dist(0, access(0x400 + u64::from(*spi), 1), 0x80);
    }
    let _ = g.news();
    g
}

fn only(vcpu: usize) -> VcpuSet {
    VcpuSet::only(vcpu)
}

fn word(g: &mut Vgic, from: usize, offset: u64, value: u64) -> VcpuSet {
    g.write_dist(from, access(offset, 4), value);
    g.news()
}

fn read(g: &Vgic, offset: u64) -> u64 {
    g.read_dist(0, access(offset, 4))
}

/// SPI 40 is pending, and given to vCPU 1, which is inside.
fn given(version: Version) -> (Vgic, [u64; lr::MAX]) {
    let mut g = three(version, &[40]);
    g.write_dist(0, access(0xc08, 4), 2 << 16);
    assert_eq!(word(&mut g, 0, 0x204, 1 << 8), only(1));
    let lrs = g.fill(1).lrs;
    assert_eq!((lr::vintid(lrs[0]), g.news()), (40, VcpuSet::EMPTY));
    (g, lrs)
}

#[test]
fn disabling_makes_the_holder_leave_and_is_pending_until_it_has() {
    // IHI0069 12.9.4: RWP, until the effects of a write that disables are visible.
    for offset in [0x184, 0] {
        let (mut g, lrs) = given(Version::V3);
        assert_eq!(read(&g, 0) >> 31, 0);
        let value = if offset == 0 { 0 } else { 1 << 8 };
        assert_eq!(word(&mut g, 0, offset, value), only(1));
        assert_eq!(read(&g, 0) >> 31, 1);
        g.fold(1, &lrs);
        assert_eq!(read(&g, 0) >> 31, 0);
        assert_eq!((g.fill(1).used, g.pending_for(1)), (0, false));
        assert_eq!(read(&g, 0x204), 1 << 8, "it stays pending");
    }
    // A GICv2 has no such bit.
    let (mut g, _) = given(Version::V2);
    assert_eq!((word(&mut g, 0, 0x184, 1 << 8), read(&g, 0)), (only(1), 3));
}

#[test]
fn disabling_a_private_interrupt_is_pending_in_its_redistributor() {
    let mut g = three(Version::V3, &[]);
    g.write_redist(access(0x3_0100, 4), 1);
    g.write_sgi_register(0, 2, false);
    let _ = g.fill(1);
    let _ = g.news();
    g.write_redist(access(0x3_0180, 4), 1);
    assert_eq!(g.news(), only(1));
    let rwp = |g: &Vgic, of: u64| g.read_redist(access(of * 0x2_0000, 4));
    assert_eq!((rwp(&g, 0), rwp(&g, 1), read(&g, 0) >> 31), (0, 8, 0));
    g.fold(1, &[P]);
    assert_eq!(rwp(&g, 1), 0);
}

#[test]
fn clearing_a_pending_interrupt_that_was_not_taken_takes_it_back() {
    let (mut g, lrs) = given(Version::V3);
    assert_eq!(word(&mut g, 0, 0x284, 1 << 8), only(1));
    g.fold(1, &lrs);
    assert_eq!((g.fill(1).used, read(&g, 0x204)), (0, 0));
    // Taken first, it runs to its end.
    let (mut g, mut lrs) = given(Version::V3);
    acknowledge(&mut lrs, 0);
    let _ = word(&mut g, 0, 0x284, 1 << 8);
    g.fold(1, &lrs);
    assert_eq!(listed(&g.fill(1)), [(40, A)]);
}

#[test]
fn set_pending_again_after_it_was_taken_it_comes_again() {
    let (mut g, mut lrs) = given(Version::V3);
    acknowledge(&mut lrs, 0);
    assert_eq!(word(&mut g, 0, 0x204, 1 << 8), only(1));
    g.fold(1, &lrs);
    assert_eq!(listed(&g.fill(1)), [(40, P | A)]);
    // Set and cleared again, or cleared and set again: the last counts.
    for (order, comes) in [([0x204, 0x284], 0), ([0x284, 0x204], 1)] {
        let (mut g, lrs) = given(Version::V3);
        for offset in order {
            let _ = word(&mut g, 0, offset, 1 << 8);
        }
        g.fold(1, &lrs);
        assert_eq!(g.fill(1).used, comes);
    }
}

#[test]
fn an_edge_while_it_is_held_is_kept() {
    let (mut g, mut lrs) = given(Version::V3);
    g.set_line(0, 40, true);
    assert_eq!(g.news(), only(1));
    acknowledge(&mut lrs, 0);
    deactivate(&mut lrs, 0);
    g.fold(1, &lrs);
    assert_eq!(listed(&g.fill(1)), [(40, P)]);
    // The line stays high: no second edge.
    g.set_line(0, 40, true);
    assert_eq!(g.news(), VcpuSet::EMPTY);
}

#[test]
fn a_line_that_falls_takes_its_interrupt_back() {
    let mut g = three(Version::V2, &[40]);
    g.set_line(0, 40, true);
    let lrs = g.fill(1).lrs;
    let _ = g.news();
    g.set_line(0, 40, false);
    assert_eq!(g.news(), only(1));
    g.fold(1, &lrs);
    assert_eq!(g.fill(1).used, 0);
}

#[test]
fn the_active_state_is_changed_when_the_holder_leaves() {
    let (mut g, mut lrs) = given(Version::V3);
    acknowledge(&mut lrs, 0);
    assert_eq!(word(&mut g, 0, 0x384, 1 << 8), only(1));
    g.fold(1, &lrs);
    assert_eq!((g.fill(1).used, read(&g, 0x304)), (0, 0));
    let (mut g, lrs) = given(Version::V3);
    assert_eq!(word(&mut g, 0, 0x304, 1 << 8), only(1));
    g.fold(1, &lrs);
    assert_eq!(listed(&g.fill(1)), [(40, P | A)]);
    // The last of both counts.
    for (order, active) in [([0x304, 0x384], 0), ([0x384, 0x304], 1 << 8)] {
        let (mut g, mut lrs) = given(Version::V3);
        acknowledge(&mut lrs, 0);
        for offset in order {
            let _ = word(&mut g, 0, offset, 1 << 8);
        }
        g.fold(1, &lrs);
        assert_eq!(read(&g, 0x304), active);
    }
}

#[test]
fn what_was_noted_for_one_run_is_not_applied_to_the_next() {
    let (mut g, lrs) = given(Version::V3);
    for offset in [0x204, 0x304, 0x284, 0x384] {
        let _ = word(&mut g, 0, offset, 1 << 8);
    }
    g.fold(1, &lrs);
    let _ = word(&mut g, 0, 0x204, 1 << 8);
    let mut lrs = g.fill(1).lrs;
    acknowledge(&mut lrs, 0);
    g.fold(1, &lrs);
    assert_eq!((read(&g, 0x204), read(&g, 0x304)), (0, 1 << 8));
    let (mut g, lrs) = given(Version::V3);
    let _ = word(&mut g, 0, 0x304, 1 << 8);
    g.fold(1, &lrs);
    let mut lrs = g.fill(1).lrs;
    deactivate(&mut lrs, 0);
    g.fold(1, &lrs);
    assert_eq!(read(&g, 0x304), 0);
}

#[test]
fn an_spi_that_software_deactivates_and_activates_elsewhere_is_active_there_only() {
    let mut g = three(Version::V3, &[]);
    g.write_dist(1, access(0x304, 4), 1 << 8);
    g.write_dist(2, access(0x384, 4), 1 << 8);
    g.write_dist(2, access(0x304, 4), 1 << 8);
    assert_eq!((g.fill(1).used, listed(&g.fill(2))), (0, vec![(40, A)]));
}

#[test]
fn writing_the_control_register_makes_leave_only_if_it_changes_and_is_pending_only_if_it_disables()
{
    let (mut g, lrs) = given(Version::V3);
    assert_eq!(word(&mut g, 0, 0, 3), VcpuSet::EMPTY);
    g.fold(1, &lrs);
    let _ = word(&mut g, 0, 0, 1);
    let _ = g.fill(1);
    assert_eq!(word(&mut g, 0, 0, 3), only(1));
    assert_eq!(read(&g, 0) >> 31, 0);
}

#[test]
fn dir_by_another_vcpu_deactivates_an_spi() {
    let (mut g, mut lrs) = given(Version::V2);
    acknowledge(&mut lrs, 0);
    g.fold(1, &lrs);
    let lrs = g.fill(1).lrs;
    let _ = g.news();
    g.deactivate(2, 40);
    assert_eq!(g.news(), only(1));
    g.fold(1, &lrs);
    assert_eq!(read(&g, 0x304), 0);
}

#[test]
fn a_new_priority_group_configuration_or_route_makes_the_holder_leave() {
    type Change = fn(&mut Vgic);
    let changes: [(&str, Change); 4] = [
        ("priority", |g| g.write_dist(0, access(0x428, 1), 0x10)),
        ("group", |g| g.write_dist(0, access(0x84, 4), 1 << 8)),
        ("configuration", |g| g.write_dist(0, access(0xc08, 4), 0)),
        ("route", |g| g.write_dist(0, access(0x6140, 8), 2)),
    ];
    for (what, change) in changes {
        let (mut g, lrs) = given(Version::V3);
        change(&mut g);
        assert_eq!(g.news(), only(1), "{what}");
        // The same again changes nothing.
        change(&mut g);
        assert_eq!(g.news(), VcpuSet::EMPTY, "{what}");
        g.fold(1, &lrs);
        let gained = g.news();
        assert_eq!(gained, if what == "route" { only(2) } else { only(1) }, "{what}");
    }
}

#[test]
fn a_pending_interrupt_that_did_not_fit_and_becomes_urgent_makes_its_vcpu_leave() {
    let mut g = three(Version::V3, &[40, 41, 42, 43, 44]);
    for spi in 40..45 {
        g.set_line(0, spi, true);
    }
    let _ = g.news();
    assert!(!listed(&g.fill(1)).contains(&(44, P)));
    assert_eq!(g.news(), VcpuSet::EMPTY);
    // In another group it may be the only one that the guest takes.
    g.write_dist(0, access(0x84, 4), 1 << 12);
    assert_eq!(g.news(), only(1));
    let _ = g.fill(1);
    g.write_dist(0, access(0x84, 4), 0);
    let _ = (g.news(), g.fill(1), g.news());
    g.write_dist(0, access(0x400 + 44, 1), 0);
    assert_eq!(g.news(), only(1));
    assert_eq!(listed(&g.fill(1))[0], (44, P));
}

#[test]
fn reading_what_is_pending_or_active_waits_for_the_holders() {
    // KVM stops the whole guest for such a read; here only those leave who know.
    let (mut g, mut lrs) = given(Version::V3);
    for offset in [0x204, 0x284, 0x304, 0x384] {
        assert_eq!(g.to_leave_first(0, access(offset, 4)), only(1), "{offset:#x}");
    }
    for offset in [0x84, 0x104, 0x184, 0x208, 0x404, 0, 0xc08] {
        assert_eq!(g.to_leave_first(0, access(offset, 4)), VcpuSet::EMPTY, "{offset:#x}");
    }
    // Until then: as it was when vCPU 1 entered.
    assert_eq!((read(&g, 0x204), read(&g, 0x304)), (1 << 8, 0));
    acknowledge(&mut lrs, 0);
    g.fold(1, &lrs);
    assert_eq!(g.to_leave_first(0, access(0x304, 4)), VcpuSet::EMPTY);
    assert_eq!((read(&g, 0x204), read(&g, 0x304)), (0, 1 << 8));
}

#[test]
fn reading_anothers_private_state_waits_for_it_alone() {
    let mut g = three(Version::V3, &[]);
    g.write_redist(access(0x3_0100, 4), 1);
    g.write_sgi_register(0, 2, false);
    let _ = g.fill(1);
    let of = |n: u64, offset: u64| g.redist_to_leave_first(access(n * 0x2_0000 + offset, 4));
    assert_eq!((of(1, 0x1_0200), of(1, 0x1_0380)), (only(1), only(1)));
    for (n, offset) in [(0, 0x1_0200), (1, 0x1_0100), (1, 0x200), (7, 0x1_0200)] {
        assert_eq!(of(n, offset), VcpuSet::EMPTY);
    }
    // A GICv2's are each reader's own.
    let mut g = three(Version::V2, &[]);
    g.write_dist(0, access(0xf00, 4), 0x0002_0000);
    let _ = g.fill(1);
    assert_eq!(g.to_leave_first(0, access(0x200, 4)), VcpuSet::EMPTY);
}

#[test]
fn a_second_senders_sgi_makes_the_holder_of_the_first_leave() {
    let mut g = three(Version::V2, &[]);
    g.write_dist(1, access(0, 4), 1);
    assert_eq!(word(&mut g, 0, 0xf00, 0x0002_0003), only(1));
    let mut lrs = g.fill(1).lrs;
    let _ = g.news();
    assert_eq!(word(&mut g, 2, 0xf00, 0x0002_0003), only(1));
    acknowledge(&mut lrs, 0);
    deactivate(&mut lrs, 0);
    g.fold(1, &lrs);
    let lrs = g.fill(1).lrs;
    assert_eq!((lrs[0] & lr::STATE_MASK, lrs[0] >> lr::SOURCE_SHIFT & 7), (P, 2));
}

#[test]
fn an_active_interrupt_that_is_enabled_while_pending_again_is_given_as_both() {
    let (mut g, mut lrs) = given(Version::V3);
    acknowledge(&mut lrs, 0);
    let _ = word(&mut g, 1, 0x184, 1 << 8);
    g.fold(1, &lrs);
    let _ = word(&mut g, 1, 0x204, 1 << 8);
    let lrs = g.fill(1).lrs;
    assert_eq!(lrs[0] & (lr::STATE_MASK | lr::EOI), A | lr::EOI);
    let _ = g.news();
    assert_eq!(word(&mut g, 0, 0x104, 1 << 8), only(1));
    g.fold(1, &lrs);
    assert_eq!(listed(&g.fill(1)), [(40, P | A)]);
}

#[test]
fn of_several_targets_the_first_that_is_on_gets_an_spi() {
    // IHI0048 3.2.3, the 1-N model.
    let mut g = gic(Version::V2, 3);
    set_up(&mut g, 0, &[40]);
    g.write_dist(0, access(0x828, 1), 0b110);
    g.set_line(0, 40, true);
    // Neither is on: it stays where it is.
    assert_eq!((g.news(), g.pending_for(0)), (VcpuSet::EMPTY, false));
    g.set_power(2, true);
    assert!(g.pending_for(2) && !g.pending_for(1));
    assert_eq!(g.news(), only(2));
    // It does not move without need.
    g.set_power(1, true);
    assert!(g.pending_for(2) && !g.pending_for(1));
    g.set_power(2, false);
    assert!(g.pending_for(1));
}

#[test]
fn an_spi_that_its_vcpu_does_not_take_goes_to_the_next_target() {
    let mut g = three(Version::V2, &[40]);
    g.write_dist(0, access(0x828, 1), 0b101);
    g.set_line(0, 40, true);
    assert_eq!(g.news(), only(0));
    let lrs = g.fill(0).lrs;
    let _ = g.news();
    // It masks interrupts, and comes out as it went in.
    g.fold(0, &lrs);
    assert_eq!(g.news(), only(2));
    let mut lrs = g.fill(2).lrs;
    let _ = g.news();
    acknowledge(&mut lrs, 0);
    g.fold(2, &lrs);
    assert_eq!(g.news(), VcpuSet::EMPTY);
    // It is active there, and stays there until its end.
    let mut lrs = g.fill(2).lrs;
    assert_eq!(listed(&Filled { lrs, used: 1, hcr: 0 }), [(40, A)]);
    deactivate(&mut lrs, 0);
    g.fold(2, &lrs);
    assert!(g.pending_for(2), "the line is high");
    // Of three, each has its turn.
    let mut g = three(Version::V2, &[40]);
    g.write_dist(0, access(0x828, 1), 0b111);
    g.set_line(0, 40, true);
    for turn in [1, 2, 0, 1] {
        assert!(g.pending_for(turn));
        let lrs = g.fill(turn).lrs;
        g.fold(turn, &lrs);
    }
    // One that is active there does not move, though pending again.
    g.write_dist(0, access(0xc08, 4), 2 << 16);
    g.write_dist(0, access(0x204, 4), 1 << 8);
    let mut lrs = g.fill(2).lrs;
    acknowledge(&mut lrs, 0);
    g.fold(2, &lrs);
    g.write_dist(0, access(0x204, 4), 1 << 8);
    let lrs = g.fill(2).lrs;
    assert_eq!(lrs[0] & lr::STATE_MASK, P | A);
    g.fold(2, &lrs);
    assert_eq!(g.fill(2).lrs[0] & lr::STATE_MASK, P | A);
    // Nobody else may have it: it stays.
    let mut g = three(Version::V2, &[40]);
    g.set_line(0, 40, true);
    g.write_dist(0, access(0x828, 1), 0b100);
    let lrs = g.fill(2).lrs;
    g.fold(2, &lrs);
    assert!(g.pending_for(2));
}

#[test]
fn both_groups_are_represented_when_not_all_fit() {
    let mut g = three(Version::V3, &[40, 41, 42, 43, 44]);
    g.write_dist(0, access(0x84, 4), 0xf << 8);
    for spi in 40..45 {
        g.set_line(0, spi, true);
    }
    g.write_dist(0, access(0x400 + 44, 1), 0xf8);
    let filled = g.fill(1);
    assert_eq!(listed(&filled), [(40, P), (41, P), (42, P), (44, P)]);
    assert!(filled.lrs[..4].iter().all(|word| word & lr::EOI != 0));
}

#[test]
fn list_registers_that_were_filled_and_not_run_are_filled_anew() {
    let (mut g, lrs) = given(Version::V3);
    assert_eq!(g.fill(1).lrs, lrs);
    g.fold(1, &lrs);
    assert_eq!(read(&g, 0x204), 1 << 8);
}
