//! PSCI 1.1 (DEN0022D) and SMCCC 1.1 (DEN0028): calls, codes, preserved registers.

use crate::psci::{self, INVALID, NOT_SUPPORTED, Regs, status};
use crate::timer::{self, ENABLE, VIRTUAL_PPI};
use crate::{check, check_eq, gic, machine, read, trap, write};

pub fn run() {
    versions();
    features();
    cpus();
    registers();
    unknown();
    suspend();
}

fn versions() {
    check_eq!(status(psci::VERSION, 0, 0, 0), 0x1_0001, "PSCI_VERSION is 1.1");
    check_eq!(status(psci::MIGRATE_INFO_TYPE, 0, 0, 0), 2, "no Trusted OS needs migration");
    check_eq!(status(psci::MIGRATE, 0, 0, 0), NOT_SUPPORTED, "MIGRATE is not supported");
    if !machine::get().reference {
        let smccc = status(psci::SMCCC_VERSION, 0, 0, 0);
        check!(smccc >= 0x1_0001, "SMCCC_VERSION is at least 1.1 (Redan)");
        check_eq!(
            status(psci::FEATURES, psci::SMCCC_VERSION, 0, 0),
            0,
            "PSCI_FEATURES knows SMCCC_VERSION (Redan)"
        );
        // SMCCC_ARCH_FEATURES: mandatory from 1.1 on; answers for itself and refuses nonsense.
        check_eq!(status(0x8000_0001, 0x8000_0001, 0, 0), 0, "SMCCC_ARCH_FEATURES exists (Redan)");
        check_eq!(
            status(0x8000_0001, 0x8000_7abc, 0, 0),
            NOT_SUPPORTED,
            "SMCCC_ARCH_FEATURES of an unknown function is -1 (Redan)"
        );
        workarounds();
    }
}

/// What the ID registers and SMCCC say about speculation must agree (Redan).
fn workarounds() {
    const NEEDED: i32 = 0;
    const UNAFFECTED: i32 = 1;
    const NOT_REQUIRED: i32 = -2;
    let feature = |function: u64| status(0x8000_0001, function, 0, 0);
    let called = |function: u64, state: i32| {
        let mut before: Regs = core::array::from_fn(|i| 0x5eed_0000_0000 + i as u64);
        before[..2].copy_from_slice(&[function, 1]);
        let after = psci::call_regs(before);
        let expected = if state == NOT_SUPPORTED { NOT_SUPPORTED } else { 0 };
        check!(
            after[0] as i32 == expected && after[4..] == before[4..],
            "function {function:#x} answers as its feature says, and preserves x4 to x17 (Redan)"
        );
    };
    let csv2 = read!("id_aa64pfr0_el1") >> 56 & 0xf;
    let ssbs = read!("id_aa64pfr1_el1") >> 4 & 0xf;
    for function in [0x8000_8000, 0x8000_3fff] {
        let state = feature(function);
        let known = [NEEDED, UNAFFECTED, NOT_SUPPORTED].contains(&state);
        check!(known, "ARCH_FEATURES of {function:#x} is one of its answers (Redan)");
        called(function, state);
    }
    if csv2 != 0 {
        check_eq!(
            feature(0x8000_8000),
            UNAFFECTED,
            "with CSV2 nobody needs ARCH_WORKAROUND_1 (Redan)"
        );
    }
    let state = feature(0x8000_7fff);
    if ssbs != 0 {
        check_eq!(state, NOT_SUPPORTED, "with SSBS there is no ARCH_WORKAROUND_2 (Redan)");
    } else {
        check!(
            [NOT_REQUIRED, NOT_SUPPORTED].contains(&state),
            "ARCH_WORKAROUND_2 is always on, or not there (Redan)"
        );
    }
    called(0x8000_7fff, if ssbs != 0 { status(0x8000_7fff, 1, 0, 0) } else { state });
}

fn features() {
    let mandatory = [
        ("PSCI_VERSION", psci::VERSION),
        ("CPU_SUSPEND", psci::CPU_SUSPEND),
        ("CPU_SUSPEND (32-bit)", 0x8400_0001),
        ("CPU_OFF", psci::CPU_OFF),
        ("CPU_ON", psci::CPU_ON),
        ("CPU_ON (32-bit)", 0x8400_0003),
        ("AFFINITY_INFO", psci::AFFINITY_INFO),
        ("AFFINITY_INFO (32-bit)", 0x8400_0004),
        ("SYSTEM_OFF", psci::SYSTEM_OFF),
        ("SYSTEM_RESET", psci::SYSTEM_RESET),
        ("PSCI_FEATURES", psci::FEATURES),
    ];
    for (name, id) in mandatory {
        check!(status(psci::FEATURES, id, 0, 0) >= 0, "PSCI_FEATURES: {name} exists");
    }
    for id in [0x8400_00ff, 0xc400_0000, 0, 0xffff_ffff, 0xc600_0009] {
        check_eq!(
            status(psci::FEATURES, id, 0, 0),
            NOT_SUPPORTED,
            "PSCI_FEATURES of {id:#x} is NOT_SUPPORTED"
        );
    }
}

