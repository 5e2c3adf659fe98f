//! The PL011: the console of the host and, through the UART model, of its guests (DDI0183).
//!
//! Sending polls, for a bounded time, so that a dead UART cannot hang the host. Receiving is driven
//! by the interrupt and has backpressure: a byte stays in the hardware FIFO until somebody can take
//! it, so piped input is never lost.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};
use tock_registers::{register_bitfields, register_structs};

use super::mmio::{Registers, Window};

register_bitfields! { u32,
    FR [ RXFE OFFSET(4) NUMBITS(1) [], TXFF OFFSET(5) NUMBITS(1) [] ],
    CR [ UARTEN OFFSET(0) NUMBITS(1) [], TXE OFFSET(8) NUMBITS(1) [], RXE OFFSET(9) NUMBITS(1) [] ],
    LCRH [ FEN OFFSET(4) NUMBITS(1) [], WLEN OFFSET(5) NUMBITS(2) [ Eight = 3 ] ],
    INT [ RX OFFSET(4) NUMBITS(1) [], RT OFFSET(6) NUMBITS(1) [] ]
}

register_structs! {
    Regs {
        (0x000 => dr: ReadWrite<u32>),
        (0x004 => _errors),
        (0x018 => fr: ReadOnly<u32, FR::Register>),
        (0x01c => _baud),
        (0x02c => lcr_h: ReadWrite<u32, LCRH::Register>),
        (0x030 => cr: ReadWrite<u32, CR::Register>),
        (0x034 => _ifls),
        (0x038 => imsc: ReadWrite<u32, INT::Register>),
        (0x03c => _status),
        (0x044 => icr: WriteOnly<u32, INT::Register>),
        (0x048 => @END),
    }
}

// SAFETY:
// 1. `register_structs` makes volatile cells and padding, nothing else.
unsafe impl Registers for Regs {}

/// Polls of a full FIFO before a byte is given up: seconds on real hardware, where a byte takes
/// about 87 us at 115200 baud.
const PATIENCE: u32 = 1 << 22;

/// The console UART. Shared by the log, the panic report and the guest's model; each register
/// access stands alone, so a report may cut in anywhere.
#[derive(Clone, Copy)]
pub struct Pl011 {
    regs: &'static Regs,
}

impl Pl011 {
    /// The UART in `window`, made ready to send; `None` if the window is too small. The baud rate
    /// is the firmware's.
    pub fn new(window: Window) -> Option<Self> {
        let regs = window.regs::<Regs>(0)?;
        regs.imsc.set(0);
        // Usually the firmware has done this; the line control must not change under an enabled
        // UART (DDI0183 3.3.7).
        if !regs.lcr_h.matches_all(LCRH::WLEN::Eight + LCRH::FEN::SET) {
            regs.cr.set(0);
            regs.lcr_h.write(LCRH::WLEN::Eight + LCRH::FEN::SET);
        }
        regs.cr.modify(CR::UARTEN::SET + CR::TXE::SET + CR::RXE::SET);
        Some(Self { regs })
    }

    /// Sends a byte, or drops it if the UART takes none for a long time.
    pub fn send(&self, byte: u8) {
        let mut patience = PATIENCE;
        while self.regs.fr.is_set(FR::TXFF) {
            patience -= 1;
            if patience == 0 {
                return;
            }
            core::hint::spin_loop();
        }
        self.regs.dr.set(u32::from(byte));
    }

    /// A received byte, if there is one. Reception errors are passed over: the byte counts.
    pub fn receive(&self) -> Option<u8> {
        (!self.regs.fr.is_set(FR::RXFE)).then(|| self.regs.dr.get() as u8)
    }

    /// Lets received bytes interrupt, or not.
    pub fn listen(&self, on: bool) {
        let bits = INT::RX::SET + INT::RT::SET;
        self.regs.imsc.write(if on { bits } else { INT::RX::CLEAR });
    }
}

// SAFETY:
// 1. The registers may be accessed from any CPU; the cells are volatile accesses of one word.
unsafe impl Send for Pl011 {}
// SAFETY:
// 1. As above: every method is a sequence of single-word device accesses.
unsafe impl Sync for Pl011 {}
