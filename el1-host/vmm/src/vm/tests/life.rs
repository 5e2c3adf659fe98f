//! From nothing to nothing.

use super::*;
use crate::fdt::BadTree;
use crate::manifest;
use crate::slots::BadSlot;

#[test]
fn a_vm_takes_what_it_needs_and_gives_all_of_it_back() {
    let el2 = FakeEl2::new();
    let bytes = bundle("vcpus = 3\n");
    let rig = Rig::new(&el2, &bytes);
    // Two root tables and three run pages.
    assert_eq!((rig.host.in_use(), rig.vm.vcpus()), (5, 3));
    assert_eq!([0, 1, 2, 3].map(|idx| rig.vm.is_on(idx)), [true, false, false, false]);
    let summary = rig.end();
    let expected = Summary { pages: 0, stuck: 0, tables: 2, run_pages: 3, refused: None };
    assert_eq!(summary, expected);
}

#[test]
fn what_the_guest_touched_comes_back_page_by_page() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let mut rig = Rig::new(&el2, &bytes);
    for n in 0..40 {
        let (action, answer) =
            rig.turn(RunExit { ipa: 0x4000_0000 + n * 0x1_0000, ..exit(Exit::Abort) });
        assert_eq!((action, answer), (Action::Resume, 0));
    }
    let accounts = rig.vm.accounts();
    let audit = rig.vm.audit(&rig.host).unwrap();
    let stats = rig.host.vm_stats(rig.vm.handle()).unwrap();
    assert_eq!((accounts.guest, audit.pages, stats.pages), (40, 40, 40));
    assert_eq!(rig.host.in_use() as u64, 40 + accounts.tables + 3);
    assert_eq!(rig.vm.mirror().counters().mapped, 40);
    assert_eq!(rig.vm.exits().of(Exit::Abort), 40);
    assert_eq!(rig.vm.exits().mmio, 0);
    let summary = rig.end();
    assert_eq!((summary.pages, summary.tables), (40, accounts.tables + 2));
    assert_eq!(summary.refused, None);
}

#[test]
fn on_a_gicv2_the_cpu_interface_is_mapped() {
    let mut el2 = FakeEl2::new();
    el2.gicv2 = true;
    let bytes = bundle("gic = 2\n");
    let rig = Rig::new(&el2, &bytes);
    assert_eq!(rig.vm.audit(&rig.host).unwrap().device_pages, 1);
    assert_eq!(rig.vm.accounts().tables, 1);
    let calls = el2.take_calls();
    assert!(calls.contains(&(Hypercall::MapGicv, [0x8010, 0, 0, 0])));
    assert_eq!(rig.end().tables, 3);
}

#[test]
fn a_gic_that_the_machine_has_not_is_refused() {
    let el2 = FakeEl2::new();
    let bytes = bundle("gic = 2\n");
    let read = Bundle::read(&bytes);
    let config = Config::from_folder(&read.folders[0]).unwrap();
    let host = TestHost::new(&el2);
    let why = Vm::create(&host, &config, platform(&el2)).unwrap_err();
    assert_eq!(why, CreateError::Gic(Version::V2));
    assert!(why.to_string().contains("GICv2"));
    assert!(CreateError::Gic(Version::V3).to_string().contains("GICv3"));
    assert!(el2.is_clean());
}

#[test]
fn a_machine_without_one_gic_has_no_platform() {
    let features = FakeEl2::new().cpu().features().unwrap();
    let with = |gicv2, gicv3| Platform::new(&Features { gicv2, gicv3, ..features });
    assert_eq!((with(false, false), with(true, true)), (None, None));
    assert_eq!(with(false, true), Some(Platform { gic: Version::V3, list_registers: 4 }));
    assert_eq!(with(true, false).unwrap().gic, Version::V2);
}

