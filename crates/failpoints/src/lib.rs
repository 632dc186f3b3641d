//! Named places in the code at which a test can make the process die, as `kill -9` would.
//!
//! A random kill seldom falls between two writes that follow each other at once. So each such place has a name here,
//! [`hit`] stands in the code there, and the end-to-end tests go through [`Point::ALL`]: a place that is not in the list
//! does not compile, and one that is listed but never reached fails the test.
//!
//! In a build without the feature `testing` there is nothing of this. With it, a process that was started with
//! `FOREBAY_FAILPOINTS=FILE` looks into that file at each place. The file holds `NAME COUNT SECONDS`: the process dies
//! when it reaches that place for the last of COUNT times since the text of the file changed. It stands still there
//! for SECONDS before it dies; in that time sled hands to the system what it holds, so that just what was written until
//! then is left. Or the file holds `NAME wait`: the process stands still at that place, says so by a file of the same name
//! that ends in `.reached`, and goes on when the text changes.

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)+) => {
        /// A place at which the process can be made to die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])* $point,)+
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$point,)+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

points! {
    /// A message went to the log, which has not acknowledged it.
    LogSent = "log.sent",
    /// The log has acknowledged a message, and nobody knows yet.
    LogAcknowledged = "log.acknowledged",
    /// A part of a batch is stored.
    IngestPart = "ingest.part",
    /// A whole batch is stored and its sender not answered.
    IngestStored = "ingest.stored",

    /// Rows are folded and not shown.
    StageBefore = "projector.stage.before",
    /// Rows are shown and not written.
    StageAfter = "projector.stage.after",
    /// All that was shown is written.
    FlushAfter = "projector.flush.after",

    /// Before a chunk of pages of recent executions.
    PagesBefore = "views.pages.before",
    /// After one.
    PagesAfter = "views.pages.after",
    /// Before a chunk of rows with its tally.
    RowsBefore = "views.rows.before",
    /// After one.
    RowsAfter = "views.rows.after",
    /// All rows are written, the checkpoint is not.
    CheckpointBefore = "views.checkpoint.before",
    /// The checkpoint is written.
    CheckpointAfter = "views.checkpoint.after",
    /// At the end of the process, all written and not handed to the disk.
    Close = "views.close",

    /// A generation is made and empty, and does not serve.
    Created = "generation.created",
    /// Before an unusable generation is renamed.
    AsideBefore = "generation.aside.before",
    /// It is renamed, and older ones are still there.
    AsideAfter = "generation.aside.after",

    /// The log is read and sorted, nothing is written.
    Scattered = "rebuild.scattered",
    /// A row of the new generation is written.
    BulkRow = "bulk.row",
    /// All its rows are.
    BulkRows = "bulk.rows",
    /// Its pages too.
    BulkPages = "bulk.pages",
    /// Its tally too.
    BulkTally = "bulk.tally",
    /// Its checkpoint too, nothing handed to the disk.
    BulkCheckpoint = "bulk.checkpoint",
    /// All is handed to the disk, under the name of an unfinished generation.
    BulkFlushed = "bulk.flushed",
    /// It has its name.
    Finished = "generation.finished",
    /// It follows the log.
    CaughtUp = "rebuild.caught-up",
    /// Both generations stand at one message and are compared.
    Compared = "rebuild.compared",
    /// The new one has stopped following.
    Surrendered = "rebuild.surrendered",
    /// The one that serves is not marked as replaced yet.
    MarkBefore = "generation.mark.before",
    /// It is, and serves.
    MarkAfter = "generation.mark.after",
    /// The new `CURRENT` is written beside the old one.
    CurrentBefore = "generation.current.before",
    /// It is in its place.
    CurrentAfter = "generation.current.after",
    /// Readers have the new generation; older ones than the one before are still there.
    Switched = "generation.switched",
    /// The new one serves, and nobody keeps it up to date.
    SwitchBefore = "rebuild.switch.before",
    /// Somebody does.
    SwitchAfter = "rebuild.switch.after",
    /// Views of another log or another fold were replaced, and nobody keeps the new ones up to date.
    StartOverBefore = "rebuild.start-over.before",
    /// Somebody does.
    StartOverAfter = "rebuild.start-over.after",
    /// Before a generation that is not needed is removed.
    RemoveBefore = "generation.remove.before",
    /// Its mark is gone, its files are not.
    RemoveUnmarked = "generation.remove.unmarked",
    /// It is gone.
    RemoveAfter = "generation.remove.after",

    /// What a trim takes is known, and the log is not told.
    TrimFound = "trim.found",
    /// The log knows some of the jobs that lose a part, and not yet that they do.
    TrimNamed = "trim.named",
    /// It is told all, and whoever told does not know whether the views have heard of it.
    TrimTold = "trim.told",
    /// The views have come to it, with all before it written.
    CutBefore = "cut.before",
    /// Some rows of jobs that lose a part are written without it.
    CutReplaced = "cut.replaced",
    /// No reader sees any more what is to be forgotten, which is not written.
    CutForgotten = "cut.forgotten",
    /// It is written, and not handed to the disk.
    CutWritten = "cut.written",
    /// It is handed to the disk, and who told does not know.
    CutSynced = "cut.synced",
    /// Jobs have lost a part, and the log does not know that they are among them.
    TrimUnnamed = "trim.unnamed",
    /// All is told and forgotten, and the log still holds it.
    PurgeBefore = "trim.purge.before",
    /// The log has dropped it, and nobody knows yet.
    PurgeAfter = "trim.purge.after",
    /// Some rows that are forgotten are gone from the disk.
    SweepChunk = "sweep.chunk",
    /// All of them are.
    SweepEnd = "sweep.end",
    /// A note about the views is written beside the old one.
    NoteBefore = "generation.note.before",

    /// The totals of what the log forgets are written beside the old ones.
    TotalsBefore = "totals.before",
    /// They are in their place.
    TotalsAfter = "totals.after",

    /// Events go to the spool, and are not written.
    SpoolBefore = "spool.before",
    /// They are, and whoever sent them does not know.
    SpoolAfter = "spool.after",
    /// The log has events of the spool, which still holds them.
    SpoolPublished = "spool.published",

    /// A line of an export is in the file.
    ExportLine = "export.line",
    /// All are, under the name of an unfinished export.
    ExportBefore = "export.rename.before",
    /// It has its name.
    ExportAfter = "export.rename.after",
    /// An import is begun, nothing of it is sent.
    ImportBegun = "import.begun",
    /// A message of it went to the log.
    ImportSent = "import.sent",
    /// Some are stored, and it is not kept that they are.
    ImportBefore = "import.remember.before",
    /// It is.
    ImportAfter = "import.remember.after",

    /// The notice of an incident is in the file, and not sent.
    AlertKept = "alerts.kept",
    /// The webhook has taken a notice, and nobody knows yet.
    AlertSent = "alerts.sent",
}

