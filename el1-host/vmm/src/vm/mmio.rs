//! Accesses outside memory: which device, which register.

use host_mirror::RunExit;
use hyp_abi::Ipa;
use hyp_abi::run::exit_flags;

use super::{Parked, Reply, State};
use crate::memmap::{
    GICC, GICC_SIZE, GICD, GICD_SIZE, GICR, RTC, RTC_SIZE, UART, UART_SIZE, VIRTIO, VIRTIO_SIZE,
};
use crate::vcpu_set::VcpuSet;
use crate::vgic::{Access, Version};

/// GICC_DIR, alone in the second page of a GICv2's CPU interface.
const GICC_DIR: u64 = 0x1000;

/// What lies outside memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    Distributor,
    Redistributors,
    /// The trapped page of the CPU interface.
    CpuInterface,
    Uart,
    Rtc,
    /// Slots in which no virtio device is.
    Virtio,
}

/// How an access ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With this answer.
    Reply(Reply),
    /// It is done; this byte goes out of the UART.
    Sent(u8),
    /// It must wait for other vCPUs to leave the guest.
    Parked,
}

impl State {
    /// Answers an access that no memory slot contains. What no device answers, and what the syndrome does not
    /// describe, ends as an external abort, as on a bus without anybody there.
    pub(super) fn mmio(&mut self, now: u64, idx: usize, ipa: Ipa, exit: &RunExit) -> End {
        if exit.flags & exit_flags::DECODED == 0 || exit.flags & exit_flags::FETCH != 0 {
            return End::Reply(Reply::Abort);
        }
        let size = 1_u64 << ((exit.flags >> exit_flags::SIZE_SHIFT) & 3);
        let Some((device, offset)) = self.device(ipa.raw(), size) else {
            return End::Reply(Reply::Abort);
        };
        let access = Access { offset, size };
        self.exits.mmio = self.exits.mmio.saturating_add(1);
        self.rtc.tick(now);
        if exit.flags & exit_flags::WRITE != 0 {
            let sent = self.store(idx, device, access, exit.value & mask(size));
            self.update_lines(idx, now);
            return sent.map_or(End::Reply(Reply::Complete(0)), End::Sent);
        }
        // A register of another vCPU's may tell of its timers.
        (0..self.vcpus.len()).for_each(|idx| self.update_timers(idx, now));
        let waits_for = match device {
            Device::Distributor => self.vgic.to_leave_first(idx, access),
            Device::Redistributors => self.vgic.redist_to_leave_first(access),
            Device::CpuInterface | Device::Uart | Device::Rtc | Device::Virtio => VcpuSet::EMPTY,
        };
        if !waits_for.is_empty() {
            self.gained = self.gained.union(waits_for);
            if let Some(vcpu) = self.vcpus.get_mut(idx) {
                vcpu.parked = Some(Parked { device, access, waits_for });
            }
            return End::Parked;
        }
        let value = self.load(idx, device, access);
        self.update_lines(idx, now);
        End::Reply(Reply::Complete(value))
    }

    /// A vCPU has left the guest: loads that waited for it, and for no other, are done.
    pub(super) fn left(&mut self, who: usize) {
        for idx in 0..self.vcpus.len() {
            let Some(parked) = self.vcpus.get_mut(idx).and_then(|vcpu| vcpu.parked.as_mut()) else {
                continue;
            };
            parked.waits_for = parked.waits_for.without(VcpuSet::only(who));
            let Parked { device, access, waits_for } = *parked;
            if !waits_for.is_empty() {
                continue;
            }
            let value = self.load(idx, device, access);
            if let Some(vcpu) = self.vcpus.get_mut(idx) {
                vcpu.parked = None;
                vcpu.done = true;
                vcpu.reply = Reply::Complete(value);
                self.gained = self.gained.union(VcpuSet::only(idx));
            }
        }
    }

    fn device(&self, at: u64, size: u64) -> Option<(Device, u64)> {
        let cpu_interface = if self.vgic.version() == Version::V2 { GICC_SIZE } else { 0 };
        let windows = [
            (Device::Distributor, GICD, GICD_SIZE),
            (Device::CpuInterface, GICC, cpu_interface),
            (Device::Redistributors, GICR, self.vgic.redist_size()),
            (Device::Uart, UART, UART_SIZE),
            (Device::Rtc, RTC, RTC_SIZE),
            (Device::Virtio, VIRTIO, VIRTIO_SIZE),
        ];
        windows.into_iter().find_map(|(device, base, len)| {
            let offset = at.checked_sub(base)?;
            (offset.checked_add(size)? <= len).then_some((device, offset))
        })
    }

    fn load(&mut self, idx: usize, device: Device, access: Access) -> u64 {
        let value = match device {
            Device::Distributor => self.vgic.read_dist(idx, access),
            Device::Redistributors => self.vgic.read_redist(access),
            Device::CpuInterface => 0,
            Device::Uart => u64::from(self.uart.read(access.offset)),
            Device::Rtc => u64::from(self.rtc.read(access.offset)),
            Device::Virtio => empty_slot(access.offset),
        };
        value & mask(access.size)
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
            Device::Rtc => self.rtc.write(access.offset, word),
            Device::Virtio => {}
        }
        None
    }
}

/// A register of a slot without device (virtio 1.2, 4.2.2): "virt", version 2, and DeviceID 0, which tells
/// a driver to look no further.
const fn empty_slot(offset: u64) -> u64 {
    match offset & 0x1ff {
        0 => 0x7472_6976,
        4 => 2,
        _ => 0,
    }
}

/// The bits of so many bytes.
const fn mask(size: u64) -> u64 {
    u64::MAX >> 64_u64.saturating_sub(size.saturating_mul(8))
}
