//! Each kind of exit, and what the next entry answers.

use super::*;
use crate::dirty::function;

const UART: u64 = 0x0900_0000;
const GICD: u64 = 0x0800_0000;
const GICR: u64 = 0x080a_0000;
const COMPLETE: u64 = entry::COMPLETE;
const ABORT: u64 = entry::INJECT_ABORT;
const UNDEF: u64 = entry::INJECT_UNDEF;

#[test]
fn an_interrupt_or_a_wait_for_events_changes_nothing() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    rig.enter(0);
    assert_eq!(rig.leave(0, exit(Exit::Irq)), Action::Resume);
    for kind in 1..4 {
        let wait = RunExit { esr: kind, ..exit(Exit::Wfx) };
        assert_eq!(rig.turn(wait), (Action::Resume, 0));
    }
    assert_eq!((rig.vm.exits().of(Exit::Irq), rig.vm.exits().of(Exit::Wfx)), (1, 3));
}

#[test]
fn wfi_sleeps_until_the_first_timer() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    let wfi = exit(Exit::Wfx);
    assert_eq!(rig.turn(wfi).0, Action::Sleep { until: None });
    rig.set_word(0, run::TIMER_CTL, 1);
    rig.set_word(0, run::TIMER_CVAL, 5000);
    assert_eq!(rig.leave(0, wfi), Action::Sleep { until: Some(5000) });
    rig.turn(sysreg((3, 3, 14, 2, 2), false, 3000));
    rig.turn(sysreg((3, 3, 14, 2, 1), false, 1));
    assert_eq!(rig.enter(0).deadline, Some(3000));
    assert_eq!(rig.leave(0, wfi), Action::Sleep { until: Some(3000) });
    // Masked timers wake nobody.
    rig.set_word(0, run::TIMER_CTL, 3);
    assert_eq!(rig.leave(0, wfi), Action::Sleep { until: Some(3000) });
    assert!(!rig.vm.can_wake(&rig.host, 0));
}

/// Enables these interrupts as a GICv3 guest does.
fn enable(rig: &mut Rig<'_>, private: u64, shared: u64) {
    rig.store(GICD, 2, 3);
    rig.store(GICR + 0x1_0100, 2, private);
    rig.store(GICD + 0x104, 2, shared);
}

#[test]
fn a_due_timer_wakes_the_vcpu_and_is_listed_with_its_link() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    enable(&mut rig, (1 << 27) | (1 << 30), 0);
    rig.set_word(0, run::TIMER_CTL, 1);
    rig.set_word(0, run::TIMER_CVAL, 5000);
    assert!(!rig.enter(0).vtimer_active);
    assert_eq!(rig.leave(0, exit(Exit::Wfx)), Action::Sleep { until: Some(5000) });
    rig.host.now.set(4999);
    assert!(!rig.vm.can_wake(&rig.host, 0));
    rig.host.now.set(5000);
    assert!(rig.vm.can_wake(&rig.host, 0));
    assert_eq!(rig.leave(0, exit(Exit::Wfx)), Action::Resume);
    assert!(rig.enter(0).vtimer_active);
    let word = lr::STATE_PENDING | lr::HW | (27 << lr::PINTID_SHIFT) | 27;
    assert_eq!((rig.word(0, run::VGIC_USED_LRS), rig.word(0, run::LR)), (1, word));
    // The guest took it, moved the timer on and deactivated it.
    rig.set_word(0, run::LR, 0);
    rig.set_word(0, run::TIMER_CVAL, 9000);
    rig.leave(0, exit(Exit::Irq));
    let entry = rig.enter(0);
    assert_eq!((entry.vtimer_active, rig.word(0, run::VGIC_USED_LRS)), (false, 0));
}

