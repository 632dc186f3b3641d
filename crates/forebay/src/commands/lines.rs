//! Files of lines, plain or compressed, that can be continued after they broke off: what is compressed is written in
//! members of bounded size, each of whole lines, and what follows the last whole one is cut away.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use zstd::stream::read::Decoder as ZstdDecoder;

/// A member is closed when it holds so much, uncompressed. A crash costs no more than that.
const MEMBER_BYTES: usize = 1 << 20;
/// Read at a time.
const CHUNK: usize = 64 << 10;
/// Nobody writes longer lines: a message of the log has at most 64 MB.
const LINE_BYTES: usize = 128 << 20;
/// Measured on a log of Celery events, at 1 MB a member: 9 times smaller at 170 MB/s, where the usual 6 makes 80 of it.
const GZIP_LEVEL: u32 = 3;
/// Its usual level: 10 times smaller at 900 MB/s.
const ZSTD_LEVEL: i32 = 3;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Plain,
    Gzip,
    Zstd,
}

impl Codec {
    /// As the name of the file says.
    pub(crate) fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstd,
            _ => Self::Plain,
        }
    }

    /// How a file of it begins.
    pub(crate) fn magic(self) -> &'static [u8] {
        match self {
            Self::Plain => b"{",
            Self::Gzip => &[0x1f, 0x8b],
            Self::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
        }
    }

    fn member(self, lines: &[u8]) -> io::Result<Cow<'_, [u8]>> {
        let compressed = match self {
            Self::Plain => return Ok(lines.into()),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
                encoder.write_all(lines)?;
                encoder.finish()?
            }
            Self::Zstd => zstd::bulk::compress(lines, ZSTD_LEVEL)?,
        };
        Ok(compressed.into())
    }
}

/// Writes lines.
pub(crate) struct Output<W> {
    to: W,
    codec: Codec,
    pending: Vec<u8>,
}

impl<W: Write> Output<W> {
    pub(crate) fn new(to: W, codec: Codec) -> Self {
        Self { to, codec, pending: Vec::new() }
    }

    /// Takes a line without its line feed.
    pub(crate) fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(line);
        self.pending.push(b'\n');
        if self.pending.len() >= MEMBER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.to.write_all(&self.codec.member(&self.pending)?)?;
            self.pending.clear();
        }
        Ok(())
    }

    /// Writes what is still pending.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.flush()?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// Reads lines, whatever they are compressed with.
pub(crate) struct Input<R: Read> {
    source: Source<R>,
    chunk: Box<[u8]>,
    buffer: BytesMut,
    searched: usize,
    /// Bytes of lines that were handed out.
    out: u64,
    cut: Option<u64>,
    whole: bool,
}

enum Source<R: Read> {
    /// Before the first member, between two, and after the last.
    Between(Counted<R>),
    Plain(Counted<R>),
    Gzip(GzDecoder<Counted<R>>),
    Zstd(ZstdDecoder<'static, Counted<R>>),
    /// After an error.
    Broken,
}

impl Input<File> {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::new(File::open(path)?))
    }
}

impl<R: Read> Input<R> {
    pub(crate) fn new(from: R) -> Self {
        let counted = Counted { inner: BufReader::with_capacity(CHUNK, from), count: 0 };
        let source = Source::Between(counted);
        let chunk = vec![0; CHUNK].into();
        Self { source, chunk, buffer: BytesMut::new(), searched: 0, out: 0, cut: None, whole: true }
    }

    /// The next line without its line feed; none at the end.
    pub(crate) fn line(&mut self) -> io::Result<Option<Bytes>> {
        self.cut = matches!(self.source, Source::Plain(_)).then_some(self.out);
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1).freeze();
                self.searched = 0;
                self.out += line.len() as u64;
                return Ok(Some(line.slice(..line.len() - 1)));
            }
            self.searched = self.buffer.len();
            if self.searched > LINE_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than any can be"));
            }
            if !self.read()? {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                self.searched = 0;
                self.whole = false;
                return Ok(Some(self.buffer.split().freeze()));
            }
        }
    }

    /// Where in the file everything ends that was handed out before the last call of [`line`](Self::line), if what
    /// follows may be cut away there.
    pub(crate) fn cut(&self) -> Option<u64> {
        self.cut
    }

    /// Whether the last line had its line feed.
    pub(crate) fn whole(&self) -> bool {
        self.whole
    }

    /// How many bytes of the file were read.
    pub(crate) fn position(&self) -> u64 {
        match &self.source {
            Source::Between(counted) | Source::Plain(counted) => counted.count,
            Source::Gzip(decoder) => decoder.get_ref().count,
            Source::Zstd(decoder) => decoder.get_ref().count,
            Source::Broken => 0,
        }
    }

    /// Reads on; `false` at the end of the file.
    fn read(&mut self) -> io::Result<bool> {
        loop {
            let read = match &mut self.source {
                Source::Between(_) => {
                    if !self.next_member()? {
                        return Ok(false);
                    }
                    continue;
                }
                Source::Plain(counted) => counted.read(&mut self.chunk)?,
                Source::Gzip(decoder) => decoder.read(&mut self.chunk)?,
                Source::Zstd(decoder) => decoder.read(&mut self.chunk)?,
                Source::Broken => return Ok(false),
            };
            if read > 0 {
                self.buffer.extend_from_slice(&self.chunk[..read]);
                return Ok(true);
            }
            self.source = match std::mem::replace(&mut self.source, Source::Broken) {
                Source::Plain(counted) | Source::Between(counted) => Source::Between(counted),
                Source::Gzip(decoder) => Source::Between(decoder.into_inner()),
                Source::Zstd(decoder) => Source::Between(decoder.finish()),
                Source::Broken => Source::Broken,
            };
        }
    }

    /// Begins the next member; `false` when there is none.
    fn next_member(&mut self) -> io::Result<bool> {
        let Source::Between(mut counted) = std::mem::replace(&mut self.source, Source::Broken) else {
            return Ok(false);
        };
        if self.buffer.is_empty() {
            self.cut = Some(counted.count);
        }
        let start = counted.fill_buf()?;
        if start.is_empty() {
            self.source = Source::Between(counted);
            return Ok(false);
        }
        let is = |codec: Codec| start.starts_with(&codec.magic()[..codec.magic().len().min(start.len())]);
        self.source = if is(Codec::Gzip) {
            Source::Gzip(GzDecoder::new(counted))
        } else if is(Codec::Zstd) {
            Source::Zstd(ZstdDecoder::with_buffer(counted)?.single_frame())
        } else {
            Source::Plain(counted)
        };
        Ok(true)
    }
}

