//! People, and what they may do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// See all, and change nothing.
    Reader,
    /// Everything.
    Admin,
}

/// How somebody showed who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "LoginKind")]
pub(crate) enum Login {
    /// The admin password.
    Password,
    /// A one-time link.
    Link,
    /// A provider of OpenID Connect.
    Oidc,
    /// A trusted proxy said so.
    Proxy,
}

/// Somebody who is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) login: Login,
}

/// The name of who knows the password.
pub(crate) const ADMIN: &str = "admin";

/// Longer names are nobody's.
const NAME_BYTES: usize = 200;

impl Person {
    /// Who logs in with the password, or by a link.
    pub(crate) fn admin(login: Login) -> Self {
        Self { name: ADMIN.to_owned(), role: Role::Admin, login }
    }
}

/// Whether a text can be shown as somebody's name, and written to a log.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES).contains(&text.len()) && !text.chars().any(char::is_control) && text.trim() == text
}