#[test]
fn the_physical_timer_is_emulated() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    enable(&mut rig, 1 << 30, 0);
    let (tval, ctl, cval) = ((3, 3, 14, 2, 0), (3, 3, 14, 2, 1), (3, 3, 14, 2, 2));
    assert_eq!(rig.turn(sysreg(tval, false, 500)), (Action::Resume, COMPLETE));
    rig.turn(sysreg(ctl, false, 1));
    let mut read = |register| {
        assert_eq!(rig.turn(sysreg(register, true, HIGH)).1, COMPLETE);
        rig.word(0, run::ENTRY_VALUE)
    };
    assert_eq!((read(cval), read(ctl), read(tval)), (1500, 1, 500));
    assert_eq!(read((3, 3, 14, 0, 1)), 1000); // CNTPCT_EL0
    rig.host.now.set(1500);
    let entry = rig.enter(0);
    assert_eq!(entry, Entry { vtimer_active: false, deadline: None });
    assert_eq!(lr::vintid(rig.word(0, run::LR)), 30);
    rig.turn(sysreg(ctl, true, 0));
    assert_eq!(rig.word(0, run::ENTRY_VALUE), 5);
    rig.turn(sysreg(ctl, false, 0));
    assert_eq!(rig.word(0, run::VGIC_USED_LRS), 0);
}

#[test]
fn other_system_registers_are_undefined() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    for register in [(3, 0, 12, 12, 0), (3, 3, 14, 0, 2), (2, 0, 0, 0, 4), (3, 3, 14, 2, 3)] {
        for read in [false, true] {
            assert_eq!(rig.turn(sysreg(register, read, HIGH)), (Action::Resume, UNDEF));
        }
    }
    // Write-only ones cannot be read, read-only ones not written.
    assert_eq!(rig.turn(sysreg((3, 0, 12, 11, 5), true, 0)).1, UNDEF);
    assert_eq!(rig.turn(sysreg((3, 3, 14, 0, 1), false, 0)).1, UNDEF);
}

#[test]
fn sgis_and_deactivation_go_by_system_register_on_a_gicv3() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let mut rig = Rig::new(&el2, &bytes);
    enable(&mut rig, 0xffff, 0);
    rig.store(GICR + 0x1_0080, 2, 0b10);
    for (crm_op2, sgi) in [((11, 5), 1), ((11, 7), 2), ((11, 6), 3)] {
        let register = (3, 0, 12, crm_op2.0, crm_op2.1);
        assert_eq!(rig.turn(sysreg(register, false, (sgi << 24) | 1)).1, COMPLETE);
    }
    assert_eq!(rig.load(GICR + 0x1_0200, 2).1, 0b1110);
    assert_eq!(rig.word(0, run::VGIC_USED_LRS), 3);
    rig.store(GICD + 0x304, 2, 1 << 8);
    rig.turn(sysreg((3, 0, 12, 11, 1), false, 40 | (1 << 24)));
    assert_eq!(rig.load(GICD + 0x304, 2).1, 0);
}

#[test]
fn on_a_gicv2_there_are_no_such_registers_but_dir_is_trapped() {
    let mut el2 = FakeEl2::new();
    el2.gicv2 = true;
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    for (crm, op2) in [(11, 5), (11, 6), (11, 7), (11, 1)] {
        assert_eq!(rig.turn(sysreg((3, 0, 12, crm, op2), false, 1)).1, UNDEF);
    }
    rig.store(GICD + 0x304, 2, 1 << 8);
    assert_eq!(rig.store(0x0801_1000, 1, 40), COMPLETE);
    assert_eq!(rig.store(0x0801_1004, 2, 40), COMPLETE);
    assert_eq!(rig.load(GICD + 0x304, 2).1, 1 << 8);
    assert_eq!(rig.load(0x0801_1000, 2), (COMPLETE, 0));
    assert_eq!(rig.store(0x0801_1000, 2, 40 | (3 << 10)), COMPLETE);
    assert_eq!(rig.load(GICD + 0x304, 2).1, 0);
    assert_eq!(rig.load(GICR, 2).0, ABORT, "no redistributor");
}

#[test]
fn the_guest_prints() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    for byte in *b"hi\n" {
        assert_eq!(rig.store(UART, 0, u64::from(byte) | 0xff00), COMPLETE);
    }
    assert_eq!(rig.host.out(), b"hi\n");
    assert_eq!(rig.vm.exits().mmio, 3);
    assert_eq!(rig.load(UART + 0xfe0, 2), (COMPLETE, 0x11));
}