fn cpus() {
    let me = read!("mpidr_el1") & 0xff_00ff_ffff;
    let nobody = 0x0000_00ff;
    check_eq!(status(psci::AFFINITY_INFO, me, 0, 0), 0, "this CPU is ON");
    check_eq!(status(psci::AFFINITY_INFO, nobody, 0, 0), INVALID, "AFFINITY_INFO of no CPU: -2");
    check_eq!(
        status(psci::CPU_ON, me, 0x4020_0000, 0),
        psci::ALREADY_ON,
        "CPU_ON of this CPU: ALREADY_ON"
    );
    check_eq!(status(psci::CPU_ON, nobody, 0x4020_0000, 0), INVALID, "CPU_ON of no CPU: -2");
    check_eq!(status(psci::CPU_ON, u64::MAX, 0x4020_0000, 0), INVALID, "CPU_ON of MPIDR ~0: -2");
}

fn registers() {
    let mut before: Regs = core::array::from_fn(|i| 0x5eed_0000_0000 + i as u64);
    before[..4].copy_from_slice(&[psci::VERSION, 0, 0, 0]);
    let after = psci::call_regs(before);
    check_eq!(after[4..], before[4..], "a PSCI call preserves x4 to x17");
    let mut dirty = before;
    dirty[0] |= 0xdead_beef << 32;
    if !machine::get().reference {
        check_eq!(
            psci::call_regs(dirty)[0] as i32,
            0x1_0001,
            "bits 63:32 of x0 do not count (Redan)"
        );
    }
}

fn unknown() {
    let ids = [
        0x8400_00ff,
        0xc400_00ff,
        0x8600_ff01,
        0xc600_0009,
        0xc600_0000,
        0x8700_0000,
        0xc500_0000,
        0xffff_ffff,
        0,
        0x7fff_ffff,
    ];
    for id in ids {
        check_eq!(status(id, 1, 2, 3), NOT_SUPPORTED, "unknown function {id:#x} answers -1");
    }
    check_eq!(psci::call(u64::MAX, 0, 0, 0) as i32, NOT_SUPPORTED, "function ~0 answers -1");
    // The other conduit: a hypervisor may offer it or make it undefined, but must answer.
    let mut regs: Regs = [0; 18];
    regs[0] = psci::VERSION;
    trap::arm();
    if machine::get().hvc {
        psci::smc(&mut regs)
    } else {
        psci::hvc(&mut regs)
    }
    let fault = trap::disarm();
    check!(
        fault.is_some_and(|f| f.ec() == trap::ec::UNDEF) || matches!(regs[0] as i32, 0x1_0001 | -1),
        "the other conduit is undefined, refuses or works"
    );
    if !machine::get().reference {
        for (name, other) in [("HVC", psci::hvc_imm as fn(&mut Regs)), ("SMC", psci::smc_imm)] {
            let mut regs: Regs = [0; 18];
            regs[0] = psci::SYSTEM_OFF;
            trap::arm();
            other(&mut regs);
            let fault = trap::disarm();
            check!(
                fault.is_some_and(|f| f.ec() == trap::ec::UNDEF) || regs[0] as i32 == -1,
                "{name} with a non-zero immediate is undefined or refused (Redan)"
            );
        }
    }
}

fn suspend() {
    let gic = gic::get();
    gic.init();
    gic.enable(VIRTUAL_PPI);
    // Standby (state type 0): the timer is a wake-up event even while PSTATE masks it.
    let due = timer::now() + timer::ticks(20);
    write!("cntv_cval_el0", due);
    write!("cntv_ctl_el0", ENABLE);
    let answer = status(psci::CPU_SUSPEND, 0, 0, 0);
    check_eq!(answer, 0, "CPU_SUSPEND to standby returns SUCCESS");
    check!(timer::now() >= due, "CPU_SUSPEND waited for the timer");
    write!("cntv_ctl_el0", 0);
    gic.disable(VIRTUAL_PPI);
}
