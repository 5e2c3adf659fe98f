//! VMs on the PC: from a manifest, its files and the command line's changes to the bundle that the
//! host shim unpacks.
//!
//! Judging is left to `host_vmm`, whose parser and checks are those that the shim runs: what is
//! packed here is not refused there. A manifest may name, besides files that lie next to it:
//! `debian:SUITE` (a stock kernel; `debian:default` is this machine's release), `busybox:SUITE`
//! (an initramfs with a shell), `payload:NAME` (one of tests/guests).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use flate2::read::GzDecoder;
use host_vmm::manifest::{self, Manifest};

use crate::cmd::build;
use crate::cpio::Writer;
use crate::{image, initramfs, paths, stock};

/// No kernel of ours unpacks to more; a crafted gzip file might.
const UNPACKED_LIMIT: u64 = 512 << 20;

/// A VM that has passed all checks.
#[derive(Clone, Debug)]
pub struct Vm {
    /// What it is.
    pub manifest: Manifest,
    files: BTreeMap<String, Vec<u8>>,
}

/// What the command line changes about a VM.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Another kernel: a file, `debian:SUITE` or `payload:NAME`.
    pub kernel: Option<String>,
    /// Another initrd: a file, `busybox:SUITE`, or `none`.
    pub initrd: Option<String>,
    /// Another command line.
    pub append: Option<String>,
    /// Another size of RAM, in MiB.
    pub mem: Option<u64>,
    /// Another number of vCPUs.
    pub vcpus: Option<u8>,
}

impl Vm {
    /// The VM called `which`: a file, or the name of one in boot/vms.
    pub fn load(which: &str, changes: &Changes) -> Result<Self> {
        let file = find(which)?;
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let shown = file.strip_prefix(paths::root()).unwrap_or(&file).display().to_string();
        Self::from_text(&shown, &text, folder, changes)
    }

    /// A VM from the text of a manifest whose files lie in `folder`; errors begin with `origin`,
    /// or with the option of the command line that is to blame.
    pub fn from_text(origin: &str, text: &str, folder: &Path, changes: &Changes) -> Result<Self> {
        let parsed = manifest::parse(text).map_err(|e| anyhow!("{origin}: {e}"))?;
        let (manifest, mut files) = changes.apply(parsed)?;
        for name in manifest.files() {
            // A file that is not there is left out: the check below says so with its line.
            if !files.contains_key(name) && (is_made(name) || folder.join(name).exists()) {
                let bytes = content(name, folder).with_context(|| origin.to_owned())?;
                files.insert(name.to_owned(), bytes);
            }
        }
        if let Some(bytes) = files.get_mut(&manifest.kernel) {
            let packed = std::mem::take(bytes);
            *bytes = kernel(&manifest.kernel, packed).with_context(|| origin.to_owned())?;
        }
        manifest.check_files(|name| files.get(name).map(Vec::as_slice)).map_err(|e| {
            match e.reason.strip_prefix("memory_mib: ") {
                Some(reason) if changes.mem.is_some() => anyhow!("--mem: {reason}"),
                _ => anyhow!("{origin}: {e}"),
            }
        })?;
        Ok(Self { manifest, files })
    }
}

impl Changes {
    /// The changed manifest, and the files that the changes bring along.
    fn apply(&self, mut manifest: Manifest) -> Result<(Manifest, BTreeMap<String, Vec<u8>>)> {
        let here = Path::new(".");
        let mut files = BTreeMap::new();
        if let Some(name) = &self.kernel {
            let option = || format!("--kernel {name}");
            let image =
                kernel(name, content(name, here).with_context(option)?).with_context(option)?;
            image::check(&image).with_context(option)?;
            manifest.kernel = "Image".to_owned();
            files.insert(manifest.kernel.clone(), image);
        }
        match self.initrd.as_deref() {
            Some("none") => manifest.initrd = None,
            Some(initrd) => {
                let option = || format!("--initrd {initrd}");
                files.insert("initrd".to_owned(), content(initrd, here).with_context(option)?);
                manifest.initrd = Some("initrd".to_owned());
            }
            None => {}
        }
        if let Some(append) = &self.append {
            manifest.cmdline.clone_from(append);
        }
        manifest.memory_mib = self.mem.unwrap_or(manifest.memory_mib);
        manifest.vcpus = self.vcpus.unwrap_or(manifest.vcpus);
        // Hold what the command line said to the rules of the manifest.
        manifest::parse(&manifest.to_toml()).map_err(|e| {
            let option = match e.reason.split_once(':') {
                Some(("cmdline", _)) => "--append",
                Some(("vcpus", _)) => "--vcpus",
                _ => "--mem",
            };
            anyhow!("{option}: {}", e.reason)
        })?;
        Ok((manifest, files))
    }
}

