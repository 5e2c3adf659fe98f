//! The console's UART, whichever the machine has.

use hyp_dtb::UartKind;

use super::mini_uart::MiniUart;
use super::mmio::Window;
use super::pl011::Pl011;

/// One of the UARTs that this host can drive.
#[derive(Clone, Copy)]
pub enum Uart {
    /// Arm's.
    Pl011(Pl011),
    /// The Raspberry Pi's.
    Mini(MiniUart),
}

impl Uart {
    /// The UART in `window`, ready to send; `None` if the window is too small.
    pub fn new(kind: UartKind, window: Window) -> Option<Self> {
        match kind {
            UartKind::Pl011 => Pl011::new(window).map(Self::Pl011),
            UartKind::Mini => MiniUart::new(window).map(Self::Mini),
        }
    }

    /// Sends a byte, or drops it if the UART takes none for a long time.
    pub fn send(&self, byte: u8) {
        match self {
            Self::Pl011(uart) => uart.send(byte),
            Self::Mini(uart) => uart.send(byte),
        }
    }

    /// A received byte, if there is one.
    pub fn receive(&self) -> Option<u8> {
        match self {
            Self::Pl011(uart) => uart.receive(),
            Self::Mini(uart) => uart.receive(),
        }
    }

    /// Lets received bytes interrupt, or not.
    pub fn listen(&self, on: bool) {
        match self {
            Self::Pl011(uart) => uart.listen(on),
            Self::Mini(uart) => uart.listen(on),
        }
    }
}
