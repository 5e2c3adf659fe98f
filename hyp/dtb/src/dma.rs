//! Which devices could write to memory by themselves.
//!
//! Where no IOMMU stands between, whoever programs a bus master reads and writes all memory, whatever
//! stage 2 says. A tree does not say which devices are masters, so this goes the other way round: a device
//! is harmless if it is of a kind that is known to be, and a master otherwise. A node that is disabled
//! counts as well: `status` is advice to drivers, and the hardware is there.

use crate::node::{At, Region};
use crate::{Dtb, DtbError};

/// What a device can do to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing but what the CPU reads from and writes to its registers.
    Harmless,
    /// It reads or writes memory, has others do so, or nobody knows.
    Master,
}

/// One range of a device's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device<'a> {
    /// The node's name, with unit address.
    pub name: &'a str,
    /// Where its registers are for the CPU.
    pub registers: Region,
    /// What it is.
    pub role: Role,
}

/// Devices that have no way to memory: neither a DMA engine of their own nor a processor behind them.
/// Those that use another's engine (SPI, I2C) are harmless as long as that engine is out of reach.
const HARMLESS: &[&str] = &[
    "arm,pl011",
    "arm,pl031",
    "arm,pl061",
    // GICv2 reads no memory. A GICv3 is no match: its LPI tables and its ITS are in memory.
    "arm,gic-400",
    "arm,cortex-a15-gic",
    "arm,cortex-a7-gic",
    "brcm,bcm2711-avs-monitor",
    "brcm,bcm2711-gpio",
    "brcm,bcm2711-pm",
    "brcm,bcm2711-rng200",
    "brcm,bcm2711-thermal",
    "brcm,bcm2835-aux",
    "brcm,bcm2835-aux-spi",
    "brcm,bcm2835-aux-uart",
    "brcm,bcm2835-i2c",
    "brcm,bcm2835-pm-wdt",
    "brcm,bcm2835-pwm",
    "brcm,bcm2835-spi",
    "brcm,bcm2835-system-timer",
    "brcm,bcm2836-l1-intc",
];

/// Nodes whose children's `reg` is no register of a device.
const NO_BUS: &[&str] = &["cpus", "memory", "reserved-memory", "chosen", "firmware"];

impl<'a> Dtb<'a> {
    /// Calls `each` for every range of registers that a CPU can reach, in the order of the tree.
    /// Ranges may overlap: parts of a device often have nodes of their own.
    ///
    /// # Errors
    /// A `reg` that is not whole, or what `each` answers.
    pub fn each_device(
        &self,
        mut each: impl FnMut(Device<'a>) -> Result<(), DtbError>,
    ) -> Result<(), DtbError> {
        self.find(|node| visit(node, &mut each).err()).map_or(Ok(()), Err)
    }
}

fn visit<'a>(
    node: &At<'_, '_, 'a>,
    each: &mut impl FnMut(Device<'a>) -> Result<(), DtbError>,
) -> Result<(), DtbError> {
    if node.is_within(NO_BUS) {
        return Ok(());
    }
    let role = if node.is_compatible(HARMLESS) { Role::Harmless } else { Role::Master };
    let registers = match node.reg() {
        // Not numbers of a CPU's: functions behind a PCI bridge have three cells.
        Err(DtbError::Cells) => return Ok(()),
        registers => registers?,
    };
    for registers in registers {
        match registers {
            Ok(registers) if registers.size > 0 => {
                each(Device { name: node.name(), registers, role })?;
            }
            // Addresses of another world: chips on an I2C bus.
            Ok(_) | Err(DtbError::Untranslatable(_) | DtbError::Cells) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{PI4, Tokens};

    const VIRT: &[u8] = include_bytes!("../../../tests/data/virt-gicv3.dtb");

    fn devices(tree: &'static [u8]) -> Vec<Device<'static>> {
        let mut all = Vec::new();
        let tree = Dtb::parse(tree).unwrap();
        tree.each_device(|device| {
            all.push(device);
            Ok(())
        })
        .unwrap();
        all
    }

    fn role(all: &[Device<'_>], base: u64) -> Option<Role> {
        let of = |role| all.iter().any(|d| d.registers.base == base && d.role == role);
        match (of(Role::Master), of(Role::Harmless)) {
            (true, _) => Some(Role::Master),
            (false, true) => Some(Role::Harmless),
            _ => None,
        }
    }

    #[test]
    fn on_virt_the_uart_is_harmless_and_what_qemu_moves_data_with_is_not() {
        let all = devices(VIRT);
        assert_eq!(role(&all, 0x0900_0000), Some(Role::Harmless));
        assert_eq!(role(&all, 0x0902_0000), Some(Role::Master), "fw-cfg");
        assert_eq!(role(&all, 0x0a00_0000), Some(Role::Master), "virtio");
        assert_eq!(role(&all, 0x0800_0000), Some(Role::Master), "a GICv3 has tables in memory");
    }

    #[test]
    fn memory_and_cpus_are_no_devices() {
        for tree in [VIRT, PI4] {
            let all = devices(tree);
            assert!(
                all.iter().all(|d| !d.name.starts_with("memory") && !d.name.starts_with("cpu"))
            );
        }
    }

    #[test]
    fn on_a_pi_the_gic_and_the_uart_are_harmless() {
        let all = devices(PI4);
        assert_eq!(role(&all, 0xff84_1000), Some(Role::Harmless));
        assert_eq!(role(&all, 0xfe20_1000), Some(Role::Harmless));
    }

    #[test]
    fn what_is_behind_a_pci_bridge_has_no_address_of_the_cpu_s() {
        let three = 3_u32.to_be_bytes();
        let pci = Tokens::new().begin(b"").begin(b"pcie@0").prop(4, &three).begin(b"pci@0,0");
        let mut tree = pci.prop(0, &[0; 20]).end().end().begin(b"dma@1000").prop(0, &[1; 12]);
        tree.strings = b"reg\0#address-cells\0".to_vec();
        let tree = tree.end().end().word(9).build();
        let mut names = Vec::new();
        let walk = Dtb::parse(&tree).unwrap().each_device(|device| {
            names.push(device.name.to_owned());
            Ok(())
        });
        assert_eq!((walk, names), (Ok(()), vec!["dma@1000".to_owned()]));
    }

    #[test]
    fn an_error_of_the_caller_ends_the_walk() {
        let tree = Dtb::parse(PI4).unwrap();
        let mut seen = 0;
        let answer = tree.each_device(|_| {
            seen += 1;
            Err(DtbError::TooMany("devices"))
        });
        assert_eq!((answer, seen), (Err(DtbError::TooMany("devices")), 1));
    }
}
