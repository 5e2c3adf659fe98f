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

const GICD: u64 = 0x0800_0000;
/// The SGI frame of vCPU 1's redistributor.
const SGI_FRAME_1: u64 = 0x080d_0000;

/// vCPU 1 is on and inside the guest, with SGI 3 in its list register.
fn with_sgi_inside<'a>(el2: &'a FakeEl2, bytes: &'a [u8]) -> Rig<'a> {
    let mut rig = Rig::new(el2, bytes);
    start(&mut rig, 1);
    rig.store(GICD, 2, 3);
    rig.store(SGI_FRAME_1 + 0x80, 2, 8);
    rig.store(SGI_FRAME_1 + 0x100, 2, 8);
    rig.turn(sysreg(SGI1R, false, (3 << 24) | 2));
    rig.enter(1);
    assert_eq!(rig.vm.take_pokes(), VcpuSet::only(1));
    rig
}

fn read_exit(ipa: u64) -> RunExit {
    let flags = exit_flags::DECODED | (2 << exit_flags::SIZE_SHIFT);
    RunExit { ipa, flags, ..exit(Exit::Abort) }
}

#[test]
fn a_load_of_what_another_vcpu_holds_waits_until_that_one_has_left() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let rig = with_sgi_inside(&el2, &bytes);
    let action = rig.leave(0, read_exit(SGI_FRAME_1 + 0x300));
    assert_eq!(action, Action::Sleep { until: None });
    assert_eq!(rig.vm.take_pokes(), VcpuSet::only(1));
    assert!(!rig.vm.can_wake(&rig.host, 0));
    // vCPU 1 had taken it when it left.
    let word = rig.word(1, run::LR);
    rig.set_word(1, run::LR, (word & !lr::STATE_MASK) | lr::STATE_ACTIVE);
    assert_eq!(rig.leave(1, exit(Exit::Irq)), Action::Resume);
    assert_eq!(rig.vm.take_pokes(), VcpuSet::only(0));
    assert!(rig.vm.can_wake(&rig.host, 0));
    // That it is inside again does not matter.
    rig.enter(1);
    rig.enter(0);
    assert_eq!(
        (rig.word(0, run::ENTRY_FLAGS), rig.word(0, run::ENTRY_VALUE)),
        (entry::COMPLETE, 8)
    );
    rig.end();
}

#[test]
fn a_vcpu_that_is_run_before_its_load_is_done_makes_it_again() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let rig = with_sgi_inside(&el2, &bytes);
    rig.leave(0, read_exit(SGI_FRAME_1 + 0x200));
    rig.enter(0);
    assert_eq!(rig.word(0, run::ENTRY_FLAGS), 0);
    rig.leave(1, exit(Exit::Irq));
    assert_eq!(rig.vm.take_pokes(), VcpuSet::only(1), "nobody waits for it any more");
    assert_eq!(rig.leave(0, read_exit(SGI_FRAME_1 + 0x200)), Action::Resume);
    rig.enter(0);
    assert_eq!(rig.word(0, run::ENTRY_VALUE), 8);
    rig.end();
}

#[test]
fn a_load_waits_for_all_who_hold_something_of_it() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 3\n");
    let mut rig = Rig::new(&el2, &bytes);
    start(&mut rig, 1);
    start(&mut rig, 2);
    rig.store(GICD, 2, 3);
    for (spi, to) in [(40, 1), (41, 2)] {
        rig.store(GICD + 0x6000 + spi * 8, 3, to);
    }
    rig.store(GICD + 0x104, 2, 3 << 8);
    rig.store(GICD + 0x204, 2, 3 << 8);
    rig.enter(1);
    rig.enter(2);
    let _ = rig.vm.take_pokes();
    assert_eq!(rig.leave(0, read_exit(GICD + 0x204)), Action::Sleep { until: None });
    assert_eq!(rig.vm.take_pokes(), VcpuSet::from_bits(0b110));
    rig.leave(1, exit(Exit::Irq));
    assert!(!rig.vm.can_wake(&rig.host, 0) && !rig.vm.take_pokes().contains(0));
    rig.enter(1);
    rig.leave(2, exit(Exit::Irq));
    assert!(rig.vm.can_wake(&rig.host, 0) && rig.vm.take_pokes().contains(0));
    rig.enter(0);
    assert_eq!(rig.word(0, run::ENTRY_VALUE), 3 << 8);
    rig.end();
}

#[test]
fn a_vcpu_that_is_off_neither_runs_nor_wakes() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let mut rig = Rig::new(&el2, &bytes);
    rig.store(GICD, 2, 3);
    rig.store(SGI_FRAME_1 + 0x80, 2, 8);
    rig.store(SGI_FRAME_1 + 0x100, 2, 8);
    rig.turn(sysreg(SGI1R, false, (3 << 24) | 2));
    assert_eq!((rig.vm.take_pokes(), rig.vm.can_wake(&rig.host, 1)), (nobody(), false));
    assert_eq!(rig.vm.before_run(&rig.host, 1, true), None);
    // What came meanwhile is there when it is on.
    start(&mut rig, 1);
    rig.enter(1);
    assert_eq!(rig.word(1, run::VGIC_USED_LRS), 1);
    rig.end();
}

