//! `--log`: the work of the program, as `tracing` has it, on standard error; with the feature `otlp` its spans for a
//! collector of OpenTelemetry.

use std::io::{self, Write};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

#[cfg(feature = "otlp")]
use crate::otlp::Spans;
use crate::print::{for_people, for_programs};
use crate::say::Say;

/// Reads a filter: a level, or targets with levels, `p2pd::api=debug,warn`.
///
/// # Errors
/// The part that is no level.
pub(crate) fn filter(text: &str) -> Result<Targets, String> {
    for part in text.split(',') {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            return Err(format!("`{level}` is not one of off, error, warn, info, debug and trace"));
        }
    }
    text.parse().map_err(|why| format!("{why}"))
}

/// Keeps the log going; dropped, it has a collector hear what is left.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    #[cfg(feature = "otlp")]
    _spans: Option<Spans>,
}

/// Starts the log: from here on, all threads' events that pass the filter are written. A collector hears calls and strategies
/// also without a filter; their stages are DEBUG.
///
/// # Errors
/// The reason why the collector cannot be used.
pub(crate) fn start(filter: Option<Targets>, say: Say) -> Result<Guard, String> {
    #[cfg(feature = "otlp")]
    let (spans, heard) = (Spans::open()?, filter.clone());
    let lines = filter.map(|filter| {
        let lines = fmt::layer().with_ansi(false).with_writer(move || Lines(say));
        let lines = if say.is_json() { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
        lines.with_filter(filter)
    });
    let log = tracing_subscriber::registry().with(lines);
    #[cfg(feature = "otlp")]
    let log = log.with(spans.as_ref().map(|spans| {
        let heard = heard.unwrap_or_else(|| Targets::new().with_target("p2pd", LevelFilter::INFO));
        spans.layer().with_filter(heard)
    }));
    log.init();
    Ok(Guard {
        #[cfg(feature = "otlp")]
        _spans: spans,
    })
}

/// Writer of the log's lines.
struct Lines(Say);

impl Write for Lines {
    /// A whole line, always: the formatter writes each at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\n');
        let text = if self.0.is_json() { for_programs(text) } else { for_people(text) };
        self.0.above(|| io::stderr().write_all(format!("{text}\n").as_bytes()))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_is_no_target() {
        for good in ["info", "DEBUG", "off", "p2pd::api=debug,warn", "p2pd=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["", "inf", "p2pd", "p2pd=", "info,", "a=b"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
