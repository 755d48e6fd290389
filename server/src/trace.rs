//! Traces: the context that a caller sends with a call, and the spans that created open purchases.
//!
//! Every module opens spans with the macros of `tracing`. Without a collector nobody wants them, and
//! each costs a comparison. Nothing of a trace goes on to a provider: providers are third parties, and a
//! trace's ids would tell them which of their requests belong to one call of a caller.

mod creates;

use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator as _},
    trace::TraceContextExt as _,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

pub use creates::{Creates, Place};

/// The longest `tracestate` that is kept, in bytes. W3C Trace Context, 3.3.1.5, asks for 512 at the
/// least; more would let a caller fill the queue of spans.
const STATE_BYTES_MAX: usize = 512;
const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// Makes a span a part of the caller's trace, if the headers of its call name one as W3C Trace Context
/// writes it. A header that breaks the rules counts as none, and `baggage` is not read. The span must
/// not have been entered yet.
pub fn follow_caller(span: &Span, headers: &HeaderMap) {
    let Some(context) = context(headers).filter(|_| !span.is_disabled()) else {
        return;
    };
    // It can only fail if nobody takes spans.
    let _ = span.set_parent(context);
}

/// Makes a span a part of the trace of the span that this code runs in, which may end before it. The span
/// must not have been entered yet.
pub fn follow_current(span: &Span) {
    if !span.is_disabled() {
        let _ = span.set_parent(Span::current().context());
    }
}

/// The context that headers name, if they name one.
fn context(headers: &HeaderMap) -> Option<Context> {
    let caller = Caller::of(headers)?;
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &caller);
    let is_valid = context.span().span_context().is_valid();
    is_valid.then_some(context)
}

/// A caller's context as its headers write it.
struct Caller<'headers> {
    parent: &'headers str,
    state: Option<String>,
}

impl<'headers> Caller<'headers> {
    fn of(headers: &'headers HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(PARENT).iter();
        let (parent, None) = (parents.next()?.to_str().ok()?, parents.next()) else {
            return None;
        };
        let lengths = parent.split('-').map(str::len).take(4);
        if !lengths.eq([2, 32, 16, 2]) {
            return None;
        }
        let states: Option<Vec<&str>> = (headers.get_all(STATE).iter())
            .map(|state| state.to_str().ok())
            .collect();
        let state = states.map(|states| states.join(","));
        Some(Self {
            parent,
            state: state.filter(|state| (1..=STATE_BYTES_MAX).contains(&state.len())),
        })
    }
}

impl Extractor for Caller<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            PARENT => Some(self.parent),
            STATE => self.state.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![PARENT, STATE]
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn a_callers_context_is_read_as_w3c_writes_it() {
        let check = |parent: &str, expected| {
            let context = context(&headers(&[(PARENT, parent)]));
            assert_eq!(context.is_some(), expected, "{parent}");
        };
        check(GOOD, true);
        check(
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            true,
        );
        check(
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            true,
        );
        check("", false);
        check("00-1-2-01", false);
        check(
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            false,
        );
        check(
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            false,
        );
        check(
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            false,
        );
        check(
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            false,
        );
        check(
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            false,
        );
        check(
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            false,
        );
        let twice = headers(&[(PARENT, GOOD), (PARENT, GOOD)]);
        assert!(context(&twice).is_none(), "two parents are none");
    }

    #[test]
    fn a_callers_state_is_kept_up_to_512_bytes() {
        let state = |states: &[&str]| {
            let states = states.iter().map(|state| (STATE, *state));
            let pairs: Vec<_> = [(PARENT, GOOD)].into_iter().chain(states).collect();
            let context = context(&headers(&pairs)).unwrap();
            context.span().span_context().trace_state().header()
        };
        assert_eq!(state(&[]), "");
        assert_eq!(state(&["a=1", "b=2"]), "a=1,b=2");
        let long = |length: usize| format!("a={}", "x".repeat(length - 2));
        assert_eq!(state(&[&long(256), &long(10)]).len(), 267);
        assert_eq!(
            state(&[&format!("{},b={}", long(250), "x".repeat(260))]),
            ""
        );
        assert_eq!(state(&["no state"]), "");
    }
}
