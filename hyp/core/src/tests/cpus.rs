//! Several CPUs: what one of them may find in its TLB, where the host may start one, and which one
//! is as good as the first.

use Hypercall::{InitVcpu, ShareHyp, VcpuLoad, VcpuPut};

use super::*;

#[test]
fn a_vm_in_the_place_of_a_dead_one_begins_with_clean_tlbs_on_every_cpu() {
    let mut w = World::new();
    let mut vmids = vec![];
    for turn in 0..4 {
        let vm = w.vm_of(2);
        w.done(InitVcpu, &[vm.handle, 1, vm.run]);
        let vmid = w.regime(vm.handle).vmid;
        // The other vCPU than last time: the fake reports one that uses the entries of another.
        for cpu in [0, 1] {
            let vcpu = (turn + cpu) % 2;
            w.on(cpu).done(VcpuLoad, &[vm.handle, vcpu as u64]);
            w.machine().run_vcpu(cpu, vmid, vcpu);
            w.done(VcpuPut, &[]);
        }
        // Nothing was flushed for that, but by the end of the VM before.
        assert_eq!(w.machine().invalidations().vcpu, 0);
        w.end(vm, &[]);
        vmids.push(vmid);
    }
    // It is the same VMID each time: the lowest slot is free again.
    assert_eq!(vmids, [Vmid::new(1); 4]);
}

#[test]
fn every_slot_has_a_vmid_of_its_own_and_none_the_hosts() {
    let mut w = World::with_pool(POOL);
    let handles: Vec<u64> = (0..64).map(|_| w.ok(Hypercall::ReserveVm, &[])).collect();
    w.refuse(Refusal::NoMemory, Hypercall::ReserveVm, &[]);
    let mut vmids = vec![Vmid::HOST];
    for handle in handles {
        w.next = w.next.next_multiple_of(2);
        let (root, _) = (w.page(), w.page());
        w.done(Hypercall::InitVm, &[handle, 1, root, 0]);
        let vmid = w.regime(handle).vmid;
        assert!(!vmids.contains(&vmid), "{vmid:?} twice");
        vmids.push(vmid);
    }
}

#[test]
fn a_vcpu_that_went_away_with_its_cpu_off_finds_the_record_of_that_cpu_true() {
    let mut w = World::new();
    let vm = w.vm_of(2);
    let vmid = w.regime(vm.handle).vmid;
    w.done(InitVcpu, &[vm.handle, 1, vm.run]);
    let visit = |w: &mut World, cpu, vcpu: usize| {
        w.on(cpu).done(VcpuLoad, &[vm.handle, vcpu as u64]);
        w.machine().run_vcpu(cpu, vmid, vcpu);
        w.done(VcpuPut, &[]);
    };
    visit(&mut w, 1, 0);
    // CPU 1 goes off and comes back: its state in the core stays, its TLB is empty or as it was.
    visit(&mut w, 0, 0);
    visit(&mut w, 0, 1);
    visit(&mut w, 1, 1);
    assert_eq!(w.machine().invalidations().vcpu, 2);
}

#[test]
fn a_cpu_can_begin_where_the_host_could_fetch_and_nowhere_else() {
    let mut w = World::new();
    let can = |w: &mut World, at: u64| {
        let World { hyp, cpus, .. } = w;
        hyp.host_can_fetch(&mut cpus[0], at)
    };
    let at = HOST * PAGE_SIZE;
    for good in [at, at + 4, at + 0xffc, SMALL * PAGE_SIZE] {
        assert!(can(&mut w, good), "{good:#x}");
    }
    let el2 = (EL2 + 5) * PAGE_SIZE;
    for bad in [at + 1, at + 2, el2, GICH * PAGE_SIZE, 0, 1 << 39, 1 << 52 | at, !3, u64::MAX] {
        assert!(!can(&mut w, bad), "{bad:#x}");
    }
    // Lent to EL2 it is still the host's; given away it is not.
    let lent = w.page();
    w.done(ShareHyp, &[lent]);
    assert!(can(&mut w, lent * PAGE_SIZE));
    let vm = w.vm_of(1);
    assert!(!can(&mut w, vm.root * PAGE_SIZE));
}

