//! The file that the book is kept in.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::book::Book;

/// What is known of alerts cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}: restore it, or remove it, and then alerts begin anew: what lasts fires again", path.display())]
pub struct StoreError {
    path: PathBuf,
    cause: io::Error,
}

/// The file.
#[derive(Debug)]
pub(crate) struct Store(PathBuf);

impl Store {
    /// What is in the file; nothing where there is none.
    pub(crate) fn open(path: PathBuf) -> Result<(Self, Book), StoreError> {
        let book = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Book::default()),
            Err(error) => Err(error),
        };
        match book {
            Ok(book) => Ok((Self(path), book)),
            Err(cause) => Err(StoreError { path, cause }),
        }
    }

    /// Whole or not at all. Blocks.
    pub(crate) fn write(&self, book: &Book) -> io::Result<()> {
        let dir = self.0.parent().unwrap_or(Path::new("."));
        let mut file = NamedTempFile::new_in(dir)?;
        serde_json::to_writer(&mut file, book)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(&self.0)?;
        File::open(dir)?.sync_all()
    }
}
