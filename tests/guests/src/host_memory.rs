//! A host that touches what is not its own. Every page of EL2 faults on load, store and fetch, at
//! EL1's own vector; all the rest of its memory works; no address hangs the machine.

use hyp_abi::{Hypercall, PageState};

use crate::host::{self, Vm, World, digest, must, peek, poke};
use crate::machine;
use crate::mmu::{self, Attr};
use crate::probe::{self, Outcome};
use crate::psci::{self, INVALID, NOT_SUPPORTED, Regs, status};
use crate::trap::{self, Fault, SYNC, ec};
use crate::{
    check, check_eq, console, gic, hcall, println, read, start, timer, try_insn, try_read,
};

/// "S1PTW" in a syndrome that is no stage-1 walk's: how EL2 marks an abort of its own making.
const MARK: u64 = 1 << 7;

/// The payload.
pub fn run() {
    let clean = digest(&[]);
    boot_state();
    foreign_pages();
    own_pages();
    donated_pages();
    devices();
    nowhere();
    maintenance();
    registers();
    counters();
    firmware();
    check_eq!(digest(&[]), clean, "after all that every page is whose it was");
}

fn boot_state() {
    let e = start::entry_state();
    check_eq!(read!("CurrentEL"), 1 << 2, "the payload is at EL1");
    check_eq!((e.x[1], e.x[2], e.x[3]), (0, 0, 0), "x1 to x3 are 0 at entry");
    check_eq!(e.daif, 0x3c0, "all exceptions are masked at entry");
    check_eq!(e.sctlr & 0x1005, 0, "MMU and caches are off at entry");
    check!(machine::tree().is_some(), "x0 is a device tree");
    check_eq!(must(Hypercall::Version, [0; 4]), 1, "the interface has version 1");
}

/// Whether EL2 answered an access with an abort that looks like its own.
fn refused(fault: Option<Fault>, class: u64, va: u64, write: bool) -> bool {
    fault.is_some_and(|f| {
        f.kind == SYNC
            && f.ec() == class
            && f.esr & MARK != 0
            && (4..=7).contains(&f.fsc())
            && f.far == va
            && (class != ec::DATA || f.wnr() == write)
    })
}

/// All ways to reach a page; answers how many of them did not abort as they must.
pub(crate) fn trespass(va: u64) -> u64 {
    let mut wrong = 0;
    let loads: [fn(u64) -> Outcome; 5] =
        [probe::load8, probe::load32, probe::load64, probe::load_pair, probe::load_exclusive];
    for load in loads {
        wrong += u64::from(!refused(load(va).err(), ec::DATA, va, false));
    }
    let stores: [fn(u64, u64) -> Outcome<()>; 3] =
        [probe::store8, probe::store64, probe::store_pair];
    for store in stores {
        wrong += u64::from(!refused(store(va, 0).err(), ec::DATA, va, true));
    }
    wrong += u64::from(!refused(probe::fetch(va).err(), ec::FETCH, va, false));
    wrong
}

fn foreign_pages() {
    let (mut pages, mut wrong, mut runs) = (0, 0, 0);
    host::audit_host(|r| {
        if r.host == PageState::NoPage {
            runs += 1;
            pages += r.nr;
            for pfn in r.pfn..r.pfn + r.nr {
                // All of a page's ways in for the first and last of a run, one for the others.
                let va = mmu::window(pfn << 12, Attr::Normal) + ((pfn * 8) & 0xff8);
                if pfn == r.pfn || pfn == r.pfn + r.nr - 1 || pfn % 64 == 0 {
                    wrong += trespass(va);
                } else {
                    wrong += u64::from(!refused(probe::load64(va).err(), ec::DATA, va, false));
                    wrong += u64::from(!refused(probe::store64(va, 0).err(), ec::DATA, va, true));
                }
            }
        }
    });
    check!(pages >= 512, "EL2 keeps {pages} pages to itself, in {runs} runs");
    check_eq!(wrong, 0, "each of them aborts at EL1's vector with the marked syndrome");
    let (image, _) = start::image();
    check!(image >= 2 << 20, "EL2's image is below the payload");
    check!(
        host::page_state((image >> 12) - 512).is_some_and(|r| r.host == PageState::NoPage),
        "the 2 MiB below the payload are EL2's image"
    );
    // Unaligned across the border: the host's own last bytes and the first of EL2's.
    let mut border = 0;
    host::audit_host(|r| {
        if r.host == PageState::NoPage && border == 0 {
            border = r.pfn << 12;
        }
    });
    if border > machine::get().ram.0 {
        let va = mmu::window(border - 4, Attr::Normal);
        let fault = probe::load64(va).err();
        check!(
            fault.is_some_and(|f| f.ec() == ec::DATA),
            "a load that straddles the border aborts"
        );
        let before = probe::load32(va);
        check!(probe::store64(va, ONES).is_err(), "a store that straddles the border aborts");
        check!(before.is_ok() && probe::load32(va).is_ok(), "the host's side stays the host's");
        let _ = probe::store32(va, before.unwrap_or(0));
    }
}

