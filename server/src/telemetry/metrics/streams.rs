//! The figures of streams.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{
    Picture, count,
    spread::{self, Values},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    kind: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinceLabels {
    since: &'static str,
}

/// The figures of streams: open, ended, and how late their news is.
pub(super) fn register(registry: &mut Registry, picture: &Picture) {
    let open = Family::<KindLabels, Gauge>::default();
    for (kind, streams) in &picture.streams_open {
        open.get_or_create(&KindLabels { kind })
            .set(count(*streams));
    }
    registry.register("streams_open", "Open streams, by kind", open);
    let ended = Family::<EndLabels, Counter>::default();
    for (kind, reason, times) in &picture.streams_ended {
        let labels = EndLabels { kind, reason };
        ended.get_or_create(&labels).inc_by(*times);
    }
    let words = "Streams that have ended, by kind and reason";
    registry.register("streams_ended", words, ended);
    let first = (picture.first_event.iter())
        .map(|(kind, seen)| (KindLabels { kind }, seen.clone()))
        .collect();
    let words = "The time from a stream's opening to its first event";
    spread::register(registry, ("first_event", words), Values::Times, first);
    let delays = (picture.push_delay.iter())
        .map(|(since, seen)| (SinceLabels { since }, seen.clone()))
        .collect();
    let words = "The delay of news on an open stream, from the provider's change or the commit";
    spread::register(registry, ("push_delay", words), Values::Times, delays);
}