#[test]
fn input_raises_the_uarts_interrupt_until_it_is_read() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    enable(&mut rig, 0, 2);
    assert!(!rig.vm.can_receive());
    rig.store(UART + 0x30, 2, 0x301);
    rig.store(UART + 0x38, 2, 0x10);
    assert!(rig.vm.can_receive());
    rig.vm.receive(b'x');
    assert!(!rig.vm.can_receive());
    assert!(rig.vm.can_wake(&rig.host, 0));
    rig.enter(0);
    let word = rig.word(0, run::LR);
    assert_eq!((lr::vintid(word), word & lr::STATE_MASK), (33, lr::STATE_PENDING));
    // Acknowledged; then the data is read, which lowers the line.
    rig.set_word(0, run::LR, (word & !lr::STATE_MASK) | lr::STATE_ACTIVE);
    let flags = exit_flags::DECODED | (2 << exit_flags::SIZE_SHIFT);
    rig.leave(0, RunExit { ipa: UART, flags, ..exit(Exit::Abort) });
    rig.enter(0);
    assert_eq!(rig.word(0, run::ENTRY_VALUE), u64::from(b'x'));
    rig.set_word(0, run::LR, 0);
    rig.leave(0, exit(Exit::Irq));
    rig.enter(0);
    assert_eq!(rig.word(0, run::VGIC_USED_LRS), 0);
}

#[test]
fn values_are_cut_to_the_size_of_the_access() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    let route = GICD + 0x6000 + 8 * 40;
    rig.store(route, 3, HIGH);
    assert_eq!(rig.load(route, 3).1, 0xff_00ff_ffff);
    assert_eq!(rig.load(route, 2).1, 0x00ff_ffff);
    rig.store(route, 2, 0xf_0000_0002);
    assert_eq!(rig.load(route, 3).1, 0xff_0000_0002);
    rig.store(UART + 0x30, 1, 0xff_8301);
    assert_eq!(rig.load(UART + 0x30, 0).1, 0x01);
    assert_eq!(rig.load(UART + 0x30, 1).1, 0x8301);
}

#[test]
fn where_nothing_is_the_bus_answers_with_an_abort() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let mut rig = Rig::new(&el2, &bytes);
    for ipa in [
        0,
        0x07ff_fffc,
        0x0801_0000,
        0x0809_fffc,
        GICR + 0x4_0000,
        UART + 0x1000,
        0x3fff_fffc,
        0x4400_0000,
        (1 << 48) - 8,
        1 << 48,
        HIGH,
    ] {
        assert_eq!(rig.store(ipa, 2, 1), ABORT, "{ipa:#x}");
        assert_eq!(rig.load(ipa, 2).0, ABORT, "{ipa:#x}");
    }
    // Across the end of a window.
    assert_eq!(rig.load(UART + 0xffe, 2).0, ABORT);
    assert_eq!(rig.load(UART + 0xffc, 2).0, COMPLETE);
    assert_eq!(rig.load(GICR + 0x3_fffc, 2).0, COMPLETE);
    assert_eq!(rig.vm.accounts().guest, 0);
}

#[test]
fn the_clock_wakes_a_guest_that_waits_for_it() {
    const RTC: u64 = 0x0901_0000;
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    enable(&mut rig, 0, 1 << 2);
    rig.host.now.set(2500); // a thousand a second
    assert_eq!(rig.load(RTC, 2), (COMPLETE, 2));
    rig.store(RTC + 0x04, 2, 4); // MR
    rig.store(RTC + 0x10, 2, 1); // IMSC
    assert_eq!(rig.enter(0).deadline, Some(4000));
    assert_eq!(rig.leave(0, exit(Exit::Wfx)), Action::Sleep { until: Some(4000) });
    assert_eq!(rig.vm.deadline(&rig.host, 0), Some(4000));
    rig.host.now.set(3999);
    assert!(!rig.vm.can_wake(&rig.host, 0));
    rig.host.now.set(4000);
    assert!(rig.vm.can_wake(&rig.host, 0));
    assert_eq!(rig.enter(0).deadline, None);
    assert_eq!(lr::vintid(rig.word(0, run::LR)), 34);
    rig.leave(0, exit(Exit::Irq));
    assert_eq!(rig.load(RTC + 0x18, 2), (COMPLETE, 1)); // MIS
    rig.store(RTC + 0x1c, 2, 1); // ICR
    assert_eq!(rig.load(GICD + 0x204, 2), (COMPLETE, 0));
}

