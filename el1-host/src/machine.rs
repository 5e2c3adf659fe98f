//! What the host must know of the machine, from the device tree, in the host's own terms.

use hyp_dtb::{Dtb, DtbError, Gic, List, Psci, Region, UartKind, devices};

use crate::ranges::{Range, Ranges, TooMany};

impl From<Region> for Range {
    fn from(region: Region) -> Self {
        Self { start: region.base, end: region.base + region.size }
    }
}

/// The console: what is needed before anything can be said.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    /// Registers of the PL011.
    pub uart: Range,
    /// Its interrupt, if it has one.
    pub uart_intid: Option<u32>,
    /// PSCI goes by HVC, not by SMC.
    pub psci_by_hvc: bool,
}

impl Voice {
    /// Reads the console; `None` if the tree names no PL011.
    pub fn read(tree: &Dtb<'_>) -> Option<Self> {
        let uart = tree.uart().ok()??;
        (uart.kind == UartKind::Pl011).then_some(Self {
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
    /// RAM, without what the tree reserves; bounds as in the tree.
    pub ram: Ranges,
    /// The interrupt controller.
    pub gic: Controller,
    /// INTID of EL1's physical timer, the host's.
    pub timer_intid: u32,
    /// INTID of the virtual timer, the guests'.
    pub vtimer_intid: u32,
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
        let gic = match tree.gic()? {
            Gic::V2 { gicd, gicc, .. } => {
                Controller::V2 { distributor: gicd.into(), cpu: gicc.into() }
            }
            Gic::V3 { gicd, gicr, stride, .. } => {
                Controller::V3 { distributor: gicd.into(), redistributors: gicr, stride }
            }
        };
        Ok(Self {
            ram: usable(tree)?,
            gic,
            timer_intid: timer.physical,
            vtimer_intid: timer.virt,
            initrd: chosen.initrd.map(Range::from),
            bootargs: chosen.bootargs.unwrap_or_default(),
        })
    }
}

/// RAM less what is reserved.
fn usable(tree: &Dtb<'_>) -> Result<Ranges, DtbError> {
    let full = |TooMany| DtbError::TooMany("pieces of memory");
    let mut ram = Ranges::new();
    for region in tree.ram()?.iter() {
        ram.add((*region).into()).map_err(full)?;
    }
    for reserved in tree.reserved()?.iter() {
        ram.remove(Range::from(reserved.region).pages_around()).map_err(full)?;
    }
    Ok(ram)
}
