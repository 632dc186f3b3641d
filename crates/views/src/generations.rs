//! Another generation beside the one that serves: built, opened, brought up to date, and put in its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use failpoints::{Point, hit};

use crate::bulk::BulkWriter;
use crate::error::ViewError;
use crate::generation::{Directory, Reason, name};
use crate::open::{Options, load};
use crate::reader::Reader;
use crate::shared::Shared;
use crate::writer::Writer;

/// In the directory of a generation: when another one took its place.
const REPLACED: &str = "REPLACED";

/// The generations of one directory. Cheap to clone.
#[derive(Clone)]
pub struct Generations {
    directory: Arc<Directory>,
    options: Options,
    serving: Reader,
}

/// A finished generation that is open and does not serve.
pub struct Candidate {
    pub(crate) path: PathBuf,
    pub(crate) shared: Arc<Shared>,
}

impl Candidate {
    /// The name of the generation.
    pub fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Reads it, as the readers will once it serves.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }
}

impl Generations {
    pub(crate) fn new(directory: Arc<Directory>, options: Options, serving: Reader) -> Self {
        Self { directory, options, serving }
    }

    /// The directory that they are in.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The version of the fold of the generations that are made here. The one that serves may be of another.
    pub fn fold_version(&self) -> u32 {
        self.options.fold_version
    }

    /// The name of the generation that serves.
    pub fn serving(&self) -> Result<Option<String>, ViewError> {
        let current = self.directory.current().map_err(|cause| ViewError::of(&cause))?;
        Ok(current.as_deref().and_then(name).map(str::to_owned))
    }

    /// Keeps a note beside the generations, all or nothing.
    pub fn write_note(&self, name: &str, bytes: &[u8]) -> Result<(), ViewError> {
        self.directory.write(name, bytes).map_err(|cause| ViewError::of(&cause))
    }

    /// What such a note says, if there is one.
    pub fn read_note(&self, name: &str) -> Result<Option<Vec<u8>>, ViewError> {
        self.directory.read(name).map_err(|cause| ViewError::of(&cause))
    }

    /// Bytes that a rebuild from a log of this size may take for a while, and bytes that are free.
    pub fn room(&self, log_bytes: u64) -> Result<(u64, u64), ViewError> {
        room(&self.directory, log_bytes)
    }

    /// Begins a new generation, out of everybody's sight.
    pub fn begin(&self) -> Result<BulkWriter, ViewError> {
        let building = self.directory.building().map_err(|cause| ViewError::of(&cause))?;
        BulkWriter::create(&building, &self.options)
    }

    /// Opens a generation that [`BulkWriter::finish`] has closed. It is checked from end to end.
    pub fn open(&self, building: &Path) -> Result<(Writer, Candidate), ViewError> {
        self.open_finished(self.directory.finish(building).map_err(|cause| ViewError::of(&cause))?)
    }

    fn open_finished(&self, path: PathBuf) -> Result<(Writer, Candidate), ViewError> {
        let loaded = load(&path, &self.options).map_err(|error| ViewError::Io(error.to_string()))?;
        let loaded = loaded.map_err(|reason| ViewError::Corrupt(reason.to_string()))?;
        let (writer, shared) = loaded.into_shared(Arc::clone(&self.directory), &self.options);
        Ok((writer, Candidate { path, shared }))
    }

    /// Lets the candidate serve from now on, also after a restart. The generation that served is kept for a day; older
    /// ones are removed.
    pub fn promote(&self, candidate: Candidate) -> Result<(), ViewError> {
        // Nobody writes it any more, and one can go back to it also if the process is killed now.
        if let Err(error) = self.serving.shared().store.flush() {
            tracing::warn!(%error, "the views that are replaced could not be handed to the disk");
        }
        // What is carried over stays. Where the statistics could not be made yet, they would have it all wrong.
        candidate.shared.settle()?;
        let Candidate { path, shared } = candidate;
        let name = name(&path).unwrap_or_default();
        if let Some(ledger) = &self.directory.ledger {
            match self.serving.shared().settle() {
                Ok(()) => ledger.carry(self.serving.shared().lifetime(), &shared.lifetime(), name),
                // They may be replaced because of just that.
                Err(error) => {
                    ledger.carry_nothing();
                    tracing::warn!(
                        %error,
                        "what the views that are replaced know of totals cannot be told: what only they know is lost"
                    );
                }
            }
        }
        let switch = || match &self.directory.ledger {
            Some(ledger) => drop(ledger.switch(name, || self.serving.switch(shared))),
            None => drop(self.serving.switch(shared)),
        };
        replace(&self.directory, &path, switch).map_err(|cause| ViewError::of(&cause))
    }

    /// The generation that served before, and how long ago it was replaced.
    pub fn previous(&self) -> Result<Option<(PathBuf, Duration)>, ViewError> {
        let failed = |cause: std::io::Error| ViewError::of(&cause);
        let current = self.directory.current().map_err(failed)?;
        let mut others = self.directory.generations(false).map_err(failed)?;
        others.retain(|other| Some(other) != current.as_ref());
        // One without the mark was being made when the process ended.
        let replaced = |path: PathBuf| {
            let since = std::fs::metadata(path.join(REPLACED)).and_then(|metadata| metadata.modified()).ok()?;
            Some((path, since.elapsed().unwrap_or_default()))
        };
        Ok(others.into_iter().rev().find_map(replaced))
    }