#[test]
fn the_virtio_slots_are_there_and_empty() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    for slot in [0x0a00_0000, 0x0a00_0200, 0x0a00_3e00] {
        assert_eq!(rig.load(slot, 2), (COMPLETE, 0x7472_6976), "MagicValue");
        assert_eq!(rig.load(slot + 4, 2), (COMPLETE, 2), "Version");
        for register in [0x8, 0x10, 0x34, 0x70, 0x100] {
            assert_eq!(rig.store(slot + register, 2, HIGH), COMPLETE);
            assert_eq!(rig.load(slot + register, 2), (COMPLETE, 0), "{register:#x}");
        }
    }
    assert_eq!(rig.load(0x0a00_4000, 2).0, ABORT);
}

#[test]
fn an_access_that_the_syndrome_does_not_describe_is_an_abort() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    // Not in the vectors, where a second fetch would be the last.
    rig.set_word(0, run::EXIT_PC, UART);
    let at = |flags| RunExit { ipa: UART, flags, ..exit(Exit::Abort) };
    assert_eq!(rig.turn(at(exit_flags::WRITE)), (Action::Resume, ABORT));
    assert_eq!(rig.turn(at(exit_flags::S1PTW)), (Action::Resume, ABORT));
    assert_eq!(rig.turn(at(exit_flags::FETCH)), (Action::Resume, ABORT));
    assert_eq!(rig.turn(at(exit_flags::FETCH | exit_flags::DECODED)), (Action::Resume, ABORT));
    assert_eq!(rig.turn(at(exit_flags::CACHE_OP | exit_flags::WRITE)), (Action::Resume, COMPLETE));
    assert!(rig.host.out().is_empty());
}

#[test]
fn a_guest_without_a_vector_to_take_an_abort_is_lost_and_one_with_is_not() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    let sysreg = |name| run::CTX_SYSREGS + run::SYSREGS.iter().position(|n| *n == name).unwrap();
    let fetch = |rig: &mut Rig<'_>, pc, elr, vbar| {
        rig.set_word(0, run::EXIT_PC, pc);
        rig.set_word(0, sysreg("ELR_EL1"), elr);
        rig.set_word(0, sysreg("VBAR_EL1"), vbar);
        let ipa = pc & 0xffff_ffff;
        rig.turn(RunExit { ipa, flags: exit_flags::FETCH, ..exit(Exit::Abort) })
    };
    let goes_on = (Action::Resume, ABORT);
    // The same jump again and again, into a handler that exists.
    for _ in 0..3 {
        assert_eq!(fetch(&mut rig, 0xdead_0000, 0xdead_0000, 0x4008_0000), goes_on);
    }
    // An absent vector is fetched once with another return address before all repeats itself.
    assert_eq!(fetch(&mut rig, 0x200, 0xdead_0000, 0), goes_on);
    assert_eq!(fetch(&mut rig, 0x200, 0xdead_0000, 0), goes_on);
    let lost = Action::Fatal(Fatal::Lost(0xdead_0000, 0x200));
    assert_eq!(fetch(&mut rig, 0x200, 0x200, 0).0, lost);
    // Just outside the vectors it may be a handler's business.
    assert_eq!(fetch(&mut rig, 0x800, 0x800, 0), goes_on);
    assert_eq!(fetch(&mut rig, 0x800, 0x800, 0), goes_on);
}

#[test]
fn read_only_memory_aborts_writes_and_skips_cache_maintenance() {
    let el2 = FakeEl2::new();
    let bytes = bundle("[[region]]\nbase = 0\nmib = 1\nreadonly = true\n");
    let mut rig = Rig::new(&el2, &bytes);
    let at = |flags| RunExit { ipa: 0x2000, flags, ..exit(Exit::Abort) };
    assert_eq!(rig.turn(at(0)), (Action::Resume, 0));
    assert_eq!(rig.turn(at(exit_flags::WRITE | exit_flags::PERMISSION)), (Action::Resume, ABORT));
    let maintain = exit_flags::WRITE | exit_flags::PERMISSION | exit_flags::CACHE_OP;
    assert_eq!(rig.turn(at(maintain)), (Action::Resume, COMPLETE));
}

