//! Lists that come in numbered pages: what they are asked, how they are sorted, and how a page looks.

use std::cmp::Ordering;

use proto_events::Framework;
use serde::Serialize;
use uuid::Uuid;

use crate::consistency::Wanted;
use crate::errors::ApiError;
use crate::params;

const FRAMEWORKS: [Framework; 3] = [Framework::Celery, Framework::Bullmq, Framework::Sidekiq];

/// What a list may be sorted by; the first name is the default.
pub(crate) trait Field: Copy + 'static {
    /// The fields under their names.
    const NAMES: &'static [(&'static str, Self)];
}

/// What such a list was asked.
#[derive(Debug)]
pub(crate) struct Asked<F> {
    page: usize,
    limit: usize,
    connection: Option<Uuid>,
    framework: Option<Framework>,
    pub(crate) sort_by: F,
    is_descending: bool,
    pub(crate) wanted: Wanted,
}

/// What a row is sorted by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Key<'a> {
    /// By code point.
    Text(&'a str),
    Number(f64),
}

/// One page.
#[derive(Debug, Serialize)]
pub(crate) struct Page<T> {
    pub(crate) data: Vec<T>,
    pagination: Pagination,
    /// There were more than are kept in mind, so that some are missing here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pagination {
    page: usize,
    limit: usize,
    total: usize,
    total_pages: usize,
}

impl<F: Field> Asked<F> {
    /// Reads the parameters that all of these lists have; the list's own go to `own`, which tells whether it has one of
    /// that name.
    pub(crate) fn read(raw: &str, mut own: impl FnMut(&str, &str) -> Result<bool, ApiError>) -> Result<Self, ApiError> {
        let mut asked = Self {
            page: 1,
            limit: 50,
            connection: None,
            framework: None,
            sort_by: F::NAMES[0].1,
            is_descending: false,
            wanted: Wanted::default(),
        };
        for (name, value) in params::pairs(raw)? {
            match name.as_str() {
                "page" => asked.page = page(&value)?,
                "limit" => asked.limit = params::limit(&value)?,
                "connectionId" => asked.connection = Some(params::parsed("connectionId", &value, "must be a UUID")?),
                "framework" => {
                    let names = FRAMEWORKS.map(|framework| (framework.as_str(), framework));
                    asked.framework = Some(one_of("framework", &value, &names)?);
                }
                "sortBy" => asked.sort_by = one_of("sortBy", &value, F::NAMES)?,
                "sortOrder" => {
                    asked.is_descending = one_of("sortOrder", &value, &[("asc", false), ("desc", true)])?;
                }
                _ if own(&name, &value)? => {}
                _ => params::wanted(&mut asked.wanted, &name, &value)?,
            }
        }
        Ok(asked)
    }

    /// Whether a row of this connection and framework is asked for.
    pub(crate) fn takes(&self, connection: Uuid, framework: Framework) -> bool {
        self.connection.is_none_or(|wanted| wanted == connection)
            && self.framework.is_none_or(|wanted| wanted == framework)
    }

    /// The page asked for. Rows without a value are last in either order; equal ones are in that of `tie`.
    pub(crate) fn page<T>(
        &self,
        mut rows: Vec<T>,
        truncated: bool,
        key: impl Fn(&T) -> Option<Key<'_>>,
        tie: impl Fn(&T) -> (&str, Uuid),
    ) -> Page<T> {
        rows.sort_by(|a, b| {
            let order = match (key(a), key(b)) {
                (None, None) => Ordering::Equal,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), None) => Ordering::Less,
                (Some(a), Some(b)) if self.is_descending => b.cmp(a),
                (Some(a), Some(b)) => a.cmp(b),
            };
            order.then_with(|| tie(a).cmp(&tie(b)))
        });
        let (total, limit) = (rows.len(), self.limit);
        let before = (self.page - 1).saturating_mul(limit);
        let data = rows.into_iter().skip(before).take(limit).collect();
        let pagination = Pagination { page: self.page, limit, total, total_pages: total.div_ceil(limit) };
        Page { data, pagination, truncated }
    }
}

impl Key<'_> {
    fn cmp(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => a.total_cmp(&b),
            // Of one field all keys are of one kind.
            (Self::Text(_), Self::Number(_)) => Ordering::Less,
            (Self::Number(_), Self::Text(_)) => Ordering::Greater,
        }
    }
}

