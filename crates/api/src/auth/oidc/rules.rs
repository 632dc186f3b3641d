//! Who of those whom a provider knows is let in, and as what.

use crate::auth::person::Role;

/// Who is let in.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    readers: Vec<Rule>,
    admins: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    Anybody,
    /// In lower case.
    Email(String),
    /// Of an e-mail address, in lower case.
    Domain(String),
    Group(String),
}

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of ann@example.com, @example.com, group:NAME and *")]
pub struct RuleError(String);

/// What a provider says of somebody, as far as it counts here.
#[derive(Clone, Debug, Default)]
pub(super) struct Told<'a> {
    /// Only if the provider has made sure that it is theirs.
    pub(super) email: Option<&'a str>,
    pub(super) groups: &'a [String],
}

impl Rules {
    /// Each may be a list, separated by commas: `ann@example.com`, `@example.com`, `group:NAME`, or `*` for everybody whom
    /// the provider knows.
    pub fn parse<T: AsRef<str>>(readers: &[T], admins: &[T]) -> Result<Self, RuleError> {
        Ok(Self { readers: parsed(readers)?, admins: parsed(admins)? })
    }

    /// Whether nobody is let in.
    pub fn is_empty(&self) -> bool {
        self.readers.is_empty() && self.admins.is_empty()
    }

    pub(super) fn role(&self, told: &Told<'_>) -> Option<Role> {
        if self.admins.iter().any(|rule| rule.holds(told)) {
            return Some(Role::Admin);
        }
        self.readers.iter().any(|rule| rule.holds(told)).then_some(Role::Reader)
    }
}

fn parsed<T: AsRef<str>>(lists: &[T]) -> Result<Vec<Rule>, RuleError> {
    let texts = lists.iter().flat_map(|list| list.as_ref().split(',')).map(str::trim);
    texts.filter(|text| !text.is_empty()).map(Rule::parse).collect()
}

impl Rule {
    fn parse(text: &str) -> Result<Self, RuleError> {
        let wrong = || RuleError(text.to_owned());
        if text == "*" {
            return Ok(Self::Anybody);
        }
        if let Some(group) = text.strip_prefix("group:") {
            return if group.is_empty() { Err(wrong()) } else { Ok(Self::Group(group.to_owned())) };
        }
        let (name, domain) = text.rsplit_once('@').ok_or_else(wrong)?;
        match (name.is_empty(), domain.is_empty() || domain.contains(' ')) {
            (_, true) => Err(wrong()),
            (true, false) => Ok(Self::Domain(domain.to_ascii_lowercase())),
            (false, false) => Ok(Self::Email(text.to_ascii_lowercase())),
        }
    }

    fn holds(&self, told: &Told<'_>) -> bool {
        let email = told.email.map(str::to_ascii_lowercase);
        match self {
            Self::Anybody => true,
            Self::Email(wanted) => email.as_ref() == Some(wanted),
            Self::Domain(wanted) => {
                email.as_deref().and_then(|email| email.rsplit_once('@')).is_some_and(|(_, domain)| domain == wanted)
            }
            Self::Group(wanted) => told.groups.contains(wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_a_domain_or_a_group_lets_in_and_nothing_that_looks_like_it() {
        let rules =
            Rules::parse(&["@Example.com, bob@other.example", "group:dev"], &["ann@example.com,group:ops"]).unwrap();
        let role = |email: Option<&str>, groups: &[&str]| {
            let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
            rules.role(&Told { email, groups: &groups })
        };
        assert_eq!(role(Some("Ann@example.com"), &[]), Some(Role::Admin));
        assert_eq!(role(Some("carl@EXAMPLE.com"), &[]), Some(Role::Reader));
        assert_eq!(role(Some("carl@example.com"), &["ops"]), Some(Role::Admin));
        assert_eq!(role(Some("bob@other.example"), &[]), Some(Role::Reader));
        assert_eq!(role(None, &["dev"]), Some(Role::Reader));
        let strangers =
            ["x@sub.example.com", "x@example.com.evil.example", "xbob@other.example", "example.com", "@example.com@"];
        for stranger in strangers {
            assert_eq!(role(Some(stranger), &["Dev", "dev "]), None, "{stranger}");
        }
        assert_eq!(role(None, &[]), None);
        assert_eq!(Rules::parse(&["*"], &[]).unwrap().role(&Told::default()), Some(Role::Reader));
        assert!(Rules::parse::<&str>(&[], &[]).unwrap().is_empty());
        for wrong in ["ann", "group:", "ann@", "@", "**"] {
            assert_eq!(Rules::parse(&[wrong], &[]).unwrap_err(), RuleError(wrong.to_owned()));
        }
    }
}
