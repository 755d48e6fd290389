//! The form of a log line: one line for each event, whatever another party's text in it holds, with the
//! ids of the span that it was written in.

use std::fmt::{self, Write as _};

use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt as _},
};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// The forms of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For people. It has no colours: foreign text could use the characters that make them.
    Text,
    /// One object per line.
    Json,
}

/// Another format, whose lines are made safe and told apart by span.
#[derive(Debug)]
pub(super) struct Lines<F> {
    format: F,
    form: Form,
}

impl<F> Lines<F> {
    pub(super) fn new(format: F, form: Form) -> Self {
        Self { format, form }
    }
}

impl<S, N, F> FormatEvent<S, N> for Lines<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        let formatted = Writer::new(&mut line);
        self.format.format_event(context, formatted, event)?;
        let line = Context::map_current(|context| {
            finished(&line, context.span().span_context(), self.form)
        })?;
        writer.write_str(&line)
    }
}

/// A line with its end and the span's ids, without control characters.
fn finished(line: &str, span: &SpanContext, form: Form) -> Result<String, fmt::Error> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let mut finished = String::with_capacity(line.len() + 80);
    for character in line.chars() {
        match form {
            _ if !is_control(character) => finished.push(character),
            Form::Text => write!(finished, "{}", character.escape_default())?,
            // In JSON they can only stand in texts.
            Form::Json => write!(finished, "\\u{:04x}", u32::from(character))?,
        }
    }
    if span.is_valid() {
        let (trace, span) = (span.trace_id(), span.span_id());
        match form {
            Form::Text => write!(finished, " trace_id={trace} span_id={span}")?,
            Form::Json => {
                if finished.ends_with('}') {
                    finished.pop();
                    let ids = format!(",\"trace_id\":\"{trace}\",\"span_id\":\"{span}\"}}");
                    finished.push_str(&ids);
                }
            }
        }
    }
    finished.push('\n');
    Ok(finished)
}

/// True for a character that moves a terminal's cursor, or that some reader takes for the end of a line.
fn is_control(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use serde_json::Value;
    use tracing_subscriber::{
        Layer as _,
        fmt::{MakeWriter, format, format::JsonFields},
        layer::SubscriberExt as _,
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Text(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Text {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Text {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// The lines that are written meanwhile.
    fn written(form: Form, write: impl FnOnce()) -> String {
        let text = Text::default();
        let layer = tracing_subscriber::fmt::layer().with_writer(text.clone());
        let layer = match form {
            Form::Json => {
                let format = format().json().flatten_event(true);
                let layer = layer.fmt_fields(JsonFields::new());
                layer.event_format(Lines::new(format, form)).boxed()
            }
            Form::Text => {
                let format = format().with_ansi(false);
                layer.event_format(Lines::new(format, form)).boxed()
            }
        };
        let tracer = SdkTracerProvider::builder().build().tracer("test");
        let spans = tracing_opentelemetry::layer().with_tracer(tracer);
        let subscriber = tracing_subscriber::registry().with(layer).with(spans);
        tracing::subscriber::with_default(subscriber, write);
        let bytes = text.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// Ends of lines, a terminal's commands and a made-up line.
    const HOSTILE: &str =
        "a\nb\r\n2026-01-01 INFO drained\u{1b}[2J\u{7}\u{85}\u{9b}c\u{2028}d\u{0}\t";

    fn write_hostile() {
        tracing::warn!(shown = %HOSTILE, text = HOSTILE, debug = ?HOSTILE, "said: {HOSTILE}");
        tracing::info!("second");
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        for form in [Form::Text, Form::Json] {
            let text = written(form, write_hostile);
            assert!(text.ends_with('\n'), "{text:?}");
            let lines: Vec<&str> = text.trim_end_matches('\n').split('\n').collect();
            assert_eq!(lines.len(), 2, "{text}");
            assert!(lines[1].contains("second"), "{text}");
            for line in lines {
                assert!(!line.contains(is_control), "{line:?}");
            }
        }
    }

    #[test]
    fn a_line_of_json_holds_the_text_as_it_was() {
        let text = written(Form::Json, write_hostile);
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["text"], HOSTILE);
        assert_eq!(line["shown"], HOSTILE);
        assert_eq!(line["message"], format!("said: {HOSTILE}"));
    }

    #[test]
    fn a_line_in_a_span_has_the_spans_ids_and_another_has_none() {
        let write = || {
            tracing::info!("outside");
            tracing::info_span!("one").in_scope(|| tracing::info!("inside"));
        };
        let text = written(Form::Json, write);
        let lines: Vec<Value> = (text.lines())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0].get("trace_id"), None);
        assert_eq!(lines[1]["message"], "inside");
        assert_eq!(lines[1]["trace_id"].as_str().unwrap().len(), 32);
        assert_eq!(lines[1]["span_id"].as_str().unwrap().len(), 16);
        let text = written(Form::Text, write);
        let mut lines = text.lines();
        assert!(!lines.next().unwrap().contains("trace_id"), "{text}");
        let (_, ids) = lines.next().unwrap().split_once(" trace_id=").unwrap();
        let (trace, span) = ids.split_once(" span_id=").unwrap();
        assert_eq!((trace.len(), span.len()), (32, 16), "{text}");
    }
}