impl Vm {
    /// Put something else in the place of the kernel, unchecked: for tests of the shim's checks.
    pub fn spoil_kernel(&mut self, bytes: Vec<u8>) {
        self.files.insert(self.manifest.kernel.clone(), bytes);
    }
}

/// Fetch or build what `name` stands for, so that using it later cannot fail for that reason.
pub fn fetch(name: &str) -> Result<()> {
    content(name, Path::new(".")).map(drop)
}

/// The bundle of `vms`, in the order they run.
#[must_use]
pub fn pack(vms: &[Vm]) -> Vec<u8> {
    let mut archive = Writer::new();
    for vm in vms {
        let name = &vm.manifest.name;
        archive.file(&format!("{name}/vm.toml"), 0o644, vm.manifest.to_toml().as_bytes());
        for (file, data) in &vm.files {
            archive.file(&format!("{name}/{file}"), 0o644, data);
        }
    }
    archive.finish()
}

/// RAM the machine needs for `vms` in a bundle of `len` bytes: theirs, the bundle, and room for
/// EL2, the host and its page tables. QEMU puts the bundle at half of the RAM or at 128 MiB.
#[must_use]
pub fn machine_ram_mib(vms: &[Vm], len: usize) -> u64 {
    let guests: u64 = vms.iter().map(|vm| vm.manifest.memory_mib).sum();
    let bundle = (len as u64).div_ceil(1 << 20);
    (guests + bundle + 192).next_multiple_of(64).max(512)
}

/// The same, where the specification beside EL2 may want a sixteenth of all RAM for its state.
#[must_use]
pub fn with_oracle(ram_mib: u64, oracle: bool) -> u64 {
    if oracle { (ram_mib + ram_mib / 8).next_multiple_of(64) } else { ram_mib }
}

/// `bytes`, unpacked if they are gzip.
pub fn gunzip(bytes: Vec<u8>) -> Result<Vec<u8>> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut out = Vec::new();
    let mut limited = GzDecoder::new(bytes.as_slice()).take(UNPACKED_LIMIT + 1);
    limited.read_to_end(&mut out).context("the gzip file is damaged")?;
    ensure!(out.len() as u64 <= UNPACKED_LIMIT, "the gzip file unpacks to more than 512 MiB");
    Ok(out)
}

/// The kernel in the file `name`: unpacked, and an Image. A name in `.flat` says that it is bare code.
fn kernel(name: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let bytes = gunzip(bytes)?;
    let flat = Path::new(name).extension().is_some_and(|end| end == "flat");
    if flat && image::check(&bytes).is_err() {
        return Ok(host_vmm::image::from_flat(&bytes));
    }
    Ok(bytes)
}

/// Whether `name` asks for something that we fetch or build.
fn is_made(name: &str) -> bool {
    ["debian:", "busybox:", "payload:"].iter().any(|p| name.starts_with(p))
}

fn content(name: &str, folder: &Path) -> Result<Vec<u8>> {
    let suite = |s: &str| if s == "default" { stock::default_suite() } else { s.to_owned() };
    match name.split_once(':') {
        Some(("debian", s)) => paths::read(&stock::kernel(&suite(s))?),
        Some(("busybox", s)) => Ok(initramfs::build(&paths::read(&stock::busybox(&suite(s))?)?)),
        Some(("payload", payload)) => build::payload(payload),
        _ => paths::read(&folder.join(name)),
    }
}