const ONES: u64 = u64::MAX;
/// PMU event INST_RETIRED.
const INST_RETIRED: u64 = 8;
/// PMEVTYPER<n>_EL0.NSH: count at EL2 as well.
const AT_EL2: u64 = 1 << 27;
/// PSCI: no address where anything could go on.
const INVALID_ADDRESS: i32 = -9;
/// CPU_SUSPEND's power_state: the state is lost.
const POWER_DOWN: u64 = 1 << 16;

fn own_pages() {
    let (mut pages, mut wrong) = (0u64, 0u64);
    let (image, end) = start::image();
    let m = machine::get();
    // A test machine need not have as much memory as it lends us: of a large one take samples.
    let all = machine::ram_bytes();
    let stride = if all > 512 << 20 { 61 } else { 1 };
    host::audit_host(|r| {
        if r.host != PageState::Owned {
            return;
        }
        pages += r.nr;
        for pfn in (r.pfn..r.pfn + r.nr).step_by(stride) {
            let pa = pfn << 12;
            let inside = (image..end).contains(&pa) || (m.dtb..m.dtb + m.dtb_size).contains(&pa);
            let va = mmu::window(pa, Attr::Normal) + 0xff8;
            let old = probe::load64(va);
            if inside {
                wrong += u64::from(old.is_err());
                continue;
            }
            let stored = probe::store64(va, pa ^ ONES).is_ok();
            wrong += u64::from(!stored || probe::load64(va) != Ok(pa ^ ONES));
            let _ = probe::store64(va, old.unwrap_or(0));
        }
    });
    check!(pages > 1024, "the host has {pages} pages of its own");
    check_eq!(wrong, 0, "and can read and write each of them (one in {stride} tried)");
    let mut counted = 0;
    host::audit_host(|r| counted += r.nr);
    check_eq!(counted, all >> 12, "the ownership table has every page of RAM");
    // And execute: two instructions in a fresh page.
    let code = host::pages(1);
    let _ = probe::store32(code, 0xd65f_03c0); // ret
    let _ = try_insn!("dsb ish\nic iallu\ndsb ish\nisb");
    check!(probe::fetch(code).is_ok(), "the host can execute from its memory");
}

/// A page goes away while the host has it in its TLB, and comes back zeroed.
fn donated_pages() {
    let vm = Vm::new(1);
    let secret = host::pages(1);
    let words = || (0..512).map(|n| secret + 8 * n);
    words().for_each(|at| poke(at, at ^ 0x1234));
    check!(
        words().all(|at| peek(at) == at ^ 0x1234),
        "before it is donated the page is the host's"
    );
    vm.load();
    must(Hypercall::MemcacheTopup, [secret >> 12, 0, 0, 0]);
    check_eq!(trespass(secret), 0, "a donated page aborts at once");
    check_eq!(trespass(vm.root << 12), 0, "so does a root table");
    check_eq!(trespass((vm.root << 12) + 0x1ff8), 0, "and its second page");
    check!(probe::load64(secret + 0x1000).is_ok(), "its neighbour is still the host's");
    check!(probe::load64(vm.run).is_ok(), "a run page is the host's as well");
    Vm::put();
    vm.end();
    check!(words().all(|at| probe::load64(at) == Ok(0)), "it comes back, and zeroed");
    let root = || (0..1024).map(|n| (vm.root << 12) + 8 * n);
    check!(root().all(|at| probe::load64(at) == Ok(0)), "so does the root, both pages");
    poke(vm.root << 12, 7);
    check_eq!(peek(vm.root << 12), 7, "the root is the host's again");
}