#[test]
fn whatever_fails_in_between_everything_is_given_back() {
    for gicv2 in [false, true] {
        // Each call that creation makes is refused in its turn.
        for nth in 0.. {
            let mut el2 = FakeEl2::new();
            el2.gicv2 = gicv2;
            let bytes = bundle("vcpus = 8\n");
            let read = Bundle::read(&bytes);
            let config = Config::from_folder(&read.folders[0]).unwrap();
            let host = TestHost::new(&el2);
            let platform = platform(&el2);
            let vm = Vm::create(&host, &config, platform).unwrap();
            vm.destroy(&host);
            let made: Vec<Hypercall> = el2.take_calls().iter().map(|(call, _)| *call).collect();
            let end = made.iter().position(|c| *c == Hypercall::StartTeardownVm).unwrap();
            let start = made.iter().position(|c| *c == Hypercall::ReserveVm).unwrap();
            let Some(call) = made[start..end].get(nth).copied() else { break };
            // A memcache that is short is topped up; putting cannot fail.
            let before = made[start..start + nth].iter().filter(|c| **c == call).count() as u64;
            el2.refuse(call, before, Refusal::Busy);
            if call == Hypercall::VcpuPut {
                continue;
            }
            let answer = Vm::create(&host, &config, platform);
            match answer {
                Err(CreateError::Refused(_, Refusal::Busy)) => {}
                other => panic!("{call:?}: {other:?}"),
            }
            assert_eq!(host.in_use(), 0, "{call:?}");
            assert!(el2.is_clean(), "{call:?}");
        }
    }
}

#[test]
fn a_host_that_runs_out_of_frames_on_the_way_gets_them_all_back() {
    for (gicv2, needed) in [(false, 2 + 8), (true, 2 + 8 + 1)] {
        let bytes = bundle("vcpus = 8\n");
        let read = Bundle::read(&bytes);
        let config = Config::from_folder(&read.folders[0]).unwrap();
        for limit in 0..=needed {
            let mut el2 = FakeEl2::new();
            el2.gicv2 = gicv2;
            let host = TestHost::new(&el2);
            host.limit.set(limit);
            match Vm::create(&host, &config, platform(&el2)) {
                Ok(vm) => {
                    assert_eq!(limit, needed);
                    vm.destroy(&host);
                }
                Err(CreateError::OutOfFrames) => assert!(limit < needed, "{limit}"),
                Err(CreateError::Refused(Hypercall::MapGicv, Refusal::NoMemory)) => {
                    assert_eq!((gicv2, limit), (true, needed - 1));
                }
                Err(other) => panic!("{other:?}"),
            }
            assert_eq!(host.in_use(), 0);
            assert!(el2.is_clean());
        }
    }
}

#[test]
fn what_el2_keeps_is_reported_and_not_handed_out_again() {
    let cases = [
        (Hypercall::UnshareGuest, 1, 3 + 1 + 1),
        (Hypercall::FinalizeTeardownVm, 0, 2 + 1),
        (Hypercall::ReclaimVmPage, 0, 1 + 2 + 1),
        (Hypercall::UnshareHyp, 0, 1),
    ];
    for (call, stuck, in_use) in cases {
        let el2 = FakeEl2::new();
        let bytes = bundle("");
        let mut rig = Rig::new(&el2, &bytes);
        rig.turn(RunExit { ipa: 0x4000_0000, ..exit(Exit::Abort) });
        rig.host.vcpu_put().unwrap();
        el2.refuse(call, 0, Refusal::Busy);
        let summary = rig.vm.destroy(&rig.host);
        assert_eq!(summary.refused.unwrap().0, call);
        assert_eq!(summary.stuck, stuck);
        assert_eq!(rig.host.in_use(), in_use, "{call:?}");
    }
}

#[test]
fn destroying_a_vm_whose_vcpu_is_loaded_says_so() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let rig = Rig::new(&el2, &bytes);
    let summary = rig.vm.destroy(&rig.host);
    assert_eq!(summary.refused, Some((Hypercall::StartTeardownVm, Refusal::Invalid)));
    assert_eq!((summary.tables, summary.run_pages), (0, 0));
}

