//! What an error is an instance of: its class, and what it says without the numbers and ids that differ each time.

use uuid::Uuid;

/// Characters of a message.
const LONGEST: usize = 200;
/// What stands for a number, an id or an address.
const FOLDED: char = '#';

/// The kind of an error.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FailureKind {
    /// The name of the exception's class without its module, where one is named.
    pub class: Option<Box<str>>,
    /// The first line with anything in it of what it says, with each number, id and address replaced by `#`; at most 200
    /// characters.
    pub message: Box<str>,
}

impl FailureKind {
    /// Of an error as Celery's events (`ValueError('bad 17')`), a traceback's last line (`ValueError: bad 17`) or the SDK
    /// (`bad 17`) tell it: the first two are of one kind.
    pub fn of(error: &str) -> Self {
        let line = error.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let (class, said) = match split(line) {
            Some((class, said)) => (Some(class), said),
            None => (None, line),
        };
        Self { class: class.map(Into::into), message: folded(said).into() }
    }
}

/// The class, and what it says.
fn split(line: &str) -> Option<(&str, &str)> {
    let end = line.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).unwrap_or(line.len());
    let (path, rest) = line.split_at(end);
    let class = path.rsplit('.').next().filter(|class| class.starts_with(|c: char| c.is_alphabetic() || c == '_'))?;
    // A word before a colon is a class only if it looks like one: `error: no such host` is a sentence.
    let is_name = class.starts_with(char::is_uppercase) || path.contains('.');
    if let Some(arguments) = rest.strip_prefix('(') {
        let arguments = arguments.strip_suffix(')').unwrap_or(arguments);
        return is_name.then(|| (class, first_text(arguments)));
    }
    match rest.strip_prefix(':') {
        Some(said) if is_name => Some((class, said.trim())),
        _ if rest.is_empty() && is_name && looks_like_a_class(class) => Some((class, "")),
        _ => None,
    }
}

fn looks_like_a_class(name: &str) -> bool {
    ["Error", "Exception", "Exceeded", "Warning", "Exit", "Interrupt", "Timeout"].iter().any(|end| name.ends_with(end))
}

/// Of the arguments in a representation the only one without its quotes, or all of them.
fn first_text(arguments: &str) -> &str {
    let arguments = arguments.trim().trim_end_matches(',');
    for quote in ['\'', '"'] {
        let inner = arguments.strip_prefix(quote).and_then(|inner| inner.strip_suffix(quote));
        if let Some(inner) = inner.filter(|inner| !inner.contains(quote)) {
            return inner;
        }
    }
    arguments
}

/// Whether a word is a number, an id or an address.
fn differs(word: &str) -> bool {
    let hex = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")).unwrap_or(word);
    let digits = hex.bytes().filter(u8::is_ascii_digit).count();
    // A long word of hexadecimal digits is an id, and so is one that has a digit in it and is not short.
    digits > 0 && (hex.len() >= 8 || hex.len() < word.len()) && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The text with what differs replaced, and white space made one.
fn folded(text: &str) -> String {
    let mut folded = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = after_uuid(rest) {
            push(&mut folded, FOLDED);
            rest = after;
            continue;
        }
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        if length == 0 {
            push(&mut folded, if first.is_whitespace() { ' ' } else { first });
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (word, after) = rest.split_at(length);
        if differs(word) {
            push(&mut folded, FOLDED);
        } else {
            push_word(&mut folded, word);
        }
        rest = after;
    }
    joined(&folded).chars().take(LONGEST).collect::<String>().trim_end().to_owned()
}

/// What comes after a UUID that the text begins with.
fn after_uuid(text: &str) -> Option<&str> {
    let (id, after) = text.split_at_checked(36)?;
    let is_whole = !after.starts_with(|c: char| c.is_ascii_alphanumeric());
    (is_whole && id.as_bytes()[8] == b'-' && Uuid::try_parse(id).is_ok()).then_some(after)
}

/// A word, with each run of digits in it replaced.
fn push_word(folded: &mut String, word: &str) {
    for c in word.chars() {
        push(folded, if c.is_ascii_digit() { FOLDED } else { c });
    }
}

/// Never two spaces, nor two replacements, in a row.
fn push(folded: &mut String, c: char) {
    let is_again = (c == ' ' || c == FOLDED) && folded.ends_with(c);
    let is_indent = c == ' ' && folded.is_empty();
    if !is_again && !is_indent {
        folded.push(c);
    }
}

/// Groups of what was replaced become one: a UUID, an address with a port, a time or a fraction is one thing.
fn joined(folded: &str) -> String {
    let mut joined = String::with_capacity(folded.len());
    let mut chars = folded.chars().peekable();
    while let Some(c) = chars.next() {
        let is_between = matches!(c, '-' | '.' | ':' | ',' | '_') && joined.ends_with(FOLDED);
        if is_between && chars.peek() == Some(&FOLDED) {
            continue;
        }
        push(&mut joined, c);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is(error: &str, class: Option<&str>, message: &str) {
        let kind = FailureKind::of(error);
        assert_eq!((kind.class.as_deref(), &*kind.message), (class, message), "{error}");
    }

    #[test]
    fn an_error_is_of_one_kind_however_it_is_told() {
        is("ValueError('bad 17')", Some("ValueError"), "bad #");
        is("ValueError: bad 18", Some("ValueError"), "bad #");
        is("builtins.ValueError(\"it's 19\")", Some("ValueError"), "it's #");
        is("bad 17", None, "bad #");
        let lost = "billiard.exceptions.WorkerLostError: Worker exited prematurely: signal 9 (SIGKILL) Job: 5.";
        is(lost, Some("WorkerLostError"), "Worker exited prematurely: signal # (SIGKILL) Job: #.");
        is("ConnectionRefusedError(111, 'refused')", Some("ConnectionRefusedError"), "#, 'refused'");
        is("[Errno 111] Connection refused", None, "[Errno #] Connection refused");
        is("SoftTimeLimitExceeded(1,)", Some("SoftTimeLimitExceeded"), "#");
        is("TimeLimitExceeded()", Some("TimeLimitExceeded"), "");
        is("KeyError", Some("KeyError"), "");
        is("error: no such host", None, "error: no such host");
        is("", None, "");
        is("\n  Rejected (requeue=false)\n", None, "Rejected (requeue=false)");
    }

    #[test]
    fn what_differs_each_time_is_folded() {
        let id = "no order 550e8400-e29b-41d4-a716-446655440000 at 0x7f3a2b of 12.5 EUR  on 10.0.0.1:6379";
        is(id, None, "no order # at # of # EUR on #");
        is("commit deadbeef01 by user42 in facade", None, "commit # by user# in facade");
        is(&"ü".repeat(500), None, &"ü".repeat(200));
        // Words of letters only are words, though they could be numbers.
        is("added a decade", None, "added a decade");
    }
}
