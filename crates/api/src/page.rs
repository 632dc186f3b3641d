//! The dashboard: one page and its files, all within the binary. It shows what the API answers, and asks it with the
//! session of whoever looks; the page itself says nothing of any job, so it is given to everybody.

use std::borrow::Cow;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use crate::app::App;
use crate::consistency::has_tag;
use crate::door::BasePath;
use crate::errors::{ApiError, wrong_method};
use crate::http::Call;

/// Everything that the page loads comes from here, and nothing within it is code or style.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
/// Where the files of this build are; another build has others.
const ASSETS: &str = "/assets/";
/// What the page writes instead of the version of its files.
const VERSION: &str = "{version}";
/// What it writes instead of the path that stands before all others.
const BASE: &str = "{base}";
/// And where the modules are named, so that a browser need not find out one from the other.
const MODULES: &str = "{modules}";
/// First parts of the paths that are the page's own; it finds out the rest by itself.
const OWN: [&str; 16] = [
    "",
    "jobs",
    "tasks",
    "task",
    "failures",
    "workers",
    "queues",
    "alerts",
    "coverage",
    "connections",
    "sources",
    "keys",
    "audit",
    "rebuilds",
    "login",
    "search",
];

const INDEX: &str = include_str!("../assets/index.html");
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! files {
    ($($name:literal $kind:ident),* $(,)?) => {
        &[$(($name, $kind, include_bytes!(concat!("../assets/", $name)))),*]
    };
}

/// Name, content type, content.
const FILES: &[(&str, &str, &[u8])] = files! {
    "alerts.js" JS,
    "api.js" JS,
    "app.css" CSS,
    "audit.js" JS,
    "connections.js" JS,
    "coverage.js" JS,
    "dom.js" JS,
    "failed.js" JS,
    "failures.js" JS,
    "filters.js" JS,
    "firstrun.js" JS,
    "format.js" JS,
    "icon.svg" SVG,
    "job.js" JS,
    "jobs.js" JS,
    "keys.js" JS,
    "live.js" JS,
    "login.js" JS,
    "main.js" JS,
    "nav.js" JS,
    "overview.js" JS,
    "page.js" JS,
    "plot.js" JS,
    "queues.js" JS,
    "rebuilds.js" JS,
    "search.js" JS,
    "sources.js" JS,
    "task.js" JS,
    "tasks.js" JS,
    "timeline.js" JS,
    "traceback.js" JS,
    "ui.js" JS,
    "workers.js" JS,
};

/// The page and its files as they are sent.
pub(crate) struct Site {
    page: File,
    /// Stands for the content of all files.
    version: String,
    files: Vec<(&'static str, File)>,
}

struct File {
    kind: &'static str,
    plain: Bytes,
    gzip: Bytes,
    tag: String,
}

impl Site {
    fn new(base: &BasePath) -> Self {
        let mut hasher = blake3::Hasher::new();
        for (name, _, content) in FILES {
            hasher.update(name.as_bytes()).update(&(content.len() as u64).to_be_bytes()).update(content);
        }
        let version = hasher.finalize().to_hex()[..16].to_owned();
        let modules = FILES.iter().filter(|(_, kind, _)| *kind == JS);
        let modules: Vec<String> = modules
            .map(|(name, ..)| format!("<link rel=\"modulepreload\" href=\"{BASE}{ASSETS}{VERSION}/{name}\">"))
            .collect();
        let page = INDEX.replace(MODULES, &modules.join("\n")).replace(VERSION, &version);
        // It is made of letters, digits and slashes.
        let page = page.replace(BASE, base.as_str());
        let page = File::new("text/html; charset=utf-8", Cow::Owned(page.into_bytes()));
        let files = FILES.iter().map(|(name, kind, content)| (*name, File::new(kind, Cow::Borrowed(*content))));
        Self { page, files: files.collect(), version }
    }

