//! The choice of the traces that are exported.
//!
//! A caller may ask for its trace by the sampled flag, which any caller can set on each call. So the
//! wish is granted for so many traces a second and no more; otherwise one caller could turn the whole of
//! tracing on.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt as _, TraceId},
};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, ShouldSample};

/// Traces of a second that are exported because their callers asked for them, of all callers together.
const ASKED_PER_SECOND: u32 = 100;
/// Spans of a second that begin a trace and are exported because a span that they link to is: polls and
/// commits of traced creates.
const LINKED_PER_SECOND: u32 = 100;
/// The parts of one.
const WHOLE: u32 = 1_000_000_000;

/// A share of all traces, exact to a billionth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// Reads `0`, `1` or a decimal between them with at most nine places, such as `0.01`; `None` for any
    /// other text.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !matches!(whole, "0" | "1") || !(1..=9).contains(&places.len()) || !are_digits(places) {
            return None;
        }
        let places: u32 = format!("{places:0<9}").parse().ok()?;
        let parts = u32::from(whole == "1") * WHOLE + places;
        (parts <= WHOLE).then_some(Self(parts))
    }

    /// True if this share of all traces has this one. The ids of traces are random.
    fn has(self, trace: TraceId) -> bool {
        let [.., low] = trace_halves(trace);
        // The part of all ids that lie below this one, in billionths.
        let place = (u128::from(low) * u128::from(WHOLE)) >> 64;
        place < u128::from(self.0)
    }
}

impl fmt::Display for Share {
    /// Writes the decimal that is read again as the same share.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, places) = (self.0 / WHOLE, self.0 % WHOLE);
        let decimal = format!("{whole}.{places:09}");
        formatter.write_str(decimal.trim_end_matches('0').trim_end_matches('.'))
    }
}

fn trace_halves(trace: TraceId) -> [u64; 2] {
    let id = u128::from_be_bytes(trace.to_bytes());
    let half = |id: u128| u64::try_from(id & u128::from(u64::MAX)).unwrap_or_default();
    [half(id >> 64), half(id)]
}

/// So many things in each second, and no more.
#[derive(Debug)]
struct Rate {
    per_second: u32,
    /// The beginning of the second, and the things in it.
    second: Mutex<(Instant, u32)>,
}

impl Rate {
    fn new(per_second: u32) -> Arc<Self> {
        Arc::new(Self {
            per_second,
            second: Mutex::new((Instant::now(), 0)),
        })
    }

    fn take(&self, now: Instant) -> bool {
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(second.0) >= Duration::from_secs(1) {
            *second = (now, 0);
        }
        let is_free = second.1 < self.per_second;
        second.1 += u32::from(is_free);
        is_free
    }
}

/// The choice. Clones share their rates.
#[derive(Debug, Clone)]
pub(super) struct Sampler {
    share: Share,
    asked: Arc<Rate>,
    linked: Arc<Rate>,
}

impl Sampler {
    pub(super) fn new(share: Share) -> Self {
        Self {
            share,
            asked: Rate::new(ASKED_PER_SECOND),
            linked: Rate::new(LINKED_PER_SECOND),
        }
    }

    fn exports(&self, parent: Option<&Context>, trace: TraceId, links: &[Link]) -> bool {
        let span = parent.map(|parent| parent.span().span_context().clone());
        match span.filter(|span| span.is_valid()) {
            // A caller chooses its trace's id too, so the share decides nothing about it.
            Some(caller) if caller.is_remote() => {
                caller.is_sampled() && self.asked.take(Instant::now())
            }
            Some(parent) => parent.is_sampled(),
            None => {
                let is_linked = links.iter().any(|link| link.span_context.is_sampled());
                self.share.has(trace) || (is_linked && self.linked.take(Instant::now()))
            }
        }
    }
}

impl ShouldSample for Sampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        _name: &str,
        _kind: &SpanKind,
        _attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let state = parent.map(|parent| parent.span().span_context().trace_state().clone());
        SamplingResult {
            decision: match self.exports(parent, trace, links) {
                true => SamplingDecision::RecordAndSample,
                false => SamplingDecision::Drop,
            },
            attributes: Vec::new(),
            trace_state: state.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceState};

    use super::*;

    #[test]
    fn a_share_is_an_exact_decimal_from_nothing_to_all() {
        let check = |text, expected: Option<u32>| {
            assert_eq!(Share::parse(text), expected.map(Share), "{text}");
        };
        check("0", Some(0));
        check("1", Some(WHOLE));
        check("1.0", Some(WHOLE));
        check("0.01", Some(10_000_000));
        check("0.000000001", Some(1));
        for text in ["0", "1", "0.01", "0.000000001", "0.5"] {
            assert_eq!(Share::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            ".",
            "0.",
            ".5",
            "1.1",
            "2",
            "-0",
            "+1",
            "0,5",
            "1e-2",
            "0.0000000001",
            "00.1",
            "١",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn a_share_has_as_many_traces_as_it_says() {
        let low = |part: u128| TraceId::from((part << 64) / 100 + 1);
        let share = Share::parse("0.25").unwrap();
        for part in 0..100 {
            assert_eq!(share.has(low(part)), part < 25, "{part}");
        }
        for trace in [low(0), low(50), TraceId::from(u128::MAX)] {
            assert!(Share::parse("1").unwrap().has(trace));
            assert!(!Share::parse("0").unwrap().has(trace));
        }
    }

    fn span(is_remote: bool, flags: TraceFlags) -> SpanContext {
        let (trace, span) = (TraceId::from(7), SpanId::from(7));
        SpanContext::new(trace, span, flags, is_remote, TraceState::default())
    }

    /// The number of a thousand spans at once that are exported.
    fn exported(share: &str, parent: Option<SpanContext>, link: Option<SpanContext>) -> usize {
        let sampler = Sampler::new(Share::parse(share).unwrap());
        let parent = parent.map(|parent| Context::new().with_remote_span_context(parent));
        let links: Vec<Link> = link.into_iter().map(Link::with_context).collect();
        let choose = |_: &u32| sampler.exports(parent.as_ref(), TraceId::from(1), &links);
        (0..1_000).filter(choose).count()
    }

    #[test]
    fn a_callers_wish_counts_up_to_a_rate_and_never_turns_everything_on() {
        let (sampled, unsampled) = (TraceFlags::SAMPLED, TraceFlags::default());
        let asked = exported("0", Some(span(true, sampled)), None);
        // A test that is held up meets the next second.
        assert!((100..=300).contains(&asked), "{asked}");
        let asked = exported("1", Some(span(true, sampled)), None);
        assert!(asked <= 300, "{asked}: the share does not lift the bound");
        assert_eq!(exported("1", Some(span(true, unsampled)), None), 0);
    }

    #[test]
    fn a_span_follows_its_parent_and_a_first_one_the_share_or_its_links() {
        let (sampled, unsampled) = (TraceFlags::SAMPLED, TraceFlags::default());
        assert_eq!(exported("0", Some(span(false, sampled)), None), 1_000);
        assert_eq!(exported("1", Some(span(false, unsampled)), None), 0);
        assert_eq!(exported("1", None, None), 1_000);
        assert_eq!(exported("0", None, None), 0);
        assert_eq!(exported("0", None, Some(span(false, unsampled))), 0);
        let linked = exported("0", None, Some(span(false, sampled)));
        assert!((100..=300).contains(&linked), "{linked}");
    }
}
