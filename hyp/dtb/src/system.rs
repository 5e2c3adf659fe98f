//! Memory, CPUs, firmware and `/chosen`.

use crate::check::reservations;
use crate::node::At;
use crate::{Dtb, DtbError, List, Region};

/// Most RAM ranges.
pub const MAX_RAM: usize = 16;
/// Most reserved ranges.
pub const MAX_RESERVED: usize = 32;
/// Most CPUs.
pub const MAX_CPUS: usize = 64;

/// Memory that is spoken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Where.
    pub region: Region,
    /// It must not even be mapped: as good as no RAM.
    pub no_map: bool,
    /// An operating system may use it as it likes until a driver wants it back.
    pub reusable: bool,
}

/// How a CPU is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enable {
    /// Nobody says.
    #[default]
    Unknown,
    /// PSCI `CPU_ON`.
    Psci,
    /// It spins on this physical address until that holds a non-zero entry point.
    SpinTable(u64),
}

/// A CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Affinity fields of its MPIDR.
    pub mpidr: u64,
    /// How it is started.
    pub enable: Enable,
}

/// How PSCI (0.2 or later, so with the standard function ids) is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Psci {
    /// By SMC.
    Smc,
    /// By HVC.
    Hvc,
}

/// What the boot loader says in `/chosen`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chosen<'a> {
    /// The command line.
    pub bootargs: Option<&'a str>,
    /// The initrd, not empty.
    pub initrd: Option<Region>,
    /// The console: a path or an alias, without its options.
    pub stdout: Option<&'a str>,
}

impl<'a> Dtb<'a> {
    /// Whether the machine says that it is one of this kind (`compatible` of the root).
    #[must_use]
    pub fn is_machine(&self, kind: &str) -> bool {
        self.at_path("/", |root| root.is_compatible(&[kind])).unwrap_or(false)
    }

    /// Visits the enabled children of the node at `path`, if there is one.
    fn each_at(
        &self,
        path: &str,
        each: impl FnMut(&At<'_, '_, 'a>) -> Result<(), DtbError>,
    ) -> Result<(), DtbError> {
        self.at_path(path, |node| node.each_child(each)).unwrap_or(Ok(()))
    }

    /// RAM, in the order of the tree, as written there: not sorted, not on page boundaries. The
    /// nodes are those under the root with `device_type` "memory"; empty ranges (for firmware to
    /// fill in) are left out.
    ///
    /// # Errors
    /// A bad node, more than [`MAX_RAM`] ranges, or no RAM at all.
    pub fn ram(&self) -> Result<List<Region, MAX_RAM>, DtbError> {
        let mut ram = List::new();
        self.each_at("/", |node| {
            if node.text("device_type") != Some("memory") {
                return Ok(());
            }
            for region in node.reg()? {
                let region = region?;
                if region.size > 0 {
                    ram.push(region, "memory ranges")?;
                }
            }
            Ok(())
        })?;
        if ram.is_empty() { Err(DtbError::Missing("memory")) } else { Ok(ram) }
    }

    /// Reserved memory: the reservation block, and the children of `/reserved-memory` that have a
    /// place (the others are for an operating system to choose).
    ///
    /// # Errors
    /// A bad node, or more than [`MAX_RESERVED`] ranges.
    pub fn reserved(&self) -> Result<List<Reserved, MAX_RESERVED>, DtbError> {
        let mut all = List::new();
        let mut add = |region: Region, no_map, reusable| {
            let used = region.size > 0;
            let found = Reserved { region, no_map, reusable };
            if used { all.push(found, "reserved ranges") } else { Ok(()) }
        };
        for pair in reservations(self.bytes()) {
            let (base, size) = pair?;
            base.checked_add(size).ok_or(DtbError::Reservations)?;
            add(Region { base, size }, false, false)?;
        }
        self.each_at("/reserved-memory", |node| {
            let says = |name| node.bytes(name).is_some();
            let (no_map, reusable) = (says("no-map"), says("reusable"));
            node.reg()?.try_for_each(|region| add(region?, no_map, reusable))
        })?;
        Ok(all)
    }

    /// The CPUs, in the order of the tree: those that are enabled, and those that wait in a spin table
    /// whatever their `status` says, for whoever writes there starts them.
    ///
    /// # Errors
    /// A CPU without number, a spin table without address, or more than [`MAX_CPUS`].
    pub fn cpus(&self) -> Result<List<Cpu, MAX_CPUS>, DtbError> {
        let mut cpus = List::new();
        let add = |node: &At<'_, '_, '_>| {
            let spins = node.text("enable-method") == Some("spin-table");
            if node.text("device_type") != Some("cpu") || !(node.enabled() || spins) {
                return Ok(());
            }
            let mpidr = node.unit()?.ok_or(DtbError::Missing("reg of a CPU"))?;
            let enable = match node.text("enable-method") {
                Some("psci") => Enable::Psci,
                Some("spin-table") => {
                    let address = node.number("cpu-release-addr")?;
                    Enable::SpinTable(address.ok_or(DtbError::Missing("cpu-release-addr"))?)
                }
                _ => Enable::Unknown,
            };
            cpus.push(Cpu { mpidr, enable }, "CPUs")
        };
        self.at_path("/cpus", |cpus| cpus.each_child_in_any_state(add)).unwrap_or(Ok(()))?;
        if cpus.is_empty() { Err(DtbError::Missing("CPUs")) } else { Ok(cpus) }
    }

    /// How PSCI is called, if there is one.
    ///
    /// # Errors
    /// A method that is neither.
    pub fn psci(&self) -> Result<Option<Psci>, DtbError> {
        let method = self.find(|node| {
            let psci = node.enabled() && node.is_compatible(&["arm,psci-1.0", "arm,psci-0.2"]);
            psci.then(|| node.text("method"))
        });
        match method {
            None => Ok(None),
            Some(Some("smc")) => Ok(Some(Psci::Smc)),
            Some(Some("hvc")) => Ok(Some(Psci::Hvc)),
            Some(_) => Err(DtbError::Bad("method of PSCI")),
        }
    }

    /// `/chosen`; all of it is absent without the node.
    ///
    /// # Errors
    /// A command line that is not UTF-8, or an initrd with only one end, or with ends in the wrong
    /// order.
    pub fn chosen(&self) -> Result<Chosen<'a>, DtbError> {
        let read = self.at_path("/chosen", |node| {
            let bootargs = match node.bytes("bootargs") {
                None => None,
                Some(_) => Some(node.text("bootargs").ok_or(DtbError::Bad("bootargs"))?),
            };
            let start = node.number("linux,initrd-start")?;
            let end = node.number("linux,initrd-end")?;
            let initrd = match (start, end) {
                (None, None) => None,
                (Some(base), Some(end)) => {
                    let size = end.checked_sub(base).ok_or(DtbError::Bad("initrd"))?;
                    Some(Region { base, size }).filter(|r| r.size > 0)
                }
                _ => return Err(DtbError::Bad("initrd")),
            };
            let stdout = node.text("stdout-path").or_else(|| node.text("linux,stdout-path"));
            let stdout = stdout.map(|s| s.split_once(':').map_or(s, |(path, _)| path));
            Ok(Chosen { bootargs, initrd, stdout })
        });
        read.unwrap_or_else(|| Ok(Chosen::default()))
    }
}
