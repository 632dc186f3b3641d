//! What somebody may have meant.

/// The name that is most like this one, if any is so like it that it may be meant.
pub(super) fn nearest<'a>(wrong: &str, names: &[&'a str]) -> Option<&'a str> {
    let wrong = wrong.replace('_', "-");
    let distances = names.iter().map(|name| (strsim::damerau_levenshtein(&wrong, name), *name));
    let most = (wrong.chars().count() / 3).max(2);
    distances.filter(|(distance, _)| *distance <= most).min().map(|(_, name)| name)
}

/// That there is no such key, and which one may be meant.
pub(super) fn unknown(key: &str, names: &[&str]) -> String {
    // A name that somebody made up may hold anything.
    let key = key.escape_debug();
    match nearest(&key.to_string(), names) {
        Some(name) => format!("there is no key `{key}`: did you mean `{name}`?"),
        None => format!("there is no key `{key}`: `forebay config example` lists all of them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nearly_a_name_is_taken_for_it_and_nothing_else() {
        let names = ["listen", "list-memory", "nats-url", "celery", "celery-file"];
        for (wrong, meant) in
            [("lisen", "listen"), ("nats_url", "nats-url"), ("clery", "celery"), ("celery-fiel", "celery-file")]
        {
            assert_eq!(nearest(wrong, &names), Some(meant), "{wrong}");
        }
        assert_eq!((nearest("password", &names), nearest("", &names)), (None, None));
        assert!(unknown("a\u{1b}[31mb", &names).contains("a\\u{1b}[31mb"));
    }
}