    /// The file at this path below [`ASSETS`].
    fn file(&self, path: &str) -> Option<&File> {
        let name = path.strip_prefix(&self.version)?.strip_prefix('/')?;
        self.files.iter().find(|(known, _)| *known == name).map(|(_, file)| file)
    }
}

impl File {
    fn new(kind: &'static str, content: Cow<'static, [u8]>) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        // Writing into memory does not fail.
        let gzip = encoder.write_all(&content).and_then(|()| encoder.finish()).unwrap_or_default();
        let tag = format!("\"{}\"", &blake3::hash(&content).to_hex()[..32]);
        let plain = match content {
            Cow::Borrowed(content) => Bytes::from_static(content),
            Cow::Owned(content) => content.into(),
        };
        Self { kind, plain, gzip: gzip.into(), tag }
    }

    fn response(&self, headers: &HeaderMap, caching: &'static str) -> Response {
        let mut response = Response::new(Vec::new().into());
        let set = response.headers_mut();
        set.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
        set.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        set.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        set.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
        set.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
        if let Ok(tag) = HeaderValue::try_from(&self.tag) {
            set.insert(header::ETAG, tag);
        }
        if has_tag(headers, &self.tag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        set.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        let body = if takes_gzip(headers) && !self.gzip.is_empty() {
            set.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            self.gzip.clone()
        } else {
            self.plain.clone()
        };
        *response.body_mut() = body.into();
        response
    }
}

/// Whether the client says so; `gzip;q=0` says the contrary.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, rest) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = rest.trim().strip_prefix("q=").map_or(1.0, |weight| weight.trim().parse().unwrap_or(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && weight > 0.0
    })
}

/// Whatever is not below `/api`.
pub(crate) fn get(path: &str, app: &App, call: &Call) -> Result<Response, ApiError> {
    let site = app.site.get_or_init(|| Site::new(&app.door.base_path));
    if let Some(name) = path.strip_prefix(ASSETS) {
        let file = site.file(name).ok_or(ApiError::NoSuchPath)?;
        only_get(call)?;
        // The version in the path stands for the content.
        return Ok(file.response(&call.headers, "public, max-age=31536000, immutable"));
    }
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    if !OWN.contains(&first) {
        return Err(ApiError::NoSuchPath);
    }
    only_get(call)?;
    Ok(site.page.response(&call.headers, "no-cache"))
}

fn only_get(call: &Call) -> Result<(), ApiError> {
    if call.method == Method::GET { Ok(()) } else { Err(wrong_method(&call.method, "GET, HEAD")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_served_and_the_whole_page_is_small() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
        let mut there: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        there.sort();
        let mut known: Vec<&str> = FILES.iter().map(|(name, ..)| *name).chain(["index.html"]).collect();
        known.sort_unstable();
        assert_eq!(there, known);
        let site = Site::new(&BasePath::default());
        let sent: usize = site.files.iter().map(|(_, file)| file.gzip.len()).sum::<usize>() + site.page.gzip.len();
        assert!(sent < 250 * 1_024, "{sent} bytes");
    }

    #[test]
    fn nothing_in_the_page_needs_more_than_the_policy_allows() {
        for forbidden in ["<style", " style=", " onclick=", " onload=", "http://", "https://", "javascript:"] {
            assert!(!INDEX.contains(forbidden), "{forbidden}");
        }
        assert!(!INDEX.contains("<script>"));
        for (name, kind, content) in FILES {
            let text = std::str::from_utf8(content).unwrap();
            if *kind == JS {
                for forbidden in
                    ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
                {
                    assert!(!text.contains(forbidden), "{name} has {forbidden}");
                }
            }
        }
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        let takes = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, value.parse().unwrap());
            takes_gzip(&headers)
        };
        assert!(takes("gzip") && takes("br, GZIP;q=0.5") && takes("deflate,gzip"));
        assert!(!takes("") && !takes("br") && !takes("gzip;q=0") && !takes("gzip;q=0.0, br") && !takes("xgzip"));
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
