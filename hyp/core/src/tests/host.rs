//! The host's own memory: built on touch, never what is not the host's.

use super::*;
use crate::devices::Devices;
use crate::hyp::ConfigError;
use Hypercall::Features;

fn tables(w: &mut World) -> u64 {
    w.call(Features, &[]).x4
}

#[test]
fn the_host_reaches_all_that_is_its_own_and_nothing_of_el2() {
    let mut w = World::new();
    for n in [EL2_END, EL2 + 0x1ff, HOST, EL2 + 0x5ff, SMALL, SMALL + 15] {
        assert_eq!(w.host_access(n, Access::Fetch), Ok(()), "{n:#x}");
        assert_eq!(w.host_access(n, Access::Write), Ok(()), "{n:#x}");
    }
    for n in (EL2..EL2_END).chain([GICH, GICV, GICV + 1]) {
        for kind in [Access::Read, Access::Write, Access::Fetch] {
            assert_eq!(w.host_access(n, kind), Err(HostAbort::Inject), "{n:#x}");
        }
    }
}

#[test]
fn devices_can_be_written_but_not_executed() {
    let mut w = World::new();
    for n in [0, 0x9000, GICH - 1, GICH + 1, GICV - 1, GICV + 2, (1 << 28) - 1] {
        assert_eq!(w.host_access(n, Access::Write), Ok(()), "{n:#x}");
        let ipa = Ipa::new(n * PAGE_SIZE).unwrap();
        let fetch = w.machine().access(0, Vmid::HOST, ipa, Access::Fetch);
        assert!(matches!(fetch, Err(Fault::Permission(_))), "{n:#x}: {fetch:?}");
    }
}

#[test]
fn with_restricted_devices_the_host_reaches_those_and_its_ram_only() {
    let mut w = World::new();
    let mut devices = Devices::only();
    devices.allow(range(0x9000, 2)).unwrap();
    devices.allow(range(GICH, 1)).unwrap();
    w.hyp.restrict_devices(devices);
    for n in [0x9000, 0x9001, HOST, SMALL] {
        assert_eq!(w.host_access(n, Access::Write), Ok(()), "{n:#x}");
    }
    // What is EL2's own stays so, whatever the rules.
    for n in [0, 0x8fff, 0x9002, GICH, GICH - 1, GICV, (1 << 28) - 1, EL2] {
        assert_eq!(w.host_access(n, Access::Read), Err(HostAbort::Inject), "{n:#x}");
    }
}

#[test]
fn addresses_beyond_the_host_space_are_an_abort_of_the_host() {
    let mut w = World::new();
    for n in [1 << 28, (1 << 36) - 1] {
        let ipa = Ipa::new(n * PAGE_SIZE).unwrap();
        assert_eq!(w.hyp.host_abort(&mut w.cpus[0], ipa), HostAbort::Inject, "{n:#x}");
    }
}

#[test]
fn the_largest_block_inside_one_region_is_used() {
    let mut w = World::new();
    assert_eq!(tables(&mut w), BOOT_TABLES);
    // Whole 2 MiB of RAM: a block in the level-2 table that EL2's own memory brought.
    assert!(w.host_reaches(HOST));
    assert_eq!(tables(&mut w), BOOT_TABLES);
    let ipa = Ipa::new((HOST + 511) * PAGE_SIZE).unwrap();
    assert!(w.machine().access(0, Vmid::HOST, ipa, Access::Read).is_ok(), "one fault for 2 MiB");
    // The small region needs pages.
    assert!(w.host_reaches(SMALL));
    assert_eq!(tables(&mut w), BOOT_TABLES + 1);
    let next = Ipa::new((SMALL + 1) * PAGE_SIZE).unwrap();
    let fault = w.machine().access(0, Vmid::HOST, next, Access::Read);
    assert_eq!(fault, Err(Fault::Translation(3)));
    // A gigabyte without RAM is one entry of a root.
    assert!(w.host_reaches(0xc0000));
    assert_eq!(tables(&mut w), BOOT_TABLES + 1);
    let far = Ipa::new(0xfffff * PAGE_SIZE).unwrap();
    assert!(w.machine().access(0, Vmid::HOST, far, Access::Read).is_ok());
}

#[test]
fn a_donated_page_leaves_no_stale_translation_and_comes_back_zeroed() {
    let mut w = World::new();
    let vm = w.vm();
    let page = w.page();
    for cpu in [0, 1] {
        assert!(w.on(cpu).host_reaches(page));
    }
    w.on(0).machine().poke(pfn(page), 7, 0x5ec2e7);
    w.ok(Hypercall::MemcacheTopup, &[page]);
    for cpu in [0, 1] {
        assert!(!w.on(cpu).host_reaches(page), "CPU {cpu}");
        assert!(w.host_reaches(page + 1), "the rest of the block comes back");
    }
    w.on(0).done(Hypercall::VcpuPut, &[]);
    w.done(Hypercall::StartTeardownVm, &[vm.handle]);
    assert_eq!(w.ok(Hypercall::ReclaimVmPage, &[vm.handle]), page);
    assert!(w.machine().is_zero(pfn(page)));
    assert!(w.machine().is_clean(pfn(page)), "zero for an observer with caches off too");
    assert!(w.host_reaches(page) && w.is_hosts_own(page));
}

