//! The two texts of the figures: OpenMetrics, and Prometheus's own format 0.0.4 for those who do not
//! ask for OpenMetrics.

/// The media type of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The media type of Prometheus's own format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The format of a text of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's text format 0.0.4.
    Prometheus,
}

impl Format {
    /// The format that an `Accept` asks for: OpenMetrics if it is named and no less welcome than plain
    /// text.
    pub fn accepted(accept: &str) -> Self {
        let welcome = |media_type: &str| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let is_it = parts.next()?.eq_ignore_ascii_case(media_type);
                let weight = parts.find_map(|part| part.strip_prefix("q="));
                is_it.then(|| weight.map_or(1_000, thousandths))
            });
            ranges.max().unwrap_or(0)
        };
        let open = welcome("application/openmetrics-text");
        match open > 0 && open >= welcome("text/plain") {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => OPEN_METRICS,
            Self::Prometheus => PROMETHEUS,
        }
    }

    /// A text of OpenMetrics in this format.
    pub fn told(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Prometheus => prometheus(&open_metrics),
        }
    }
}

/// A weight like `0.5` in thousandths; 0 if it is none.
fn thousandths(weight: &str) -> u32 {
    let (whole, part) = weight.split_once('.').unwrap_or((weight, ""));
    let part: String = part.chars().chain("000".chars()).take(3).collect();
    match (whole.parse::<u32>(), part.parse::<u32>()) {
        (Ok(0), Ok(part)) => part,
        (Ok(1), Ok(0)) => 1_000,
        _ => 0,
    }
}

/// The older format names a counter and an information by their samples, and has neither units nor an
/// end.
fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // The family that is described, as its samples are named, once its type is known.
    let mut described: Vec<&str> = Vec::new();
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if line.starts_with("# HELP ") {
            described.push(line);
            continue;
        }
        let Some(rest) = line.strip_prefix("# TYPE ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
        let (suffix, kind) = match kind {
            "counter" => ("_total", "counter"),
            "info" => ("_info", "gauge"),
            "unknown" => ("", "untyped"),
            kind => ("", kind),
        };
        for help in described.drain(..) {
            let words = help.splitn(4, ' ').nth(3).unwrap_or_default();
            text.push_str(&format!("# HELP {name}{suffix} {words}\n"));
        }
        text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accept_asks_for_one_of_two_formats() {
        let check =
            |accept: &str, expected| assert_eq!(Format::accepted(accept), expected, "{accept}");
        check("", Format::Prometheus);
        check("*/*", Format::Prometheus);
        check("text/plain;version=0.0.4", Format::Prometheus);
        check("application/openmetrics-text", Format::OpenMetrics);
        check(
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1",
            Format::OpenMetrics,
        );
        check(
            "application/openmetrics-text;version=1.0.0;q=0.2, text/plain; version=0.0.4; q=0.75",
            Format::Prometheus,
        );
        check("application/openmetrics-text;q=0", Format::Prometheus);
        check(
            "application/openmetrics-text;q=nonsense",
            Format::Prometheus,
        );
    }

    #[test]
    fn the_older_format_names_families_by_their_samples() {
        let open = "# HELP a_b Words of it.\n# TYPE a_b counter\na_b_total{c=\"d\"} 1\n\
                    # HELP e_seconds More.\n# TYPE e_seconds gauge\n# UNIT e_seconds seconds\n\
                    e_seconds 1.5\n# HELP f Build.\n# TYPE f info\nf_info{v=\"1\"} 1\n# EOF\n";
        let expected = "# HELP a_b_total Words of it.\n# TYPE a_b_total counter\n\
                        a_b_total{c=\"d\"} 1\n# HELP e_seconds More.\n# TYPE e_seconds gauge\n\
                        e_seconds 1.5\n# HELP f_info Build.\n# TYPE f_info gauge\nf_info{v=\"1\"} 1\n";
        assert_eq!(Format::Prometheus.told(open.to_owned()), expected);
        assert_eq!(Format::OpenMetrics.told(open.to_owned()), open);
    }
}
