//! A purchase's way as lines for people: one line per revision, and a live line for the present.
//!
//! Everything here is pure: the caller hands in the clock, the width and the colours, and prints
//! the lines.

mod paint;
mod span;
mod words;

use std::time::Duration;

use jiff::Timestamp;
use tillwatch_proto::v1::{
    AmountOutcome, Attention, Cause, Finality, Freshness, PurchaseState, PurchaseStatus,
    Transition, buyer_action,
};

use crate::watch::WatchEvent;
use paint::{Line, Tone};

pub use paint::{Style, columns, padded, plain};
pub use span::{clock, countdown, instant, short};
pub use words::{glyph, is_success, state_word, words};

/// The frames of the spinner, one per tick.
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// The columns before a state in a line, and before the notes below it.
const INDENT: &str = "               ";

/// The line of a transition, without its line end: revision, time, state, the provider's word,
/// the time spent in the state before it, and notes for a person.
///
/// `spent` is the time between the revision before and this one, if it is known.
#[must_use]
pub fn render_transition(step: &Transition, spent: Option<Duration>, style: Style) -> String {
    match &step.status {
        Some(status) => revision_line(status, spent, step.cause()).render(style),
        None => String::new(),
    }
}

/// The line of a status on its own, as [`render_transition`] draws it.
#[must_use]
pub fn render_status(status: &PurchaseStatus, spent: Option<Duration>, style: Style) -> String {
    revision_line(status, spent, Cause::Unspecified).render(style)
}

/// The buyer's next step as one line, which is never cut; `None` if there is none.
#[must_use]
pub fn render_action(status: &PurchaseStatus) -> Option<String> {
    let text = match status.buyer_action.as_ref()?.action.as_ref()? {
        buyer_action::Action::Redirect(to) if to.form_fields.is_empty() => {
            format!("open {}", to.url)
        }
        buyer_action::Action::Redirect(to) => {
            let count = to.form_fields.len();
            format!("{} a form of {count} fields to {}", to.method, to.url)
        }
        buyer_action::Action::Deposit(to) => {
            let amount = to.amount.as_ref();
            let amount = amount.map(|amount| format!(" {} {}", amount.value, amount.unit));
            let until = to.expire_time.as_ref().and_then(instant);
            let until = until.map(|at| format!(" until {}", clock(at)));
            let (amount, until) = (amount.unwrap_or_default(), until.unwrap_or_default());
            format!("pay{amount} to {} on {}{until}", to.address, to.network)
        }
    };
    Some(format!("{INDENT}↳ {}", plain(&text)))
}

/// One watched purchase, as far as its stream has told.
#[derive(Debug)]
pub struct Timeline {
    style: Style,
    last: Option<PurchaseStatus>,
    freshness: Option<Freshness>,
    /// The lead of the service's clock over this one, in milliseconds.
    ahead: i64,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Opening,
    Up,
    Lost { retry_at: Timestamp, why: String },
}

impl Timeline {
    /// A timeline that knows nothing yet.
    #[must_use]
    pub fn new(style: Style) -> Self {
        Self {
            style,
            last: None,
            freshness: None,
            ahead: 0,
            link: Link::Opening,
        }
    }

    /// Draws for another width from now on.
    pub fn set_style(&mut self, style: Style) {
        self.style = style;
    }

    /// The newest status that the stream has sent.
    #[must_use]
    pub fn status(&self) -> Option<&PurchaseStatus> {
        self.last.as_ref()
    }

    /// Takes an event in and returns the lines that are finished by it, without line ends.
    pub fn apply(&mut self, event: &WatchEvent, now: Timestamp) -> Vec<String> {
        if let WatchEvent::Interrupted { error, retry_in } = event {
            return self.interrupted(error.to_string(), *retry_in, now);
        }
        let mut lines: Vec<String> = self.resumed().into_iter().collect();
        match event {
            WatchEvent::Snapshot(status) => self.revision(status, Cause::Unspecified, &mut lines),
            WatchEvent::Transition(step) => {
                if let Some(status) = &step.status {
                    self.revision(status, step.cause(), &mut lines);
                }
            }
            WatchEvent::Heartbeat(beat) => {
                self.freshness = beat.freshness;
                if let Some(server) = beat.server_time.as_ref().and_then(instant) {
                    let ahead = server.as_millisecond().saturating_sub(now.as_millisecond());
                    self.ahead = ahead;
                }
            }
            WatchEvent::Interrupted { .. } => {}
        }
        lines
    }