/// The values of the boot CPU of [`World`], with one register changed.
fn values(register: sysreg::Enc, value: u64) -> [u64; ID_REGISTERS.len()] {
    let mut values = config(&[], &[]).id_values;
    for (enc, slot) in ID_REGISTERS.iter().zip(&mut values) {
        if *enc == register {
            *slot = value;
        }
    }
    values
}

/// A machine whose boot CPU has `value` in `register`; what it says of a CPU that has `here`.
fn verdict(register: sysreg::Enc, value: u64, here: u64) -> Option<sysreg::Enc> {
    let w = World::with(POOL, |config| config.id_values = values(register, value));
    w.hyp.broken_promise(&values(register, here))
}

#[test]
fn a_cpu_that_lacks_what_guests_were_promised_is_found_out() {
    use sysreg::{ID_AA64ISAR0_EL1, ID_AA64MMFR0_EL1, ID_AA64PFR0_EL1, REVIDR_EL1};
    let crc32 = 1 << 16;
    assert_eq!(verdict(ID_AA64ISAR0_EL1, crc32, 0), Some(ID_AA64ISAR0_EL1));
    assert_eq!(verdict(ID_AA64ISAR0_EL1, crc32, crc32), None);
    assert_eq!(verdict(ID_AA64ISAR0_EL1, 0, crc32), None, "more is no harm");
    assert_eq!(verdict(ID_AA64ISAR0_EL1, 2 << 4, 1 << 4), Some(ID_AA64ISAR0_EL1));
    // The highest field counts, and one that no guest sees does not (SVE).
    assert_eq!(verdict(ID_AA64ISAR0_EL1, 1 << 60, 0), Some(ID_AA64ISAR0_EL1));
    assert_eq!(verdict(ID_AA64PFR0_EL1, 0x11 | 1 << 32, 0x11), None);
    // FP and the 4 KiB granule: 0xf is nothing, and 0 is something.
    assert_eq!(verdict(ID_AA64PFR0_EL1, 0x11, 0x11 | 0xf << 16), Some(ID_AA64PFR0_EL1));
    assert_eq!(verdict(ID_AA64PFR0_EL1, 0x11 | 0xff << 16, 0x11), None);
    assert_eq!(verdict(ID_AA64MMFR0_EL1, 5, 5 | 0xf << 28), Some(ID_AA64MMFR0_EL1));
    assert_eq!(verdict(REVIDR_EL1, 0xff, 0), None, "errata are no features");
}

#[test]
fn a_cpu_that_alone_has_aarch32_is_none_for_guests_that_move_between_cpus() {
    use sysreg::ID_AA64PFR0_EL1;
    // A guest could be in it when it leaves, and return to it where EL2 could only return illegally.
    assert_eq!(verdict(ID_AA64PFR0_EL1, 0x11, 0x12), Some(ID_AA64PFR0_EL1));
    assert_eq!(verdict(ID_AA64PFR0_EL1, 0x12, 0x11), Some(ID_AA64PFR0_EL1));
    assert_eq!(verdict(ID_AA64PFR0_EL1, 0x12, 0x12), None);
    assert_eq!(verdict(ID_AA64PFR0_EL1, 0x11, 0x21), None, "at EL1 no guest has it anyway");
}

#[test]
fn a_cpu_with_fewer_address_bits_than_guests_have_breaks_the_promise() {
    use sysreg::ID_AA64MMFR0_EL1;
    // Guests see 40 bits, so that is what must be there.
    assert_eq!(verdict(ID_AA64MMFR0_EL1, 5, 2), None);
    assert_eq!(verdict(ID_AA64MMFR0_EL1, 5, 1), Some(ID_AA64MMFR0_EL1));
}