#[test]
fn what_the_host_cannot_do_ends_the_vm() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let rig = Rig::new(&el2, &bytes);
    let touch = RunExit { ipa: 0x4000_0000, ..exit(Exit::Abort) };
    let fatal = |action| match action {
        Action::Fatal(why) => why,
        other => panic!("{other:?}"),
    };
    el2.refuse(Hypercall::ShareGuest, 0, Refusal::NotPermitted);
    let ipa = Ipa::new(0x4000_0000).unwrap();
    assert_eq!(fatal(rig.leave(0, touch)), Fatal::Map(ipa, Refusal::NotPermitted));
    rig.host.limit.set(0);
    assert_eq!(fatal(rig.leave(0, touch)), Fatal::OutOfFrames);
    let se = RunExit { esr: 0xbe, ..exit(Exit::SError) };
    assert_eq!(fatal(rig.leave(0, se)), Fatal::SError(0xbe));
    let illegal = RunExit { esr: 0x3a, ..exit(Exit::Illegal) };
    assert_eq!(fatal(rig.leave(0, illegal)), Fatal::Illegal(0x3a));
    let refused = rig.vm.after_run(&rig.host, 0, Err(Refusal::Invalid));
    assert_eq!(fatal(refused), Fatal::Run(Refusal::Invalid));
    assert_eq!(fatal(rig.leave(1, touch)), Fatal::NoSuchVcpu);
    assert_eq!(rig.vm.before_run(&rig.host, 1, false), None);
}

#[test]
fn calls_are_answered_by_either_conduit_and_keep_the_other_registers() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    for kind in [Exit::Hvc, Exit::Smc] {
        let (action, x) = rig.call(kind, [0x8400_0000, 1, 2, 3]);
        assert_eq!((action, x), (Action::Resume, Some([0x1_0001, 1, 2, 3])));
        let (_, x) = rig.call(kind, [0xc600_0009, 1, 2, 3]);
        assert_eq!(x, Some([HIGH, 1, 2, 3]));
        // The service is not this guest's.
        assert_eq!(rig.call(kind, [function::START, 0, 0, 0]).1, Some([HIGH, 0, 0, 0]));
    }
    assert_eq!((rig.vm.exits().of(Exit::Hvc), rig.vm.exits().of(Exit::Smc)), (3, 3));
    assert_eq!(rig.call(Exit::Hvc, [0x8400_0008, 0, 0, 0]).0, Action::PowerOff);
    assert_eq!(rig.call(Exit::Hvc, [0x8400_0009, 0, 0, 0]).0, Action::Reset);
}

#[test]
fn vcpus_are_started_and_stopped() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 2\n");
    let mut rig = Rig::new(&el2, &bytes);
    assert_eq!(rig.vm.before_run(&rig.host, 1, false), None);
    let on = [0xc400_0003, 1, 0x4008_0000, 0x77];
    assert_eq!(
        rig.call(Exit::Hvc, [0xc400_0003, 1, 0x0900_0000, 0]).1,
        Some([u64::MAX - 8, 1, 0x0900_0000, 0])
    );
    assert_eq!(rig.call(Exit::Hvc, on).1, Some([0, 1, 0x4008_0000, 0x77]));
    assert_eq!(rig.call(Exit::Hvc, on).1.unwrap()[0], u64::MAX - 3);
    assert!(rig.vm.is_on(1));
    rig.enter(1);
    assert_eq!(rig.word(1, run::ENTRY_FLAGS), entry::LOAD_CONTEXT);
    assert_eq!((rig.word(1, run::CTX_PC), rig.word(1, run::CTX)), (0x4008_0000, 0x77));
    rig.leave(1, exit(Exit::Irq));
    assert_eq!(rig.call(Exit::Hvc, [0x8400_0002, 0, 0, 0]), (Action::CpuOff, None));
    assert!(!rig.vm.is_on(0) && rig.vm.is_on(1));
    assert_eq!(rig.vm.before_run(&rig.host, 0, false), None);
}

