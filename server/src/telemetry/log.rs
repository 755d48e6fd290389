//! The way of log lines to standard error: through a queue, so that nobody waits for a reader that hangs.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tracing_subscriber::fmt::{
    MakeWriter,
    format::Writer,
    time::{FormatTime as _, SystemTime},
};

use crate::outlet::{Figures, Notice, Outlet, Target};

use super::lines::Form;

/// This process's way, for its figures.
static LOG: OnceLock<Log> = OnceLock::new();

/// The number of log lines since the process began.
pub fn figures() -> Figures {
    LOG.get().map(|log| log.0.figures()).unwrap_or_default()
}

/// The way of this process's log lines. Clones are the same.
#[derive(Debug, Clone)]
pub struct Log(Outlet);

impl Log {
    /// A way to standard error.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn begin(form: Form) -> io::Result<Self> {
        let notice: Notice = Arc::new(move |lines| notice(form, lines));
        let log = Self(Outlet::begin("log", Target::Stderr.open()?, notice)?);
        // A process logs to one place; a second beginning is refused where the subscriber is set.
        let _ = LOG.set(log.clone());
        Ok(log)
    }

    /// Takes no more lines, and waits for so long at the most until the rest is written. False if lines
    /// were left.
    pub fn finish(&self, within: Duration) -> bool {
        self.0.finish(within)
    }
}

impl<'log> MakeWriter<'log> for Log {
    type Writer = Self;

    fn make_writer(&'log self) -> Self {
        self.clone()
    }
}

impl io::Write for Log {
    /// Takes a whole line, as the subscriber writes them. If there is no room for it, it is counted.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line that stands for so many lines that were left out.
fn notice(form: Form, lines: u64) -> Vec<u8> {
    let mut time = String::new();
    // A text takes every character.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let (target, words) = (module_path!(), "lines of the log are left out");
    let line = match form {
        Form::Text => format!("{time}  WARN {target}: {words} lines={lines}\n"),
        Form::Json => format!(
            "{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"message\":\"{words}\",\"lines\":{lines},\
             \"target\":\"{target}\"}}\n"
        ),
    };
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notice_is_a_line_of_its_form() {
        let text = String::from_utf8(notice(Form::Text, 3)).unwrap();
        let rest =
            "  WARN tillwatch_server::telemetry::log: lines of the log are left out lines=3\n";
        assert!(text.ends_with(rest), "{text}");
        let json: serde_json::Value = serde_json::from_slice(&notice(Form::Json, 3)).unwrap();
        assert_eq!(
            (&json["level"], &json["lines"]),
            (&"WARN".into(), &3.into())
        );
        assert!(json["timestamp"].as_str().unwrap().ends_with('Z'), "{json}");
    }
}
