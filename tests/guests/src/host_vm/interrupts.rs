//! Physical interrupts end a run; virtual ones reach the guest; nothing else does.

use hyp_abi::Hypercall as H;
use hyp_abi::lr::{
    EOI, GROUP1, HW, PINTID_SHIFT, PRIORITY_SHIFT, SOURCE_SHIFT, STATE_MASK, STATE_PENDING,
};
use hyp_abi::run::{self, Exit, entry, vgic_hcr};

use super::code;
use super::cpu::{Cpu, Out, RWX};
use crate::host::{Vm, World, must};
use crate::timer::{self, ENABLE, PHYSICAL_PPI, VIRTUAL_PPI};
use crate::{check, check_eq, gic, hcall, read, write};

/// Where the guest sees its GICv2 CPU interface.
const GICC: u64 = 0x0801_0000;

pub fn run() {
    let cpu = Cpu::new(RWX);
    let world = World::ask();
    if world.gicv2 {
        Vm::topup(2);
        must(H::MapGicv, [GICC >> 12, 0, 0, 0]);
    }
    spinning(&cpu);
    virtual_timer(&cpu, world);
    software(&cpu, world);
    foreign(&cpu, world);
    too_many(&cpu, world);
    sources(&cpu, world);
    underflow(&cpu, world);
    gic::get().disable(VIRTUAL_PPI);
    cpu.end();
}

/// x15 as the guest's programs expect it.
fn interface(world: World) -> (usize, u64) {
    (15, if world.gicv2 { GICC } else { 0 })
}

/// A pending list register of the group that the guest enables.
fn pending(world: World, intid: u64) -> u64 {
    let group = if world.gicv2 { 0 } else { GROUP1 };
    STATE_PENDING | group | 0x80 << PRIORITY_SHIFT | intid
}

fn inject(cpu: &Cpu, lrs: &[u64]) {
    for (n, lr) in lrs.iter().enumerate() {
        cpu.set(run::LR + n, *lr);
    }
    cpu.set(run::VGIC_USED_LRS, lrs.len() as u64);
}

fn spinning(cpu: &Cpu) {
    let begin = timer::now();
    cpu.context(code::spin(), &[]);
    let out = cpu.run_for(entry::LOAD_CONTEXT, 30);
    check_eq!(
        (out.exit, out.intid),
        (Some(Exit::Irq), PHYSICAL_PPI),
        "the host's timer ends a run of a guest that spins with interrupts masked"
    );
    check!(timer::now() - begin >= timer::ticks(25), "not before its time");
    check_eq!(cpu.word(run::EXIT_PC), code::spin(), "the guest is where it was");
}

fn virtual_timer(cpu: &Cpu, world: World) {
    let gic = gic::get();
    gic.enable(VIRTUAL_PPI);
    for round in 0..5 {
        let regs = [(9, timer::ticks(5)), interface(world)];
        let out = cpu.start(code::timer(), &regs);
        check_eq!(
            (out.exit, out.intid),
            (Some(Exit::Irq), VIRTUAL_PPI),
            "round {round}: the guest's virtual timer ends the run"
        );
        check!(gic.is_active(VIRTUAL_PPI), "the host marks its physical interrupt active");
        check_eq!(cpu.word(run::TIMER_CTL) & 7, 5, "the run page has CNTV_CTL with ISTATUS");
        check!(cpu.word(run::TIMER_CVAL) <= timer::now(), "and CNTV_CVAL");
        check_eq!(read!("cntv_ctl_el0") & 1, 0, "the timer is off while the host runs");
        let lr =
            pending(world, u64::from(VIRTUAL_PPI)) | HW | u64::from(VIRTUAL_PPI) << PINTID_SHIFT;
        inject(cpu, &[lr]);
        let out = cpu.run(0);
        let args = cpu.args();
        check_eq!(
            (out.exit, args[0], args[1]),
            (Some(Exit::Hvc), 0xe005, u64::from(VIRTUAL_PPI)),
            "by a list register it arrives at the guest's IRQ vector"
        );
        check!(!gic.is_active(VIRTUAL_PPI), "the guest's end deactivated the physical one");
        check_eq!(cpu.word(run::LR) & STATE_MASK, 0, "and its list register is free");
        inject(cpu, &[]);
    }
}

fn software(cpu: &Cpu, world: World) {
    inject(cpu, &[pending(world, 77)]);
    let out = cpu.start(code::irq_on(), &[interface(world)]);
    let args = cpu.args();
    check_eq!(
        (out.exit, args[0], args[1]),
        (Some(Exit::Hvc), 0xe005, 77),
        "a software interrupt arrives"
    );
    check_eq!(cpu.word(run::LR) & STATE_MASK, 0, "its list register is free afterwards");
    inject(cpu, &[pending(world, 78)]);
    let out = cpu.start(code::calls(), &[interface(world)]);
    check_eq!(out.exit, Some(Exit::Hvc), "a guest with interrupts masked does not take it");
    check_eq!(cpu.word(run::LR) & STATE_MASK, STATE_PENDING, "and it stays pending");
    inject(cpu, &[]);
}

fn nothing_came(out: Out) -> bool {
    (out.exit, out.intid) == (Some(Exit::Irq), PHYSICAL_PPI)
}

