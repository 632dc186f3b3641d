//! Which server keeps the log, as its user says.

use std::fmt;
use std::path::PathBuf;

/// Which server keeps the log.
#[derive(Clone)]
pub enum ServerConfig {
    /// Our own nats-server, under our own directory.
    Embedded {
        /// Where it keeps everything; made if missing. One server per directory, ever.
        dir: PathBuf,
        /// The nats-server to run; otherwise one beside our own executable, else one in the `PATH`.
        binary: Option<PathBuf>,
        /// Sync every write to the disk before it is acknowledged, at some 4,600 messages a second, instead of every
        /// 100 ms.
        fsync_always: bool,
        /// The executable that calls [`run_nats_helper`](crate::run_nats_helper) when run as `HELPER nats-helper …`.
        helper: PathBuf,
    },
    /// A server or cluster that somebody else runs.
    External {
        /// `nats://HOST:PORT` or `tls://HOST:PORT`, several separated by commas; may carry user and password.
        url: String,
        /// The user, with `password`.
        user: Option<String>,
        /// The password of `user`.
        password: Option<String>,
        /// A token.
        token: Option<String>,
        /// A creds file, as `nsc` writes it.
        creds: Option<PathBuf>,
        /// The certificate authority to trust, PEM; asks for TLS.
        ca: Option<PathBuf>,
        /// In how many places each stream is kept: 1, or 3 or 5 in a cluster.
        replicas: usize,
    },
}

impl fmt::Debug for ServerConfig {
    /// Leaves out the secrets, and the URL because it may hold one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded { dir, .. } => f.debug_struct("Embedded").field("dir", dir).finish_non_exhaustive(),
            Self::External { replicas, .. } => {
                f.debug_struct("External").field("replicas", replicas).finish_non_exhaustive()
            }
        }
    }
}
