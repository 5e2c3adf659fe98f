//! The demonstration guest, for a machine without network: it says where it is, lets its timer
//! tick, and answers a few words on the console. Ends by itself when nobody types.

use crate::machine::GicBases;
use crate::timer::{self, ENABLE, VIRTUAL_PPI};
use crate::{check, console, gic, machine, mmu, print, println, psci, read, write};

const IDLE_SECONDS: u64 = 120;
const LINE: usize = 64;

/// The payload.
pub fn run() {
    println!();
    println!("  Redan demonstration guest");
    println!("  -------------------------");
    println!("  A small system of our own, running as a virtual machine. Every page of it was");
    println!("  mapped when it was first touched; it cannot reach the host or the hypervisor.");
    println!();
    info();
    ticks();
    println!();
    println!("Type `help`. This machine switches itself off after {IDLE_SECONDS} s of silence.");
    let mut line = [0; LINE];
    loop {
        print!("demo> ");
        let Some(length) = read_line(&mut line) else {
            println!();
            println!("nobody there: good-bye");
            return;
        };
        let word = line.get(..length).and_then(|l| core::str::from_utf8(l).ok()).unwrap_or("?");
        match word.trim() {
            "" => {}
            "help" => help(),
            "info" => info(),
            "memory" => memory(),
            "time" => ticks(),
            "poweroff" | "exit" | "quit" => {
                println!("good-bye");
                return;
            }
            other => println!("`{other}`? Try `help`."),
        }
    }
}

fn help() {
    println!("  info      what this machine is made of");
    println!("  memory    touch 8 MiB, so that 2048 pages are mapped on demand");
    println!("  time      let the virtual timer tick three times");
    println!("  poweroff  switch off by PSCI");
}

fn info() {
    let m = machine::get();
    let midr = read!("midr_el1");
    let version = psci::status(psci::VERSION, 0, 0, 0);
    println!(
        "  running at  EL{}, PSCI {}.{}",
        read!("CurrentEL") >> 2,
        version >> 16,
        version & 0xffff
    );
    println!("  processor   {} (MIDR {midr:#x})", part_name(midr));
    println!("  memory      {} MiB from {:#x}", m.ram.1 >> 20, m.ram.0);
    println!("  device tree {} bytes at {:#x}", m.dtb_size, m.dtb);
    match m.gic {
        GicBases::V2 { .. } => println!("  interrupts  GICv2"),
        GicBases::V3 { .. } => println!("  interrupts  GICv3"),
    }
    println!("  timer       {} kHz", read!("cntfrq_el0") / 1000);
    if !machine::bootargs().is_empty() {
        println!("  command     {}", machine::bootargs());
    }
}

fn part_name(midr: u64) -> &'static str {
    match (midr >> 24 & 0xff, midr >> 4 & 0xfff) {
        (0x41, 0xd03) => "Cortex-A53",
        (0x41, 0xd07) => "Cortex-A57",
        (0x41, 0xd08) => "Cortex-A72",
        (0x41, 0xd0b) => "Cortex-A76",
        (0x41, 0xd0c) => "Neoverse N1",
        (0x41, 0xd40) => "Neoverse V1",
        (0x41, 0xd47) => "Cortex-A710",
        (0x41, 0xd49) => "Neoverse N2",
        (0x00, 0x051) => "QEMU max",
        _ => "an Arm processor",
    }
}

fn ticks() {
    let gic = gic::get();
    gic.init();
    gic.enable(VIRTUAL_PPI);
    print!("  ticking    ");
    let mut late = 0;
    for n in 1..=3 {
        gic::forget();
        let due = timer::now() + timer::ticks(50);
        write!("cntv_cval_el0", due);
        write!("cntv_ctl_el0", ENABLE);
        gic::unmask(true);
        let came = timer::wait(1000, || gic::seen().count == 1);
        gic::unmask(false);
        late = timer::now() - due;
        print!(" {}", if came { n } else { 0 });
        if !came {
            break;
        }
    }
    write!("cntv_ctl_el0", 0);
    println!(" ({} us late)", late * 1_000_000 / read!("cntfrq_el0"));
    check!(gic::seen().count == 1, "the virtual timer interrupts");
}

fn memory() {
    const PAGES: u64 = 2048;
    let m = machine::get();
    let end = m.ram.0 + m.ram.1;
    // Above the image and below the tree or the end of memory, whichever comes first.
    let limit = if m.dtb > m.ram.0 && m.dtb < end { m.dtb } else { end };
    let start = (crate::start::image().1 + 0x1f_ffff) & !0x1f_ffff;
    let pages = PAGES.min(limit.saturating_sub(start) >> 12);
    let begin = timer::now();
    let mut good = 0;
    for n in 0..pages {
        let addr = start + (n << 12);
        good += u64::from(mmu::touch(addr, addr ^ begin));
    }
    let us = (timer::now() - begin) * 1_000_000 / read!("cntfrq_el0");
    println!("  {good} pages written and read back in {us} us");
    check!(good == pages && pages != 0, "memory keeps what is written to it");
}

/// A line from the console, echoed; `None` after a long silence.
fn read_line(line: &mut [u8; LINE]) -> Option<usize> {
    let mut length = 0;
    loop {
        let mut byte = None;
        timer::wait(IDLE_SECONDS * 1000, || {
            byte = console::get();
            byte.is_some()
        });
        match byte? {
            b'\r' | b'\n' => {
                println!();
                return Some(length);
            }
            8 | 127 if length > 0 => {
                length -= 1;
                print!("\x08 \x08");
            }
            byte @ b' '..=b'~' => {
                if let Some(slot) = line.get_mut(length) {
                    *slot = byte;
                    length += 1;
                    print!("{}", byte as char);
                }
            }
            _ => {}
        }
    }
}