#[test]
fn whatever_el2_left_in_a_page_does_not_go_back_with_it() {
    let mut w = World::new();
    let page = pfn(w.page());
    let mut locks = CpuLocal::new(9).locks;
    let (mut host, _) = w.hyp.host.lock(&mut locks);
    host.donate(w.hyp.pages(), page).unwrap();
    w.machine().write(page, 7, 0x5ec2e7);
    host.release(w.hyp.pages(), page).unwrap();
    assert!(w.machine().is_zero(page) && w.machine().is_clean(page));
}

#[test]
fn no_walker_sees_what_was_in_the_hosts_roots_before_they_were_zeroed() {
    // Nothing is hidden, so nothing but the end of `Hyp::new` publishes.
    let mut config = config(&[], &[]);
    config.private_devices = &[];
    let machine = FakeMachine::new(&config.memmap, 1);
    machine.write(pfn(EL2), 1, 0x4000_07fd);
    machine.publish();
    machine.zero(pfn(EL2));
    let hyp = Hyp::new(machine, config).unwrap();
    let machine = hyp.machine();
    machine.watch(hyp.host_regime(), hyp.host_geometry());
    let ipa = pfn(HOST).pa().raw();
    let found = machine.access(0, Vmid::HOST, Ipa::new(ipa).unwrap(), Access::Read);
    assert_eq!(found, Err(Fault::Translation(1)));
}

#[test]
fn a_second_abort_for_a_mapped_page_is_a_retry() {
    let mut w = World::new();
    let ipa = Ipa::new(HOST * PAGE_SIZE).unwrap();
    for _ in 0..2 {
        assert_eq!(w.hyp.host_abort(&mut w.cpus[0], ipa), HostAbort::Retry);
        w.machine().settle();
    }
}

/// Whether the host's CPU reaches a page without asking EL2.
fn mapped(w: &World, n: u64) -> bool {
    let ipa = Ipa::new(n * PAGE_SIZE).unwrap();
    w.machine().access(0, Vmid::HOST, ipa, Access::Read).is_ok()
}

#[test]
fn when_the_pool_is_empty_device_mappings_make_room_for_a_touch() {
    // Boot takes 4 tables of the pool. Devices beside the small region take the last one.
    let mut w = World::with_pool(5);
    assert!(w.host_reaches(SMALL + 16));
    assert!(w.host_reaches(0x9000) && w.host_reaches(0xc0000));
    assert_eq!(tables(&mut w), BOOT_TABLES + 1);
    assert!(w.host_reaches(TINY), "needs a table: that of the devices");
    assert_eq!(tables(&mut w), BOOT_TABLES + 1);
    assert!(!mapped(&w, SMALL + 16));
    // RAM is never unmapped to make room.
    assert!(!w.host_reaches(SMALL));
    assert!(mapped(&w, TINY));
    // What needs no table is not affected.
    assert!(w.host_reaches(TINY + 1) && w.host_reaches(HOST) && w.host_reaches(0x9000));
}

#[test]
fn device_mappings_make_room_for_a_donation() {
    let mut w = World::with_pool(5);
    assert!(w.host_reaches(SMALL + 16));
    w.vm_of(1);
    assert_eq!(tables(&mut w), BOOT_TABLES + 1);
    assert!(!mapped(&w, SMALL + 16));
}

#[test]
fn device_mappings_stay_while_there_are_tables() {
    let mut w = World::with_pool(6);
    assert!(w.host_reaches(SMALL + 16));
    w.vm_of(1);
    assert_eq!(tables(&mut w), BOOT_TABLES + 2);
    assert!(mapped(&w, SMALL + 16));
}

#[test]
fn no_more_room_is_made_than_one_touch_can_need() {
    let islands = [0x41400, 0x41600, 0x41800, 0x41a00, 0x41c00];
    let mut w = World::with(8, |c| {
        c.memmap = MemMap::new([range(EL2, 0x600)].into_iter().chain(islands.map(|n| range(n, 1))))
            .unwrap();
    });
    for island in &islands[..4] {
        assert!(w.host_reaches(island + 1), "{island:#x}");
    }
    assert_eq!(tables(&mut w), BOOT_TABLES + 4);
    assert!(w.host_reaches(islands[4]));
    assert_eq!(tables(&mut w), BOOT_TABLES + 2, "three tables came free, one was needed");
    assert!(mapped(&w, islands[3] + 1));
    for island in &islands[..3] {
        assert!(!mapped(&w, island + 1), "{island:#x}");
    }
}

#[test]
fn a_donation_without_table_memory_is_refused() {
    let mut w = World::with_pool(4);
    let handle = w.ok(Hypercall::ReserveVm, &[]);
    w.refuse(Refusal::NoMemory, Hypercall::InitVm, &[handle, 1, HOST, 0]);
    // In the 2 MiB of EL2's own memory the tables are there.
    w.done(Hypercall::InitVm, &[handle, 1, EL2_END, 0]);
}

