//! The path below which a proxy serves us.

use std::fmt;
use std::str::FromStr;

use warp::http::Uri;
use warp::http::uri::PathAndQuery;

/// More than anybody needs.
const BYTES: usize = 200;

/// The path below which a proxy serves us: `/forebay`, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BasePath(String);

/// Why a text is no base path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a base path is a path such as /forebay or /tools/forebay: letters, digits, `-`, `_`, `.` and `~` between slashes"
)]
pub struct BasePathError;

impl FromStr for BasePath {
    type Err = BasePathError;

    fn from_str(text: &str) -> Result<Self, BasePathError> {
        let path = text.strip_suffix('/').unwrap_or(text);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        let is_segment = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_plain);
        // What is the page's or the API's own below it would be ambiguous.
        let is_good = match path.strip_prefix('/') {
            Some(parts) => parts.split('/').all(is_segment) && path.len() <= BYTES,
            None => path.is_empty(),
        };
        if is_good { Ok(Self(path.to_owned())) } else { Err(BasePathError) }
    }
}

impl fmt::Display for BasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl BasePath {
    /// Without a slash at its end; empty where there is none.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of a cookie that is for us alone.
    pub(crate) fn of_cookies(&self) -> &str {
        if self.0.is_empty() { "/" } else { &self.0 }
    }

    /// The address of a request without it. One that lacks it stays as it is: some proxies take it away, and who asks us
    /// directly, as probes do, need not know of it.
    pub(crate) fn strip(&self, uri: &Uri) -> Option<Uri> {
        if self.0.is_empty() {
            return None;
        }
        let rest = uri.path().strip_prefix(&self.0)?;
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
        let path = if rest.is_empty() { "/" } else { rest };
        let whole = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        PathAndQuery::try_from(whole).ok().map(Uri::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_a_plain_path_or_nothing() {
        for (text, path) in [("", ""), ("/", ""), ("/forebay", "/forebay"), ("/a/b.c/", "/a/b.c")] {
            assert_eq!(text.parse::<BasePath>().unwrap().as_str(), path);
        }
        for wrong in ["forebay", "//", "/a//b", "/..", "/a/../b", "/a b", "/a;b", "/\"", "/a?b", "/é", "http://a/b"] {
            assert_eq!(wrong.parse::<BasePath>(), Err(BasePathError), "{wrong}");
        }
        assert!(format!("/{}", "a".repeat(BYTES)).parse::<BasePath>().is_err());
    }

    #[test]
    fn it_is_taken_away_whole_or_not_at_all() {
        let base: BasePath = "/forebay".parse().unwrap();
        let stripped = |uri: &str| base.strip(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(stripped("/forebay").as_deref(), Some("/"));
        assert_eq!(stripped("/forebay?a=b").as_deref(), Some("/?a=b"));
        assert_eq!(stripped("/forebay/api/jobs?a=b").as_deref(), Some("/api/jobs?a=b"));
        assert_eq!(stripped("/forebay//api").as_deref(), Some("//api"));
        for other in ["/", "/forebays/api", "/Forebay/api", "/api/forebay", "/%66orebay/api"] {
            assert_eq!(stripped(other), None, "{other}");
        }
        assert_eq!(BasePath::default().strip(&"/api".parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn whatever_is_given_can_stand_in_a_cookie_and_in_a_page(text in "\\PC*") {
            if let Ok(path) = text.parse::<BasePath>() {
                prop_assert!(path.as_str().bytes().all(|byte| byte.is_ascii_graphic() && !b";,\"'<>&%".contains(&byte)));
            }
        }
    }
}
