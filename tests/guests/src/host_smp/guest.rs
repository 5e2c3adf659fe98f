//! A VM whose vCPUs run a few instructions each, on any CPU.
//!
//! Its pages are taken once and used by one VM after the other: they come back each time.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyp_abi::Hypercall as H;
use hyp_abi::run::{self, Exit, entry};

use crate::hcall::{self, Answer};
use crate::host::{self, Vm, must, peek, poke};
use crate::timer::{self, ENABLE, IMASK, PHYSICAL_PPI};
use crate::{gic, read, write};

/// Where the code is, and what each program does with x9 and x1.
pub const CODE: u64 = 0x4000_0000;
/// Where the data page is.
pub const DATA: u64 = 0x4001_0000;
/// Where it is too.
pub const TWIN: u64 = 0x8001_0000;
/// Read, write, execute.
pub const RWX: u64 = 15;

const EL1H: u64 = 0x3c5;
const SCTLR_OFF: u64 = 0x30d0_0800;
/// vCPUs of a VM.
pub const VCPUS: usize = 8;

global_asm!(
    ".pushsection .rodata.guest_smp, \"a\"",
    ".balign 4096",
    ".global smp_code, smp_count, smp_look, smp_keep, smp_end",
    "smp_code:",
    // Counts in [x9] for ever.
    "smp_count: add x1, x1, #1",
    "str x1, [x9]",
    "b smp_count",
    // Calls with x1 = [x9], for ever.
    "smp_look: ldr x1, [x9]",
    "hvc #0",
    "b smp_look",
    // Sets registers from x1 to x5, and FP from [x9]; calls; then tells all of them for ever, FP in
    // the 512 bytes after.
    "smp_keep: mov x0, #(3 << 20)",
    "msr cpacr_el1, x0",
    "isb",
    ".arch_extension fp",
    ".arch_extension simd",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "ldr q\\n, [x9, #(16 * \\n)]",
    ".endr",
    "msr oslar_el1, xzr",
    "msr dbgbvr0_el1, x1",
    "msr dbgbcr0_el1, x2",
    "msr mdscr_el1, x3",
    "msr cntv_cval_el0, x4",
    "msr tpidr_el0, x5",
    "hvc #0",
    "1:",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "str q\\n, [x9, #(512 + 16 * \\n)]",
    ".endr",
    ".arch_extension nosimd",
    ".arch_extension nofp",
    "mrs x1, dbgbvr0_el1",
    "mrs x2, dbgbcr0_el1",
    "mrs x3, mdscr_el1",
    "mrs x4, cntv_cval_el0",
    "mrs x5, tpidr_el0",
    "mrs x6, mpidr_el1",
    "hvc #0",
    "b 1b",
    "smp_end:",
    ".balign 4096",
    ".popsection",
);

unsafe extern "C" {
    static smp_code: u8;
    static smp_count: u8;
    static smp_look: u8;
    static smp_keep: u8;
    static smp_end: u8;
}

/// A program, by its address in the guest.
#[derive(Clone, Copy)]
pub enum Program {
    /// Counts in [x9].
    Count,
    /// Tells [x9].
    Look,
    /// Sets registers to x1..x5 and FP to [x9], then tells them.
    Keep,
}

impl Program {
    fn pc(self) -> u64 {
        let label = match self {
            Self::Count => &raw const smp_count,
            Self::Look => &raw const smp_look,
            Self::Keep => &raw const smp_keep,
        };
        CODE + (label as u64 - &raw const smp_code as u64)
    }
}

/// Pages that a VM is made of, as addresses.
struct Pages {
    root: u64,
    code: u64,
    data: u64,
    runs: u64,
    tables: u64,
}

/// Table pages that a VM's first vCPU gets.
const TABLES: u64 = 8;

/// The pages; taken on the first CPU only.
fn store() -> Pages {
    static FIRST: AtomicU64 = AtomicU64::new(0);
    let mut first = FIRST.load(Relaxed);
    if first == 0 {
        first = host::pages(32);
        FIRST.store(first, Relaxed);
        let bytes = &raw const smp_end as u64 - &raw const smp_code as u64;
        for at in (0..bytes).step_by(8) {
            poke(first + 0x2000 + at, peek(&raw const smp_code as u64 + at));
        }
    }
    let page = |n: u64| first + n * 4096;
    Pages { root: page(0), code: page(2), data: page(3), runs: page(8), tables: page(16) }
}

/// The VM.
#[derive(Clone, Copy)]
pub struct Guest {
    /// Its handle.
    pub handle: u64,
    vcpus: usize,
}

/// What a run ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    /// The reason.
    pub exit: Option<Exit>,
    /// IPA.
    pub ipa: u64,
    /// Flags.
    pub flags: u64,
}

impl Guest {
    /// A VM with `vcpus` vCPUs; code and one data page are mapped, the data page read-write.
    pub fn new(vcpus: usize) -> Self {
        let pages = store();
        let handle = must(H::ReserveVm, [0; 4]);
        must(H::InitVm, [handle, vcpus as u64, pages.root >> 12, 0]);
        let guest = Self { handle, vcpus };
        for n in 0..vcpus {
            must(H::ShareHyp, [guest.run_page(n) >> 12, 0, 0, 0]);
            must(H::InitVcpu, [handle, n as u64, guest.run_page(n) >> 12, 0]);
        }
        guest.load(0);
        for n in 0..TABLES {
            must(H::MemcacheTopup, [(pages.tables >> 12) + n, 0, 0, 0]);
        }
        must(H::ShareGuest, [pages.code >> 12, CODE >> 12, 1, RWX]);
        must(H::ShareGuest, [pages.data >> 12, DATA >> 12, 1, RWX]);
        Self::put();
        guest
    }

