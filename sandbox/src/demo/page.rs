//! The demo's output: a head, a line per transition, a closing table.
//!
//! Everything goes to the writer that is handed in; colours only if they are asked for.

use std::{
    io::{self, Write},
    time::Duration,
};

use jiff::Timestamp;
use tillwatch::{
    proto::v1::{PurchaseStatus, Transition},
    timeline::{
        Style, glyph, instant, is_success, plain, render_action, render_transition, state_word,
    },
};

use super::{Purchase, Setting, service::Killed};

/// Columns of a closing line before it is wrapped.
const WIDTH: usize = 100;
/// Columns before the states of a closing line.
const BEFORE_STATES: usize = 43;
const DIM: &str = "2";
const BOLD: &str = "1";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";

/// The place in which the demo is shown.
pub(crate) struct Page<'a> {
    out: &'a mut dyn Write,
    color: bool,
}

impl<'a> Page<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, color: bool) -> Self {
        Self { out, color }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.out, "{}", line.trim_end())?;
        // A reader behind a pipe wants each line when it happens.
        self.out.flush()
    }

    /// The addresses of everything, and the meaning of the columns.
    pub(crate) fn head(&mut self, setting: &Setting<'_>) -> io::Result<()> {
        let title = self.paint(BOLD, "Tillwatch demo");
        self.line(&format!(
            "{title}: five purchases, one at each provider, from create to the end"
        ))?;
        self.line("")?;
        let speed = match setting.speed {
            1.0 => String::new(),
            speed => format!(", {speed} times as fast"),
        };
        let taken = setting
            .taken
            .map(|taken| format!("; {taken} is taken"))
            .unwrap_or_default();
        let replicas = setting
            .replicas
            .map(|count| format!(", {count} processes on one database"))
            .unwrap_or_default();
        self.line(&format!(
            "  server   {}  (gRPC{replicas}{taken})",
            setting.address
        ))?;
        self.line(&format!(
            "  sandbox  {}  (the providers, simulated{speed})",
            setting.sandbox
        ))?;
        self.line("")?;
        self.line("  Look in from another terminal:")?;
        self.line(&format!("    {}", setting.tillwatch("list")))?;
        self.line(&format!("    {}", setting.grpcurl("ListPurchases", "")))?;
        self.line("")?;
        let columns = format!(
            "{:<9}  {:<5}  {:>3}  {:<8}  {:<18}  {:<24} {:>8}",
            "provider", "id", "rev", "UTC", "state", "provider's word", "after"
        );
        let columns = self.paint(DIM, &columns);
        self.line(&columns)
    }

    /// A transition, and what the buyer has to do since then.
    pub(crate) fn transition(
        &mut self,
        provider: &str,
        before: Option<&PurchaseStatus>,
        step: &Transition,
    ) -> io::Result<()> {
        let Some(status) = &step.status else {
            return Ok(());
        };
        let spent = before
            .and_then(observed)
            .zip(observed(status))
            .and_then(|(from, to)| Duration::try_from(to.duration_since(from)).ok());
        let style = Style {
            color: self.color,
            width: None,
        };
        let id = self.paint(DIM, &short(&status.purchase_id));
        let drawn = render_transition(step, spent, style);
        self.line(&format!("{provider:<9}  {id}  {drawn}"))?;
        let action = render_action(status);
        if action == before.and_then(render_action) {
            return Ok(());
        }
        match action {
            Some(action) => self.line(&format!("{:18}{action}", "")),
            None => Ok(()),
        }
    }

    /// A replica was killed.
    pub(crate) fn killed(&mut self, killed: &Killed) -> io::Result<()> {
        let Killed {
            replica,
            process,
            connections,
        } = killed;
        let streams = match connections {
            1 => "1 stream was".to_owned(),
            several => format!("{several} streams were"),
        };
        let note = self.paint(
            YELLOW,
            &format!(
                "replica {replica} was killed (SIGKILL to process {process}); {streams} open there"
            ),
        );
        self.line(&note)
    }

    /// A line about one provider that is no transition.
    pub(crate) fn note(&mut self, provider: &str, note: &str) -> io::Result<()> {
        let note = self.paint(YELLOW, &plain(note));
        self.line(&format!("{provider:<9}  {note}"))
    }

    /// The fate of each purchase.
    pub(crate) fn table(&mut self, purchases: &[Purchase], took: Duration) -> io::Result<()> {
        self.line("")?;
        let columns = format!(
            "  {:<9}  {:>9}  {:>7}  {:>8}  {}",
            "provider", "revisions", "seconds", "requests", "states"
        );
        let columns = self.paint(DIM, &columns);
        self.line(&columns)?;
        for purchase in purchases {
            self.row(purchase)?;
        }
        self.line("")?;
        let lost = purchases.iter().flat_map(|purchase| {
            let provider = purchase.provider;
            purchase
                .lost
                .iter()
                .map(move |why| format!("{provider}: {why}"))
        });
        let lost: Vec<String> = lost.collect();
        if lost.is_empty() {
            let revisions: u32 = purchases.iter().map(Purchase::revisions).sum();
            let count = purchases.len();
            let done = self.paint(GREEN, "Nothing was lost");
            return self.line(&format!(
                "{done}: {count} purchases, each made once, {revisions} revisions without a gap, \
                 {} s.",
                seconds(took)
            ));
        }
        for why in lost {
            let why = self.paint(RED, &format!("Lost: {}", plain(&why)));
            self.line(&why)?;
        }
        Ok(())
    }

    fn row(&mut self, purchase: &Purchase) -> io::Result<()> {
        let state = purchase.state();
        let (mark, code) = match purchase.lost.is_empty() {
            false => ("!", RED),
            true if is_success(state) => (glyph(state), GREEN),
            true => (glyph(state), YELLOW),
        };
        let mark = self.paint(code, mark);
        let mut lines = wrapped(&walked(purchase)).into_iter();
        let first = lines.next().unwrap_or_default();
        self.line(&format!(
            "{mark} {:<9}  {:>9}  {:>7}  {:>8}  {first}",
            purchase.provider,
            purchase.revisions(),
            seconds(purchase.took),
            purchase.requests,
        ))?;
        for line in lines {
            self.line(&format!("{:BEFORE_STATES$}{line}", ""))?;
        }
        Ok(())
    }

    /// Commands to try while everything goes on.
    pub(crate) fn kept(&mut self, setting: &Setting<'_>, purchase_id: &str) -> io::Result<()> {
        let watch = format!(r#"{{"purchase_id":"{purchase_id}","after_revision":0}}"#);
        self.line("")?;
        self.line("Server and sandbox go on until Ctrl-C. Try:")?;
        for line in [
            setting.tillwatch("list"),
            setting.tillwatch(&format!("watch {purchase_id} --after 0")),
            setting.grpcurl("ListPurchases", ""),
            setting.grpcurl("WatchStatus", &watch),
        ] {
            self.line(&format!("    {line}"))?;
        }
        Ok(())
    }

    /// Says why it is over.
    pub(crate) fn stopped(&mut self) -> io::Result<()> {
        self.line("")?;
        self.line("Interrupted; the server and the sandbox are gone.")
    }
}

