//! A generation made by one process while another one holds the directory and serves: for the restart with another
//! version of the fold.

use std::path::Path;
use std::sync::Arc;

use crate::bulk::BulkWriter;
use crate::error::{OpenError, ViewError};
use crate::generation::Directory;
use crate::generations::{Candidate, room};
use crate::open::{Options, load};
use crate::writer::Writer;

/// The right to prepare a generation in a directory, which one process has at a time.
pub struct Preparation {
    directory: Arc<Directory>,
    options: Options,
}

impl Preparation {
    /// Takes the right; `None` when another process has it. The directory is that of the views, which exists.
    pub fn begin(dir: &Path, options: &Options) -> Result<Option<Self>, OpenError> {
        let directory = Directory::lock_to_prepare(dir).map_err(|cause| OpenError::of(dir, cause))?;
        Ok(directory.map(|directory| Self { directory: Arc::new(directory), options: *options }))
    }

    /// The directory of the views.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The version of the fold that it is for.
    pub fn fold_version(&self) -> u32 {
        self.options.fold_version
    }

    /// Bytes that this may take for a while with a log of this size, and bytes that are free.
    pub fn room(&self, log_bytes: u64) -> Result<(u64, u64), ViewError> {
        room(&self.directory, log_bytes)
    }

    /// What was prepared before, so that only the rest of the log has to be added; `None` where there is nothing that
    /// can be used.
    pub fn existing(&self) -> Result<Option<(Writer, Candidate)>, ViewError> {
        let path = self.directory.prepared(self.options.fold_version);
        if !path.is_dir() {
            return Ok(None);
        }
        let loaded = load(&path, &self.options).map_err(|error| ViewError::Io(error.to_string()))?;
        let Some(loaded) = loaded.ok().filter(|loaded| loaded.checkpoint().is_some()) else { return Ok(None) };
        let (writer, shared) = loaded.into_shared(Arc::clone(&self.directory), &self.options);
        Ok(Some((writer, Candidate { path, shared })))
    }

    /// Begins a generation anew.
    pub fn build(&self) -> Result<BulkWriter, ViewError> {
        let failed = |cause: std::io::Error| ViewError::of(&cause);
        BulkWriter::create(&self.directory.making(self.options.fold_version).map_err(failed)?, &self.options)
    }

    /// Puts a generation that [`BulkWriter::finish`] has closed in the place of what was prepared before, and opens it.
    pub fn open(&self, made: &Path) -> Result<(Writer, Candidate), ViewError> {
        let failed = |cause: std::io::Error| ViewError::of(&cause);
        let before = self.directory.prepared(self.options.fold_version);
        if before.is_dir() {
            std::fs::remove_dir_all(&before).map_err(failed)?;
        }
        self.directory.finish(made).map_err(failed)?;
        self.existing()?.ok_or_else(|| ViewError::Corrupt("what was just prepared cannot be read back".to_owned()))
    }
}