    /// The VM that another CPU has made.
    pub fn of(handle: u64) -> Self {
        Self { handle, vcpus: VCPUS }
    }

    /// Maps a page of the host's at `ipa`; a vCPU with tables for it is loaded.
    pub fn map(&self, page: u64, ipa: u64, prot: u64) {
        must(H::ShareGuest, [page >> 12, ipa >> 12, 1, prot]);
    }

    /// The data page, as the host sees it.
    pub fn data(&self) -> u64 {
        store().data
    }

    fn run_page(&self, n: usize) -> u64 {
        store().runs + 4096 * n as u64
    }

    fn set(&self, n: usize, word: usize, value: u64) {
        poke(self.run_page(n) + 8 * word as u64, value);
    }

    /// Loads vCPU `n` here.
    pub fn load(&self, n: usize) {
        must(H::VcpuLoad, [self.handle, n as u64, 0, 0]);
    }

    /// Unloads what is loaded.
    pub fn put() {
        must(H::VcpuPut, [0; 4]);
    }

    /// vCPU `n` is to run a program with this x9 when it next runs; `stage1`: TTBR0, TCR and MAIR to
    /// run it with its MMU on.
    pub fn prepare(&self, n: usize, program: Program, x9: u64, stage1: Option<[u64; 3]>) {
        for word in 0..34 + run::SYSREGS.len() {
            self.set(n, run::CTX + word, 0);
        }
        self.set(n, run::CTX + 9, x9);
        self.set(n, run::CTX_PC, program.pc());
        self.set(n, run::CTX_PSTATE, EL1H);
        let system = |name: &str, value| {
            if let Some(at) = run::SYSREGS.iter().position(|register| *register == name) {
                self.set(n, run::CTX_SYSREGS + at, value);
            }
        };
        system("SCTLR_EL1", SCTLR_OFF | if stage1.is_some() { 1 | 1 << 2 | 1 << 12 } else { 0 });
        if let Some([ttbr0, tcr, mair]) = stage1 {
            system("TTBR0_EL1", ttbr0);
            system("TCR_EL1", tcr);
            system("MAIR_EL1", mair);
        }
        self.set(n, run::ENTRY_FLAGS, entry::LOAD_CONTEXT);
    }

    /// After [`Guest::prepare`]: x1 and so on are these.
    pub fn give(&self, n: usize, registers: &[u64]) {
        for (at, value) in registers.iter().enumerate() {
            self.set(n, run::CTX + 1 + at, *value);
        }
    }

    /// x0 to x7 of vCPU `n`'s last call.
    pub fn heard(&self, n: usize) -> [u64; 8] {
        core::array::from_fn(|at| peek(self.run_page(n) + 8 * (run::EXIT_GPR + at) as u64))
    }

    /// x1 of vCPU `n`'s last call.
    pub fn told(&self, n: usize) -> u64 {
        peek(self.run_page(n) + 8 * (run::EXIT_GPR as u64 + 1))
    }

    /// Runs the loaded vCPU `n` until something other than an interrupt ends it, or `done` says so
    /// after one; the timer rings every millisecond.
    pub fn run(&self, n: usize, mut done: impl FnMut() -> bool) -> Out {
        loop {
            alarm(1);
            let Answer { x0, x1, rest: [_, ipa, _, flags] } = hcall::call(H::VcpuRun, [0; 4]);
            self.set(n, run::ENTRY_FLAGS, 0);
            let exit = if x0 == 0 { Exit::from_raw(x1 as u64) } else { None };
            if exit == Some(Exit::Irq) {
                acknowledge();
            }
            if exit != Some(Exit::Irq) || done() {
                write!("cntp_ctl_el0", 0);
                return Out { exit, ipa, flags };
            }
        }
    }

    /// Ends the VM and takes everything back. No vCPU may be loaded.
    pub fn end(&self) {
        must(H::StartTeardownVm, [self.handle, 0, 0, 0]);
        self.bury();
    }

    /// The rest of that, once it is dying.
    pub fn bury(&self) {
        let vm = Vm { handle: self.handle, root: 0, run: self.run_page(0) };
        vm.drain();
        must(H::FinalizeTeardownVm, [self.handle, 0, 0, 0]);
        for n in 0..self.vcpus {
            must(H::UnshareHyp, [self.run_page(n) >> 12, 0, 0, 0]);
        }
    }
}

/// Lets this CPU's timer ring in `ms`.
fn alarm(ms: u64) {
    gic::get().enable(PHYSICAL_PPI);
    write!("cntp_cval_el0", read!("cntpct_el0") + timer::ticks(ms));
    write!("cntp_ctl_el0", ENABLE);
}

/// Takes the interrupt that ended a run, if it is still there.
fn acknowledge() {
    write!("cntp_ctl_el0", IMASK);
    let iar = gic::get().ack();
    if iar & 0x3ff < gic::SPURIOUS {
        gic::get().eoi(iar);
    }
}
