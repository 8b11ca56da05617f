//! Spans for a collector of OpenTelemetry, by OTLP over HTTP with JSON.
//!
//! The variables are those of its specification: `OTEL_EXPORTER_OTLP_ENDPOINT` names the collector, and nothing is sent
//! without it; `OTEL_SERVICE_NAME` (default `p2pd`), `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER` and the others hold.

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::registry::LookupSpan;

/// Variables that name a collector, for all signals and for traces.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Sender of spans. Dropped, it sends those that are left, for at most 5 s.
#[derive(Debug)]
pub(crate) struct Spans(SdkTracerProvider);

impl Spans {
    /// Opens the way to the collector that the environment names; `None` where it names none.
    ///
    /// # Errors
    /// The reason why the variables cannot be used.
    pub(crate) fn open() -> Result<Option<Spans>, String> {
        if !ENDPOINTS.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
            return Ok(None);
        }
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(opentelemetry_otlp::Protocol::HttpJson)
            .build()
            .map_err(|why| format!("OpenTelemetry: {why}"))?;
        // The builder reads OTEL_SERVICE_NAME after the name given here only if none is given.
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("p2pd");
        }
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_batch_exporter(exporter)
            .build();
        Ok(Some(Spans(provider)))
    }

    /// Returns the layer that hands it spans.
    pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> OpenTelemetryLayer<S, SdkTracer> {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("p2pd"))
            .with_location(false)
            .with_threads(false)
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        if let Err(why) = self.0.shutdown() {
            crate::print::tell(&format!("p2pd: OpenTelemetry: {why}"));
        }
    }
}
