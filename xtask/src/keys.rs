//! Typing at a guest's console, in threads of its own: a guest that does not read must not stop us
//! from reading what it says.

use std::io::{Read, Write};
use std::process::ChildStdin;
use std::sync::mpsc::{self, Sender};
use std::thread;

use crate::console::Input;

/// The way to type.
pub enum Keys {
    /// By the script: what is sent here is typed.
    Script(Sender<Vec<u8>>),
    /// By whoever writes to our standard input, once `open` has been sent.
    Forward {
        /// Gone when it was used.
        open: Option<Sender<()>>,
    },
}

impl Keys {
    /// Type into `pipe`. `ended` is told when our own input has ended, and gets the pipe, which
    /// must stay open for QEMU to run on.
    pub fn new(
        mut pipe: ChildStdin,
        input: Input,
        ended: impl FnOnce(ChildStdin) + Send + 'static,
    ) -> Self {
        if input == Input::Script {
            let (send, typed) = mpsc::channel::<Vec<u8>>();
            thread::spawn(move || {
                for keys in typed {
                    if pipe.write_all(&keys).and_then(|()| pipe.flush()).is_err() {
                        return;
                    }
                }
            });
            return Self::Script(send);
        }
        let (open, opened) = mpsc::channel();
        thread::spawn(move || {
            let mut block = [0; 1024];
            let mut held = true;
            loop {
                let Ok(n) = std::io::stdin().read(&mut block) else { return };
                if n == 0 {
                    return ended(pipe);
                }
                if std::mem::take(&mut held) && opened.recv().is_err() {
                    return;
                }
                if pipe.write_all(&block[..n]).and_then(|()| pipe.flush()).is_err() {
                    return;
                }
            }
        });
        Self::Forward { open: Some(open) }
    }

    /// Type `text`, if it is the script that types.
    pub fn type_text(&self, text: String) {
        if let (Self::Script(keys), false) = (self, text.is_empty()) {
            let _ = keys.send(text.into_bytes());
        }
    }

    /// Let our standard input through from now on.
    pub fn let_input_through(&mut self) {
        if let Self::Forward { open } = self
            && let Some(open) = open.take()
        {
            let _ = open.send(());
        }
    }
}
