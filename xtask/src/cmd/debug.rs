//! `debug`: a machine that waits for gdb, with the symbols of all three levels.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use host_vmm::memmap::RAM;

use crate::bundle::{self, Changes, Vm};
use crate::child::{Guard, last_lines};
use crate::cmd::{build, setup};
use crate::image::PAYLOAD_AT;
use crate::qemu::{Board, IMAGE_BASE, Machine, Serial, joined};
use crate::ui::say;
use crate::{elf, paths, toolchain};

/// The longest a debugging session may last; nobody debugs for a day without a break.
const SESSION: Duration = Duration::from_secs(24 * 3600);

/// Start QEMU stopped at its first instruction, with gdb and all symbols loaded
///
/// Addresses are physical ones: EL2 and the host shim run where they were loaded, the symbols of a
/// guest payload are loaded for its guest addresses. Try `hbreak hyp::el2::start`, `continue`,
/// `bt`. The console goes to a file whose name is printed; `quit` ends the machine as well.
#[derive(clap::Args)]
pub struct Args {
    /// The guest: a program of tests/guests whose symbols are loaded too
    #[arg(long, value_name = "NAME", default_value = "demo")]
    guest: String,

    /// Run this payload of tests/guests at EL1 in place of the host shim, without a guest
    #[arg(long, value_name = "NAME", conflicts_with = "guest")]
    payload: Option<String>,

    /// The interrupt controller of the machine
    #[arg(long, value_name = "2|3", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    gic: u8,

    /// The processor, by QEMU's name
    #[arg(long, value_name = "CPU", default_value = "cortex-a72")]
    cpu: String,

    /// Processors of the machine, 1 to 8: threads to gdb
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    smp: u8,

    /// Virtual processors of the guest, 1 to 8
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u8).range(1..=8))]
    vcpus: Option<u8>,

    /// Do not start gdb; print how to attach one and wait
    #[arg(long)]
    no_gdb: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    toolchain::ensure()?;
    let qemu = setup::qemu()?;
    let el1 = args.payload.as_deref().unwrap_or(build::HOST);
    let image = build::redan_img(el1)?;
    let folder = paths::output("debug")?;
    let mut symbols = vec![symbol_file("hyp", IMAGE_BASE)?];
    symbols.push(symbol_file(el1, IMAGE_BASE + PAYLOAD_AT as u64)?);
    let mut initrd = None;
    let mut ram_mib = 512;
    if args.payload.is_none() {
        let text =
            format!("name = \"debug\"\nkernel = \"payload:{}\"\nmemory_mib = 32\n", args.guest);
        let changes = Changes { vcpus: args.vcpus, ..Changes::default() };
        let vms = [Vm::from_text("--guest", &text, Path::new("."), &changes)?];
        let packed = bundle::pack(&vms);
        ram_mib = bundle::machine_ram_mib(&vms, packed.len());
        let file = folder.join("bundle.cpio");
        paths::write(&file, &packed)?;
        initrd = Some(file);
        symbols.push(symbol_file(&args.guest, RAM)?);
    }

    let socket = folder.join("gdb.sock");
    let _ = std::fs::remove_file(&socket);
    let mut server = joined("unix:", &socket);
    server.push(",server=on,wait=off");
    let machine = Machine {
        board: Board::Virt { gic: args.gic, cpu: args.cpu.clone(), smp: args.smp, ram_mib },
        image: Some(image),
        initrd,
        append: "redan.nonce=debug".to_owned(),
        semihosting: args.payload.is_some(),
        icount: None,
        serial: Serial::File,
        folder: folder.clone(),
        extra: vec!["-S".into(), "-gdb".into(), server],
    };
    let mut cmd = machine.command(&qemu);
    cmd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut guard = Guard::spawn(&mut cmd).context("cannot start QEMU")?;
    wait_for(&socket, &mut guard)?;

    let script = folder.join("gdbinit");
    let text = format!(
        "set pagination off\nset confirm off\n{}target remote {}\n",
        symbols.concat(),
        socket.display()
    );
    paths::write(&script, text.as_bytes())?;
    say(format!("the console is written to {}", folder.join("console.log").display()));
    let gdb = ["gdb-multiarch", "aarch64-linux-gnu-gdb", "gdb"].into_iter().find(|g| knows_arm(g));
    match gdb {
        Some(gdb) if !args.no_gdb => {
            let mut cmd = Command::new(gdb);
            cmd.arg("-q").arg("-x").arg(&script);
            let mut gdb = Guard::spawn(&mut cmd).context("cannot start gdb")?;
            gdb.wait(SESSION)?;
        }
        _ => {
            if gdb.is_none() {
                say("there is no gdb for aarch64 here; install gdb-multiarch");
            }
            say(format!("QEMU waits; attach with: gdb-multiarch -x {}", script.display()));
            guard.wait(SESSION)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The gdb command that loads a program's symbols for where it runs.
fn symbol_file(program: &str, loaded_at: u64) -> Result<String> {
    let path = build::elf_path(program)?;
    ensure!(path.exists(), "there is no program `{program}` (payloads are in tests/guests)");
    let offset = loaded_at.wrapping_sub(elf::link_base(&paths::read(&path)?)?);
    Ok(format!("add-symbol-file {} -o {offset:#x}\n", path.display()))
}

/// gdb as most distributions build it knows its own machine only.
fn knows_arm(gdb: &str) -> bool {
    let mut cmd = Command::new(gdb);
    cmd.args(["-q", "-batch", "-ex", "set architecture aarch64"]);
    crate::child::Task::new(gdb, cmd, Duration::from_secs(30))
        .capture()
        .is_ok_and(|done| done.status.success() && !done.stderr.contains("ndefined"))
}

fn wait_for(socket: &Path, guard: &mut Guard) -> Result<()> {
    let start = Instant::now();
    while !socket.exists() {
        if guard.wait(Duration::from_millis(50))?.is_some() || start.elapsed().as_secs() > 10 {
            use std::io::Read;
            let mut said = String::new();
            guard.end();
            if let Some(mut pipe) = guard.child().stderr.take() {
                pipe.read_to_string(&mut said)?;
            }
            anyhow::bail!("QEMU does not start\n{}", last_lines(&said, 8))
        }
    }
    Ok(())
}
