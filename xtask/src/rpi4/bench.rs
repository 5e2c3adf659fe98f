//! A card in QEMU's `raspi4b`, for `run` and for the tests alike.
//!
//! QEMU models the cores, the GIC-400, the timers and UARTs, but neither the GPU that reads the card nor
//! its firmware; [`firmware`] stands in for that. Knows both sides.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::firmware::{self, Console, Ram};
use super::{BootFolder, Loaded, card, check};
use crate::paths;
use crate::qemu::Board;

/// What the card is put into.
#[derive(Clone, Debug)]
pub struct Bench<'a> {
    /// More words for the command line, before those of the card.
    pub words: &'a str,
    /// RAM, of which the machine has 2 GiB.
    pub ram: &'a Ram,
    /// The console.
    pub console: Console,
    /// The card lies in the slot too, for drivers to find.
    pub slot: bool,
}

impl Bench<'_> {
    /// The machine with this card, as its image; QEMU's files go to `folder`.
    ///
    /// # Errors
    /// The card would not boot.
    pub fn board(&self, image: &[u8], folder: &Path) -> Result<Board> {
        check::card(image).context("the card would not boot")?;
        let loaded = Loaded::from_card(image).context("the card")?;
        let mut memory = Vec::new();
        for piece in firmware::place(loaded, self.words, self.ram, self.console)? {
            let file = folder.join(piece.name);
            paths::write(&file, &piece.bytes)?;
            memory.push((file, piece.at));
        }
        let card = folder.join("card.img");
        let card = self.slot.then(|| card::save(&card, image).map(|()| card)).transpose()?;
        Ok(Board::Rpi4 { memory, console: self.console, card })
    }
}

/// The image of a card with this folder's files, which must be whole but for the board's own firmware.
///
/// # Errors
/// Something else is missing.
pub fn image(folder: &BootFolder) -> Result<Vec<u8>> {
    let needed = folder.missing.iter().find(|missing| missing.names != super::FIRMWARE);
    ensure!(needed.is_none(), "{}", folder.advice().join("; "));
    card::build(&folder.files)
}
