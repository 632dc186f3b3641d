//! `forebay export`: the log into a file, or to standard output.
//!
//! A file grows under the name `FILE.part` and gets its own when it is whole. One that broke off is gone through once
//! and continued.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use api::backup::{Bound, Checker, Header, Line, line_of};
use failpoints::{Point, hit};
use indicatif::ProgressBar;

use super::lines::{Codec, Input, Output};
use crate::cli::ExportArgs;
use crate::client::{Client, segment};
use crate::text::progress;

const BROKE_OFF: &str = "the export broke off, run the same command again to go on where it stopped";
/// How every export begins that is not compressed.
const START: &[u8] = b"{\"format\":\"forebay-export\"";

/// Writes the export; the answer is what to say about it.
pub(crate) fn run(client: &Client, args: &ExportArgs) -> anyhow::Result<String> {
    if args.file.as_os_str() == "-" {
        let response = Input::new(client.get_lines(&path(args, None))?);
        let mut copy = Copy::new(Output::new(std::io::stdout().lock(), Codec::Plain), Checker::new());
        copy.all(response).context("what was written is not a whole export")?;
        drop(copy.output.finish()?);
        return Ok(String::new());
    }
    if args.file.exists() {
        bail!("{} exists already: remove it, or name another file", args.file.display());
    }
    let part = part_of(&args.file);
    let mut file = open(&part)?;
    let codec = Codec::of(&args.file);
    let (mut there, offset) = begun(&part, codec)?;
    if !there.ended() {
        let response = client.get_lines(&path(args, Some(&there)));
        let response = if there.header().is_some() {
            response.with_context(|| format!("{} cannot be continued", part.display()))?
        } else {
            // Where nothing was begun, nothing is left behind.
            response.inspect_err(|_| drop(std::fs::remove_file(&part)))?
        };
        file.set_len(offset)?;
        file.seek(std::io::SeekFrom::Start(offset))?;
        let mut copy = Copy::new(Output::new(file, codec), there);
        let copied = copy.all(Input::new(response));
        // What has come is kept, whether or not it is all.
        file = copy.output.finish()?;
        there = copy.file;
        if let Err(error) = copied {
            return Err(match error.downcast_ref::<Other>() {
                Some(other) => anyhow!("{} {other}: remove it to begin anew", part.display()),
                None => error.context(BROKE_OFF),
            });
        }
    }
    finish(&file, &part, &args.file)?;
    Ok(format!("exported {} messages to {}\n", there.messages(), args.file.display()))
}

/// What was begun is not what is asked for, or cannot be had any more.
#[derive(Debug, thiserror::Error)]
enum Other {
    #[error("is of another log than there is now, or was asked for with other options")]
    Different,
    #[error("cannot be continued, since the log has forgotten messages that it lacks")]
    Forgotten,
}

/// What to ask for, and of what was begun, from where on. The last message that is there is asked for again: if the
/// log has it, it must be the same.
fn path(args: &ExportArgs, begun: Option<&Checker>) -> String {
    let mut query = vec![format!("keys={}", !args.no_keys)];
    for (name, value) in [("from", &args.from), ("to", &args.to), ("connection", &args.connection)] {
        query.extend(value.as_ref().map(|value| format!("{name}={}", segment(value))));
    }
    if let Some((begun, header)) = begun.and_then(|begun| Some((begun, begun.header()?))) {
        query.push(format!("after={}&last={}", begun.last().saturating_sub(1), header.last));
    }
    format!("/api/export?{}", query.join("&"))
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Opens the file, for us alone: there is nothing in it that others should read.
fn open(part: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).read(true).write(true).mode(0o600).open(part);
    let file = file.with_context(|| format!("cannot write {}", part.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another export is writing {}", part.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", part.display())),
    }
}

