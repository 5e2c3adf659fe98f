//! Which guests: the options that `run` and `image` share.

use anyhow::{Result, ensure};

use crate::bundle::{Changes, Vm};
use crate::stock::CannotFetch;
use crate::ui::say;

/// The VM that runs when nothing else is asked for, and the one when its kernel cannot be had.
const DEFAULT_VM: &str = "debian";
const FALLBACK_VM: &str = "demo";

/// The guests.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Choice {
    /// A VM of boot/vms by name, or a manifest file; give it again for more VMs, run in order
    #[arg(long, value_name = "NAME|FILE")]
    vm: Vec<String>,

    /// Another kernel: an arm64 Image (gzip allowed), bare code in a file NAME.flat, debian:SUITE, or
    /// payload:NAME
    #[arg(long, value_name = "IMAGE")]
    kernel: Option<String>,

    /// Another initrd: a file, busybox:SUITE, or none
    #[arg(long, value_name = "FILE")]
    initrd: Option<String>,

    /// The guest's whole kernel command line
    #[arg(long, value_name = "STR")]
    append: Option<String>,

    /// Virtual processors of each guest, 1 to 8 [default: what its manifest says, else 1]
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u8).range(1..=8))]
    vcpus: Option<u8>,

    /// Memory of the guest in MiB; the machine gets what it needs beside that
    #[arg(long, value_name = "MIB")]
    mem: Option<u64>,
}

impl Choice {
    /// The VMs, checked, with all their files.
    pub fn load(&self) -> Result<Vec<Vm>> {
        let changes = Changes {
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            append: self.append.clone(),
            mem: self.mem,
            vcpus: self.vcpus,
        };
        if self.vm.is_empty() {
            return Ok(vec![self.default_vm(&changes)?]);
        }
        let changed = self.kernel.is_some() || self.initrd.is_some() || self.append.is_some();
        ensure!(
            self.vm.len() == 1 || !changed,
            "--kernel, --initrd and --append change one VM; there are {}",
            self.vm.len()
        );
        let vms: Vec<Vm> = self.vm.iter().map(|v| Vm::load(v, &changes)).collect::<Result<_>>()?;
        for (n, vm) in vms.iter().enumerate() {
            let name = &vm.manifest.name;
            ensure!(
                vms.iter().take(n).all(|other| other.manifest.name != *name),
                "two of the VMs are called `{name}`"
            );
        }
        Ok(vms)
    }

    /// The stock guest. When its parts cannot be fetched, the demonstration guest that we build.
    fn default_vm(&self, changes: &Changes) -> Result<Vm> {
        let error = match Vm::load(DEFAULT_VM, changes) {
            Ok(vm) => return Ok(vm),
            Err(error) => error,
        };
        let asked_for_more = changes.kernel.is_some() || changes.initrd.is_some();
        if asked_for_more || error.downcast_ref::<CannotFetch>().is_none() {
            return Err(error);
        }
        // The first link of the chain names the manifest, which is not to blame.
        let reasons: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
        let reason = reasons.join(": ").lines().next().unwrap_or_default().to_owned();
        say(format!("{reason}; running the demonstration guest instead"));
        Vm::load(
            FALLBACK_VM,
            &Changes { mem: changes.mem, vcpus: changes.vcpus, ..Changes::default() },
        )
    }
}
