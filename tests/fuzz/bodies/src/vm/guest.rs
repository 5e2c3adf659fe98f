//! The guest: what a CPU does between two exits, and the exits that its hardware would make of it.

use host_vmm::memmap::{GICC, GICD, GICR, RAM, UART};
use hyp_abi::{Ipa, Ret, lr, run};
use hyp_core::cpu::{CpuLocal, ExitKind, GuestNext, RawExit};
use hyp_core::fake::{Access, Fault};
use hyp_core::vcpu::Context;

use super::host::Host;

/// Places worth an access: RAM at its ends and in two tables, the read-only region, every device, holes.
const PLACES: [u64; 16] = [
    RAM,
    RAM + 0x1000,
    RAM + 0x2000,
    RAM + 0x20_0000,
    RAM + 0x7f_f000,
    RAM + 0x80_0000,
    RAM + 0x60_0000,
    0x1000_0000,
    0x100f_f000,
    GICD,
    GICR + 0x1_0000,
    GICR + 0x2_0000,
    GICC,
    GICC + 0x1000,
    UART,
    (1 << 40) - 0x1000,
];
/// PSCI, SMCCC and the dirty log.
const FUNCTIONS: [u64; 16] = [
    0x8400_0000,
    0xc400_0001,
    0x8400_0002,
    0xc400_0003,
    0xc400_0004,
    0x8400_0008,
    0x8400_0009,
    0x8400_000a,
    0x8000_0000,
    0x8000_0001,
    0x8400_0006,
    0xc600_00f0,
    0xc600_00f1,
    0xc600_00f2,
    0xc600_00f3,
    0x8400_0003,
];
/// (op0, op1, CRn, CRm, op2): the physical timer, the counter, SGIs and deactivation, and some more.
const REGISTERS: [(u64, u64, u64, u64, u64); 16] = [
    (3, 3, 14, 0, 1),
    (3, 3, 14, 2, 0),
    (3, 3, 14, 2, 1),
    (3, 3, 14, 2, 2),
    (3, 0, 12, 11, 1),
    (3, 0, 12, 11, 5),
    (3, 0, 12, 11, 6),
    (3, 0, 12, 11, 7),
    (3, 0, 12, 12, 5),
    (3, 0, 0, 4, 0),
    (3, 0, 0, 7, 0),
    (2, 0, 0, 2, 2),
    (3, 0, 1, 0, 1),
    (2, 0, 1, 0, 4),
    (1, 0, 7, 14, 2),
    (3, 3, 9, 12, 0),
];
const PAGE: u64 = 4096;
/// ESR_ELx.IL: a 32-bit instruction.
const IL: u64 = 1 << 25;