fn find(which: &str) -> Result<PathBuf> {
    if which.ends_with(".toml") || which.contains('/') {
        return Ok(PathBuf::from(which));
    }
    let folder = paths::root().join("boot/vms");
    let file = folder.join(which).with_extension("toml");
    if file.exists() {
        return Ok(file);
    }
    let mut known: Vec<String> = std::fs::read_dir(&folder)?
        .filter_map(|e| Some(e.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    known.sort();
    bail!("no VM is called `{which}`; boot/vms has {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn image(size: u64) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[16..24].copy_from_slice(&size.to_le_bytes());
        bytes[56..60].copy_from_slice(b"ARM\x64");
        bytes
    }

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        paths::write(&dir.path().join("Image"), &image(8192)).unwrap();
        dir
    }

    const TEXT: &str = "name = \"a\"\nkernel = \"Image\"\nmemory_mib = 16\n";

    fn refusal(text: &str, changes: &Changes) -> String {
        let dir = folder();
        format!("{:#}", Vm::from_text("vm.toml", text, dir.path(), changes).unwrap_err())
    }

    #[test]
    fn the_shim_reads_what_is_packed() {
        let dir = folder();
        let vm = Vm::from_text("vm.toml", TEXT, dir.path(), &Changes::default()).unwrap();
        let bundle = pack(&[vm]);
        let read = host_vmm::bundle::Bundle::read(&bundle);
        assert_eq!(read.error, None);
        let folder = &read.folders[0];
        assert_eq!(folder.name, "a");
        let text = std::str::from_utf8(folder.manifest().unwrap()).unwrap();
        let manifest = manifest::parse(text).unwrap();
        assert!(manifest.check_files(|name| folder.file(name)).is_ok());
        assert_eq!(folder.file("Image").unwrap(), image(8192));
    }

    #[test]
    fn each_refusal_names_its_line_and_reason() {
        let none = Changes::default();
        let cases = [
            (format!("{TEXT}colour = 1\n"), "line 4: "),
            (TEXT.replace("Image", "nothere"), "line 2: kernel: no file"),
            (TEXT.replace("16", "1"), "line 3: memory_mib: 1 is too little"),
            (format!("{TEXT}[[region]]\nbase = 0x40000000\nmib = 1\n"), "line 5: region: "),
            (format!("{TEXT}vcpus = 9\n"), "line 4: vcpus: 9 is not 1 to 8"),
        ];
        for (text, reason) in cases {
            let error = refusal(&text, &none);
            assert!(error.contains(reason), "{error}\nhas no: {reason}");
        }
    }

    #[test]
    fn changes_of_the_command_line_are_held_to_the_same_rules() {
        let error = refusal(TEXT, &Changes { mem: Some(0), ..Changes::default() });
        assert!(error.contains("memory_mib"), "{error}");
        let error = refusal(TEXT, &Changes { vcpus: Some(9), ..Changes::default() });
        assert!(error.starts_with("--vcpus: ") && error.contains("9 is not 1 to 8"), "{error}");
        let error = refusal(TEXT, &Changes { append: Some("a\nb".into()), ..Changes::default() });
        assert!(error.contains("control character"), "{error}");
        assert!(error.starts_with("--append: "), "{error}");
        let error = refusal(TEXT, &Changes { mem: Some(1), ..Changes::default() });
        assert!(error.starts_with("--mem: 1 is too little"), "{error}");
        for wrong in ["/nonexistent", "Cargo.toml"] {
            let error =
                refusal(TEXT, &Changes { kernel: Some(wrong.into()), ..Changes::default() });
            assert!(error.starts_with(&format!("--kernel {wrong}: ")), "{error}");
        }
    }

    #[test]
    fn the_command_line_changes_the_number_of_vcpus() {
        let dir = folder();
        let changes = Changes { vcpus: Some(4), ..Changes::default() };
        let vm = Vm::from_text("vm.toml", TEXT, dir.path(), &changes).unwrap();
        assert_eq!(vm.manifest.vcpus, 4);
        assert!(vm.manifest.to_toml().contains("vcpus = 4"));
    }

    #[test]
    fn a_gzipped_kernel_is_unpacked_and_a_wrong_one_refused() {
        let dir = folder();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&image(8192)).unwrap();
        paths::write(&dir.path().join("Image"), &packed.finish().unwrap()).unwrap();
        let vm = Vm::from_text("vm.toml", TEXT, dir.path(), &Changes::default()).unwrap();
        assert_eq!(vm.files["Image"], image(8192));
        paths::write(&dir.path().join("Image"), &[0; 4096]).unwrap();
        let error = Vm::from_text("vm.toml", TEXT, dir.path(), &Changes::default()).unwrap_err();
        assert!(error.to_string().contains("not an arm64 Image"), "{error}");
        paths::write(&dir.path().join("Image"), &[0x1f, 0x8b, 8, 0]).unwrap();
        assert!(Vm::from_text("vm.toml", TEXT, dir.path(), &Changes::default()).is_err());
    }

    #[test]
    fn a_kernel_called_flat_needs_no_header() {
        let dir = folder();
        let flat = dir.path().join("test.flat");
        paths::write(&flat, &[0x5a; 4096]).unwrap();
        let text = TEXT.replace("Image", "test.flat");
        let vm = Vm::from_text("vm.toml", &text, dir.path(), &Changes::default()).unwrap();
        assert!(vm.files["test.flat"].ends_with(&[0x5a; 4096]));
        assert!(image::check(&vm.files["test.flat"]).is_ok());
        let kernel = Some(flat.to_str().unwrap().to_owned());
        let changes = Changes { kernel, ..Changes::default() };
        let changed = Vm::from_text("vm.toml", TEXT, dir.path(), &changes).unwrap();
        assert_eq!(changed.files["Image"], vm.files["test.flat"]);
        // What has a header keeps it.
        paths::write(&flat, &image(8192)).unwrap();
        let vm = Vm::from_text("vm.toml", &text, dir.path(), &Changes::default()).unwrap();
        assert_eq!(vm.files["test.flat"], image(8192));
    }

    #[test]
    fn ram_grows_with_guests_and_bundle() {
        assert_eq!(machine_ram_mib(&[], 0), 512);
        let dir = folder();
        let mem = Changes { mem: Some(1024), ..Changes::default() };
        let vm = Vm::from_text("vm.toml", TEXT, dir.path(), &mem).unwrap();
        assert_eq!(machine_ram_mib(&[vm], 30 << 20), 1280);
    }
}