#[test]
fn a_configuration_that_contradicts_itself_is_refused() {
    let (pool, owned) = ([range(EL2 + 4, POOL)], [range(EL2, 16)]);
    let good = config(&pool, &owned);
    let refused = |config: Config<'_>| {
        Hyp::new(FakeMachine::new(&memmap(), 1), config).map(|_| ()).unwrap_err()
    };
    let with = || good.clone();
    assert_eq!(refused(Config { nr_lrs: 17, ..with() }), ConfigError::ListRegisters);
    assert_eq!(refused(Config { guest_ipa_bits: 31, ..with() }), ConfigError::Ipa);
    assert_eq!(refused(Config { guest_ipa_bits: 41, ..with() }), ConfigError::Ipa);
    assert_eq!(refused(Config { host_ipa_bits: 49, ..with() }), ConfigError::Ipa);
    let odd = TablePfn::new(pfn(EL2 + 1));
    assert_eq!(refused(Config { host_root: odd, ..with() }), ConfigError::Ipa);
    for pool in [&[range(HOST, POOL)][..], &[range(EL2 + 4, POOL), range(EL2_END - 1, 1)]] {
        assert_eq!(refused(Config { pool, ..with() }), ConfigError::Memory);
    }
    for el2_owned in
        [&[range(EL2, 16), range(SMALL + 15, 2)][..], &[range(EL2, 16), range(EL2_END - 1, 1)]]
    {
        assert_eq!(refused(Config { el2_owned, ..with() }), ConfigError::Memory);
    }
    for private_devices in [&[range(GICV, 1), range(GICV, 1)][..], &[range(HOST, 1)]] {
        assert_eq!(refused(Config { private_devices, ..with() }), ConfigError::Memory);
    }
    let pool = &[range(EL2 + 4, 3)];
    assert_eq!(refused(Config { pool, ..with() }), ConfigError::Pool);
}

#[test]
fn the_host_can_fetch_what_is_its_own_ram_and_aligned() {
    let mut w = World::new();
    let page = w.page();
    w.done(Hypercall::ShareHyp, &[page]);
    let mut can = |address: u64| w.hyp.host_can_fetch(&mut w.cpus[0], address);
    for (address, may) in [
        (HOST << 12, true),
        ((HOST << 12) + 0xffc, true),
        ((HOST << 12) + 2, false),
        (page << 12, true),
        (EL2 << 12, false),
        (GICH << 12, false),
        (u64::MAX - 3, false),
    ] {
        assert_eq!(can(address), may, "{address:#x}");
    }
}

#[test]
fn another_cpu_keeps_what_the_boot_cpu_promised_guests() {
    use sysreg::{ID_AA64DFR0_EL1, ID_AA64ISAR0_EL1, ID_AA64MMFR0_EL1, ID_AA64PFR0_EL1};
    let promised = |values: &[(sysreg::Enc, u64)]| {
        ID_REGISTERS.map(|enc| values.iter().find(|(e, _)| *e == enc).map_or(0, |(_, v)| *v))
    };
    let plain = [(ID_AA64PFR0_EL1, 0x11), (ID_AA64MMFR0_EL1, 5), (ID_AA64DFR0_EL1, 0xe006)];
    let boot = World::with(POOL, |c| c.id_values = promised(&plain));
    let there = |register, value| {
        let mut values = vec![(register, value)];
        values.extend(plain);
        boot.hyp.broken_promise(&promised(&values))
    };
    // The same, another set of fixes, more of a feature.
    assert_eq!(there(sysreg::REVIDR_EL1, 0), None);
    assert_eq!(there(sysreg::REVIDR_EL1, 7), None);
    assert_eq!(there(ID_AA64ISAR0_EL1, 1 << 4), None);
    // 16 breakpoints are more than 15; 14 are fewer.
    assert_eq!(there(ID_AA64DFR0_EL1, 0xf006), None);
    assert_eq!(there(ID_AA64DFR0_EL1, 0xd006), Some(ID_AA64DFR0_EL1));
    // No floating point, which is the signed field's 0xf.
    assert_eq!(there(ID_AA64PFR0_EL1, 0xf << 16 | 0x11), Some(ID_AA64PFR0_EL1));
    // Fewer address bits matter where they are fewer than a guest has, which are 40.
    assert_eq!(there(ID_AA64MMFR0_EL1, 2), None);
    assert_eq!(there(ID_AA64MMFR0_EL1, 1), Some(ID_AA64MMFR0_EL1));
    // Where the boot CPU has no floating point, having it is no less.
    let none = [(ID_AA64PFR0_EL1, 0xf << 16 | 0x11), (ID_AA64MMFR0_EL1, 5)];
    let boot = World::with(POOL, |c| c.id_values = promised(&none));
    assert_eq!(boot.hyp.broken_promise(&promised(&plain)), None);
}
