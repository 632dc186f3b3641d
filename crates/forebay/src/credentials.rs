//! `credentials.json`: what was not configured and had to be made up, once, and the secret of the sessions.

use std::fmt::Write as _;
use std::io;

use anyhow::Context as _;
use rand::Rng as _;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::data_dir::DataDir;

const FILE: &str = "credentials.json";
const PASSWORD_CHARACTERS: usize = 20;
const TOKEN_CHARACTERS: usize = 43;

/// What the file holds.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Credentials {
    /// Of the default connection, where it was made up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connection_id: Option<Uuid>,
    /// Likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key: Option<String>,
    /// Of the dashboard, where it was made up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) admin_password: Option<Zeroizing<String>>,
    /// What session cookies are signed with, in hex.
    session_secret: Zeroizing<String>,
}

impl Credentials {
    /// Reads the file; a new one is begun with a new secret.
    pub(crate) fn load(dir: &DataDir) -> anyhow::Result<Self> {
        let kept: Option<Self> = dir.read(FILE).context("cannot read credentials.json")?;
        let new = || Self { session_secret: hex(&rand::random::<[u8; 32]>()).into(), ..Self::default() };
        Ok(kept.unwrap_or_else(new))
    }

    pub(crate) fn save(&self, dir: &DataDir) -> io::Result<()> {
        dir.write(FILE, self)
    }

    /// The secret itself. A file that a person has edited may hold any text; that is as good a secret as they made it.
    pub(crate) fn session_secret(&self) -> [u8; 32] {
        blake3::derive_key("forebay 2026 session secret", self.session_secret.as_bytes())
    }

    /// The password in force, made up and kept where none is configured; tells whether it was made up now.
    pub(crate) fn password(&mut self, configured: Option<&str>) -> (Zeroizing<String>, bool) {
        if let Some(password) = configured {
            return (password.to_owned().into(), false);
        }
        let new = self.admin_password.is_none();
        let password = self.admin_password.get_or_insert_with(|| random_text(PASSWORD_CHARACTERS).into());
        (password.clone(), new)
    }
}

/// A token that nobody guesses.
pub(crate) fn token() -> String {
    random_text(TOKEN_CHARACTERS)
}

fn random_text(characters: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(characters).map(char::from).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
