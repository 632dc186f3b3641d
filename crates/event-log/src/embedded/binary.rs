//! Finding a nats-server that will do.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::OpenError;
use crate::version::{self, Version};

const NAME: &str = "nats-server";

/// The one that was named; else the first that is new enough: beside our executable, where `make build` puts it, in
/// the `PATH`.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf, OpenError> {
    if let Some(path) = named {
        return check(path).map(|()| path.to_owned());
    }
    let mut refused = None;
    let candidates = candidates();
    for path in candidates.iter().filter(|path| path.is_file()) {
        match check(path) {
            Ok(()) => return Ok(path.clone()),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or_else(|| OpenError::BinaryMissing {
        searched: candidates.iter().map(|path| path.display().to_string()).collect(),
        minimum: version::MINIMUM.to_string(),
    }))
}

fn candidates() -> Vec<PathBuf> {
    let exe = std::env::current_exe().unwrap_or_default();
    let beside = exe.parent().map(|dir| dir.join(NAME));
    // A build for development stands somewhere below `target`.
    let built = exe.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "target"));
    let built = built.map(|target| target.join("release").join(NAME));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join(NAME));
    beside.into_iter().chain(built).chain(in_path).collect()
}

fn check(path: &Path) -> Result<(), OpenError> {
    let unusable = |reason: String| OpenError::BinaryUnusable { path: path.to_owned(), reason };
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| unusable(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.rsplit(':').next().and_then(|version| version.parse::<Version>().ok());
    match found {
        Some(found) if found >= version::MINIMUM => Ok(()),
        Some(found) => Err(OpenError::BinaryTooOld {
            path: path.to_owned(),
            found: found.to_string(),
            minimum: version::MINIMUM.to_string(),
        }),
        None => Err(unusable(format!("`--version` said {:?}", text.trim()))),
    }
}
