//! The door: by which way requests come in, and how many of them.
//!
//! - [`BasePath`]: the path below which a proxy serves us
//! - [`Proxies`]: whose `X-Forwarded-*` is believed
//! - [`ProxyUsers`]: who has logged in there
//! - [`Limits`]: connections and requests, in all, by address and by key
//! - [`Tls`]: the certificate, read anew when it changes
//! - `wire`: a connection whose client takes its time over a request

mod base_path;
mod connections;
mod limits;
mod proxies;
mod tls;
mod wire;

pub use base_path::BasePath;
pub use limits::Limits;
pub use proxies::Proxies;
pub use tls::Tls;

pub(crate) use connections::Connections;
pub(crate) use limits::{Credential, Guard};
pub(crate) use proxies::{FORWARDED_HOST, Way};
pub(crate) use wire::{HEAD_TIME, Pace, Wire};

use warp::http::HeaderName;

/// By which way requests come in.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// Where we are below the name that people use.
    pub base_path: BasePath,
    /// Who may say whom a request comes from.
    pub proxies: Proxies,
    /// How those say who has logged in with them.
    pub users: Option<ProxyUsers>,
    /// How much of everything.
    pub limits: Limits,
}

/// How a trusted proxy says who has logged in with it.
#[derive(Clone, Debug)]
pub struct ProxyUsers {
    /// The header with the name.
    pub header: HeaderName,
    /// Who of them may change things; all others may read.
    pub admins: Vec<String>,
}