#[test]
fn a_suspended_vcpu_waits_and_returns() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    let (action, x) = rig.call(Exit::Hvc, [0xc400_0001, 0, 5, 6]);
    assert_eq!((action, x), (Action::Sleep { until: None }, Some([0, 0, 5, 6])));
    let (action, x) = rig.call(Exit::Hvc, [0xc400_0001, 0x1_0000, 0x4000_1000, 9]);
    let returned = Some([0, 0x1_0000, 0x4000_1000, 9]);
    assert_eq!((action, x), (Action::Sleep { until: None }, returned));
}

#[test]
fn a_guest_with_the_service_logs_and_ages_its_own_memory() {
    let el2 = FakeEl2::new();
    let bytes = bundle("services = ['dirty-log']\n");
    let mut rig = Rig::new(&el2, &bytes);
    let vm = rig.vm.handle();
    let write = |rig: &mut Rig<'_>, page: u64| {
        for _ in 0..3 {
            let flags = match el2.touch(vm, page, Prot::W) {
                Ok(()) => return,
                Err(GuestFault::Translation) => exit_flags::WRITE,
                Err(GuestFault::Permission) => exit_flags::WRITE | exit_flags::PERMISSION,
            };
            rig.turn(RunExit { ipa: page << 12, flags, ..exit(Exit::Abort) });
        }
        panic!("still faults");
    };
    for page in 0x4_0000..0x4_0010 {
        write(&mut rig, page);
    }
    assert_eq!(rig.call(Exit::Hvc, [function::START, 0, 0, 0]).1, Some([0; 4]));
    write(&mut rig, 0x4_0003);
    write(&mut rig, 0x4_0100);
    let mut next = |id, at| rig.call(Exit::Hvc, [id, at, 0, 0]).1.unwrap()[0];
    assert_eq!(next(function::COLLECT, 0), 0x4_0003);
    assert_eq!(next(function::COLLECT, 0x4_0004), 0x4_0100);
    assert_eq!(next(function::COLLECT, 0x4_0101), HIGH);
    assert_eq!(next(function::AGE_START, 0), 0);
    el2.touch(vm, 0x4_000f, Prot::R).unwrap();
    assert_eq!(next(function::AGE_NEXT, 0), 0x4_000f);
    assert_eq!(next(function::AGE_NEXT, 0x4_0010), HIGH);
}

#[test]
fn random_exits_never_panic_and_leave_a_vm_that_can_be_destroyed() {
    let mut state = 0x0dd_ba11_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for gicv2 in [false, true] {
        let mut el2 = FakeEl2::new();
        el2.gicv2 = gicv2;
        let bytes = bundle("vcpus = 2\nservices = ['dirty-log']\n");
        let rig = Rig::new(&el2, &bytes);
        let rounds = if cfg!(miri) { 40 } else { 20_000 };
        for _ in 0..rounds {
            if rig.vm.before_run(&rig.host, 0, next() & 1 != 0).is_none() {
                rig.vm.state.lock().vcpus[0].on = true;
                continue;
            }
            let base = [0, GICD, GICR, UART, 0x4000_0000, 0x0801_0000][next() as usize % 6];
            let ids = [0x8400_0000, 0xc400_0000, 0x8000_0000, 0xc600_00f0];
            rig.set_word(0, run::EXIT_GPR, ids[next() as usize % 4] + (next() & 15));
            for at in (run::EXIT_GPR + 1..run::EXIT_GPR + 4).chain(run::LR..run::LR + 4) {
                rig.set_word(0, at, if next() & 1 == 0 { next() } else { next() & 0x1f });
            }
            rig.set_word(0, run::TIMER_CTL, next() & 7);
            rig.set_word(0, run::TIMER_CVAL, next());
            rig.host.now.set(next() & 0xffff_ffff);
            let mask = if next() & 7 == 0 { HIGH } else { 0xf_ffff };
            let exit = RunExit {
                exit: Exit::ALL[next() as usize % Exit::ALL.len()],
                esr: next(),
                ipa: (base + (next() & mask)) & if mask == HIGH { HIGH } else { 0x7fff_ffff },
                value: next(),
                flags: next() & 0x3ff,
            };
            rig.vm.after_run(&rig.host, 0, Ok(exit));
            el2.take_calls();
        }
        rig.end();
    }
}