#[cfg(not(feature = "testing"))]
/// Nothing.
#[inline]
pub fn hit(_point: Point) {}

#[cfg(feature = "testing")]
pub use armed::hit;

#[cfg(feature = "testing")]
mod armed {
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, PoisonError};
    use std::time::Duration;

    use crate::Point;

    /// Between two looks at the file.
    const LOOK: Duration = Duration::from_millis(5);

    static FILE: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("FOREBAY_FAILPOINTS").map(Into::into));
    /// What the file said last, and how often the place was reached since.
    static SEEN: Mutex<(String, u64)> = Mutex::new((String::new(), 0));

    /// Dies here if the file says so.
    pub fn hit(point: Point) {
        let Some(text) = FILE.as_deref().and_then(|file| std::fs::read_to_string(file).ok()) else { return };
        let mut words = text.split_whitespace();
        if words.next() != Some(point.name()) {
            return;
        }
        if text.trim_end().ends_with(" wait") {
            return stand_still(point, &text);
        }
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        let (count, seconds) = (number(), number());
        {
            let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.0 != text {
                *seen = (text.clone(), 0);
            }
            seen.1 += 1;
            if seen.1 < count {
                return;
            }
        }
        std::thread::sleep(Duration::from_secs(seconds));
        eprintln!("failpoint {}: dies here", point.name());
        std::process::abort();
    }

    /// Until the file says something else.
    fn stand_still(point: Point, text: &str) {
        let Some(file) = FILE.as_deref() else { return };
        let told = std::fs::write(file.with_extension("reached"), point.name());
        eprintln!("failpoint {}: stands still here ({told:?})", point.name());
        while std::fs::read_to_string(file).is_ok_and(|now| now == text) {
            std::thread::sleep(LOOK);
        }
    }
}
