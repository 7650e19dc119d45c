//! `/metrics`: the node's numbers for Prometheus, in the OpenMetrics text format.
//!
//! Names end in their unit. A metric that has no value at present keeps its description. What each
//! one means is said once, here, and `docs/metrics.md` is compared with it.

mod backup;
mod capture;
mod clocks;
mod control;
mod data;
mod mesh;
mod storage;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::facts::{Durations, Facts};

/// The format of [`render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a moment.
///
/// # Errors
/// None that can happen: text is written to memory.
pub fn render(facts: Facts) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exporter(facts)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Exporter(Facts);

impl Collector for Exporter {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        data::export(&self.0, &mut out)?;
        mesh::export(&self.0, &mut out)?;
        clocks::export(&self.0, &mut out)?;
        storage::export(&self.0, &mut out)?;
        backup::export(&self.0, &mut out)?;
        control::export(&self.0, &mut out)?;
        capture::export(&self.0, &mut out)
    }
}

/// Names and values that tell a family's series apart.
type Labels = Vec<(&'static str, String)>;

/// Labels from borrowed text.
fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    pairs.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

/// The one series of a family without labels.
fn one<V>(value: V) -> [(Labels, V); 1] {
    [(Labels::new(), value)]
}

/// As [`one`]; no series when the value is not known.
fn known<V>(value: Option<V>) -> Option<(Labels, V)> {
    value.map(|value| (Labels::new(), value))
}

/// Gauges that stand for a state: 1 for the present one, 0 for the others.
fn flag(is_set: bool) -> i64 {
    i64::from(is_set)
}

/// Whole numbers are gauges of 64 bits with a sign.
fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Writes families one after the other. A name is given without its unit and, for counters,
/// without `_total`: the encoder appends both.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn counter<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        series: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let kind = MetricType::Counter;
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in series {
            // Without labels there must not be empty braces either.
            if labels.is_empty() {
                family.encode_counter::<NoLabelSet, V, u64>(&value, None)?;
            } else {
                let mut member = family.encode_family(&labels)?;
                member.encode_counter::<NoLabelSet, V, u64>(&value, None)?;
            }
        }
        Ok(())
    }

    fn gauge<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        series: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in series {
            if labels.is_empty() {
                family.encode_gauge(&value)?;
            } else {
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn seconds(&mut self, name: &str, help: &str, durations: &Durations) -> fmt::Result {
        let unit = Unit::Seconds;
        let kind = MetricType::Histogram;
        let mut family = self.0.encode_descriptor(name, help, Some(&unit), kind)?;
        // The last bucket has no bound, which the format calls infinity.
        let unbounded = |bound: f64| if bound == f64::MAX { f64::INFINITY } else { bound };
        let buckets: Vec<(f64, u64)> =
            durations.buckets.iter().map(|(bound, count)| (unbounded(*bound), *count)).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        family.encode_histogram::<NoLabelSet>(durations.sum_s, count, &buckets, None)
    }

    fn info(&mut self, name: &str, help: &str, labels: &Labels) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(labels)
    }
}

#[cfg(test)]
mod tests;
