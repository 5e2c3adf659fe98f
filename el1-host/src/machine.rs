//! What the host must know of the machine, from the device tree, in the host's own terms.

use hyp_dtb::{Cpu, Dtb, DtbError, Gic, List, Psci, Region, UartKind, devices, system};

use crate::ranges::{Range, Ranges, TooMany};

impl From<Region> for Range {
    fn from(region: Region) -> Self {
        Self { start: region.base, end: region.base + region.size }
    }
}

/// The console: what is needed before anything can be said.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    /// Which kind of UART.
    pub kind: UartKind,
    /// Its registers.
    pub uart: Range,
    /// Its interrupt, if it has one.
    pub uart_intid: Option<u32>,
    /// PSCI goes by HVC, not by SMC.
    pub psci_by_hvc: bool,
}

impl Voice {
    /// Reads the console; `None` if the tree names none that is known.
    pub fn read(tree: &Dtb<'_>) -> Option<Self> {
        let uart = tree.uart().ok()??;
        Some(Self {
            kind: uart.kind,
            uart: uart.registers.into(),
            uart_intid: uart.intid,
            psci_by_hvc: matches!(tree.psci(), Ok(Some(Psci::Hvc))),
        })
    }
}

/// The interrupt controller's register windows.
#[derive(Clone, Copy, Debug)]
pub enum Controller {
    /// GICv2: distributor and CPU interface.
    V2 {
        /// GICD.
        distributor: Range,
        /// GICC.
        cpu: Range,
    },
    /// GICv3: distributor and redistributors.
    V3 {
        /// GICD.
        distributor: Range,
        /// GICR.
        redistributors: List<Region, { devices::MAX_REDISTRIBUTORS }>,
        /// Bytes from one redistributor to the next, if not as usual.
        stride: Option<u64>,
    },
}

/// The machine.
pub struct Machine<'a> {
    /// RAM, without what must not even be mapped; bounds as in the tree.
    pub ram: Ranges,
    /// RAM that somebody else uses, in whole pages. Boot loaders often list the initrd here, too.
    pub reserved: Ranges,
    /// The interrupt controller.
    pub gic: Controller,
    /// INTID of EL1's physical timer, the host's.
    pub timer_intid: u32,
    /// INTID of the virtual timer, the guests'.
    pub vtimer_intid: u32,
    /// INTID of the GIC's maintenance interrupt: a guest's list registers have run empty.
    pub maintenance_intid: u32,
    /// The CPUs, in the order of the tree.
    pub cpus: List<Cpu, { system::MAX_CPUS }>,
    /// Where the bundle lies.
    pub initrd: Option<Range>,
    /// The command line.
    pub bootargs: &'a str,
}

impl<'a> Machine<'a> {
    /// Reads the rest.
    ///
    /// # Errors
    /// What the tree lacks.
    pub fn read(tree: &Dtb<'a>) -> Result<Self, DtbError> {
        let chosen = tree.chosen()?;
        let timer = tree.timer()?;
        let (gic, maintenance_intid) = match tree.gic()? {
            Gic::V2 { gicd, gicc, maintenance, .. } => {
                (Controller::V2 { distributor: gicd.into(), cpu: gicc.into() }, maintenance)
            }
            Gic::V3 { gicd, gicr, stride, maintenance } => {
                let distributor = gicd.into();
                (Controller::V3 { distributor, redistributors: gicr, stride }, maintenance)
            }
        };
        let (ram, reserved) = memory(tree)?;
        Ok(Self {
            ram,
            reserved,
            gic,
            timer_intid: timer.physical,
            vtimer_intid: timer.virt,
            maintenance_intid,
            cpus: tree.cpus()?,
            initrd: chosen.initrd.map(Range::from),
            bootargs: chosen.bootargs.unwrap_or_default(),
        })
    }
}

/// RAM, and what of it is reserved.
fn memory(tree: &Dtb<'_>) -> Result<(Ranges, Ranges), DtbError> {
    let full = |TooMany| DtbError::TooMany("pieces of memory");
    let (mut ram, mut reserved) = (Ranges::new(), Ranges::new());
    for region in tree.ram()?.iter() {
        ram.add((*region).into()).map_err(full)?;
    }
    for taken in tree.reserved()?.iter() {
        let pages = Range::from(taken.region).pages_around();
        let done = if taken.no_map { ram.remove(pages) } else { reserved.add(pages) };
        done.map_err(full)?;
    }
    Ok((ram, reserved))
}

#[cfg(test)]
mod tests {
    use super::{Controller, Machine, Voice};
    use crate::ranges::Range;
    use hyp_dtb::{Dtb, UartKind};

    fn tree(bytes: &'static [u8]) -> Dtb<'static> {
        Dtb::parse(bytes).unwrap()
    }

    #[test]
    fn qemu_s_virt_machine_is_understood_with_either_gic() {
        for (bytes, version) in [
            (&include_bytes!("../../tests/data/virt-gicv2.dtb")[..], 2),
            (&include_bytes!("../../tests/data/virt-gicv3.dtb")[..], 3),
        ] {
            let voice = Voice::read(&tree(bytes)).unwrap();
            assert_eq!(voice.kind, UartKind::Pl011);
            assert_eq!(voice.uart, Range { start: 0x0900_0000, end: 0x0900_1000 });
            assert_eq!((voice.uart_intid, voice.psci_by_hvc), (Some(33), false));
            let machine = Machine::read(&tree(bytes)).unwrap();
            assert_eq!((machine.timer_intid, machine.vtimer_intid), (30, 27));
            assert_eq!(machine.maintenance_intid, 25);
            assert_eq!(machine.cpus.first().map(|cpu| cpu.mpidr), Some(0));
            assert_eq!(machine.ram.iter().next().map(|r| r.start), Some(0x4000_0000));
            let windows = match machine.gic {
                Controller::V2 { distributor, cpu } => (2, distributor.start, cpu.start),
                Controller::V3 { distributor, redistributors, stride } => {
                    assert_eq!((redistributors.len(), stride), (1, None));
                    (3, distributor.start, redistributors[0].base)
                }
            };
            let second = if version == 2 { 0x0801_0000 } else { 0x080a_0000 };
            assert_eq!(windows, (version, 0x0800_0000, second));
            assert_eq!((machine.initrd, machine.bootargs), (None, ""));
        }
    }

    #[test]
    fn reserved_memory_is_known_and_what_must_not_be_mapped_is_no_ram() {
        let machine =
            Machine::read(&tree(include_bytes!("../../tests/data/rpi4-shape.dtb"))).unwrap();
        let list = |set: &crate::ranges::Ranges| -> Vec<(u64, u64)> {
            set.iter().map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(list(&machine.reserved), [(0, 0x1000), (0x3000_0000, 0x3000_1000)]);
        assert_eq!(
            list(&machine.ram),
            [(0, 0x2000_0000), (0x2000_2000, 0x3b40_0000), (0x4000_0000, 0xfc00_0000)]
        );
    }
}
