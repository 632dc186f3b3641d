//! How many cases a property is tried with.

use proptest::test_runner::Config;

/// So many cases, or as many as `PROPTEST_CASES` asks for, if that is more.
pub(crate) fn at_least(cases: u32) -> Config {
    let usual = Config::default();
    Config { cases: usual.cases.max(cases), ..usual }
}
