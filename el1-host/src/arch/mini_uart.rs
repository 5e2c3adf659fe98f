//! The Raspberry Pi's mini UART (BCM2711 ARM Peripherals, 2.2).
//!
//! An 8250 in disguise: sending polls and receiving is driven by the interrupt, as with the PL011. Its
//! eight bytes of FIFO are few: what nobody takes in time is lost in the hardware, as on any board.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

use super::mmio::{Registers, Window};

register_bitfields! { u32,
    /// Bits 3:2 are said to be don't-care; receive interrupts do not come without them.
    IER [ RX OFFSET(0) NUMBITS(1) [], NEEDED OFFSET(2) NUMBITS(2) [ Set = 3 ] ],
    LSR [ READY OFFSET(0) NUMBITS(1) [], ROOM OFFSET(5) NUMBITS(1) [] ],
    CNTL [ RXE OFFSET(0) NUMBITS(1) [], TXE OFFSET(1) NUMBITS(1) [] ]
}

register_structs! {
    Regs {
        (0x00 => io: ReadWrite<u32>),
        (0x04 => ier: ReadWrite<u32, IER::Register>),
        (0x08 => _line),
        (0x14 => lsr: ReadOnly<u32, LSR::Register>),
        (0x18 => _modem),
        (0x20 => cntl: ReadWrite<u32, CNTL::Register>),
        (0x24 => @END),
    }
}

// SAFETY:
// 1. `register_structs` makes volatile cells and padding, nothing else.
unsafe impl Registers for Regs {}

/// Polls of a full FIFO before a byte is given up.
const PATIENCE: u32 = 1 << 22;

/// A mini UART. Each register access stands alone.
#[derive(Clone, Copy)]
pub struct MiniUart {
    regs: &'static Regs,
}

impl MiniUart {
    /// The UART in `window`, made ready; `None` if the window is too small. Line settings are the
    /// firmware's.
    pub fn new(window: Window) -> Option<Self> {
        let regs = window.regs::<Regs>(0)?;
        regs.ier.set(0);
        regs.cntl.modify(CNTL::RXE::SET + CNTL::TXE::SET);
        Some(Self { regs })
    }

    /// Sends a byte, or drops it if the UART takes none for a long time.
    pub fn send(&self, byte: u8) {
        let mut patience = PATIENCE;
        while !self.regs.lsr.is_set(LSR::ROOM) {
            patience -= 1;
            if patience == 0 {
                return;
            }
            core::hint::spin_loop();
        }
        self.regs.io.set(u32::from(byte));
    }

    /// A received byte, if there is one.
    pub fn receive(&self) -> Option<u8> {
        self.regs.lsr.is_set(LSR::READY).then(|| self.regs.io.get() as u8)
    }

    /// Lets received bytes interrupt, or not.
    pub fn listen(&self, on: bool) {
        self.regs.ier.write(if on { IER::RX::SET + IER::NEEDED::Set } else { IER::RX::CLEAR });
    }
}

// SAFETY:
// 1. The registers may be accessed from any CPU; the cells are volatile accesses of one word.
unsafe impl Send for MiniUart {}
// SAFETY:
// 1. As above: every method is a sequence of single-word device accesses.
unsafe impl Sync for MiniUart {}
