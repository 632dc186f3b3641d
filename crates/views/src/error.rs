//! What can go wrong, by what the caller does about it.

use std::io;
use std::path::{Path, PathBuf};

/// The views cannot be opened, and starting over would not help: stop and tell the operator.
///
/// Damaged or foreign files are no error: they are set aside, and [`crate::Outcome`] tells.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has them open.
    #[error("the views in {path} are in use by another process: stop it, or use another data directory")]
    Locked {
        /// The directory of the views.
        path: PathBuf,
    },
    /// The files belong to somebody else.
    #[error("no permission for the views in {path} ({cause}): give the user of this process read and write access")]
    Permission {
        /// The directory of the views.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// No room.
    #[error("the disk that holds the views in {path} is full ({cause}): free some space and start again")]
    DiskFull {
        /// The directory of the views.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Anything else that the system refused.
    #[error("cannot open the views in {path} ({cause}): check the disk and its file system, then start again")]
    Io {
        /// The directory of the views.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

impl OpenError {
    pub(crate) fn of(path: &Path, cause: io::Error) -> Self {
        let path = path.to_owned();
        match Trouble::of(&cause) {
            Trouble::Permission => Self::Permission { path, cause },
            Trouble::DiskFull => Self::DiskFull { path, cause },
            Trouble::Other => Self::Io { path, cause },
        }
    }
}

/// Open views cannot be read or written. None of these heals by itself: the writer stops, and so should the process.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// What was stored is not what was written. The next start sets the views aside and fills new ones from the log.
    #[error("the views are damaged ({0}): restart, and they are filled again from the log")]
    Corrupt(String),
    /// No room.
    #[error("the disk that holds the views is full ({0}): free some space and restart")]
    DiskFull(String),
    /// The files belong to somebody else.
    #[error("no permission for the files of the views ({0}): give the user of this process read and write access")]
    Permission(String),
    /// Anything else that the system refused.
    #[error("the views cannot be read or written ({0}): check the disk and its file system, then restart")]
    Io(String),
}

impl ViewError {
    pub(crate) fn of(cause: &io::Error) -> Self {
        match Trouble::of(cause) {
            Trouble::DiskFull => Self::DiskFull(cause.to_string()),
            Trouble::Permission => Self::Permission(cause.to_string()),
            Trouble::Other => Self::Io(cause.to_string()),
        }
    }

    /// Where the views are found to be unusable while they are being opened, by what has to be done about it.
    pub(crate) fn at_open(self, path: &Path) -> Result<String, OpenError> {
        let cause = match self {
            Self::Corrupt(cause) => return Ok(cause),
            Self::DiskFull(cause) => io::Error::new(io::ErrorKind::StorageFull, cause),
            Self::Permission(cause) => io::Error::new(io::ErrorKind::PermissionDenied, cause),
            Self::Io(cause) => io::Error::other(cause),
        };
        Err(OpenError::of(path, cause))
    }
}

impl From<sled::Error> for ViewError {
    fn from(error: sled::Error) -> Self {
        match error {
            // Files of sled's own that are cut off or gone.
            sled::Error::Io(cause)
                if matches!(cause.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound) =>
            {
                Self::Corrupt(cause.to_string())
            }
            sled::Error::Io(cause) => Self::of(&cause),
            // What sled calls unsupported or a bug of its own is, for files that it wrote itself, damage.
            damage => Self::Corrupt(damage.to_string()),
        }
    }
}

enum Trouble {
    Permission,
    DiskFull,
    Other,
}

impl Trouble {
    fn of(cause: &io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Permission,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_keeps_its_remedy_from_sled_to_the_operator() {
        let opening = |kind: io::ErrorKind| ViewError::from(sled::Error::Io(kind.into())).at_open(Path::new("views"));
        assert!(matches!(opening(io::ErrorKind::StorageFull), Err(OpenError::DiskFull { .. })));
        assert!(matches!(opening(io::ErrorKind::PermissionDenied), Err(OpenError::Permission { .. })));
        assert!(matches!(opening(io::ErrorKind::TimedOut), Err(OpenError::Io { .. })));
        // These are set aside.
        assert!(opening(io::ErrorKind::UnexpectedEof).is_ok());
        assert!(ViewError::from(sled::Error::Unsupported("old".to_owned())).at_open(Path::new("views")).is_ok());
    }
}