fn foreign(cpu: &Cpu, world: World) {
    let gic = gic::get();
    let link = |intid: u64, physical: u64| pending(world, intid) | HW | physical << PINTID_SHIFT;
    let timer = u64::from(VIRTUAL_PPI);
    for (name, lr) in [
        ("linked to the host's timer", link(30, 30)),
        ("linked to an SPI of the host's", link(33, 33)),
        ("the virtual timer linked to the host's", link(timer, 30)),
        ("another linked to the virtual timer", link(50, timer)),
        ("linked, pending and active", link(timer, timer) | STATE_MASK),
        ("INTID 1023", pending(world, 1023)),
        ("INTID 1020", pending(world, 1020)),
        ("INTID 8192", pending(world, 8192)),
        ("reserved bits", pending(world, 77) | 1 << 45),
    ] {
        inject(cpu, &[lr]);
        cpu.context(code::irq_on(), &[interface(world)]);
        let out = cpu.run_for(entry::LOAD_CONTEXT, 10);
        check!(nothing_came(out), "a list register that is {name} is dropped");
        check_eq!(cpu.word(run::LR) & STATE_MASK, 0, "and reads back free");
    }
    inject(cpu, &[pending(world, 77), pending(world, 77)]);
    let out = cpu.start(code::irq_on(), &[interface(world)]);
    check_eq!((out.exit, cpu.args()[1]), (Some(Exit::Hvc), 77), "of two for one INTID one arrives");
    inject(cpu, &[]);
    cpu.set(run::VGIC_HCR, u64::MAX);
    inject(cpu, &[pending(world, 79)]);
    let out = cpu.start(code::irq_on(), &[interface(world)]);
    check!(matches!(out.exit, Some(Exit::Hvc | Exit::Irq)), "a VGIC_HCR of all ones does no harm");
    cpu.set(run::VGIC_HCR, 0);
    inject(cpu, &[]);
    // Whatever that raised is the host's to clear.
    gic.disable(25);
    gic.unpend(25);
    check!(!gic.is_active(PHYSICAL_PPI), "the host's timer interrupt is not active");
}

fn too_many(cpu: &Cpu, world: World) {
    for used in [0xffff, 17, 1 << 32, u64::MAX] {
        for n in 0..16 {
            cpu.set(run::LR + n, pending(world, 64 + n as u64));
        }
        cpu.set(run::VGIC_USED_LRS, used);
        let out = cpu.start(code::irq_on(), &[interface(world)]);
        let args = cpu.args();
        check_eq!(
            (out.exit, args[0]),
            (Some(Exit::Hvc), 0xe005),
            "used_lrs = {used:#x} is clamped"
        );
        check!((64..80).contains(&args[1]), "and one of them arrives");
    }
    let a = hcall::call(H::Features, [0; 4]);
    check!((1..=16).contains(&a.rest[1]), "there are {} list registers", a.rest[1]);
    for n in 0..16 {
        cpu.set(run::LR + n, 0);
    }
    inject(cpu, &[]);
}

/// A GICv2's SGIs say who sent them, and the guest says it back at their end (IHI0048 4.4.4).
fn sources(cpu: &Cpu, world: World) {
    if !world.gicv2 {
        return;
    }
    for source in [0, 3, 7] {
        inject(cpu, &[pending(world, 5) | source << SOURCE_SHIFT | EOI]);
        let out = cpu.start(code::irq_on(), &[interface(world)]);
        let args = cpu.args();
        check_eq!(
            (out.exit, args[0], args[1]),
            (Some(Exit::Hvc), 0xe005, 5 | source << 10),
            "SGI 5 of CPU {source} arrives with its source"
        );
        check_eq!(cpu.word(run::LR) & STATE_MASK, 0, "and ends with it");
        check_eq!(cpu.word(run::VGIC_MISR) & 1, 1, "of which the host is told, as it asked");
    }
    inject(cpu, &[]);
}

/// With UIE the run ends when at most one list register is left, for the host to bring more.
fn underflow(cpu: &Cpu, world: World) {
    const MAINTENANCE: u32 = 25;
    const U: u64 = 1 << 1;
    let gic = gic::get();
    gic.enable(MAINTENANCE);
    cpu.set(run::VGIC_HCR, vgic_hcr::UIE);
    inject(cpu, &[64, 65, 66].map(|intid| pending(world, intid)));
    cpu.context(code::irq_on(), &[interface(world)]);
    cpu.set(run::ENTRY_FLAGS, entry::LOAD_CONTEXT);
    let (mut came, mut ended) = (0, false);
    // A watchdog, lest the guest spin for ever.
    gic.enable(PHYSICAL_PPI);
    write!("cntp_cval_el0", read!("cntpct_el0") + timer::ticks(300));
    write!("cntp_ctl_el0", ENABLE);
    for _ in 0..4 {
        let out = cpu.once();
        cpu.set(run::ENTRY_FLAGS, 0);
        ended = out.exit == Some(Exit::Irq) && cpu.word(run::VGIC_MISR) & U != 0;
        came += u64::from(out.exit == Some(Exit::Hvc));
        if out.exit != Some(Exit::Hvc) {
            break;
        }
    }
    write!("cntp_ctl_el0", 0);
    check!(ended && (1..=2).contains(&came), "an empty set of list registers ends the run");
    let lrs: [u64; 3] = core::array::from_fn(|n| cpu.word(run::LR + n));
    let left = lrs.iter().filter(|lr| *lr & STATE_MASK != 0).count();
    check_eq!(left, 1, "with the last one still to come");
    check!(!gic.is_pending(MAINTENANCE), "and nothing of it stays with the host");
    cpu.set(run::VGIC_HCR, 0);
    inject(cpu, &[]);
    gic.disable(MAINTENANCE);
}