/// The states that a purchase was seen in, each once in a row.
fn walked(purchase: &Purchase) -> Vec<String> {
    let mut states: Vec<String> = Vec::new();
    for state in &purchase.states {
        let word = state_word((*state).into());
        if states.last() != Some(&word) {
            states.push(word);
        }
    }
    states
}

/// The states with arrows between them, in lines that fit.
fn wrapped(states: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (place, state) in states.iter().enumerate() {
        let part = match place {
            0 => state.clone(),
            _ => format!("→ {state}"),
        };
        match lines.last_mut() {
            Some(line)
                if BEFORE_STATES
                    .saturating_add(line.chars().count())
                    .saturating_add(part.chars().count())
                    < WIDTH =>
            {
                line.push(' ');
                line.push_str(&part);
            }
            _ => lines.push(part),
        }
    }
    lines
}

/// Seconds with one decimal.
fn seconds(span: Duration) -> String {
    format!("{}.{}", span.as_secs(), span.subsec_millis() / 100)
}

/// The end of an id: the beginning is its time, which the five nearly share.
fn short(purchase_id: &str) -> String {
    let end: String = purchase_id
        .char_indices()
        .rev()
        .nth(3)
        .and_then(|(at, _)| purchase_id.get(at..))
        .unwrap_or(purchase_id)
        .to_owned();
    format!("…{end}")
}

pub(crate) fn observed(status: &PurchaseStatus) -> Option<Timestamp> {
    status.observe_time.as_ref().and_then(instant)
}
