//! The command's output: its writers, and its form.

use std::io::{self, Write};

use prost::Message;
use tillwatch::timeline::Style;

use crate::cli::failure::Failure;

pub(crate) struct Output<'a> {
    pub(crate) out: &'a mut dyn Write,
    pub(crate) err: &'a mut dyn Write,
    /// The command writes one proto-JSON object per line instead of text for people.
    pub(crate) json: bool,
    /// The command can redraw lines.
    pub(crate) terminal: bool,
    pub(crate) color: bool,
}

impl Output<'_> {
    /// Writes a message as one line of JSON. `name` is its type's name within the contract.
    pub(crate) fn json(&mut self, name: &str, message: &impl Message) -> Result<(), Failure> {
        let line = tillwatch::json::encode(&format!("tillwatch.v1.{name}"), message)?;
        self.line(&line)
    }

    pub(crate) fn line(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.out, "{line}")?;
        // A script that reads line by line must not wait for a full buffer.
        self.out.flush()?;
        Ok(())
    }

    /// Writes a note to the person. It is no part of the result.
    pub(crate) fn note(&mut self, note: &str) -> Result<(), Failure> {
        Ok(writeln!(self.err, "{note}")?)
    }

    /// The style at this moment: the window may have been resized since.
    pub(crate) fn style(&self) -> Style {
        let width = self.terminal.then(width).flatten();
        Style {
            color: self.color,
            width,
        }
    }
}

/// The window's columns but one: a full line would wrap, and the command could not redraw it.
fn width() -> Option<usize> {
    let size: io::Result<(u16, u16)> = crossterm::terminal::size();
    let (columns, _) = size.ok()?;
    (columns > 1).then(|| usize::from(columns).saturating_sub(1))
}
