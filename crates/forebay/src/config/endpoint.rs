//! Where OpenTelemetry is sent.

use anyhow::bail;

/// The address before `/v1/traces` and `/v1/metrics`, without a slash at its end. Errors do not repeat it: somebody may have
/// put a secret into it. A program that was built without OpenTelemetry takes none.
pub(super) fn endpoint(given: Option<String>, has_otlp: bool) -> anyhow::Result<Option<String>> {
    let Some(given) = given else { return Ok(None) };
    let Some(host) = given.strip_prefix("http://").or_else(|| given.strip_prefix("https://")) else {
        bail!("otlp-endpoint must be an address such as http://localhost:4318 (OTLP over HTTP, not gRPC)");
    };
    if host.contains('@') {
        bail!("otlp-endpoint holds a secret, which would be shown: put it into OTEL_EXPORTER_OTLP_HEADERS");
    }
    let is_odd =
        |sign: char| matches!(sign, '?' | '#') || sign.is_whitespace() || sign.is_control() || !sign.is_ascii();
    if host.starts_with(['/', ':']) || host.is_empty() || host.contains(is_odd) {
        bail!("otlp-endpoint must be a scheme, a host, perhaps a port and a path, and nothing else");
    }
    let end = given.trim_end_matches('/');
    if let Some(path) = ["/v1/traces", "/v1/metrics"].iter().find(|path| end.ends_with(*path)) {
        bail!("otlp-endpoint must end before {path}: traces and metrics go to paths below it");
    }
    if !has_otlp {
        bail!(
            "otlp-endpoint: this program was built without OpenTelemetry and can send nothing there: leave the setting out, \
             or build it with `make build FEATURES=otlp`"
        );
    }
    Ok(Some(end.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_without_secrets_before_the_paths_of_signals() {
        assert_eq!(endpoint(None, false).unwrap(), None);
        let wrong = [
            "localhost:4318",
            "grpc://localhost:4317",
            "http://",
            "http:///v1",
            "http://user:s3cret@host:4318",
            "http://host:4318?token=s3cret",
            "http://ho st:4318",
            "http://host:4318/v1/traces/",
        ];
        for wrong in wrong {
            let error = endpoint(Some(wrong.to_owned()), false).unwrap_err().to_string();
            assert!(
                error.starts_with("otlp-endpoint") && !error.contains("s3cret") && !error.contains("FEATURES"),
                "{error}"
            );
        }
        let good = |has_otlp| endpoint(Some("https://host:4318/otlp//".to_owned()), has_otlp);
        assert_eq!(good(true).unwrap().as_deref(), Some("https://host:4318/otlp"));
        let error = good(false).unwrap_err().to_string();
        assert!(error.contains("FEATURES=otlp"), "{error}");
    }
}
