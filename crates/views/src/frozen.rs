//! Views of another version of the fold: in place of them one of ours that is there already, or else they answer as they
//! are, frozen, until new ones are made.

use std::path::Path;
use std::sync::Arc;

use crate::codec::Checkpoint;
use crate::error::OpenError;
use crate::generation::{Directory, Reason};
use crate::generations::{Generations, replace};
use crate::open::{Loaded, Opened, Options, Outcome, load, locked, open_locked, opened};
use crate::reader::Reader;

/// What was found on opening.
pub enum Found {
    /// Views of our fold, to go on from.
    Ours(Box<Opened>),
    /// Views of another one.
    OtherFold(Frozen),
}

/// Views that answer and never change.
pub struct Frozen {
    /// For any number of readers.
    pub reader: Reader,
    /// For the generation that will take their place.
    pub generations: Generations,
    /// The version of the fold that wrote them.
    pub fold_version: u32,
}

/// Opens the views in this directory as [`open`](crate::open) does, but does not set aside views of another fold whose
/// layout is known.
///
/// If a generation of our fold is there (prepared, or it served before) and `adopt` wants to go on from its checkpoint,
/// it takes their place. Otherwise they are frozen.
pub fn open_or_freeze(dir: &Path, options: &Options, adopt: impl Fn(&Checkpoint) -> bool) -> Result<Found, OpenError> {
    let failed = |cause| OpenError::of(dir, cause);
    let directory = locked(dir)?;
    let Some(generation) = directory.current().map_err(failed)? else {
        return Ok(ours(open_locked(dir, directory, options)?));
    };
    let found = match load(&generation, options)? {
        Ok(loaded) => {
            // It came too late.
            directory.discard_prepared(Some(options.fold_version)).map_err(failed)?;
            return Ok(ours(opened(directory, loaded, options, Outcome::Existing)));
        }
        Err(Reason::OtherFold { found }) => found,
        Err(_) => return Ok(ours(open_locked(dir, directory, options)?)),
    };
    if directory.claim_prepared(options.fold_version).map_err(failed)?.is_some() {
        tracing::info!("prepared views were found");
    }
    if let Some(loaded) = adopted(&directory, &generation, options, adopt).map_err(failed)? {
        tracing::info!(replaced = found, "views of our version of the fold take the place of those of another one");
        return Ok(ours(opened(directory, loaded, options, Outcome::Adopted { replaced: found })));
    }
    // Empty views have nothing to answer.
    let loaded = load(&generation, &Options { fold_version: found, ..*options })?.ok();
    match loaded.filter(|loaded| loaded.checkpoint().is_some()) {
        Some(loaded) => Ok(Found::OtherFold(frozen(directory, loaded, options, found))),
        None => Ok(ours(open_locked(dir, directory, options)?)),
    }
}

fn ours(opened: Opened) -> Found {
    Found::Ours(Box::new(opened))
}

/// The latest generation of our fold, in the place of the one that serves, if it is wanted.
fn adopted(
    directory: &Directory,
    serving: &Path,
    options: &Options,
    adopt: impl Fn(&Checkpoint) -> bool,
) -> std::io::Result<Option<Loaded>> {
    for generation in directory.generations(false)?.into_iter().rev().filter(|generation| generation != serving) {
        // Whatever is wrong with one of them, the one that serves can still answer.
        let Ok(Ok(loaded)) = load(&generation, options) else { continue };
        if loaded.checkpoint().is_some_and(|checkpoint| adopt(&checkpoint)) {
            replace(directory, &generation, || {})?;
            return Ok(Some(loaded));
        }
    }
    Ok(None)
}

fn frozen(directory: Directory, loaded: Loaded, options: &Options, found: u32) -> Frozen {
    let directory = Arc::new(directory);
    // Without a writer nothing can change them.
    let (_, shared) = loaded.into_shared(Arc::clone(&directory), &Options { fold_version: found, ..*options });
    let reader = Reader::new(shared);
    let generations = Generations::new(directory, *options, reader.clone());
    Frozen { reader, generations, fold_version: found }
}
