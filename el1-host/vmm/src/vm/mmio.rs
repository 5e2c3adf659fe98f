//! Accesses outside memory: which device, which register.

use host_mirror::RunExit;
use hyp_abi::Ipa;
use hyp_abi::run::exit_flags;

use super::{Reply, State};
use crate::memmap::{GICC, GICC_SIZE, GICD, GICD_SIZE, GICR, UART, UART_SIZE};
use crate::vgic::{Access, Version};

/// GICC_DIR, alone in the second page of a GICv2's CPU interface.
const GICC_DIR: u64 = 0x1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    Distributor,
    Redistributors,
    /// The trapped page of the CPU interface.
    CpuInterface,
    Uart,
}

impl State {
    /// Answers an access that no memory slot contains. What no device answers, and what the syndrome does not
    /// describe, ends as an external abort, as on a bus without anybody there. The second answer is a
    /// byte that goes out of the UART.
    pub(super) fn mmio(
        &mut self,
        now: u64,
        idx: usize,
        ipa: Ipa,
        exit: &RunExit,
    ) -> (Reply, Option<u8>) {
        if exit.flags & exit_flags::DECODED == 0 || exit.flags & exit_flags::FETCH != 0 {
            return (Reply::Abort, None);
        }
        let size = 1_u64 << ((exit.flags >> exit_flags::SIZE_SHIFT) & 3);
        let Some((device, offset)) = self.device(ipa.raw(), size) else {
            return (Reply::Abort, None);
        };
        let access = Access { offset, size };
        let mask = u64::MAX >> 64_u64.saturating_sub(size.saturating_mul(8));
        self.exits.mmio = self.exits.mmio.saturating_add(1);
        let (value, sent) = if exit.flags & exit_flags::WRITE != 0 {
            (0, self.store(idx, device, access, exit.value & mask))
        } else {
            (self.load(idx, device, access) & mask, None)
        };
        self.update_lines(idx, now);
        (Reply::Complete(value), sent)
    }

    fn device(&self, at: u64, size: u64) -> Option<(Device, u64)> {
        let cpu_interface = if self.vgic.version() == Version::V2 { GICC_SIZE } else { 0 };
        let windows = [
            (Device::Distributor, GICD, GICD_SIZE),
            (Device::CpuInterface, GICC, cpu_interface),
            (Device::Redistributors, GICR, self.vgic.redist_size()),
            (Device::Uart, UART, UART_SIZE),
        ];
        windows.into_iter().find_map(|(device, base, len)| {
            let offset = at.checked_sub(base)?;
            (offset.checked_add(size)? <= len).then_some((device, offset))
        })
    }

    fn load(&mut self, idx: usize, device: Device, access: Access) -> u64 {
        match device {
            Device::Distributor => self.vgic.read_dist(idx, access),
            Device::Redistributors => self.vgic.read_redist(access),
            Device::CpuInterface => 0,
            Device::Uart => u64::from(self.uart.read(access.offset)),
        }
    }

    fn store(&mut self, idx: usize, device: Device, access: Access, value: u64) -> Option<u8> {
        let word = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        match device {
            Device::Distributor => self.vgic.write_dist(idx, access, value),
            Device::Redistributors => self.vgic.write_redist(access, value),
            Device::CpuInterface => {
                if (access.offset, access.size) == (GICC_DIR, 4) {
                    // Bits 12:10 name the source of an SGI: only one can be active.
                    self.vgic.deactivate(idx, word & 0x3ff);
                }
            }
            Device::Uart => return self.uart.write(access.offset, word),
        }
        None
    }
}
