//! The directories of the generations: `gen-NNNN` each, and `CURRENT`, which names the one that serves.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::store::CONDEMNED;

const CURRENT: &str = "CURRENT";
const LOCK: &str = "LOCK";
const BUILDING: &str = "building";
const ASIDE: &str = ".set-aside-";
/// So many generations that were set aside are kept, for whoever wants to know what happened.
const KEPT_ASIDE: usize = 2;

/// Why a generation was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It is damaged; the text says how.
    Damaged(String),
    /// Its layout is not ours.
    OtherFormat,
    /// Another fold wrote it.
    OtherFold {
        /// Which.
        found: u32,
    },
    /// `CURRENT` does not name a generation that is there.
    NotCurrent,
}

impl Reason {
    fn word(&self) -> &'static str {
        match self {
            Self::Damaged(_) => "damaged",
            Self::OtherFormat => "other-format",
            Self::OtherFold { .. } => "other-fold",
            Self::NotCurrent => "not-current",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged(cause) => write!(f, "they are damaged: {cause}"),
            Self::OtherFormat => f.write_str("they were written in another format"),
            Self::OtherFold { found } => write!(f, "version {found} of the fold wrote them"),
            Self::NotCurrent => f.write_str("CURRENT does not name them"),
        }
    }
}

/// The directory of the views, locked for as long as this lives.
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Creates the directory where it is missing and takes its lock; `None` when another process holds it.
    pub(crate) fn lock(path: &Path) -> io::Result<Option<Self>> {
        fs::create_dir_all(path)?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { path: path.to_owned(), _lock: lock })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the generation that serves.
    pub(crate) fn size(&self) -> io::Result<u64> {
        let Some(generation) = self.current()? else { return Ok(0) };
        let mut bytes = 0;
        for entry in fs::read_dir(generation)? {
            // Files come and go under sled's hands.
            bytes += entry?.metadata().map_or(0, |metadata| metadata.len());
        }
        Ok(bytes)
    }

    /// The generation that `CURRENT` names, if both are there.
    pub(crate) fn current(&self) -> io::Result<Option<PathBuf>> {
        let name = match fs::read(self.path.join(CURRENT)) {
            Ok(name) => String::from_utf8(name).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let generation = self.path.join(name.trim());
        Ok((number(name.trim()).is_some() && generation.is_dir()).then_some(generation))
    }

    /// Why the generation must not be opened, if an earlier process left word.
    pub(crate) fn condemned(generation: &Path) -> io::Result<Option<String>> {
        match fs::read(generation.join(CONDEMNED)) {
            Ok(cause) => Ok(Some(String::from_utf8_lossy(&cause).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All generations, oldest first, those set aside included when asked for.
    pub(crate) fn generations(&self, aside: bool) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let (generation, is_aside) =
                name.split_once(ASIDE).map_or((name, false), |(generation, _)| (generation, true));
            if is_aside == aside
                && let Some(number) = number(generation)
            {
                found.push((number, self.path.join(name)));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// The directory of a generation that comes after all others. It is not created.
    pub(crate) fn next(&self) -> io::Result<PathBuf> {
        let mut highest = 0;
        for path in self.generations(false)?.into_iter().chain(self.generations(true)?) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let name = name.split_once(ASIDE).map_or(name, |(generation, _)| generation);
            highest = highest.max(number(name).unwrap_or(0));
        }
        Ok(self.path.join(format!("gen-{:04}", highest + 1)))
    }

    /// Where a generation that comes after all others is built. What an earlier process left unfinished is removed.
    pub(crate) fn building(&self) -> io::Result<PathBuf> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == BUILDING) {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(self.next()?.with_extension(BUILDING))
    }

    /// Gives a generation that was built its name.
    pub(crate) fn finish(&self, building: &Path) -> io::Result<PathBuf> {
        let finished = building.with_extension("");
        fs::rename(building, &finished)?;
        sync(&self.path)?;
        Ok(finished)
    }

    /// Renames a generation so that it is not opened again, and removes the oldest of those set aside before.
    pub(crate) fn set_aside(&self, generation: &Path, reason: &Reason) -> io::Result<PathBuf> {
        let mut aside = generation.as_os_str().to_owned();
        aside.push(ASIDE);
        aside.push(reason.word());
        fs::rename(generation, &aside)?;
        let all = self.generations(true)?;
        for old in all.iter().rev().skip(KEPT_ASIDE) {
            fs::remove_dir_all(old)?;
        }
        sync(&self.path)?;
        Ok(aside.into())
    }

    /// Makes `CURRENT` name this generation, all or nothing.
    pub(crate) fn promote(&self, generation: &Path) -> io::Result<()> {
        let name = generation.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let new = self.path.join("CURRENT.new");
        let mut file = File::create(&new)?;
        writeln!(file, "{name}")?;
        file.sync_all()?;
        fs::rename(&new, self.path.join(CURRENT))?;
        sync(&self.path)
    }
}

/// Makes renames in a directory survive a loss of power.
fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The number of a generation, from its name.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("gen-")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}
