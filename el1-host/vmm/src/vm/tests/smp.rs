//! Several vCPUs: who is poked, and for what.

use super::*;
use crate::vcpu_set::VcpuSet;

const CPU_ON: u64 = 0xc400_0003;
const CPU_OFF: u64 = 0x8400_0002;
const KERNEL: u64 = 0x4020_0000;
const SGI1R: (u64, u64, u64, u64, u64) = (3, 0, 12, 11, 5);

fn nobody() -> VcpuSet {
    VcpuSet::EMPTY
}

/// Switches vCPU `n` on, and takes the poke.
fn start(rig: &mut Rig<'_>, n: u64) {
    let answer = rig.call(Exit::Hvc, [CPU_ON, n, KERNEL, 0]);
    assert_eq!(answer, (Action::Resume, Some([0, n, KERNEL, 0])));
    assert_eq!(rig.vm.take_pokes(), VcpuSet::only(n as usize));
}

#[test]
fn a_vcpu_that_is_switched_on_is_poked_once() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 3\n");
    let mut rig = Rig::new(&el2, &bytes);
    assert_eq!((rig.vm.on(), rig.vm.take_pokes()), (VcpuSet::only(0), nobody()));
    start(&mut rig, 2);
    assert_eq!(rig.vm.on(), VcpuSet::from_bits(0b101));
    assert_eq!(rig.vm.take_pokes(), nobody());
    // Again: ALREADY_ON, and no poke.
    let answer = rig.call(Exit::Hvc, [CPU_ON, 2, KERNEL, 0]);
    assert_eq!(answer, (Action::Resume, Some([-4_i64 as u64, 2, KERNEL, 0])));
    assert_eq!(rig.vm.take_pokes(), nobody());
    rig.end();
}

#[test]
fn an_sgi_pokes_those_it_is_for_and_not_its_sender() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 4\n");
    let mut rig = Rig::new(&el2, &bytes);
    start(&mut rig, 1);
    start(&mut rig, 2);
    rig.store(0x0800_0000, 2, 3);
    for n in 0..4 {
        rig.store(0x080a_0000 + n * 0x2_0000 + 0x1_0080, 2, 0xffff_ffff);
        rig.store(0x080a_0000 + n * 0x2_0000 + 0x1_0100, 2, 1 << 5);
    }
    assert_eq!(rig.vm.take_pokes(), nobody());
    let to_all = |intid: u64| sysreg(SGI1R, false, (intid << 24) | 0b1111);
    // The last one is off: nobody need be told.
    rig.turn(to_all(5));
    assert_eq!(rig.vm.take_pokes(), VcpuSet::from_bits(0b110));
    // It is pending there already: nothing is gained.
    rig.turn(to_all(5));
    assert_eq!(rig.vm.take_pokes(), nobody());
    // Not enabled: nothing is gained before it is.
    rig.turn(to_all(6));
    assert_eq!(rig.vm.take_pokes(), nobody());
    rig.store(0x080a_0000 + 0x2_0000 + 0x1_0100, 2, 1 << 6);
    assert_eq!(rig.vm.take_pokes(), VcpuSet::only(1));
    rig.end();
}

#[test]
fn a_vcpu_inside_the_guest_is_poked_for_what_its_list_registers_lack() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let mut rig = Rig::new(&el2, &bytes);
    start(&mut rig, 1);
    rig.store(0x0800_0000, 2, 3);
    rig.store(0x080c_0000 + 0x1_0080, 2, 0xffff_ffff);
    rig.store(0x080c_0000 + 0x1_0100, 2, 0xffff);
    rig.turn(sysreg(SGI1R, false, (1 << 24) | 2));
    assert_eq!(rig.vm.take_pokes(), VcpuSet::only(1));
    rig.enter(1);
    assert_eq!(rig.word(1, run::VGIC_USED_LRS), 1);
    rig.turn(sysreg(SGI1R, false, (2 << 24) | 2));
    assert_eq!(rig.vm.take_pokes(), VcpuSet::only(1));
    rig.leave(1, exit(Exit::Irq));
    rig.enter(1);
    assert_eq!((rig.word(1, run::VGIC_USED_LRS), rig.vm.take_pokes()), (2, nobody()));
    rig.end();
}

#[test]
fn serial_input_pokes_the_vcpu_that_its_interrupt_goes_to() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let mut rig = Rig::new(&el2, &bytes);
    start(&mut rig, 1);
    rig.store(0x0800_0000, 2, 3);
    rig.store(0x0800_0104, 2, 2);
    rig.store(0x0800_6000 + 33 * 8, 3, 1);
    rig.store(0x0900_0030, 2, 0x301);
    rig.store(0x0900_0038, 2, 1 << 4);
    assert!(rig.vm.can_receive());
    rig.vm.receive(b'x');
    assert_eq!(rig.vm.take_pokes(), VcpuSet::only(1));
    assert!(rig.vm.can_wake(&rig.host, 1) && !rig.vm.can_wake(&rig.host, 0));
    rig.end();
}

#[test]
fn a_vcpu_that_went_off_and_was_switched_on_at_once_is_poked_and_on() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let mut rig = Rig::new(&el2, &bytes);
    start(&mut rig, 1);
    rig.enter(1);
    rig.set_word(1, run::EXIT_GPR, CPU_OFF);
    assert_eq!(rig.leave(1, exit(Exit::Hvc)), Action::CpuOff);
    assert!(!rig.vm.is_on(1));
    // Its own CPU has not yet put it.
    start(&mut rig, 1);
    assert!(rig.vm.is_on(1));
    rig.enter(1);
    assert_ne!(rig.word(1, run::ENTRY_FLAGS) & entry::LOAD_CONTEXT, 0);
    rig.end();
}

#[test]
fn the_next_timer_of_a_sleeper_is_known() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let rig = Rig::new(&el2, &bytes);
    assert_eq!(rig.vm.deadline(&rig.host, 0), None);
    rig.enter_and_leave_with_timer(5000);
    assert_eq!(rig.vm.deadline(&rig.host, 0), Some(5000));
    rig.host.now.set(5000);
    assert_eq!((rig.vm.deadline(&rig.host, 0), rig.vm.deadline(&rig.host, 2)), (None, None));
    rig.end();
}