fn devices() {
    let m = machine::get();
    check!(probe::load32(m.uart + 0xfe0) == Ok(0x11), "the UART is mapped when touched");
    check!(probe::load32(gic::get().dist() + 4).is_ok(), "the GIC distributor too");
    check!(probe::load32(gic::get().local() + 4).is_ok(), "and its part for this CPU");
    let mut touched = 0;
    for kind in
        ["arm,pl031", "cfi-flash", "virtio,mmio", "brcm,bcm2835-system-timer", "brcm,bcm2711-gpio"]
    {
        if let Some(at) = machine::device(kind) {
            touched += 1;
            check!(probe::load32(at).is_ok(), "{kind} at {at:#x} is mapped when touched");
        }
    }
    check!(touched > 1, "there are {touched} such devices");
    if let Some([(gich, _), (gicv, _)]) = machine::virtual_interface() {
        for (name, at) in [("GICH", gich), ("GICH's last word", gich + 0xff8)] {
            check_eq!(trespass(mmu::window(at, Attr::Normal)), 0, "{name} is EL2's alone");
            let va = mmu::window(at, Attr::Device);
            let load = probe::load32(va).err();
            check!(refused(load, ec::DATA, va, false), "a load from it as a device aborts");
            let store = probe::store32(va, 0).err();
            check!(refused(store, ec::DATA, va, true), "and a store to it");
        }
        for at in [gicv, gicv + 0x10, gicv + 0x1000] {
            let va = mmu::window(at, Attr::Device);
            let aborts = |f: Option<Fault>| f.is_some_and(|f| f.ec() == ec::DATA);
            check!(aborts(probe::load32(va).err()), "GICV is no host's: a load of {at:#x}");
            check!(aborts(probe::store32(va, 0).err()), "a store to {at:#x}");
        }
    } else {
        for outcome in [try_read!("s3_4_c12_c11_0"), try_read!("s3_4_c12_c12_0")] {
            check!(
                outcome.is_err_and(|f| f.ec() == ec::UNDEF),
                "ICH registers are undefined at EL1"
            );
        }
    }
}

/// Addresses that nobody has.
fn nowhere() {
    let world = World::ask();
    println!("  (guest IPA space: {:#x} pages)", world.guest_pages);
    let ram_end = machine::get().ram.0 + machine::get().ram.1;
    let begin = timer::now();
    let mut spots = [0u64; 40];
    for (bit, spot) in spots.iter_mut().enumerate() {
        *spot = 1 << (bit + 8);
    }
    let extra =
        [ram_end, (1 << 36) - 8, (1 << 40) - 8, (1 << 44) - 8, (1 << 48) - 8, 0x40_1000_0000];
    let mut hung = 0;
    for pa in spots.into_iter().chain(extra) {
        for attr in [Attr::Normal, Attr::Device] {
            let va = mmu::window(pa, attr);
            // A device may be there; anything but a hang or a wrong vector will do.
            let load = probe::load32(va & !3);
            let sane =
                load.err().is_none_or(|f| f.kind == SYNC && f.ec() == ec::DATA && f.far == va & !3);
            hung += u64::from(!sane);
        }
    }
    check_eq!(hung, 0, "any physical address answers or aborts with its address");
    // Where no device is, stores and fetches too.
    for pa in [1 << 37, (1 << 39) - 4096, 1 << 39, (1 << 40) - 4096, 1 << 40, 1 << 43, 1 << 47] {
        let va = mmu::window(pa, Attr::Normal);
        let fetch = probe::fetch(va);
        check!(
            fetch.is_err_and(|f| f.ec() == ec::FETCH && f.far == va && f.kind == SYNC),
            "a fetch from {pa:#x} aborts"
        );
        if pa >= 1 << 40 {
            check!(
                probe::store64(va, 1).is_err_and(|f| f.ec() == ec::DATA && f.wnr()),
                "and a store"
            );
        }
    }
    // A stage-1 table in EL2's memory, and one where nothing is.
    for (name, table) in [("EL2's memory", host::el2_pfn() << 12), ("no memory", 1 << 43)] {
        let va = mmu::window_table(table);
        let fault = probe::load64(va).err();
        check!(
            fault.is_some_and(|f| f.ec() == ec::DATA && f.kind == SYNC),
            "a stage-1 table in {name} gives an abort"
        );
    }
    let _ = mmu::window(machine::get().ram.0, Attr::Normal);
    check!(timer::now() - begin < timer::ticks(20_000), "all in reasonable time");
}

