//! What the log and the views take of the disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Where the log and the views are.
#[derive(Clone, Debug)]
pub struct Places {
    /// The directory of the log; `None` where a server elsewhere has it.
    pub log: Option<PathBuf>,
    /// The directory of the views.
    pub views: PathBuf,
}

/// The disk that the views are on, in bytes, as it was a moment ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DiskStatus {
    /// Its size.
    pub total_bytes: u64,
    /// What is free for this process.
    pub free_bytes: u64,
    /// What the files of the log take; null where a server elsewhere has them.
    pub log_bytes: Option<u64>,
    /// What the files of the views take, those that are kept to go back to and those in the making included.
    pub views_bytes: u64,
}

impl Places {
    /// Asks the system. Blocks.
    pub(super) fn measure(&self) -> io::Result<DiskStatus> {
        let (total_bytes, free_bytes) = size_and_free(&self.views)?;
        Ok(DiskStatus {
            total_bytes,
            free_bytes,
            log_bytes: self.log.as_deref().map(taken),
            views_bytes: taken(&self.views),
        })
    }

    /// Size and free bytes of the disk that the log is on, if that is ours. Blocks.
    pub(super) fn room(&self) -> io::Result<Option<(u64, u64)>> {
        self.log.as_deref().map(size_and_free).transpose()
    }
}

fn size_and_free(dir: &Path) -> io::Result<(u64, u64)> {
    let disk = rustix::fs::statvfs(dir)?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    Ok((bytes(disk.f_blocks), bytes(disk.f_bavail)))
}

/// Bytes of all files below. Of what comes and goes meanwhile, only some counts.
fn taken(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => taken(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    bytes.sum()
}
