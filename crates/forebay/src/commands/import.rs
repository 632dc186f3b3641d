//! `forebay import`: an export back into a log.
//!
//! A file is gone through once before anything of it is sent, so that a damaged one changes nothing. It is sent in
//! parts; the server remembers how far it came.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use api::backup::{Checker, FormatError, Line};
use bytes::Bytes;
use indicatif::ProgressBar;
use serde_json::Value;

use super::lines::Input;
use crate::cli::ImportArgs;
use crate::client::Client;
use crate::text::{progress, short};

const BROKE_OFF: &str = "the import broke off, give it the same export again and it goes on where it stopped";
/// Sent at a time.
const PART_BYTES: usize = 4 << 20;

/// What the server answers while its log is away, and how long that may last.
const UNAVAILABLE: u16 = 503;
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

/// Makes sure that a file is a whole export, before anything is begun with it. What is not a file can be read but once.
pub(crate) fn check(path: &Path) -> anyhow::Result<()> {
    if path.as_os_str() == "-" {
        return Ok(());
    }
    let file = open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        look_through(Input::new(file), metadata.len())
            .with_context(|| format!("{} is not imported", path.display()))?;
    }
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Brings the export in; the answer is what to say about it.
pub(crate) fn run(client: &Client, args: &ImportArgs) -> anyhow::Result<String> {
    let path = format!("/api/import?part=true&merge={}&keys={}", args.merge, !args.no_keys);
    let import = |bar| Import { client, path, bar, header: Vec::new(), part: Vec::new() };
    if args.file.as_os_str() == "-" {
        return import(ProgressBar::hidden()).all(Input::new(std::io::stdin().lock()));
    }
    let file = open(&args.file)?;
    let bar = progress("importing {bar:30} {bytes} of {total_bytes}, {eta} left", file.metadata()?.len());
    import(bar).all(Input::new(file))
}

/// Goes through the whole export.
fn look_through(mut input: Input<File>, bytes: u64) -> anyhow::Result<()> {
    let bar = progress("checking {bar:30} {bytes} of {total_bytes}, {eta} left", bytes);
    let mut checker = Checker::new();
    while next(&mut input, &mut checker)?.is_some() {
        bar.set_position(input.position());
    }
    bar.finish_and_clear();
    Ok(checker.finish()?)
}

/// The next line, as it stands and understood.
fn next(input: &mut Input<impl Read>, checker: &mut Checker) -> anyhow::Result<Option<(Bytes, Line)>> {
    let line = match input.line() {
        Ok(None) => return Ok(None),
        Ok(Some(line)) => line,
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(checker.incomplete().into()),
        Err(error) => return Err(error).context("the export cannot be read"),
    };
    match checker.line(&line) {
        Ok(understood) => Ok(Some((line, understood))),
        // A line that is cut off is no line that is wrong.
        Err(_) if !input.whole() && checker.header().is_some() => Err(checker.incomplete().into()),
        Err(error) => Err(error.into()),
    }
}

/// An import on its way to the server.
struct Import<'a> {
    client: &'a Client,
    path: String,
    bar: ProgressBar,
    /// The first line of every part.
    header: Vec<u8>,
    part: Vec<u8>,
}

impl Import<'_> {
    fn all(mut self, mut input: Input<impl Read>) -> anyhow::Result<String> {
        let mut checker = Checker::new();
        let Some((header, _)) = next(&mut input, &mut checker)? else { bail!(FormatError::NoExport) };
        self.header = [&header, &b"\n"[..]].concat();
        let begun = self.send()?;
        if begun["complete"] == true {
            return Ok("this export is in the log already: nothing was changed\n".to_owned());
        }
        let there = begun["sequence"].as_u64().unwrap_or_default();
        let last = self.rest(&mut input, &mut checker, there).context(BROKE_OFF)?;
        self.bar.finish_and_clear();
        Ok(said(&last))
    }

    /// Sends what is not there yet; the answer is the last one.
    fn rest(&mut self, input: &mut Input<impl Read>, checker: &mut Checker, there: u64) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        while let Some((line, understood)) = next(input, checker)? {
            let wanted = !matches!(understood, Line::Message(message) if message.sequence <= there);
            if wanted {
                self.part.extend_from_slice(&line);
                self.part.push(b'\n');
            }
            if self.part.len() >= PART_BYTES || checker.ended() {
                last = self.send()?;
            }
            self.bar.set_position(input.position());
        }
        checker.finish()?;
        if last["complete"] != true {
            bail!("the server does not say that it has all of it");
        }
        Ok(last)
    }

    /// Sends what is there behind the header; again for a while, where the log is away. What is in it already is
    /// recognised there.
    fn send(&mut self) -> anyhow::Result<Value> {
        let part = [&self.header[..], &self.part].concat();
        self.part.clear();
        let began = Instant::now();
        loop {
            let answer = self.client.post_lines(&self.path, &part)?;
            if answer.status != UNAVAILABLE || began.elapsed() > PATIENCE {
                return answer.good();
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn said(answer: &Value) -> String {
    let mut text = format!("imported {} messages\n", answer["messages"]);
    let connections = answer["connections"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (connection, was) in connections.iter().filter_map(|it| Some((it, it["was"].as_str()?))) {
        let name = short(connection["name"].as_str().unwrap_or_default(), 255);
        let _ = writeln!(text, "its connection {} is {name} here: there was another one of that name", short(was, 255));
    }
    text
}