    /// The live line below the timeline. `tick` moves the spinner.
    #[must_use]
    pub fn status_line(&self, now: Timestamp, tick: usize) -> String {
        let frame = tick.checked_rem(SPINNER.len()).unwrap_or_default();
        let mut line = Line::default();
        line.push(Tone::Progress, SPINNER.get(frame).copied().unwrap_or(" "));
        line.push(Tone::Neutral, " ");
        for (index, (tone, text)) in self.now_parts(now).into_iter().enumerate() {
            if index > 0 {
                line.push(Tone::Dim, " · ");
            }
            line.push(tone, &text);
        }
        line.render(self.style)
    }

    /// The last line of a stream that has ended: the purchase's state and finality.
    #[must_use]
    pub fn closing_line(&self) -> String {
        let Some(status) = &self.last else {
            return String::new();
        };
        let mut line = Line::default();
        let state = status.state();
        line.push(words::tone(state), glyph(state));
        let word = state_word(status.state);
        line.push(words::tone(state), &format!(" {word}"));
        let rest = match status.finality() {
            Finality::Final => ", finally",
            Finality::Terminal => ", unless a refund or dispute follows",
            Finality::Open | Finality::Unspecified => ", still open",
        };
        line.push(Tone::Dim, rest);
        line.render(self.style)
    }

    fn revision(&mut self, status: &PurchaseStatus, cause: Cause, lines: &mut Vec<String>) {
        let before = self.last.as_ref().and_then(observed);
        let today = observed(status).map(span::day);
        if today.is_some() && today != before.map(span::day) {
            let mut line = Line::default();
            line.push(
                Tone::Dim,
                &format!("     {} UTC", today.unwrap_or_default()),
            );
            lines.push(line.render(self.style));
        }
        let spent = before.zip(observed(status));
        let spent = spent.map(|(from, to)| span::between(from, to));
        self.revision_lines(status, spent, cause, lines);
        let action = render_action(status);
        let shown = self.last.as_ref().and_then(render_action);
        if action != shown {
            lines.extend(action);
        }
        self.last = Some(status.clone());
    }

    /// One line. If the window is too narrow for its notes, they stand below it uncut, since a
    /// person has to act on them.
    fn revision_lines(
        &self,
        status: &PurchaseStatus,
        spent: Option<Duration>,
        cause: Cause,
        lines: &mut Vec<String>,
    ) {
        let whole = revision_line(status, spent, cause);
        if self.style.width.is_none_or(|width| whole.width() <= width) {
            lines.push(whole.render(self.style));
            return;
        }
        lines.push(facts(status, spent).render(self.style));
        for (tone, note) in notes(status, cause) {
            let mut line = Line::default();
            line.push(tone, &format!("{INDENT}{note}"));
            let uncut = Style {
                width: None,
                ..self.style
            };
            lines.push(line.render(uncut));
        }
    }

    fn interrupted(&mut self, why: String, retry_in: Duration, now: Timestamp) -> Vec<String> {
        let wait = countdown(retry_in);
        let was_lost = matches!(self.link, Link::Lost { .. });
        let what = match self.last {
            Some(_) => "lost the server",
            None => "the server does not answer",
        };
        let why = plain(&why);
        let mut line = Line::default();
        let told = format!("  ~  {what} ({why}); reconnecting in {wait}");
        line.push(Tone::Warning, &told);
        self.link = Link::Lost {
            retry_at: now.saturating_add(retry_in).unwrap_or(now),
            why,
        };
        // Only the live line shows further attempts.
        if was_lost {
            Vec::new()
        } else {
            vec![line.render(self.style)]
        }
    }

    fn resumed(&mut self) -> Option<String> {
        let link = std::mem::replace(&mut self.link, Link::Up);
        let Link::Lost { .. } = link else {
            return None;
        };
        let mut line = Line::default();
        let told = match &self.last {
            Some(last) => format!(
                "resumed after revision {}, nothing was missed",
                last.revision
            ),
            None => "connected".to_owned(),
        };
        line.push(Tone::Dim, &format!("  ~  {told}"));
        Some(line.render(self.style))
    }

    fn now_parts(&self, now: Timestamp) -> Vec<(Tone, String)> {
        let skew = jiff::SignedDuration::from_millis(self.ahead);
        let server_now = now.saturating_add(skew).unwrap_or(now);
        let mut parts = Vec::new();
        match &self.link {
            Link::Opening => parts.push((Tone::Dim, "connecting".to_owned())),
            Link::Up => {}
            Link::Lost { retry_at, why } => {
                let wait = span::between(now, *retry_at);
                let text = if wait.is_zero() {
                    format!("reconnecting now ({why})")
                } else {
                    format!("reconnecting in {} ({why})", countdown(wait))
                };
                parts.push((Tone::Warning, text));
            }
        }
        if let Some(status) = &self.last {
            let word = state_word(status.state);
            let since = observed(status).map(|at| short(span::between(at, server_now)));
            let text = since.map_or_else(|| word.clone(), |since| format!("{word} for {since}"));
            parts.push((words::tone(status.state()), text));
        }
        if let Some(freshness) = self.freshness.as_ref().filter(|_| self.is_up()) {
            parts.extend(freshness_parts(freshness, server_now));
        }
        parts
    }

