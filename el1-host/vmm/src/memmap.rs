//! A guest's address space: what lies where in every guest. The same numbers as on QEMU's `virt`, so that
//! software that knows that board finds its devices where it looks first.

/// GIC distributor, 64 KiB.
pub const GICD: u64 = 0x0800_0000;
/// GICv2 CPU interface: the GICV page is mapped here, the page after it (GICC_DIR) traps.
pub const GICC: u64 = 0x0801_0000;
/// GICv3 redistributors, 128 KiB a vCPU.
pub const GICR: u64 = 0x080a_0000;
/// Size of the distributor's window.
pub const GICD_SIZE: u64 = 0x1_0000;
/// Size of the GICv2 CPU interface: two pages.
pub const GICC_SIZE: u64 = 0x2000;
/// Size of one redistributor: RD_base and SGI_base frames.
pub const GICR_SIZE: u64 = 0x2_0000;
/// PL011.
pub const UART: u64 = 0x0900_0000;
/// Size of the PL011's window.
pub const UART_SIZE: u64 = 0x1000;
/// The PL011's interrupt: SPI 1.
pub const UART_INTID: u32 = 33;
/// PL031.
pub const RTC: u64 = 0x0901_0000;
/// Size of the PL031's window.
pub const RTC_SIZE: u64 = 0x1000;
/// The PL031's interrupt: SPI 2.
pub const RTC_INTID: u32 = 34;
/// Virtio slots of 512 bytes, all of them empty. The device tree does not name them, but software for QEMU's
/// board takes for granted that they answer.
pub const VIRTIO: u64 = 0x0a00_0000;
/// Size of all 32.
pub const VIRTIO_SIZE: u64 = 0x4000;
/// Everything from here to [`DEVICES_END`] is kept for devices.
pub const DEVICES: u64 = GICD;
/// See [`DEVICES`].
pub const DEVICES_END: u64 = 0x1000_0000;
/// First byte of RAM.
pub const RAM: u64 = 0x4000_0000;
/// Most RAM at [`RAM`], in MiB: initrd and kernel must share a window of 32 GiB (boot protocol).
pub const RAM_MIB_MAX: u64 = 32 << 10;
/// Width of the widest guest address space.
pub const IPA_BITS: u32 = 40;

/// The virtual timer's PPI.
pub const VTIMER_INTID: u32 = 27;
/// The physical timer's PPI (non-secure EL1).
pub const PTIMER_INTID: u32 = 30;
