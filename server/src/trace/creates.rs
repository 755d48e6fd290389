//! The spans that created the open purchases, for links from the spans of their polls.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::purchase::PurchaseId;

/// The most purchases that are remembered, some 6 MB. Ours: purchases beyond them have no link.
const KEPT_MAX: usize = 65_536;

/// The place of a span that is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    trace: [u8; 16],
    span: [u8; 8],
}

impl Place {
    /// The place of the span that this code runs in; `None` if that is not exported.
    pub fn current() -> Option<Self> {
        let span = Span::current();
        if span.is_none() {
            return None;
        }
        let context = span.context();
        let span = context.span();
        let place = span.span_context();
        place.is_sampled().then(|| Self {
            trace: place.trace_id().to_bytes(),
            span: place.span_id().to_bytes(),
        })
    }

    fn context(self) -> SpanContext {
        SpanContext::new(
            TraceId::from_bytes(self.trace),
            SpanId::from_bytes(self.span),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        )
    }
}

/// The spans that created open purchases, as far as they are exported. They are in memory alone, and
/// gone after a restart. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Creates(Arc<Mutex<HashMap<PurchaseId, Place>>>);

impl Creates {
    fn places(&self) -> MutexGuard<'_, HashMap<PurchaseId, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The span at this place has created a purchase, which is open.
    pub fn created(&self, purchase: PurchaseId, place: Option<Place>) {
        let Some(place) = place else {
            return;
        };
        let mut places = self.places();
        if places.len() < KEPT_MAX {
            places.insert(purchase, place);
        }
    }

    /// Links a span to the one that created its purchase, if that is known. The span must not have been
    /// entered yet.
    pub fn link(&self, span: &Span, purchase: PurchaseId) {
        if span.is_disabled() {
            return;
        }
        let place = self.places().get(&purchase).copied();
        if let Some(place) = place {
            span.add_link(place.context());
        }
    }

    /// A purchase is open no more.
    pub fn forget(&self, purchase: PurchaseId) {
        self.places().remove(&purchase);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn id(number: u128) -> PurchaseId {
        PurchaseId::from_u128(number)
    }

    #[test]
    fn as_many_creates_are_remembered_as_there_is_room_for_until_they_are_forgotten() {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);
        let creates = Creates::default();
        assert_eq!(Place::current(), None, "no span, no place");
        tracing::subscriber::with_default(subscriber, || {
            let _entered = tracing::info_span!("create").entered();
            for number in 0..=KEPT_MAX as u128 {
                creates.created(id(number), Place::current());
            }
        });
        assert_eq!(creates.places().len(), KEPT_MAX);
        for number in 0..=KEPT_MAX as u128 {
            creates.forget(id(number));
        }
        assert_eq!(creates.places().len(), 0);
    }
}
