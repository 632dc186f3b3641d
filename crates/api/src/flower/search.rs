//! The query language of Flower's `search`, as far as the columns of the list can tell: terms between spaces, all of which
//! have to fit. A term is `name:TEXT`, `state:STATE`, `worker:NAME`, or a text of a name or a task's id.

use uuid::Uuid;

/// Characters of a query, as in Flower.
const QUERY: usize = 2_048;
/// Characters of a text that is looked for, likewise.
const LEAST: usize = 3;

/// What is looked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Search {
    /// In the name.
    pub(super) text: Option<String>,
    pub(super) state: Option<String>,
    pub(super) worker: Option<String>,
    pub(super) id: Option<String>,
}

impl Search {
    /// Reads a query, or says what is wrong with it.
    pub(super) fn of(query: &str) -> Result<Self, String> {
        if query.chars().count() > QUERY {
            return Err(format!("must have at most {QUERY} characters"));
        }
        let mut search = Self::default();
        for (term, quoted) in terms(query)? {
            search.add(term, quoted)?;
        }
        Ok(search)
    }

    fn add(&mut self, term: String, quoted: bool) -> Result<(), String> {
        if !quoted && term == "AND" {
            return Ok(());
        }
        if !quoted && (["OR", "NOT"].contains(&term.as_str()) || term.starts_with('-') || term.contains(['(', ')'])) {
            return Err(format!("{term} cannot be asked for here: all terms have to fit"));
        }
        let (field, value) = match term.split_once(':') {
            Some((field, value)) => (field.to_ascii_lowercase(), value.to_owned()),
            None => (String::new(), String::new()),
        };
        let (place, value) = match field.as_str() {
            "state" => (&mut self.state, value.to_ascii_uppercase()),
            "worker" => (&mut self.worker, value),
            "name" => (&mut self.text, value),
            "args" | "kwargs" | "result" => {
                return Err(format!("{field} cannot be searched: name, state, worker and a task's id can"));
            }
            _ if Uuid::try_parse(&term).is_ok() => (&mut self.id, term),
            _ => (&mut self.text, term),
        };
        if value.is_empty() || field != "state" && value.chars().count() < LEAST {
            return Err(format!("a term has at least {LEAST} characters"));
        }
        if place.as_ref().is_some_and(|known| *known != value) {
            return Err("only one text, one state, one worker and one id can be asked for at once".to_owned());
        }
        *place = Some(value);
        Ok(())
    }
}

/// The terms, and whether they stood in quotes, in which a backslash stands before a quote or a backslash.
fn terms(query: &str) -> Result<Vec<(String, bool)>, String> {
    let mut terms = Vec::new();
    let mut letters = query.chars().peekable();
    while let Some(first) = letters.peek() {
        if first.is_whitespace() {
            letters.next();
            continue;
        }
        let (mut term, mut quoted, mut within) = (String::new(), false, false);
        while let Some(letter) = letters.next_if(|letter| within || !letter.is_whitespace()) {
            match letter {
                '\\' if letters.peek().is_some_and(|next| ['"', '\\'].contains(next)) => term.extend(letters.next()),
                '"' => (quoted, within) = (true, !within),
                letter => term.push(letter),
            }
        }
        if within {
            return Err("a quote is not closed".to_owned());
        }
        terms.push((term, quoted));
    }
    Ok(terms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn terms_are_read_as_flower_reads_them_or_refused() {
        let id = "e42ceb2d-8730-47b5-8b4d-8e0d2a1ef7c9";
        let of = |query: &str| Search::of(query).unwrap();
        let text = |text: &str| Search { text: Some(text.to_owned()), ..Search::default() };
        assert_eq!(of(""), Search::default());
        assert_eq!(of("tasks.add"), text("tasks.add"));
        assert_eq!(of("name:add"), text("add"));
        assert_eq!(of(r#""send \"mail\"""#), text("send \"mail\""));
        assert_eq!(of("app:send"), text("app:send"), "what is no field is a text");
        assert_eq!(of("\"-x-\""), text("-x-"));
        let all = Search {
            text: Some("add".to_owned()),
            state: Some("FAILURE".to_owned()),
            worker: Some("celery@a".to_owned()),
            id: Some(id.to_owned()),
        };
        assert_eq!(of(&format!("state:failure AND worker:celery@a  {id} add")), all);
        for refused in [
            "ab",
            "name:",
            "state:",
            "a\"b",
            "NOT add",
            "-add",
            "add OR sub",
            "(add)",
            "args:abc",
            "kwargs:a=1",
            "result:123",
            "one two",
            &"x".repeat(2_049),
        ] {
            assert!(Search::of(refused).is_err(), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_searched_for_is_read_or_refused(query in "[ \"\\\\():a-zA-Z-]{0,40}|\\PC{0,40}") {
            let _ = Search::of(&query);
        }
    }
}
