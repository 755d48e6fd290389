//! A watched purchase on the screen: finished lines, and below them the live line, which is
//! redrawn.

use std::{io, time::Duration};

use jiff::Timestamp;
use tillwatch::{
    Client, WatchEvent, WatchOptions,
    proto::v1::{
        PurchaseState, WatchStatusResponse, get_status_request::Key, watch_status_response,
    },
    timeline::{Timeline, countdown, is_success, plain},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::cli::{
    failure::{Ended, Failure},
    output::Output,
};

/// The interval in which the live line is redrawn.
const FRAME: Duration = Duration::from_millis(100);
const HIDE_CURSOR: &str = "\u{1b}[?25l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";
const CLEAR_LINE: &str = "\r\u{1b}[2K";

enum Heard {
    Event(Option<Result<Box<WatchEvent>, tillwatch::Error>>),
    Frame,
    Stop(Ended),
}

/// Follows a purchase until its stream ends or a signal comes.
pub(crate) async fn watch(
    client: &Client,
    id: &str,
    options: WatchOptions,
    output: &mut Output<'_>,
) -> Result<Ended, Failure> {
    let mut events = client.watch(id, options);
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminates = signal(SignalKind::terminate())?;
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut screen = Screen::open(output)?;
    let live = screen.live;
    for tick in 0_usize.. {
        // Each branch is cancel-safe: an event that is not returned yet stays in the stream.
        let heard = tokio::select! {
            event = events.next() => Heard::Event(event.map(|event| event.map(Box::new))),
            stop = stopped(&mut interrupts, &mut terminates) => Heard::Stop(stop),
            _ = frames.tick(), if live => Heard::Frame,
        };
        match heard {
            Heard::Event(Some(event)) => screen.event(&*event?, Timestamp::now())?,
            Heard::Event(None) => break,
            Heard::Frame => screen.frame(Timestamp::now(), tick)?,
            Heard::Stop(ended) => return Ok(ended),
        }
    }
    match screen.closing() {
        // The purchase has ended, even if nobody reads the last line.
        Err(failure) if failure.is_closed_pipe() => {}
        told => told?,
    }
    let last = screen
        .timeline
        .status()
        .map(tillwatch::proto::v1::PurchaseStatus::state);
    drop(screen);
    let state = match last {
        Some(state) => state,
        // The service had nothing to send: the cursor was at the end already.
        None => newest(client, id).await?,
    };
    Ok(match is_success(state) {
        true => Ended::Well,
        false => Ended::Unsuccessful,
    })
}

async fn stopped(interrupts: &mut Signal, terminates: &mut Signal) -> Ended {
    tokio::select! {
        _ = interrupts.recv() => Ended::Interrupted,
        _ = terminates.recv() => Ended::Terminated,
    }
}

async fn newest(client: &Client, id: &str) -> Result<PurchaseState, Failure> {
    let answer = client.get(Key::PurchaseId(id.to_owned())).await?;
    let status = answer.purchase.and_then(|purchase| purchase.status);
    Ok(status.unwrap_or_default().state())
}

/// The lines of one timeline on an output. Dropping it leaves the terminal as it was.
struct Screen<'a, 'b> {
    output: &'a mut Output<'b>,
    timeline: Timeline,
    live: bool,
}

impl<'a, 'b> Screen<'a, 'b> {
    fn open(output: &'a mut Output<'b>) -> io::Result<Self> {
        let live = output.terminal && !output.json;
        let timeline = Timeline::new(output.style());
        if live {
            write!(output.out, "{HIDE_CURSOR}")?;
            output.out.flush()?;
        }
        Ok(Self {
            output,
            timeline,
            live,
        })
    }

    fn event(&mut self, event: &WatchEvent, now: Timestamp) -> Result<(), Failure> {
        self.timeline.set_style(self.output.style());
        let lines = self.timeline.apply(event, now);
        if self.output.json {
            return self.json(event);
        }
        for line in lines {
            self.line(&line)?;
        }
        Ok(())
    }

    fn json(&mut self, event: &WatchEvent) -> Result<(), Failure> {
        use watch_status_response::Event;
        let event = match event {
            WatchEvent::Snapshot(status) => Event::Snapshot(status.clone()),
            WatchEvent::Transition(step) => Event::Transition(step.clone()),
            WatchEvent::Interrupted { error, retry_in } => {
                let (error, wait) = (plain(&error.to_string()), countdown(*retry_in));
                let note = format!("lost the server ({error}); reconnecting in {wait}");
                return self.output.note(&note);
            }
            // Scripts get changes alone. Heartbeats are for the client.
            _ => return Ok(()),
        };
        let message = WatchStatusResponse { event: Some(event) };
        self.output.json("WatchStatusResponse", &message)
    }

    fn line(&mut self, line: &str) -> Result<(), Failure> {
        if self.live {
            write!(self.output.out, "{CLEAR_LINE}")?;
        }
        self.output.line(line)
    }

    fn frame(&mut self, now: Timestamp, tick: usize) -> io::Result<()> {
        self.timeline.set_style(self.output.style());
        let line = self.timeline.status_line(now, tick);
        write!(self.output.out, "{CLEAR_LINE}{line}")?;
        self.output.out.flush()
    }

    fn closing(&mut self) -> Result<(), Failure> {
        let line = self.timeline.closing_line();
        if self.output.json || line.is_empty() {
            return Ok(());
        }
        self.line(&line)
    }
}

impl Drop for Screen<'_, '_> {
    fn drop(&mut self) {
        if self.live {
            // If the terminal is gone, nothing is left to restore.
            let _ = write!(self.output.out, "{CLEAR_LINE}{SHOW_CURSOR}");
            let _ = self.output.out.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tillwatch::proto::v1::{Heartbeat, PurchaseStatus};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn drawn(terminal: bool, json: bool, draw: impl FnOnce(&mut Screen<'_, '_>)) -> String {
        let shared = Shared::default();
        let (mut out, mut err) = (shared.clone(), Shared::default());
        let mut output = Output {
            out: &mut out,
            err: &mut err,
            json,
            terminal,
            color: false,
        };
        let mut screen = Screen::open(&mut output).unwrap();
        draw(&mut screen);
        drop(screen);
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn snapshot() -> WatchEvent {
        WatchEvent::Snapshot(PurchaseStatus {
            revision: 1,
            state: PurchaseState::Paid.into(),
            ..PurchaseStatus::default()
        })
    }

    #[test]
    fn a_terminal_is_restored_and_keeps_the_finished_lines_only() {
        let text = drawn(true, false, |screen| {
            screen.frame(Timestamp::UNIX_EPOCH, 0).unwrap();
            screen.event(&snapshot(), Timestamp::UNIX_EPOCH).unwrap();
            screen.frame(Timestamp::UNIX_EPOCH, 1).unwrap();
        });
        assert!(text.starts_with(HIDE_CURSOR), "{text:?}");
        assert!(
            text.ends_with(&format!("{CLEAR_LINE}{SHOW_CURSOR}")),
            "{text:?}"
        );
        let kept: Vec<_> = text
            .split(CLEAR_LINE)
            .filter(|part| part.ends_with('\n'))
            .collect();
        assert_eq!(kept.len(), 1, "{text:?}");
        assert!(kept[0].starts_with("  1  "), "{text:?}");
        assert!(kept[0].contains("◕ PAID"), "{text:?}");
    }

    #[test]
    fn a_pipe_gets_plain_lines() {
        let text = drawn(false, false, |screen| {
            screen.event(&snapshot(), Timestamp::UNIX_EPOCH).unwrap();
            let beat = WatchEvent::Heartbeat(Heartbeat::default());
            screen.event(&beat, Timestamp::UNIX_EPOCH).unwrap();
            screen.closing().unwrap();
        });
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert_eq!(text.lines().count(), 2, "{text:?}");
    }

    #[test]
    fn scripts_get_one_object_per_change() {
        let text = drawn(true, true, |screen| {
            screen.event(&snapshot(), Timestamp::UNIX_EPOCH).unwrap();
            let beat = WatchEvent::Heartbeat(Heartbeat::default());
            screen.event(&beat, Timestamp::UNIX_EPOCH).unwrap();
            screen.closing().unwrap();
        });
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["snapshot"]["state"], "PURCHASE_STATE_PAID");
    }
}
