//! A VM that does no harm: it only keeps its registers, while others attack.

use core::arch::global_asm;

use alloc::vec::Vec;

use hyp_abi::Hypercall as H;
use hyp_abi::run::{self, Exit, entry};

use super::Attack;
use super::canary::{PLAY, WORDS};
use crate::{ensure, fp, host};

const CODE: u64 = 0x4000_0000;
const DATA: u64 = 0x4000_1000;
/// Bytes of q0..q31.
const FP_BYTES: usize = 512;

global_asm!(
    ".pushsection .rodata.witness, \"a\"",
    ".arch_extension fp",
    ".arch_extension simd",
    ".balign 8",
    ".global witness_start, witness_end",
    "witness_start:",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "ldr q\\n, [x9, #(16 * \\n)]",
    ".endr",
    "1: hvc #0",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "str q\\n, [x9, #({fp} + 16 * \\n)]",
    ".endr",
    "b 1b",
    ".balign 8",
    "witness_end:",
    ".arch_extension nosimd",
    ".arch_extension nofp",
    ".popsection",
    fp = const FP_BYTES,
);

unsafe extern "C" {
    static witness_start: u8;
    static witness_end: u8;
}

/// A value for each system register that keeps it whole on every CPU.
const CANARIES: [(&str, u64); 19] = [
    ("SCTLR_EL1", 0x30d0_0800),
    ("CPACR_EL1", 3 << 20),
    ("TTBR0_EL1", 0x0001_0000_4567_8000),
    ("TTBR1_EL1", 0x0002_0000_5678_9000),
    ("TCR_EL1", 25 | 25 << 16),
    ("ESR_EL1", 0x9600_0045),
    ("FAR_EL1", 0x1234_5678_9abc_def0),
    ("MAIR_EL1", 0x00ff_4404),
    ("VBAR_EL1", CODE),
    ("CONTEXTIDR_EL1", 0x4321),
    ("CNTKCTL_EL1", 3),
    ("PAR_EL1", 0x6666_6000),
    ("TPIDR_EL1", 0x1111_2222_3333_4444),
    ("SP_EL1", 0x4567_89a0),
    ("ELR_EL1", 0x4000_1230),
    ("SPSR_EL1", 0x3c5),
    ("TPIDR_EL0", 0x5555_6666_7777_8888),
    ("TPIDRRO_EL0", 0x9999_aaaa_bbbb_cccc),
    ("CSSELR_EL1", 1),
];

/// The witness.
#[derive(Default)]
pub struct Witness {
    /// Its VM.
    pub handle: u64,
    context: Vec<u64>,
}

/// Its pages, after those in play: two for the root, then these.
const RUN: usize = PLAY as usize + 2;
const CODE_PAGE: usize = PLAY as usize + 3;
const DATA_PAGE: usize = PLAY as usize + 4;
const TABLES: usize = PLAY as usize + 5;

impl Attack {
    /// Makes it and lets it take up its registers.
    pub fn call_witness(&mut self) {
        let pfn = |page: usize| self.oracle.pages.pfn(page);
        let (root, run, code, data) =
            (pfn(PLAY as usize), pfn(RUN), pfn(CODE_PAGE), pfn(DATA_PAGE));
        let tables = [pfn(TABLES), pfn(TABLES + 1)];
        let start = &raw const witness_start as u64;
        for at in (start..&raw const witness_end as u64).step_by(8) {
            let word = (at - start) as usize / 8;
            self.oracle.pages.write(CODE_PAGE, word, host::peek(at));
        }
        self.oracle.pages.record(CODE_PAGE);
        for (n, word) in fp::pattern(0x3179).iter().enumerate() {
            self.oracle.pages.write(DATA_PAGE, n, *word);
        }
        let handle = self.oracle.call(H::ReserveVm, [0; 4]).x1 as u64;
        self.witness.handle = handle;
        self.oracle.call(H::InitVm, [handle, 1, root, 0]);
        self.oracle.call(H::ShareHyp, [run, 0, 0, 0]);
        self.oracle.call(H::InitVcpu, [handle, 0, run, 0]);
        self.oracle.call(H::VcpuLoad, [handle, 0, 0, 0]);
        for table in tables {
            self.oracle.call(H::MemcacheTopup, [table, 0, 0, 0]);
        }
        self.oracle.call(H::ShareGuest, [code, CODE >> 12, 1, 13]);
        self.oracle.call(H::ShareGuest, [data, DATA >> 12, 1, 3]);
        self.oracle.call(H::VcpuPut, [0; 4]);
        for n in 0..31 {
            self.oracle.pages.write(RUN, run::CTX + n, 0x0101_0101_0101_0101 * (n as u64 + 1));
        }
        self.oracle.pages.write(RUN, run::CTX + 9, DATA);
        self.oracle.pages.write(RUN, run::CTX_SP_EL0, 0x7654_3210);
        self.oracle.pages.write(RUN, run::CTX_PC, CODE);
        self.oracle.pages.write(RUN, run::CTX_PSTATE, 0x3c5);
        for (n, name) in run::SYSREGS.iter().enumerate() {
            let value = CANARIES.iter().find(|(of, _)| of == name).map_or(0, |(_, value)| *value);
            self.oracle.pages.write(RUN, run::CTX_SYSREGS + n, value);
        }
        self.oracle.pages.record(RUN);
        self.let_it_speak(entry::LOAD_CONTEXT);
        self.witness.context = self.let_it_speak(0);
        for (name, value) in CANARIES {
            let n = run::SYSREGS.iter().position(|r| *r == name).unwrap_or(0);
            let found = self.witness.context.get(run::CTX_SYSREGS - run::CTX + n);
            ensure!(found == Some(&value), "the witness has {found:x?} in {name}");
        }
    }

    /// It has everything that it had.
    pub fn ask_witness(&mut self) {
        let context = self.let_it_speak(0);
        ensure!(context == self.witness.context, "the witness's context has become {context:x?}");
        let stored = |n: usize| self.oracle.pages.read(DATA_PAGE, FP_BYTES / 8 + n);
        let kept = fp::pattern(0x3179).iter().enumerate().all(|(n, word)| stored(n) == *word);
        ensure!(kept, "the witness's FP registers have changed");
    }

    /// Runs it up to its next call; answers its context.
    fn let_it_speak(&mut self, flags: u64) -> Vec<u64> {
        self.put();
        self.oracle.pages.verify(RUN);
        self.oracle.pages.verify(CODE_PAGE);
        // What it stored last time must come from its registers again.
        for n in FP_BYTES / 8..WORDS {
            self.oracle.pages.write(DATA_PAGE, n, 0);
        }
        for n in 0..run::CTX {
            self.oracle.pages.write(RUN, n, 0);
        }
        self.oracle.pages.write(RUN, run::ENTRY_FLAGS, flags);
        self.oracle.call(H::VcpuLoad, [self.witness.handle, 0, 0, 0]);
        let answer = self.oracle.call(H::VcpuRun, [0; 4]);
        let exit = Exit::from_raw(answer.x1 as u64);
        ensure!(exit == Some(Exit::Hvc), "the witness ended with {answer:x?}");
        self.oracle.call(H::VcpuSyncState, [0; 4]);
        self.oracle.call(H::VcpuPut, [0; 4]);
        self.oracle.note_young(hyp_abi::Handle::from_raw(self.witness.handle).index());
        self.oracle.pages.record(RUN);
        self.oracle.pages.record(DATA_PAGE);
        let end = run::CTX_SYSREGS + run::SYSREGS.len();
        (run::CTX..end).map(|n| self.oracle.pages.read(RUN, n)).collect()
    }
}