    /// Opens the generation that served before, so that it can serve again.
    pub fn open_previous(&self) -> Result<Option<(Writer, Candidate)>, ViewError> {
        let Some((path, _)) = self.previous()? else { return Ok(None) };
        self.open_finished(path).map(Some)
    }

    /// The version of the fold that wrote the generation that served before; `None` where there is none to be read.
    pub fn previous_version(&self) -> Result<Option<u32>, ViewError> {
        let Some((path, _)) = self.previous()? else { return Ok(None) };
        match load(&path, &self.options) {
            // Empty ones were only there to be replaced.
            Ok(Ok(loaded)) => Ok(loaded.checkpoint().map(|_| self.options.fold_version)),
            Ok(Err(Reason::OtherFold { found })) => Ok(Some(found)),
            Ok(Err(_)) => Ok(None),
            Err(error) => Err(ViewError::Io(error.to_string())),
        }
    }

    /// Opens the latest finished generation of our version of the fold, if there is one beside the one that serves: it
    /// served before, or was prepared, or was finished by a process that ended before it could serve.
    pub fn open_ours(&self) -> Result<Option<(Writer, Candidate)>, ViewError> {
        let failed = |cause: std::io::Error| ViewError::of(&cause);
        let current = self.directory.current().map_err(failed)?;
        for path in self.directory.generations(false).map_err(failed)?.into_iter().rev() {
            if Some(&path) == current.as_ref() {
                continue;
            }
            if let Ok(Ok(loaded)) = load(&path, &self.options)
                && loaded.checkpoint().is_some()
            {
                let (writer, shared) = loaded.into_shared(Arc::clone(&self.directory), &self.options);
                return Ok(Some((writer, Candidate { path, shared })));
            }
        }
        Ok(None)
    }

    /// Removes what was prepared for other versions of the fold. Gives how many were removed.
    pub fn discard_prepared(&self) -> Result<usize, ViewError> {
        self.directory.discard_prepared(None).map_err(|cause| ViewError::of(&cause))
    }

    /// Removes what is not needed any more: the generation that served before, once it was replaced so long ago, and
    /// what an earlier process left unfinished. Gives how many were removed.
    pub fn tidy(&self, after: Duration) -> Result<usize, ViewError> {
        let failed = |cause: std::io::Error| ViewError::of(&cause);
        let current = self.directory.current().map_err(failed)?;
        let kept = self.previous()?.filter(|(_, age)| *age < after).map(|(path, _)| path);
        let mut removed = 0;
        for other in self.directory.generations(false).map_err(failed)? {
            if Some(&other) != current.as_ref() && Some(&other) != kept.as_ref() {
                remove(&other);
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes a candidate that will not serve; one that served before is kept as it was.
    pub fn discard(&self, candidate: Candidate) {
        let Candidate { path, shared } = candidate;
        drop(shared);
        if !path.join(REPLACED).exists() {
            remove(&path);
        }
    }
}

/// Makes a generation the one that serves, also after a restart; `switch` lets the readers of this process know.
pub(crate) fn replace(directory: &Directory, generation: &Path, switch: impl FnOnce()) -> std::io::Result<()> {
    let served = directory.current()?;
    hit(Point::MarkBefore);
    // Before it is replaced: were the process to end in between, it would not be known as the one to go back to.
    if let Some(served) = &served {
        std::fs::write(served.join(REPLACED), "")?;
    }
    hit(Point::MarkAfter);
    directory.promote(generation)?;
    switch();
    hit(Point::Switched);
    // It may have served before.
    let _ = std::fs::remove_file(generation.join(REPLACED));
    for other in directory.generations(false)? {
        if other != generation && Some(&other) != served.as_ref() {
            remove(&other);
        }
    }
    Ok(())
}

pub(crate) fn room(directory: &Directory, log_bytes: u64) -> Result<(u64, u64), ViewError> {
    let size = directory.size().map_err(|cause| ViewError::of(&cause))?;
    // The facts on their way through temporary files, and the new generation, whose rows are written once and in
    // order: less than one that grew.
    let need = log_bytes + size + (64 << 20);
    let stat = rustix::fs::statvfs(directory.path()).map_err(|error| ViewError::of(&error.into()))?;
    Ok((need, stat.f_bavail.saturating_mul(stat.f_frsize)))
}

fn remove(generation: &Path) {
    hit(Point::RemoveBefore);
    // What is half removed must not look like views to go back to.
    let _ = std::fs::remove_file(generation.join(REPLACED));
    hit(Point::RemoveUnmarked);
    if let Err(cause) = std::fs::remove_dir_all(generation) {
        tracing::warn!(generation = %generation.display(), %cause, "a generation that is not needed cannot be removed");
    }
    hit(Point::RemoveAfter);
}
