//! Every mistake at once: who mends one of them should not be told of the next only then.

use std::fmt::{self, Display};

/// What is wrong, in the order in which it was found.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<String>);

impl Problems {
    pub(super) fn add(&mut self, problem: impl Display) {
        self.0.push(problem.to_string());
    }

    /// The value; where there is none it is noted why, and another takes its place, which nobody will see.
    pub(super) fn keep<T: Default>(&mut self, result: anyhow::Result<T>) -> T {
        self.keep_or(result, T::default())
    }

    /// The same for what has no default.
    pub(super) fn keep_or<T>(&mut self, result: anyhow::Result<T>, other: T) -> T {
        result.unwrap_or_else(|error| {
            self.add(format_args!("{error:#}"));
            other
        })
    }

    /// The value, if nothing was wrong.
    pub(super) fn settle<T>(self, value: T) -> anyhow::Result<T> {
        if self.0.is_empty() { Ok(value) } else { Err(anyhow::Error::msg(self.to_string())) }
    }
}

impl Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            [only] => f.write_str(only),
            all => {
                write!(f, "{} mistakes in the configuration:", all.len())?;
                all.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}