/// What a file holds of an export that broke off, and where that ends.
fn begun(part: &Path, codec: Codec) -> anyhow::Result<(Checker, u64)> {
    let reading = || format!("cannot read {}", part.display());
    let expected = if codec == Codec::Plain { START } else { codec.magic() };
    let mut start = Vec::new();
    File::open(part).with_context(reading)?.take(expected.len() as u64).read_to_end(&mut start)?;
    let mut input = Input::open(part).with_context(reading)?;
    let mut checker = Checker::new();
    let mut good = (Checker::new(), 0);
    let mut foreign = !expected.starts_with(&start);
    let bar =
        progress("looking through what is there {bar:30} {bytes} of {total_bytes}", std::fs::metadata(part)?.len());
    loop {
        // What cannot be read is written again.
        let line = input.line();
        if let Some(offset) = input.cut() {
            good = (checker.clone(), offset);
        }
        bar.set_position(input.position());
        let Ok(Some(line)) = line else { break };
        if !input.whole() {
            break;
        }
        if checker.line(&line).is_err() {
            foreign |= checker.header().is_none();
            break;
        }
    }
    bar.finish_and_clear();
    if foreign {
        bail!("{} is not an export that broke off: remove it, or name another file", part.display());
    }
    Ok(good)
}

/// An export on its way from the server.
struct Copy<W> {
    output: Output<W>,
    /// What the file holds.
    file: Checker,
    bar: ProgressBar,
}

impl<W: std::io::Write> Copy<W> {
    fn new(output: Output<W>, file: Checker) -> Self {
        Self { output, file, bar: ProgressBar::hidden() }
    }

    fn all(&mut self, mut response: Input<impl Read>) -> anyhow::Result<()> {
        let mut checker = Checker::new();
        while let Some(line) = response.line().context("the server broke off")? {
            match checker.line(&line)? {
                Line::Header(header) => match self.file.header() {
                    Some(begun) if !begun.is_of_the_same(&header) || begun.last != header.last => {
                        bail!(Other::Different)
                    }
                    Some(begun) if self.lacks(begun, &header) => bail!(Other::Forgotten),
                    begun => {
                        self.bar = self.bar_of(header.first, header.last);
                        if begun.is_none() {
                            self.file.line(&line)?;
                            self.output.line(&line)?;
                        }
                    }
                },
                Line::Message(message) if message.sequence > self.file.last() => {
                    self.file.message(message.sequence, &line);
                    self.output.line(&line)?;
                    self.bar.set_position(message.sequence);
                    hit(Point::ExportLine);
                }
                Line::Message(message) => {
                    let same = message.sequence == self.file.last() && self.file.last_line() == Some(&line);
                    if !same {
                        bail!(Other::Different);
                    }
                }
                Line::Trailer(_) => {
                    let trailer = line_of(&self.file.trailer());
                    self.output.line(trailer.trim_ascii_end())?;
                }
            }
        }
        self.bar.finish_and_clear();
        if !checker.ended() {
            bail!("the server broke off");
        }
        Ok(())
    }

    /// Whether the log begins behind what is still to come. Of a part of it that was not asked for nobody knows, so it
    /// counts as well.
    fn lacks(&self, begun: &Header, now: &Header) -> bool {
        let from = match begun.from {
            Some(Bound::Sequence(from)) => from,
            _ => 0,
        };
        self.file.last() < begun.last && now.first > (self.file.last() + 1).max(begun.first).max(from)
    }

    fn bar_of(&self, first: u64, last: u64) -> ProgressBar {
        let bar = progress("exporting {bar:30} position {pos} of {len}, {eta} left", last);
        bar.set_position(self.file.last().max(first));
        bar.reset_eta();
        bar
    }
}

/// Gives a whole file its own name.
fn finish(file: &File, part: &Path, whole: &Path) -> anyhow::Result<()> {
    file.sync_all()?;
    hit(Point::ExportBefore);
    std::fs::rename(part, whole).with_context(|| format!("cannot rename {}", part.display()))?;
    hit(Point::ExportAfter);
    let dir = whole.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()?;
    Ok(())
}
