//! Numbers become a scrape's text: names as the contract has them, in the format that the scraper asks for.

use std::fmt;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::histogram::{BUCKETS, Histogram};

/// How a scrape is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Prometheus' own text, what `promtool check metrics` reads.
    #[default]
    Classic,
    /// OpenMetrics 1.0, for scrapers that ask for it: a counter's family has a name without `_total`, so that the
    /// classic reader would find no help and no type for it.
    OpenMetrics,
}

impl Format {
    /// What the request's `Accept` header asks for.
    pub fn accepted(header: &str) -> Self {
        let open = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let named =
                parts.next().is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
            let refused = |part: &str| part.strip_prefix("q=").and_then(|q| q.parse().ok()) == Some(0.0_f32);
            named && !parts.any(refused)
        };
        if header.split(',').any(open) { Self::OpenMetrics } else { Self::Classic }
    }

    /// The answer's `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// One number, or one histogram.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    /// A count.
    Whole(u64),
    /// A measure; one that is not finite has no line.
    Real(f64),
    /// A histogram.
    Spread(Histogram),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<Histogram> for Value {
    fn from(value: Histogram) -> Self {
        Self::Spread(value)
    }
}

/// The lines of one name.
#[derive(Debug)]
pub struct Series {
    kind: MetricType,
    lines: Vec<(Vec<(&'static str, String)>, Value)>,
    format: Format,
}

impl Series {
    const fn new(kind: MetricType) -> Self {
        Self { kind, lines: Vec::new(), format: Format::Classic }
    }

    /// Numbers that go up and down.
    pub const fn gauge() -> Self {
        Self::new(MetricType::Gauge)
    }

    /// Numbers that only grow.
    pub const fn counter() -> Self {
        Self::new(MetricType::Counter)
    }

    /// Histograms.
    pub const fn histogram() -> Self {
        Self::new(MetricType::Histogram)
    }

    /// One more line; none for a number that is none.
    #[must_use]
    pub fn with<const N: usize>(
        mut self,
        labels: [(&'static str, &str); N],
        value: impl Into<Value>,
    ) -> Self {
        let value = value.into();
        if !matches!(value, Value::Real(number) if !number.is_finite()) {
            self.lines.push((labels.map(|(name, text)| (name, text.to_owned())).into(), value));
        }
        self
    }

    fn encode_line(&self, mut line: MetricEncoder, value: Value) -> fmt::Result {
        let no_exemplar: Option<&Exemplar<NoLabelSet, f64>> = None;
        match value {
            // The library appends `_total` here, which the classic format has in the family's name.
            Value::Whole(count) if self.is_open_counter() => line.encode_counter(&count, no_exemplar),
            Value::Real(count) if self.is_open_counter() => line.encode_counter(&count, no_exemplar),
            Value::Whole(number) => line.encode_gauge(&number),
            Value::Real(number) => line.encode_gauge(&number),
            Value::Spread(histogram) => {
                let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(histogram.buckets).collect();
                let count = histogram.buckets.iter().sum();
                line.encode_histogram::<NoLabelSet>(histogram.sum, count, &buckets, None)
            }
        }
    }

    fn is_open_counter(&self) -> bool {
        self.format == Format::OpenMetrics && matches!(self.kind, MetricType::Counter)
    }
}

impl EncodeMetric for Series {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        self.lines
            .iter()
            .try_for_each(|(labels, value)| self.encode_line(encoder.encode_family(labels)?, *value))
    }

    fn metric_type(&self) -> MetricType {
        self.kind
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// A scrape that is being written.
#[derive(Debug)]
pub struct Page {
    registry: Registry,
    format: Format,
}

impl Page {
    /// Of the cluster with this name; it is a label of every line.
    pub fn new(cluster: &str, format: Format) -> Self {
        let labels = [("cluster".into(), cluster.to_owned().into())];
        Self { registry: Registry::with_prefix_and_labels("walproof", labels.into_iter()), format }
    }

    /// One number without labels; no line when it is not known.
    pub fn gauge(&mut self, name: &str, help: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.family(name, help, Series::gauge().with([], value));
        }
    }

    /// All lines of `name`, which is the contract's without `walproof_`. The library ends `help` with a full stop.
    pub fn family(&mut self, name: &str, help: &str, series: Series) {
        let series = Series { format: self.format, ..series };
        if self.format == Format::Classic {
            return self.registry.register(name, help, series);
        }
        // The library appends `_total` and the unit, and says in a line of its own what the unit is.
        let name = name.strip_suffix("_total").unwrap_or(name);
        if let Some(stem) = name.strip_suffix("_seconds") {
            self.registry.register_with_unit(stem, help, Unit::Seconds, series);
        } else if let Some(stem) = name.strip_suffix("_bytes") {
            self.registry.register_with_unit(stem, help, Unit::Bytes, series);
        } else {
            self.registry.register(name, help, series);
        }
    }

    /// The whole text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a text in memory does not fail.
        let _ = match self.format {
            Format::Classic => text::encode_registry(&mut text, &self.registry),
            Format::OpenMetrics => text::encode(&mut text, &self.registry),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scraper_chooses_the_format() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        for header in ["", "*/*", "text/plain", "text/html, application/openmetrics-text;q=0", ";;q=,"] {
            assert_eq!(Format::accepted(header), Format::Classic, "{header}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::new("a\"b\\c\nd", Format::Classic);
        page.family("x", "Help", Series::gauge().with([("label", "\"\n\\é")], 1_u64));
        let expected = "# HELP walproof_x Help.\n# TYPE walproof_x gauge\n\
                        walproof_x{cluster=\"a\\\"b\\\\c\\nd\",label=\"\\\"\\n\\\\é\"} 1\n";
        assert_eq!(page.text(), expected);
    }

    #[test]
    fn a_number_that_is_none_has_no_line() {
        for format in [Format::Classic, Format::OpenMetrics] {
            let mut page = Page::new("a", format);
            page.gauge("x", "Help", None::<u64>);
            page.gauge("y", "Help", Some(f64::NAN));
            page.gauge("z", "Help", Some(f64::INFINITY));
            assert_eq!(page.text(), if format == Format::Classic { "" } else { "# EOF\n" });
        }
    }

    #[test]
    fn open_metrics_name_families_in_their_own_way() {
        let mut page = Page::new("a", Format::OpenMetrics);
        page.family("pushed_bytes_total", "Help", Series::counter().with([("stage", "raw")], 7_u64));
        page.gauge("age_seconds", "Help", Some(0.5));
        let expected = "# HELP walproof_pushed_bytes Help.\n# TYPE walproof_pushed_bytes counter\n\
                        # UNIT walproof_pushed_bytes bytes\n\
                        walproof_pushed_bytes_total{cluster=\"a\",stage=\"raw\"} 7\n\
                        # HELP walproof_age_seconds Help.\n# TYPE walproof_age_seconds gauge\n\
                        # UNIT walproof_age_seconds seconds\nwalproof_age_seconds{cluster=\"a\"} 0.5\n# EOF\n";
        assert_eq!(page.text(), expected);
    }
}
