//! Histograms of what rooms have counted themselves.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::figures::Seen;

/// The unit of a histogram's values.
#[derive(Debug, Clone, Copy)]
pub(super) enum Values {
    /// Microseconds, told as seconds.
    Times,
    /// Numbers, told as they are.
    Numbers,
}

impl Values {
    #[expect(
        clippy::cast_precision_loss,
        reason = "figures for people, in no decision"
    )]
    #[expect(
        clippy::float_arithmetic,
        reason = "figures for people, in no decision"
    )]
    fn told(self, value: u64) -> f64 {
        match self {
            Self::Times => value as f64 / 1e6,
            Self::Numbers => value as f64,
        }
    }
}

/// One family of histograms; a histogram without labels is alone in its family.
#[derive(Debug)]
struct Spreads<L> {
    name: &'static str,
    words: &'static str,
    values: Values,
    each: Vec<(Option<L>, Seen)>,
}

/// Adds a family of histograms, one for each set of labels.
pub(super) fn register<L>(
    registry: &mut Registry,
    (name, words): (&'static str, &'static str),
    values: Values,
    each: Vec<(L, Seen)>,
) where
    L: EncodeLabelSet + fmt::Debug + Send + Sync + 'static,
{
    let each = each.into_iter();
    registry.register_collector(Box::new(Spreads {
        name,
        words,
        values,
        each: each.map(|(labels, seen)| (Some(labels), seen)).collect(),
    }));
}

/// Adds a histogram without labels.
pub(super) fn register_one(
    registry: &mut Registry,
    (name, words): (&'static str, &'static str),
    values: Values,
    seen: Seen,
) {
    registry.register_collector(Box::new(Spreads::<NoLabelSet> {
        name,
        words,
        values,
        each: vec![(None, seen)],
    }));
}

impl<L: EncodeLabelSet + fmt::Debug + Send + Sync + 'static> Collector for Spreads<L> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let unit = match self.values {
            Values::Times => Some(&Unit::Seconds),
            Values::Numbers => None,
        };
        let (name, words) = (self.name, self.words);
        let mut family = encoder.encode_descriptor(name, words, unit, MetricType::Histogram)?;
        for (labels, seen) in &self.each {
            match labels {
                Some(labels) => self.tell(&mut family.encode_family(labels)?, seen)?,
                None => self.tell(&mut family, seen)?,
            }
        }
        Ok(())
    }
}

impl<L> Spreads<L> {
    fn tell(&self, metric: &mut MetricEncoder<'_>, seen: &Seen) -> Result<(), fmt::Error> {
        let bounds = seen.bounds.iter().map(|bound| self.values.told(*bound));
        let bounds = bounds.chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(seen.counts.iter().copied()).collect();
        let (sum, count) = (self.values.told(seen.sum), seen.counts.iter().sum());
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}