    fn is_up(&self) -> bool {
        matches!(self.link, Link::Up)
    }
}

fn freshness_parts(freshness: &Freshness, now: Timestamp) -> Vec<(Tone, String)> {
    let next = freshness.next_poll_time.as_ref().and_then(instant);
    let next = match next.map(|at| span::between(now, at)) {
        None => "polled no more".to_owned(),
        Some(Duration::ZERO) => "polling".to_owned(),
        Some(wait) => format!("next poll in {}", countdown(wait)),
    };
    let mut parts = vec![(Tone::Neutral, next)];
    if let Some(at) = freshness.last_answer_time.as_ref().and_then(instant) {
        let age = short(span::between(at, now));
        parts.push((Tone::Dim, format!("answered {age} ago")));
    }
    if freshness.consecutive_failures > 0 {
        let failures = format!("{} polls failed", freshness.consecutive_failures);
        parts.push((Tone::Warning, failures));
    }
    if let Some(since) = freshness.held_back_since_time.as_ref().and_then(instant) {
        let age = short(span::between(since, now));
        parts.push((Tone::Warning, format!("older answers for {age}")));
    }
    parts
}

fn observed(status: &PurchaseStatus) -> Option<Timestamp> {
    status.observe_time.as_ref().and_then(instant)
}

fn revision_line(status: &PurchaseStatus, spent: Option<Duration>, cause: Cause) -> Line {
    let mut line = facts(status, spent);
    for (tone, note) in notes(status, cause) {
        line.push(tone, &format!("  {note}"));
    }
    line
}

fn facts(status: &PurchaseStatus, spent: Option<Duration>) -> Line {
    let state = status.state();
    let tone = words::tone(state);
    let mut line = Line::default();
    let at = observed(status).map(clock).unwrap_or_default();
    line.push(Tone::Dim, &format!("{:>3}  {at:<8}  ", status.revision));
    line.push(tone, glyph(state));
    line.push(tone, &format!(" {:<16}  ", state_word(status.state)));
    let word = status.provider_status.as_ref();
    let word = word.map(|word| plain(&word.code)).unwrap_or_default();
    let word = if word.is_empty() { "–" } else { &word };
    line.push(Tone::Neutral, &padded(word, 24));
    let spent = spent.map(|spent| format!("+{}", span::elapsed(spent)));
    line.push(Tone::Dim, &format!(" {:>8}", spent.unwrap_or_default()));
    line
}

fn notes(status: &PurchaseStatus, cause: Cause) -> Vec<(Tone, String)> {
    let mut notes = Vec::new();
    if let Some(attention) = &status.attention {
        notes.push((Tone::Warning, attention_note(attention)));
    }
    if let Some(failure) = &status.failure {
        let message = plain(&failure.message);
        let colon = if message.is_empty() { "" } else { ": " };
        let reason = plain(&failure.reason);
        notes.push((Tone::Failure, format!("{reason}{colon}{message}")));
    }
    let word = status.provider_status.as_ref();
    if word.is_some_and(|word| word.unmapped) {
        notes.push((Tone::Warning, "word not known yet".to_owned()));
    }
    let is_awaited = matches!(
        status.state(),
        PurchaseState::Created | PurchaseState::AwaitingPayment
    );
    match status.amount_outcome() {
        // The state says already that the buyer has paid nothing.
        AmountOutcome::Underpaid if is_awaited => {}
        AmountOutcome::Underpaid => notes.push((Tone::Warning, "underpaid".to_owned())),
        AmountOutcome::Overpaid => notes.push((Tone::Warning, "overpaid".to_owned())),
        AmountOutcome::Exact | AmountOutcome::Unspecified => {}
    }
    match cause {
        Cause::Operator => notes.push((Tone::Dim, "by an operator".to_owned())),
        Cause::Deadline => notes.push((Tone::Dim, "by deadline".to_owned())),
        Cause::Unspecified | Cause::Create | Cause::Poll | Cause::Webhook => {}
    }
    if status.finality() == Finality::Final && status.state() != PurchaseState::Unspecified {
        notes.push((Tone::Dim, "final".to_owned()));
    }
    notes
}

fn attention_note(attention: &Attention) -> String {
    let note = plain(&attention.note);
    let colon = if note.is_empty() { "" } else { ": " };
    let until = attention.deadline_time.as_ref().and_then(instant);
    let until = until.map(|at| format!(" (until {})", clock(at)));
    let until = until.unwrap_or_default();
    format!("! {}{colon}{note}{until}", plain(&attention.reason))
}

#[cfg(test)]
mod tests;