impl<T> Page<T> {
    /// The same page with its rows as they are to be shown.
    pub(crate) fn map<U>(self, show: impl FnMut(T) -> U) -> Page<U> {
        let data = self.data.into_iter().map(show).collect();
        Page { data, pagination: self.pagination, truncated: self.truncated }
    }
}

/// One of a few values, by its name.
pub(crate) fn one_of<T: Copy>(field: &str, value: &str, names: &[(&str, T)]) -> Result<T, ApiError> {
    let found = names.iter().find(|(name, _)| *name == value).map(|(_, found)| *found);
    found.ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        ApiError::field(field, format!("must be one of {}", names.join(", ")))
    })
}

fn page(value: &str) -> Result<usize, ApiError> {
    let page = value.parse().ok().filter(|page| *page >= 1);
    page.ok_or_else(|| ApiError::field("page", "must be a whole number from 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum By {
        Name,
        Size,
    }

    impl Field for By {
        const NAMES: &'static [(&'static str, Self)] = &[("name", Self::Name), ("size", Self::Size)];
    }

    type Row = (&'static str, Option<f64>, u128);

    const ROWS: [Row; 6] = [
        ("b", None, 1),
        ("a", Some(2.0), 2),
        ("c", Some(-1.0), 3),
        ("a", Some(2.0), 1),
        ("d", None, 1),
        ("B", None, 1),
    ];

    fn asked(raw: &str) -> Result<Asked<By>, ApiError> {
        Asked::read(raw, |name, _| Ok(name == "own"))
    }

    fn paged(raw: &str) -> (Vec<(&'static str, u128)>, Pagination) {
        fn key(row: &Row, by: By) -> Option<Key<'_>> {
            match by {
                By::Name => Some(Key::Text(row.0)),
                By::Size => row.1.map(Key::Number),
            }
        }
        let asked = asked(raw).unwrap();
        let page =
            asked.page(ROWS.to_vec(), false, |row| key(row, asked.sort_by), |row| (row.0, Uuid::from_u128(row.2)));
        (page.data.iter().map(|row| (row.0, row.2)).collect(), page.pagination)
    }

    #[test]
    fn rows_are_sorted_with_nothing_last_and_ties_always_alike() {
        let (up, _) = paged("sortBy=size&own=1");
        assert_eq!(up, [("c", 3), ("a", 1), ("a", 2), ("B", 1), ("b", 1), ("d", 1)]);
        let (down, _) = paged("sortBy=size&sortOrder=desc");
        assert_eq!(down, [("a", 1), ("a", 2), ("c", 3), ("B", 1), ("b", 1), ("d", 1)]);
        let (names, _) = paged("");
        assert_eq!(names, [("B", 1), ("a", 1), ("a", 2), ("b", 1), ("c", 3), ("d", 1)]);
    }

    #[test]
    fn pages_hold_every_row_once_and_there_is_nothing_beyond_the_last() {
        for limit in 1..8 {
            let page = |number: usize| paged(&format!("page={number}&limit={limit}"));
            let all: Vec<_> = (1..=page(1).1.total_pages).flat_map(|number| page(number).0).collect();
            assert_eq!(all, paged("").0, "{limit}");
            let last = page(usize::MAX);
            assert_eq!((last.0.len(), last.1.total, last.1.page), (0, ROWS.len(), usize::MAX));
        }
        let pagination = Pagination { page: 2, limit: 4, total: 6, total_pages: 2 };
        assert_eq!(paged("page=2&limit=4").1, pagination);
    }

    #[test]
    fn refuses_the_rest_by_name() {
        for (raw, field) in [
            ("page=0", "page"),
            ("page=-1", "page"),
            ("page=x", "page"),
            ("limit=101", "limit"),
            ("connectionId=default", "connectionId"),
            ("framework=rq", "framework"),
            ("sortBy=Name", "sortBy"),
            ("sortOrder=up", "sortOrder"),
            ("own=1&own=2", "own"),
            ("cursor=x", "cursor"),
        ] {
            let error = asked(raw).unwrap_err();
            assert!(
                matches!(&error, ApiError::Validation { details: Some(details), .. } if details[field].is_string()),
                "{raw}: {error:?}"
            );
        }
        assert!(asked("atLeast=7&maxStaleness=5&framework=bullmq&own=1").is_ok());
    }
}
