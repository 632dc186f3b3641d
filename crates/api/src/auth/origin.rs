//! Whether a request that changes something comes from our own page.

use warp::http::{HeaderMap, header};

use crate::door::FORWARDED_HOST;
use crate::errors::ApiError;

/// Refuses a request whose `Origin` is another site's. Programs send none, and pass.
///
/// A trusted proxy in front may have put its own name into `Host`, so the name that it was called by counts too; of
/// others the header is gone by now.
pub(crate) fn refuse_foreign(headers: &HeaderMap) -> Result<(), ApiError> {
    // Browsers of today say it of every request, and no page can change it.
    if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site") {
        return Err(ApiError::ForeignOrigin);
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let ours = origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(|(scheme, authority)| {
        let names = [headers.get(header::HOST), headers.get(FORWARDED_HOST)];
        let names = names.into_iter().flatten().filter_map(|name| name.to_str().ok());
        // Proxies in a row add theirs behind the one that people use.
        let mut names = names.flat_map(|names| names.split(',')).map(str::trim);
        names.any(|name| with_port(name, scheme).eq_ignore_ascii_case(&with_port(authority, scheme)))
    });
    if ours { Ok(()) } else { Err(ApiError::ForeignOrigin) }
}

/// Browsers leave the scheme's own port out; others may not.
fn with_port(authority: &str, scheme: &str) -> String {
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    if has_port {
        return authority.to_owned();
    }
    format!("{authority}:{}", if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_origin_or_none_passes() {
        let passes = |origin: Option<&str>, host: &str, forwarded: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            if let Some(forwarded) = forwarded {
                headers.insert("x-forwarded-host", forwarded.parse().unwrap());
            }
            refuse_foreign(&headers).is_ok()
        };
        assert!(passes(None, "jobs.example:8080", None));
        assert!(passes(Some("http://jobs.example:8080"), "jobs.example:8080", None));
        assert!(passes(Some("http://Jobs.Example"), "jobs.example", None));
        assert!(passes(Some("https://jobs.example"), "jobs.example:443", None));
        assert!(passes(Some("https://jobs.example"), "127.0.0.1:8080", Some("jobs.example")));
        assert!(passes(Some("https://jobs.example"), "127.0.0.1:8080", Some("jobs.example, inner.example")));
        assert!(passes(Some("http://[::1]:8080"), "[::1]:8080", None));
        assert!(passes(Some("http://[::1]"), "[::1]", None));
        for foreign in ["http://evil.example", "http://jobs.example:81", "null", "jobs.example:8080", ""] {
            assert!(!passes(Some(foreign), "jobs.example:8080", None), "{foreign}");
        }
        assert!(
            !passes(Some("https://jobs.example"), "jobs.example:80", None),
            "another scheme's port is another origin"
        );
        let mut headers = HeaderMap::new();
        headers.insert("sec-fetch-site", "same-origin".parse().unwrap());
        assert!(refuse_foreign(&headers).is_ok());
        headers.insert("sec-fetch-site", "cross-site".parse().unwrap());
        assert_eq!(refuse_foreign(&headers), Err(ApiError::ForeignOrigin), "though it does not say from where");
    }
}