#[test]
fn the_last_vcpu_may_go_off_and_then_none_is_on() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let mut rig = Rig::new(&el2, &bytes);
    start(&mut rig, 1);
    for idx in [0, 1] {
        assert!(!rig.vm.on().is_empty());
        rig.enter(idx);
        rig.set_word(idx, run::EXIT_GPR, CPU_OFF);
        assert_eq!(rig.leave(idx, exit(Exit::Hvc)), Action::CpuOff);
    }
    assert!(rig.vm.on().is_empty());
    rig.end();
}

#[test]
fn a_vcpu_that_is_switched_on_again_starts_as_after_a_reset() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let mut rig = Rig::new(&el2, &bytes);
    start(&mut rig, 1);
    rig.enter(1);
    rig.leave(1, sysreg((3, 3, 14, 2, 2), false, 9000));
    rig.enter(1);
    rig.leave(1, sysreg((3, 3, 14, 2, 1), false, 1));
    assert_eq!(rig.vm.deadline(&rig.host, 1), Some(9000));
    rig.enter(1);
    rig.set_word(1, run::TIMER_CTL, 1);
    rig.set_word(1, run::TIMER_CVAL, 8000);
    rig.set_word(1, run::EXIT_GPR, CPU_OFF);
    rig.leave(1, exit(Exit::Hvc));
    assert_eq!(rig.vm.deadline(&rig.host, 1), None);
    start(&mut rig, 1);
    let entry = rig.enter(1);
    assert_eq!((entry.deadline, rig.word(1, run::ENTRY_FLAGS)), (None, entry::LOAD_CONTEXT));
    assert_eq!(rig.word(1, run::CTX_PC), KERNEL);
    rig.end();
}

#[test]
fn a_suspended_vcpu_is_on_and_goes_on_when_it_wakes() {
    const CPU_SUSPEND: u64 = 0xc400_0001;
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let mut rig = Rig::new(&el2, &bytes);
    start(&mut rig, 1);
    rig.store(GICD, 2, 3);
    rig.store(SGI_FRAME_1 + 0x80, 2, 8);
    rig.store(SGI_FRAME_1 + 0x100, 2, 8);
    rig.enter(1);
    for (n, x) in [CPU_SUSPEND, 1 << 16, KERNEL + 0x1000, 77].into_iter().enumerate() {
        rig.set_word(1, run::EXIT_GPR + n, x);
    }
    assert_eq!(rig.leave(1, exit(Exit::Hvc)), Action::Sleep { until: None });
    assert!(rig.vm.is_on(1) && !rig.vm.can_wake(&rig.host, 1));
    let already_on = -4_i64 as u64;
    let answer = rig.call(Exit::Hvc, [CPU_ON, 1, KERNEL, 0]).1.unwrap();
    assert_eq!(answer[0], already_on);
    rig.turn(sysreg(SGI1R, false, (3 << 24) | 2));
    assert_eq!(rig.vm.take_pokes(), VcpuSet::only(1));
    assert!(rig.vm.can_wake(&rig.host, 1));
    rig.enter(1);
    assert_eq!(rig.word(1, run::ENTRY_FLAGS), entry::SET_RESULT);
    assert_eq!(rig.word(1, run::ENTRY_RESULT), 0);
    rig.end();
}

#[test]
fn a_redistributor_tells_of_the_timer_of_a_vcpu_that_sleeps() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let mut rig = Rig::new(&el2, &bytes);
    start(&mut rig, 1);
    rig.enter(1);
    rig.set_word(1, run::TIMER_CTL, 1);
    rig.set_word(1, run::TIMER_CVAL, 5000);
    assert_eq!(rig.leave(1, exit(Exit::Wfx)), Action::Sleep { until: Some(5000) });
    rig.host.now.set(6000);
    assert_eq!(rig.load(SGI_FRAME_1 + 0x200, 2).1, 1 << 27);
    rig.end();
}

#[test]
fn an_interrupt_controller_of_a_reset_vm_is_as_new() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 8\n");
    let config = Bundle::read(&bytes);
    let config = Config::from_folder(&config.folders[0]).unwrap();
    let host = TestHost::new(&el2);
    for _ in 0..3 {
        let vm = Vm::create(&host, &config, platform(&el2)).unwrap();
        assert_eq!((vm.on(), vm.vcpus()), (VcpuSet::only(0), 8));
        host.vcpu_load(vm.handle(), 0).unwrap();
        let rig = Rig { el2: &el2, host: TestHost::on(&el2, &host.shared), vm };
        rig.enter(0);
        rig.leave(0, RunExit { ipa: 0x4000_0000, ..exit(Exit::Wfx) });
        host.vcpu_put().unwrap();
        assert_eq!(rig.vm.destroy(&host).refused, None);
        assert_eq!(host.in_use(), 0);
    }
    assert!(el2.is_clean());
}