/// Knows how many bytes were taken.
struct Counted<R: Read> {
    inner: BufReader<R>,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count += read as u64;
        Ok(read)
    }
}

impl<R: Read> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.count += bytes as u64;
        self.inner.consume(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines() -> Vec<Vec<u8>> {
        // Every third is so long that members end at uneven places.
        let line =
            |number: usize| format!("{{\"line\":{number}}}").repeat(if number.is_multiple_of(3) { 9_000 } else { 1 });
        (0..60).map(|number| line(number).into_bytes()).collect()
    }

    fn written(codec: Codec) -> Vec<u8> {
        let mut output = Output::new(Vec::new(), codec);
        for line in lines() {
            output.line(&line).unwrap();
        }
        output.finish().unwrap()
    }

    /// The lines that can be read, and the last place to cut with the number of lines before it.
    fn read(file: &[u8]) -> (Vec<Bytes>, (u64, usize)) {
        let mut input = Input::new(file);
        let (mut read, mut cut) = (Vec::new(), (0, 0));
        loop {
            let line = input.line();
            if let Some(offset) = input.cut() {
                cut = (offset, read.len());
            }
            match line {
                Ok(Some(line)) if input.whole() => read.push(line),
                _ => return (read, cut),
            }
        }
    }

    #[test]
    fn what_is_cut_off_anywhere_can_be_continued_and_reads_as_if_it_had_not_been() {
        for codec in [Codec::Plain, Codec::Gzip, Codec::Zstd] {
            let (file, lines) = (written(codec), lines());
            assert!(file.starts_with(codec.magic()));
            assert_eq!(read(&file), (lines.iter().cloned().map(Bytes::from).collect(), (file.len() as u64, 60)));
            let places = (0..file.len()).step_by(file.len() / 60 + 1).chain(file.len() - 20..file.len());
            for place in places {
                let (_, (offset, before)) = read(&file[..place]);
                assert!(offset <= place as u64);
                let mut output = Output::new(file[..offset as usize].to_vec(), codec);
                for line in &lines[before..] {
                    output.line(line).unwrap();
                }
                let (continued, _) = read(&output.finish().unwrap());
                assert!(continued == lines, "{codec:?} cut off at {place}");
            }
        }
    }

    #[test]
    fn what_other_programs_compress_in_one_piece_is_read_too() {
        let whole = lines().join(&b'\n');
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&whole).unwrap();
        for file in [encoder.finish().unwrap(), zstd::bulk::compress(&whole, 19).unwrap(), whole.clone()] {
            let mut input = Input::new(&file[..]);
            let mut count = 0;
            while input.line().unwrap().is_some() {
                count += 1;
            }
            assert_eq!((count, input.whole(), input.position()), (60, false, file.len() as u64));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_in_a_file_its_lines_are_read_or_refused(
            codec in prop::sample::select(vec![Codec::Plain, Codec::Gzip, Codec::Zstd]),
            text in "[a-z\n{}]{0,400}",
            harms in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            noise in prop::collection::vec(any::<u8>(), 0..80),
            place in any::<prop::sample::Index>(),
        ) {
            let mut file = codec.member(text.as_bytes()).unwrap().into_owned();
            for (place, change) in harms.into_iter().filter(|_| !text.is_empty()) {
                let place = place.index(file.len());
                file[place] ^= change;
            }
            let place = place.index(file.len() + 1);
            for file in [&[&file[..place], &noise, &file[place..]].concat(), &noise, &[codec.magic(), &noise].concat()] {
                let mut input = Input::new(&file[..]);
                // Each is a line, the end, or an error; after an error there is nothing more.
                let mut lines = 0;
                while let Ok(Some(line)) = input.line() {
                    prop_assert!(!line.contains(&b'\n'));
                    lines += 1;
                    prop_assert!(lines < 1_000_000);
                }
            }
        }
    }
}