/// Maintenance and translation of addresses in EL2's memory: refused or harmless.
fn maintenance() {
    let own = host::pages(1);
    let el2 = host::el2_pfn() << 12;
    let va = mmu::window(el2, Attr::Normal);
    poke(own, 0x77);
    let calm = |o: Outcome<()>| o.err().is_none_or(|f| f.kind == SYNC && f.ec() == ec::DATA);
    check!(calm(try_insn!("dc civac, {}", va)), "DC CIVAC of EL2's memory");
    check!(calm(try_insn!("dc ivac, {}", va)), "DC IVAC of EL2's memory");
    check!(calm(try_insn!("dc cvac, {}", va)), "DC CVAC of EL2's memory");
    check!(calm(try_insn!("dc cvau, {}", va)), "DC CVAU of EL2's memory");
    check!(calm(try_insn!("ic ivau, {}", va)), "IC IVAU of EL2's memory");
    check!(
        try_insn!("dc zva, {}", va).is_err_and(|f| f.ec() == ec::DATA && f.esr & MARK != 0),
        "DC ZVA of EL2's memory aborts"
    );
    check!(try_insn!("at s1e1r, {}", va).is_ok(), "AT S1E1R of EL2's memory: stage 1 only");
    check_eq!(read!("par_el1") & 1, 0, "finds the address");
    check!(
        try_insn!("at s12e1r, {}", va).is_err_and(|f| f.ec() == ec::UNDEF),
        "AT S12E1R is undefined"
    );
    for outcome in [
        try_insn!("dc isw, {}", 0),
        try_insn!("dc cisw, {}", 0),
        try_insn!("dc csw, {}", 0),
        try_insn!("ic ialluis"),
        try_insn!("tlbi vmalle1is"),
        try_insn!("tlbi vmalle1"),
        try_insn!("tlbi aside1, {}", 0),
    ] {
        check!(outcome.is_ok(), "maintenance of all the host's own is allowed");
    }
    check_eq!(peek(own), 0x77, "and loses nothing");
    check_eq!(must(Hypercall::Version, [0; 4]), 1, "EL2 is still there");
}

fn registers() {
    macro_rules! undefined {
        ($($name:literal $reg:literal),+ $(,)?) => {
            $(
                check!(
                    try_read!($reg).is_err_and(|f| f.ec() == ec::UNDEF && f.kind == SYNC),
                    concat!("reading ", $name, " is undefined")
                );
                check!(
                    try_insn!(concat!("msr ", $reg, ", {}"), 0).is_err_and(|f| f.ec() == ec::UNDEF),
                    concat!("writing ", $name, " is undefined")
                );
            )+
        };
    }
    undefined!(
        "HCR_EL2" "s3_4_c1_c1_0",
        "VTTBR_EL2" "s3_4_c2_c1_0",
        "VTCR_EL2" "s3_4_c2_c1_2",
        "SCTLR_EL2" "s3_4_c1_c0_0",
        "TTBR0_EL2" "s3_4_c2_c0_0",
        "VBAR_EL2" "s3_4_c12_c0_0",
        "CPTR_EL2" "s3_4_c1_c1_2",
        "MDCR_EL2" "s3_4_c1_c1_1",
        "ELR_EL2" "s3_4_c4_c0_1",
        "SPSR_EL2" "s3_4_c4_c0_0",
        "SP_EL1" "s3_4_c4_c1_0",
        "CNTVOFF_EL2" "s3_4_c14_c0_3",
        "CNTHCTL_EL2" "s3_4_c14_c1_0",
        "ICH_HCR_EL2" "s3_4_c12_c11_0",
        "VMPIDR_EL2" "s3_4_c0_c0_5",
    );
    for outcome in [
        try_insn!("tlbi alle2"),
        try_insn!("tlbi alle1"),
        try_insn!("tlbi vmalls12e1"),
        try_insn!("tlbi ipas2e1, {}", 0),
    ] {
        check!(outcome.is_err_and(|f| f.ec() == ec::UNDEF), "EL2's TLB maintenance is undefined");
    }
    // The host's own timers, both.
    let before = read!("cntpct_el0");
    check!(timer::wait(100, || read!("cntpct_el0") > before), "the physical count is the host's");
    check!(try_read!("cntp_ctl_el0").is_ok(), "the physical timer is the host's");
    check!(try_read!("cntv_ctl_el0").is_ok(), "the virtual timer too, while no guest runs");
}