#[test]
fn the_first_entry_is_that_of_the_boot_protocol() {
    let el2 = FakeEl2::new();
    let bytes = bundle("");
    let rig = Rig::new(&el2, &bytes);
    // What the page held before does not matter.
    for at in 0..512 {
        rig.set_word(0, at, 0xdead_beef);
    }
    assert_eq!(rig.enter(0), Entry { vtimer_active: false, deadline: None });
    assert_eq!(rig.word(0, run::ENTRY_FLAGS), entry::LOAD_CONTEXT);
    let dtb = 0x4000_0000 + (62 << 20);
    assert_eq!(rig.word(0, run::CTX), dtb);
    assert!((1..31).all(|n| rig.word(0, run::CTX + n) == 0));
    assert_eq!((rig.word(0, run::CTX_PC), rig.word(0, run::CTX_PSTATE)), (0x4000_0000, 0x3c5));
    assert_eq!(rig.word(0, run::CTX_SP_EL0), 0);
    assert_eq!(rig.word(0, run::CTX_SYSREGS), 0x30d0_0800);
    assert!((1..run::SYSREGS.len()).all(|n| rig.word(0, run::CTX_SYSREGS + n) == 0));
    assert_eq!((rig.word(0, run::VGIC_USED_LRS), rig.word(0, run::VGIC_HCR)), (0, 0));
    rig.leave(0, exit(Exit::Irq));
    rig.vm.before_run(&rig.host, 0, true).unwrap();
    assert_eq!(rig.word(0, run::ENTRY_FLAGS), entry::TRAP_WFX);
}

#[test]
fn kernel_initrd_and_device_tree_lie_where_the_tree_says() {
    let el2 = FakeEl2::new();
    let bytes = bundle(
        "[[region]]\nbase = 0x8000_0000\nmib = 1\nfile = 'rom'\nreadonly = true\n[[region]]\nbase = 0x9000_0000\nmib = 1\n",
    );
    let mut rig = Rig::new(&el2, &bytes);
    let mut page = |ipa: u64| {
        rig.turn(RunExit { ipa, ..exit(Exit::Abort) });
        let page = rig.vm.mirror().get(gfn(ipa >> 12)).unwrap();
        (rig.host.bytes(page.pfn.raw()), page.prot)
    };
    let kernel = image(3 << 12, 0x10_0000, 0);
    assert_eq!(page(0x4000_0000).0, kernel[..4096]);
    assert_eq!(page(0x4000_2000).0, kernel[8192..]);
    assert_eq!(page(0x4000_3000), (vec![0; 4096], Prot::RWX));
    let (dtb, _) = page(0x43e0_0000);
    let tree = ::fdt::Fdt::new(&dtb).unwrap();
    assert_eq!(tree.chosen().bootargs(), Some("quiet"));
    assert!(page(0x43df_f000).0.starts_with(b"initrd\0"));
    let (rom, prot) = page(0x8000_0000);
    assert!(rom.starts_with(b"rom!\0") && prot == Prot::RX);
    assert_eq!(page(0x9000_0000).1, Prot::RWX);
    assert!(tree.find_node("/memory@90000000").is_some());
    assert!(tree.find_node("/memory@80000000").is_none(), "read-only memory is no RAM");
}

#[test]
fn a_folder_that_is_no_vm_is_refused_with_line_and_reason() {
    let fails = |toml: &[u8], line: usize, reason: &str| {
        let mut writer = Writer::new();
        assert!(writer.file("t/vm.toml", toml));
        let bytes = writer.finish();
        let read = Bundle::read(&bytes);
        let error: manifest::Error = Config::from_folder(&read.folders[0]).unwrap_err();
        assert_eq!(error.line, line);
        assert!(error.reason.contains(reason), "{error}");
    };
    fails(b"\xff", 1, "not UTF-8");
    fails(b"name = 'x'\nkernel = 'k'\nmemory_mib = 64\n", 2, "no file \"k\"");
    fails(b"name = 'x'\nkernle = 'k'\n", 2, "unknown field `kernle`");
}

#[test]
fn every_reason_can_be_said() {
    let reasons = [
        Fatal::OutOfFrames.to_string(),
        Fatal::Map(gfn(1).ipa(), Refusal::NotPermitted).to_string(),
        Fatal::Run(Refusal::Invalid).to_string(),
        Fatal::SError(0xbe00_0000).to_string(),
        Fatal::Illegal(1).to_string(),
        Fatal::NoSuchVcpu.to_string(),
        Fatal::Lost(0xdead_0000, 0x200).to_string(),
        CreateError::OutOfFrames.to_string(),
        CreateError::Slot(BadSlot::Overlap).to_string(),
        CreateError::Tree(BadTree::TooLarge).to_string(),
        CreateError::Refused(Hypercall::InitVm, Refusal::NoMemory).to_string(),
    ];
    assert!(reasons.iter().all(|reason| reason.len() > 10));
    assert!(reasons[1].contains("0x1000") && reasons[10].contains("init_vm"));
}
