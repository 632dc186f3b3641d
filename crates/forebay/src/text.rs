//! How things look in a terminal: colours where they are wanted, columns, durations, and nothing that foreign text
//! could do to the terminal.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};
use proto_events::{JobState, Timestamp};

/// A progress bar on a terminal, nothing elsewhere.
pub(crate) fn progress(template: &str, length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Whether standard output wants colours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    colours: bool,
}

impl Paint {
    pub(crate) fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colours: std::io::stdout().is_terminal() && !refused }
    }

    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self { colours: false }
    }

    fn paint(self, style: Style, text: &str) -> String {
        if self.colours { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint(Style::new().dimmed(), text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default(), text)
    }

    /// The text in the colour of the state.
    pub(crate) fn state(self, state: JobState, text: &str) -> String {
        let colour = match state {
            JobState::Completed => AnsiColor::Green,
            JobState::Failed => AnsiColor::Red,
            JobState::Active => AnsiColor::Cyan,
            JobState::Retrying => AnsiColor::Yellow,
            JobState::Cancelled => AnsiColor::Magenta,
            JobState::Queued | JobState::Scheduled => AnsiColor::Blue,
            JobState::Unknown => AnsiColor::White,
        };
        self.paint(colour.on_default().bold(), text)
    }
}

/// The text without what would move the cursor, change colours or ring the bell: job texts come from strangers.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(harmful) { Cow::Owned(text.replace(harmful, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// The first line, of at most so many characters.
pub(crate) fn short(text: &str, characters: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= characters {
        return harmless(line).into_owned();
    }
    let cut: String = line.chars().take(characters.saturating_sub(1)).collect();
    format!("{}…", harmless(&cut))
}

/// `2026-02-27 10:30:02.000Z`.
pub(crate) fn time(time: Timestamp) -> String {
    time.to_millis_text().replacen('T', " ", 1)
}

/// `85 ms`, `6.000 s`, `2 min 05 s`, `3 h 20 min`, `4 d 06 h`.
pub(crate) fn duration(millis: u64) -> String {
    let seconds = millis / 1_000;
    match seconds {
        0 => format!("{millis} ms"),
        1..60 => format!("{seconds}.{:03} s", millis % 1_000),
        60..3_600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// The words in lines of at most so many characters, each after this beginning.
pub(crate) fn wrapped(text: &str, begin: &str, width: usize) -> String {
    let mut lines = String::new();
    let mut line = begin.to_owned();
    for word in text.split_whitespace() {
        if line.len() > begin.len() && line.chars().count() + 1 + word.chars().count() > width {
            let _ = writeln!(lines, "{line}");
            line.truncate(begin.len());
        }
        if line.len() > begin.len() {
            line.push(' ');
        }
        line += word;
    }
    lines + &line + "\n"
}

/// Rows under headings, each column as wide as its widest cell; the last one is not padded.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>], paint: Paint) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(headings.get(column).map(|heading| heading.len())).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::from(" ");
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, " {cell:<width$} ");
        }
        line.trim_end().to_owned()
    };
    let mut text = paint.dim(&line(&mut headings.iter().copied()));
    text.push('\n');
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_exact_as_they_are_long() {
        let cases = [(85, "85 ms"), (6_000, "6.000 s"), (125_400, "2 min 05 s"), (12_000_000, "3 h 20 min")];
        for (millis, text) in cases {
            assert_eq!(duration(millis), text);
        }
        assert_eq!(duration(4 * 86_400_000 + 6 * 3_600_000), "4 d 06 h");
    }

    #[test]
    fn foreign_text_cannot_command_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\tc\nd\r\u{9b}31m"), "a\u{fffd}[2Jb\tc\nd\u{fffd}\u{fffd}31m");
        assert_eq!(short("first\u{7}\nsecond", 20), "first\u{fffd}");
        assert_eq!(short("abcdef", 4), "abc…");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["long name".to_owned(), "x".to_owned()], vec!["é".to_owned(), "y".to_owned()]];
        let text = table(&["name", "id"], &rows, Paint::plain());
        assert_eq!(text, "  name       id\n  long name  x\n  é          y\n");
    }
}
