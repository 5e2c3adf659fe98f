//! A PL011 UART (ARM DDI0183G), revision r1p4: 16-byte FIFOs.
//!
//! Transmission takes no time: a byte written is out at once, so the transmit FIFO is always empty. It
//! goes out whether or not the UART is enabled, as firmware is expected to have done that.
//! Modem lines, DMA and errors do not occur; their registers keep what is written.
//!
//! Input comes with back-pressure: [`Pl011::can_receive`] says when a byte may be fed. Linux empties
//! the FIFO once when it starts; input piped in would be lost there. So a byte is taken only if somebody
//! waits for it: a receive interrupt is unmasked, or the guest polls the flag register.

use alloc::collections::VecDeque;

/// Depth of the receive FIFO.
const DEPTH: usize = 16;
/// Reads of FR in a row, without other access, that count as polling for input.
const POLLS: u32 = 8;

mod fr {
    pub const RXFE: u32 = 1 << 4;
    pub const RXFF: u32 = 1 << 6;
    pub const TXFE: u32 = 1 << 7;
}
mod cr {
    pub const UARTEN: u32 = 1 << 0;
    pub const LBE: u32 = 1 << 7;
    pub const RXE: u32 = 1 << 9;
    /// TXE and RXE, the value after reset.
    pub const RESET: u32 = 0x300;
}
mod int {
    pub const RX: u32 = 1 << 4;
    pub const TX: u32 = 1 << 5;
    pub const RT: u32 = 1 << 6;
    pub const MASK: u32 = 0x7ff;
}
/// LCR_H.FEN: FIFOs, rather than one-byte holding registers.
const FEN: u32 = 1 << 4;
/// UARTPeriphID0..3 and UARTPCellID0..3.
const IDS: [u32; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// The UART.
#[derive(Clone, Debug)]
pub struct Pl011 {
    fifo: VecDeque<u8>,
    ilpr: u32,
    ibrd: u32,
    fbrd: u32,
    lcr_h: u32,
    cr: u32,
    ifls: u32,
    imsc: u32,
    ris: u32,
    dmacr: u32,
    polls: u32,
}

impl Default for Pl011 {
    fn default() -> Self {
        Self::new()
    }
}

impl Pl011 {
    /// After reset.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            fifo: VecDeque::new(),
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            cr: cr::RESET,
            ifls: 0x12,
            imsc: 0,
            ris: 0,
            dmacr: 0,
            polls: 0,
        }
    }

    /// Level of the combined interrupt line.
    #[must_use]
    pub const fn line(&self) -> bool {
        self.ris & self.imsc != 0
    }

    /// Whether a byte of input may be fed now.
    #[must_use]
    pub fn can_receive(&self) -> bool {
        let enabled = cr::UARTEN | cr::RXE;
        let waiting = self.imsc & (int::RX | int::RT) != 0 || self.polls >= POLLS;
        self.cr & enabled == enabled
            && self.cr & cr::LBE == 0
            && self.fifo.len() < self.depth()
            && waiting
    }

    /// Input. A byte that does not fit is lost, as on a wire.
    pub fn receive(&mut self, byte: u8) {
        if self.fifo.len() >= self.depth() {
            return;
        }
        self.fifo.push_back(byte);
        if self.fifo.len() >= self.trigger() {
            self.ris |= int::RX;
        }
        // No more comes within the next 32 bit times, as far as this model can know.
        if self.lcr_h & FEN != 0 {
            self.ris |= int::RT;
        }
    }

    /// A read of 1, 2 or 4 bytes: registers are at multiples of 4, and at most 16 bits wide.
    pub fn read(&mut self, offset: u64) -> u32 {
        let polls = self.polls;
        self.polls = 0;
        match offset {
            0x000 => self.take(),
            0x018 => {
                self.polls = polls.saturating_add(1);
                self.flags()
            }
            0x020 => self.ilpr,
            0x024 => self.ibrd,
            0x028 => self.fbrd,
            0x02c => self.lcr_h,
            0x030 => self.cr,
            0x034 => self.ifls,
            0x038 => self.imsc,
            0x03c => self.ris,
            0x040 => self.ris & self.imsc,
            0x048 => self.dmacr,
            0xfe0..=0xffc if offset & 3 == 0 => {
                let at = usize::try_from(offset.wrapping_sub(0xfe0) >> 2);
                at.ok().and_then(|at| IDS.get(at)).copied().unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// A write; `Some` is a byte that goes out.
    #[must_use = "a byte may have been sent"]
    pub fn write(&mut self, offset: u64, value: u32) -> Option<u8> {
        self.polls = 0;
        match offset {
            0x000 => return self.send(value),
            0x020 => self.ilpr = value & 0xff,
            0x024 => self.ibrd = value & 0xffff,
            0x028 => self.fbrd = value & 0x3f,
            0x02c => self.set_lcr(value & 0xff),
            0x030 => self.cr = value & 0xff87,
            0x034 => self.ifls = value & 0x3f,
            0x038 => self.imsc = value & int::MASK,
            0x044 => self.ris &= !value,
            0x048 => self.dmacr = value & 7,
            _ => {}
        }
        None
    }

    fn send(&mut self, value: u32) -> Option<u8> {
        let byte = u8::try_from(value & 0xff).ok()?;
        // Sent at once, the FIFO passes its trigger level on the way down.
        self.ris |= int::TX;
        if self.cr & cr::LBE != 0 {
            self.receive(byte);
            return None;
        }
        Some(byte)
    }

    fn take(&mut self) -> u32 {
        let byte = self.fifo.pop_front().unwrap_or(0);
        if self.fifo.len() < self.trigger() {
            self.ris &= !int::RX;
        }
        if self.fifo.is_empty() {
            self.ris &= !int::RT;
        }
        u32::from(byte)
    }

    /// Turning the FIFOs on or off empties them (3.3.7).
    fn set_lcr(&mut self, value: u32) {
        if (self.lcr_h ^ value) & FEN != 0 {
            self.fifo.clear();
            self.ris &= !(int::RX | int::RT);
        }
        self.lcr_h = value;
    }

    fn flags(&self) -> u32 {
        let empty = if self.fifo.is_empty() { fr::RXFE } else { 0 };
        let full = if self.fifo.len() >= self.depth() { fr::RXFF } else { 0 };
        fr::TXFE | empty | full
    }

    const fn depth(&self) -> usize {
        if self.lcr_h & FEN != 0 { DEPTH } else { 1 }
    }

    /// Bytes at which the receive interrupt is raised: an eighth to seven eighths of the FIFO.
    const fn trigger(&self) -> usize {
        if self.lcr_h & FEN == 0 {
            return 1;
        }
        match (self.ifls >> 3) & 7 {
            0 => DEPTH / 8,
            1 => DEPTH / 4,
            2 => DEPTH / 2,
            3 => DEPTH / 4 * 3,
            _ => DEPTH / 8 * 7, // 4, and the reserved values
        }
    }
}

#[cfg(test)]
mod tests;