/// The host asks its PMU to count EL2's instructions (DDI0487 D13, MDCR_EL2.HPMD). A PMU before FEAT_PMUv3p1
/// cannot be kept from it, and QEMU counts instructions only with `-icount`.
fn counters() {
    let version = (read!("ID_AA64DFR0_EL1") >> 8) & 0xf;
    if !(4..15).contains(&version) || read!("PMCEID0_EL0") >> INST_RETIRED & 1 == 0 {
        return;
    }
    let (own, all) = (retired(0), retired(AT_EL2));
    check!(own >= 400, "the host's instructions in 100 hypercalls are counted: {own}");
    check_eq!(all, own, "and EL2's are not, even if it asks for them");
}

/// Instructions that 100 hypercalls count as.
fn retired(filter: u64) -> u64 {
    let set = [
        try_insn!("msr PMEVTYPER0_EL0, {}", INST_RETIRED | filter),
        try_insn!("msr PMEVCNTR0_EL0, {}", 0),
        try_insn!("msr PMCNTENSET_EL0, {}", 1),
        try_insn!("msr PMCR_EL0, {}\nisb", 1),
    ];
    for _ in 0..100 {
        must(Hypercall::Version, [0; 4]);
    }
    let stopped = try_insn!("msr PMCR_EL0, {}\nisb", 0);
    check!(set.iter().all(Result::is_ok) && stopped.is_ok(), "the PMU is the host's");
    read!("PMEVCNTR0_EL0")
}

fn firmware() {
    check_eq!(status(psci::VERSION, 0, 0, 0), 0x1_0001, "PSCI_VERSION passes");
    check!(status(psci::FEATURES, psci::SYSTEM_OFF, 0, 0) >= 0, "PSCI_FEATURES: SYSTEM_OFF");
    check!(status(psci::SMCCC_VERSION, 0, 0, 0) >= 0x1_0001, "SMCCC_VERSION is answered");
    let entry = start::image().0;
    for (name, target) in [
        ("a CPU that is not", 0xff),
        ("MPIDR ~0", ONES),
        ("MPIDR 2^63", 1 << 63),
        ("MPIDR with bit 31", 1 << 31),
    ] {
        check_eq!(status(psci::CPU_ON, target, entry, 0), INVALID, "CPU_ON of {name}: -2");
    }
    let me = read!("mpidr_el1") & 0xff_00ff_ffff;
    check_eq!(status(psci::CPU_ON, me, entry, 0), psci::ALREADY_ON, "CPU_ON of this CPU: -4");
    check!(status(psci::CPU_OFF, 0, 0, 0) < 0, "the last CPU cannot be switched off");
    let el2 = host::el2_pfn() << 12;
    let resumed = status(psci::CPU_SUSPEND, POWER_DOWN, el2, 0);
    check_eq!(resumed, INVALID_ADDRESS, "nobody resumes in EL2's memory");
    check_eq!(read!("CurrentEL"), 1 << 2, "still at EL1");
    for id in
        [0x8400_00ff, 0xc400_00ff, 0x8200_0001, 0xc600_0009, 0x8000_7fff, 0, 0xffff_ffff, ONES]
    {
        check_eq!(status(id, 0, 0, 0), NOT_SUPPORTED, "SMC {id:#x} answers -1");
    }
    let mut regs: Regs = [0; 18];
    regs[0] = psci::SYSTEM_OFF;
    trap::arm();
    psci::smc_imm(&mut regs);
    let fault = trap::disarm();
    check!(fault.is_some() || regs[0] as i32 == -1, "SMC with an immediate is refused");
    console::write32(machine::get().uart, u32::from(b'\r'));
    let a = hcall::call(Hypercall::Version, [0; 4]);
    check_eq!((a.x0, a.x1), (0, 1), "EL2 is still there");
}
