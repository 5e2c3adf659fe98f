//! The devices that a hypervisor needs itself: console, interrupt controller, timer.

use crate::node::At;
use crate::{Dtb, DtbError, List, Region};

/// Most regions of GICv3 redistributors.
pub const MAX_REDISTRIBUTORS: usize = 8;

/// Which UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartKind {
    /// `arm,pl011`.
    Pl011,
    /// `brcm,bcm2835-aux-uart`, the Pi's mini UART.
    Mini,
}

/// The console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uart {
    /// Which programming interface.
    pub kind: UartKind,
    /// Its registers.
    pub registers: Region,
    /// Its INTID, if its interrupt goes to the GIC.
    pub intid: Option<u32>,
}

/// The interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// GICv2, with the virtualization extensions.
    V2 {
        /// Distributor.
        gicd: Region,
        /// CPU interface.
        gicc: Region,
        /// Virtual interface control.
        gich: Region,
        /// Virtual CPU interface.
        gicv: Region,
        /// INTID of the maintenance interrupt.
        maintenance: u32,
    },
    /// GICv3 or GICv4.
    V3 {
        /// Distributor.
        gicd: Region,
        /// Redistributors, at least one region.
        gicr: List<Region, MAX_REDISTRIBUTORS>,
        /// Bytes from one redistributor to the next, if not as usual.
        stride: Option<u64>,
        /// INTID of the maintenance interrupt.
        maintenance: u32,
    },
}

/// INTIDs of the generic timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// Secure physical timer.
    pub secure: u32,
    /// Non-secure EL1 physical timer.
    pub physical: u32,
    /// Virtual timer.
    pub virt: u32,
    /// Non-secure EL2 physical timer.
    pub hyp: u32,
}

const GICV2: &[&str] = &["arm,gic-400", "arm,cortex-a15-gic", "arm,cortex-a7-gic"];
const GICV3: &[&str] = &["arm,gic-v3"];
const PL011: &[&str] = &["arm,pl011"];
const MINI: &[&str] = &["brcm,bcm2835-aux-uart"];
const TIMER: &[&str] = &["arm,armv8-timer", "arm,armv7-timer"];

/// What others must know of the GIC's node to read their interrupts.
struct Speaker {
    phandle: Option<u64>,
    cells: usize,
}

impl Dtb<'_> {
    /// The console: the node that `/chosen` names, or without a name there the first UART that
    /// this reader knows. `None`: there is none that it knows.
    ///
    /// # Errors
    /// A UART whose registers cannot be found.
    pub fn uart(&self) -> Result<Option<Uart>, DtbError> {
        let Some(stdout) = self.chosen()?.stdout else {
            return self.find(|node| self.uart_at(node).transpose()).transpose();
        };
        let path = if stdout.starts_with('/') {
            Some(stdout)
        } else {
            // An alias, once: its value is a path.
            self.at_path("/aliases", |node| node.text(stdout)).flatten()
        };
        path.and_then(|p| self.at_path(p, |node| self.uart_at(node))).unwrap_or(Ok(None))
    }

    /// The interrupt controller.
    ///
    /// # Errors
    /// There is none that this reader knows, its registers cannot be found, or it has no
    /// virtualization extensions.
    pub fn gic(&self) -> Result<Gic, DtbError> {
        let found = self.find(|node| {
            if !node.enabled() {
                None
            } else if node.is_compatible(GICV2) {
                Some(gicv2(node))
            } else if node.is_compatible(GICV3) {
                Some(gicv3(node))
            } else {
                None
            }
        });
        found.unwrap_or(Err(DtbError::Missing("GIC")))
    }

    /// The generic timer's interrupts.
    ///
    /// # Errors
    /// There is no timer node, or not all four are the GIC's.
    pub fn timer(&self) -> Result<Timer, DtbError> {
        let cells = self.speaker().map_or(3, |s| s.cells);
        let found = self.find(|node| {
            let timer = node.enabled() && node.is_compatible(TIMER);
            timer.then(|| {
                let intid = |i| node.gic_interrupt(cells, i).ok_or(DtbError::Bad("timer"));
                Ok(Timer {
                    secure: intid(0)?,
                    physical: intid(1)?,
                    virt: intid(2)?,
                    hyp: intid(3)?,
                })
            })
        });
        found.unwrap_or(Err(DtbError::Missing("timer")))
    }

    fn uart_at(&self, node: &At<'_, '_, '_>) -> Result<Option<Uart>, DtbError> {
        let kind = match () {
            () if !node.enabled() => return Ok(None),
            () if node.is_compatible(PL011) => UartKind::Pl011,
            () if node.is_compatible(MINI) => UartKind::Mini,
            () => return Ok(None),
        };
        let registers = node.reg()?.next().ok_or(DtbError::Missing("reg of the UART"))??;
        let intid = self.speaker().and_then(|gic| {
            let parent = node.interrupt_parent();
            let heard = parent.is_some() && parent == gic.phandle;
            if heard { node.gic_interrupt(gic.cells, 0) } else { None }
        });
        Ok(Some(Uart { kind, registers, intid }))
    }

    fn speaker(&self) -> Option<Speaker> {
        self.find(|node| {
            let gic = node.enabled() && (node.is_compatible(GICV2) || node.is_compatible(GICV3));
            gic.then(|| Speaker {
                phandle: node.number("phandle").ok().flatten(),
                cells: interrupt_cells(node),
            })
        })
    }
}

/// 3, or 4 where a GICv3 divides its PPIs among CPUs.
fn interrupt_cells(node: &At<'_, '_, '_>) -> usize {
    match node.number("#interrupt-cells") {
        Ok(Some(4)) => 4,
        _ => 3,
    }
}

fn maintenance(node: &At<'_, '_, '_>) -> Result<u32, DtbError> {
    let intid = node.gic_interrupt(interrupt_cells(node), 0);
    intid.ok_or(DtbError::Missing("maintenance interrupt of the GIC"))
}

fn gicv2(node: &At<'_, '_, '_>) -> Result<Gic, DtbError> {
    let mut reg = node.reg()?;
    let mut next = |what| reg.next().ok_or(DtbError::Missing(what))?;
    Ok(Gic::V2 {
        gicd: next("GICD")?,
        gicc: next("GICC")?,
        gich: next("GICH")?,
        gicv: next("GICV")?,
        maintenance: maintenance(node)?,
    })
}

fn gicv3(node: &At<'_, '_, '_>) -> Result<Gic, DtbError> {
    let mut reg = node.reg()?;
    let gicd = reg.next().ok_or(DtbError::Missing("GICD"))??;
    let regions = node.number("#redistributor-regions")?.unwrap_or(1);
    let mut gicr = List::new();
    for _ in 0..regions {
        gicr.push(reg.next().ok_or(DtbError::Missing("GICR"))??, "GICR regions")?;
    }
    if gicr.is_empty() {
        return Err(DtbError::Missing("GICR"));
    }
    let stride = node.number("redistributor-stride")?;
    Ok(Gic::V3 { gicd, gicr, stride, maintenance: maintenance(node)? })
}