impl Host<'_> {
    /// The vCPU on this CPU runs until an exit that the host must see to.
    pub fn guest(&self, cpu: &mut CpuLocal) -> Ret {
        let regime = cpu.regime().expect("a vCPU is loaded");
        let ctx = cpu.context().expect("a vCPU is loaded");
        let idx = (ctx.vmpidr & 0xff) as usize;
        self.entered(ctx, idx);
        self.hyp.machine().run_vcpu(self.cpu.get(), regime.vmid, idx);
        loop {
            let Some(raw) = self.act(cpu) else { continue };
            if let GuestNext::Exit(ret) = self.hyp.guest_exit(cpu, raw) {
                return ret;
            }
        }
    }

    /// EL2 has dropped none of the list registers, and no mode above EL1 is entered.
    fn entered(&self, ctx: &Context, idx: usize) {
        let machine = self.hyp.machine();
        let word = |n| machine.peek(self.page_of(idx), n);
        assert_eq!(ctx.vgic.used, word(run::VGIC_USED_LRS));
        for (n, lr) in ctx.vgic.lr.iter().enumerate().take(ctx.vgic.used as usize) {
            assert_eq!(*lr, word(run::LR + n), "list register {n}");
        }
        assert!([0, 4, 5].contains(&(ctx.pstate & 0x1f)));
    }

    /// The guest does something; `Some` is an exit.
    fn act(&self, cpu: &mut CpuLocal) -> Option<RawExit> {
        if !self.more() {
            return Some(exit(ExitKind::Irq, 0));
        }
        let what = self.byte();
        match what & 15 {
            0..=4 => return self.access(cpu, what >> 4),
            5 => return Some(self.call(cpu, what >> 4)),
            6 => return Some(exit(ExitKind::Sync, 0x01 << 26 | IL | u64::from(what >> 6))),
            7 => return Some(self.register(what >> 4)),
            8 => return Some(exit(ExitKind::Irq, 0)),
            9 => return Some(exit(ExitKind::Sync, 0x07 << 26 | IL)),
            10 => {
                let mut tape = self.tape.borrow_mut();
                let kind = if what >> 4 == 15 { ExitKind::SError } else { ExitKind::Sync };
                let (far, hpfar) = (tape.number(), tape.number());
                let esr = u64::from(tape.byte()) << 26 | u64::from(tape.word()) & 0x3ff_ffff;
                return Some(RawExit { kind, esr, far, hpfar });
            }
            _ => {}
        }
        let ctx = cpu.context().expect("a vCPU is loaded");
        match what & 15 {
            11 => interrupt(ctx, what >> 4),
            12 => {
                ctx.timer.ctl = u64::from(what >> 4 & 3);
                ctx.timer.cval = self.tape.borrow_mut().number();
            }
            13 => self.pass_time(),
            14 => ctx.set_gpr(what >> 4, self.tape.borrow_mut().number()),
            _ => ctx.pc = self.place() & !3,
        }
        None
    }

    fn place(&self) -> u64 {
        let mut tape = self.tape.borrow_mut();
        let which = tape.byte();
        let base = PLACES[usize::from(which & 15)];
        match which >> 4 {
            0..=7 => base + u64::from(tape.byte()) * 4,
            8..=13 => base + u64::from(tape.half()),
            _ => tape.number(),
        }
    }

    /// A load, store or fetch with the MMU off, by the fake machine's own walk.
    fn access(&self, cpu: &mut CpuLocal, how: u8) -> Option<RawExit> {
        let at = self.place();
        let (size, rt) = (u64::from(how & 3), u64::from(self.byte() & 31));
        let kind = match how >> 2 {
            0 => Access::Read,
            3 => Access::Fetch,
            _ => Access::Write,
        };
        let vmid = cpu.regime().expect("a vCPU is loaded").vmid;
        let fault = match Ipa::new(at) {
            None => 0,
            Some(ipa) => match self.hyp.machine().access(self.cpu.get(), vmid, ipa, kind) {
                Ok(pa) => {
                    let device = (GICC..GICC + PAGE).contains(&at);
                    if kind == Access::Write && !device {
                        let word = (at % PAGE / 8) as usize;
                        self.hyp.machine().poke(pa.frame(), word, at);
                        self.written.borrow_mut().push(at / PAGE);
                    }
                    return None;
                }
                Err(Fault::AddressSize) => 0,
                Err(Fault::Translation(level)) => 4 + u64::from(level),
                Err(Fault::AccessFlag(level)) => 8 + u64::from(level),
                Err(Fault::Permission(level)) => 12 + u64::from(level),
                Err(Fault::NoRegime) => panic!("a guest without tables"),
            },
        };
        let fetch = kind == Access::Fetch;
        let class: u64 = if fetch { 0x20 } else { 0x24 };
        let write = u64::from(kind == Access::Write) << 6;
        // One register, of 64 bits if the access is; or an instruction that no syndrome describes.
        let described = 1 << 24 | size << 22 | rt << 16 | u64::from(size == 3) << 15;
        let iss = if fetch { 0 } else { described & !(u64::from(rt == 30) << 24) | write };
        if fetch {
            cpu.context().expect("a vCPU is loaded").pc = at;
        }
        Some(RawExit {
            kind: ExitKind::Sync,
            esr: class << 26 | IL | iss | fault,
            far: at,
            hpfar: (at >> 12 & 0xff_ffff_ffff) << 4,
        })
    }

    /// HVC, or an SMC that EL2 traps.
    fn call(&self, cpu: &mut CpuLocal, how: u8) -> RawExit {
        let mut tape = self.tape.borrow_mut();
        let function = match tape.byte() {
            255 => tape.number(),
            which => FUNCTIONS[usize::from(which & 15)],
        };
        let first = tape.number();
        let entry = match tape.byte() {
            odd @ 240.. => u64::from(odd) | tape.number(),
            page => RAM + u64::from(page) * PAGE,
        };
        let ctx = cpu.context().expect("a vCPU is loaded");
        for (n, value) in (0..).zip([function, first, entry, tape.number()]) {
            ctx.set_gpr(n, value);
        }
        let class = if how & 1 == 0 { 0x16 } else { 0x17 };
        let immediate = u64::from(how == 15);
        exit(ExitKind::Sync, class << 26 | IL | immediate)
    }

    /// MSR or MRS.
    fn register(&self, how: u8) -> RawExit {
        let (op0, op1, crn, crm, op2) = REGISTERS[usize::from(how)];
        let choice = u64::from(self.byte());
        let (rt, read) = (choice & 31, choice >> 7);
        let iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1 | read;
        exit(ExitKind::Sync, 0x18 << 26 | IL | iss)
    }
}

const fn exit(kind: ExitKind, esr: u64) -> RawExit {
    RawExit { kind, esr, far: 0, hpfar: 0 }
}

/// What the virtual CPU interface does to a list register: acknowledges, ends.
fn interrupt(ctx: &mut Context, at: u8) {
    let used = (ctx.vgic.used as usize).max(1);
    let word = &mut ctx.vgic.lr[usize::from(at) % used];
    let state = match *word & lr::STATE_MASK {
        lr::STATE_PENDING => lr::STATE_ACTIVE,
        lr::STATE_ACTIVE => 0,
        lr::STATE_MASK => lr::STATE_PENDING,
        _ => return,
    };
    *word = *word & !lr::STATE_MASK | state;
}
