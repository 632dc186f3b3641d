//! The directories of the generations: `gen-NNNN` each, and `CURRENT`, which names the one that serves.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use failpoints::{Point, hit};

use crate::lifetime::Ledger;
use crate::store::CONDEMNED;

const CURRENT: &str = "CURRENT";
const LOCK: &str = "LOCK";
/// Held by whoever prepares a generation beside the process that serves another one.
const PREPARE_LOCK: &str = "PREPARE.LOCK";
/// `prepared-VERSION` is a finished generation of that version of the fold, not taken into use yet. Processes that do not
/// know of it leave it alone: it is neither named like a generation nor like one that is being built.
const PREPARED: &str = "prepared-";
const MAKING: &str = "making";
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
    /// Totals that outlive generations; not of whoever only prepares one.
    pub(crate) ledger: Option<Ledger>,
    _lock: File,
}

impl Directory {
    /// Creates the directory where it is missing and takes its lock; `None` when another process holds it.
    pub(crate) fn lock(path: &Path) -> io::Result<Option<Self>> {
        fs::create_dir_all(path)?;
        let Some(lock) = held(&path.join(LOCK))? else { return Ok(None) };
        let mut directory = Self { path: path.to_owned(), ledger: None, _lock: lock };
        let serving = directory.current()?;
        directory.ledger = Some(Ledger::open(path, serving.as_deref().and_then(name)));
        Ok(Some(directory))
    }

    /// The right to prepare a generation, beside whoever holds the directory; `None` when another process has it.
    pub(crate) fn lock_to_prepare(path: &Path) -> io::Result<Option<Self>> {
        let lock = held(&path.join(PREPARE_LOCK))?;
        Ok(lock.map(|lock| Self { path: path.to_owned(), ledger: None, _lock: lock }))
    }

    /// Where the prepared generation of this version is, whether or not it is there.
    pub(crate) fn prepared(&self, fold_version: u32) -> PathBuf {
        self.path.join(format!("{PREPARED}{fold_version}"))
    }

    /// Where it is made. What an earlier process left unfinished is removed; the caller may prepare.
    pub(crate) fn making(&self, fold_version: u32) -> io::Result<PathBuf> {
        for path in self.all_prepared()? {
            if path.extension().is_some_and(|extension| extension == MAKING) {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(self.prepared(fold_version).with_extension(MAKING))
    }

    /// Takes the prepared generation of this version in among the others, unless it is still being made.
    pub(crate) fn claim_prepared(&self, fold_version: u32) -> io::Result<Option<PathBuf>> {
        let Some(_nobody_prepares) = Self::lock_to_prepare(&self.path)? else { return Ok(None) };
        let prepared = self.prepared(fold_version);
        if !prepared.is_dir() {
            return Ok(None);
        }
        let claimed = self.next()?;
        fs::rename(&prepared, &claimed)?;
        sync(&self.path)?;
        Ok(Some(claimed))
    }

    /// Removes what was prepared for this version, or for any, and not taken into use. Gives how many there were.
    pub(crate) fn discard_prepared(&self, fold_version: Option<u32>) -> io::Result<usize> {
        let unwanted = |path: &PathBuf| fold_version.is_none_or(|version| *path == self.prepared(version));
        let mut all = self.all_prepared()?;
        all.retain(unwanted);
        if all.is_empty() {
            return Ok(0);
        }
        let Some(_nobody_prepares) = Self::lock_to_prepare(&self.path)? else { return Ok(0) };
        all.iter().try_for_each(fs::remove_dir_all)?;
        Ok(all.len())
    }

    fn all_prepared(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.path()));
        let is_prepared = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREPARED))
        };
        entries.filter(|path: &io::Result<PathBuf>| path.as_ref().map_or(true, is_prepared)).collect()
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
        let Some(name) = self.read(CURRENT)? else { return Ok(None) };
        let name = String::from_utf8(name).unwrap_or_default();
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
        hit(Point::Finished);
        Ok(finished)
    }

    /// Renames a generation so that it is not opened again, and removes the oldest of those set aside before.
    pub(crate) fn set_aside(&self, generation: &Path, reason: &Reason) -> io::Result<PathBuf> {
        let mut aside = generation.as_os_str().to_owned();
        aside.push(ASIDE);
        aside.push(reason.word());
        hit(Point::AsideBefore);
        fs::rename(generation, &aside)?;
        hit(Point::AsideAfter);
        let all = self.generations(true)?;
        for old in all.iter().rev().skip(KEPT_ASIDE) {
            fs::remove_dir_all(old)?;
        }
        sync(&self.path)?;
        Ok(aside.into())
    }

    /// Makes `CURRENT` name this generation, all or nothing.
    pub(crate) fn promote(&self, generation: &Path) -> io::Result<()> {
        let name = name(generation).unwrap_or_default();
        let new = write_new(&self.path, CURRENT, format!("{name}\n").as_bytes())?;
        hit(Point::CurrentBefore);
        fs::rename(&new, self.path.join(CURRENT))?;
        hit(Point::CurrentAfter);
        sync(&self.path)
    }

    /// Makes a file hold these bytes, all or nothing, also when the power fails.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = write_new(&self.path, name, bytes)?;
        hit(Point::NoteBefore);
        fs::rename(new, self.path.join(name))?;
        sync(&self.path)
    }

    /// What such a file holds, if it is there.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The lock on this file; `None` when another process has it.
fn held(file: &Path) -> io::Result<Option<File>> {
    let lock = File::options().create(true).truncate(false).write(true).open(file)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Makes a file of the totals hold these bytes, all or nothing, also when the power fails.
pub(crate) fn write_totals(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = write_new(directory, name, bytes)?;
    hit(Point::TotalsBefore);
    fs::rename(new, directory.join(name))?;
    hit(Point::TotalsAfter);
    sync(directory)
}

fn write_new(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let new = directory.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(new)
}

/// Makes renames in a directory survive a loss of power.
fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The name of a generation.
pub(crate) fn name(generation: &Path) -> Option<&str> {
    generation.file_name().and_then(|name| name.to_str())
}

/// The number of a generation, from its name.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("gen-")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}
