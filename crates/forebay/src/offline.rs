//! Commands as clients of the API: of the running server where there is one, else of one that this process brings up
//! for as long as the command takes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use api::{App, Auth};
use sources::Redaction;

use crate::client::Client;
use crate::config::StackConfig;
use crate::credentials;
use crate::data_dir::{self, Admin, DataDir, OpenError};
use crate::serve::Http;
use crate::stack::Stack;

/// How long a server may hold the directory without answering: it is starting or stopping then.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(50);

/// What a command does with a directory that does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// There is nothing to be found in it.
    Refuse,
    /// It begins one.
    Create,
}

/// Does the work with a client of a ready server.
pub(crate) fn with_server<T: Send + 'static>(
    config: &StackConfig,
    missing: Missing,
    work: impl FnOnce(&Client) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    with_client(config, missing, |client| {
        client.wait_until_ready()?;
        work(client)
    })
}

/// Does the work with a client of a server whose log is open, also while its views are still being read from it.
pub(crate) fn with_log<T: Send + 'static>(
    config: &StackConfig,
    missing: Missing,
    work: impl FnOnce(&Client) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    with_client(config, missing, |client| {
        client.wait_until_started()?;
        work(client)
    })
}

fn with_client<T: Send + 'static>(
    config: &StackConfig,
    missing: Missing,
    work: impl FnOnce(&Client) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let path = &config.data_dir;
    if missing == Missing::Refuse && !path.exists() {
        bail!("there is no data in {}: name the server's data directory with --data-dir", path.display());
    }
    let began = Instant::now();
    loop {
        match DataDir::open(path) {
            Ok(dir) => return in_this_process(config, dir, work),
            Err(OpenError::Held(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(client) = running(config)? {
            return work(&client);
        }
        if began.elapsed() > PATIENCE {
            bail!("another process holds {} and does not answer: see what it is, or try again", path.display());
        }
        std::thread::sleep(LOOK);
    }
}

/// The server that holds the directory, if it answers.
pub(crate) fn running(config: &StackConfig) -> anyhow::Result<Option<Client>> {
    let admin = data_dir::admin(&config.data_dir).context("cannot read admin.json: are you the server's user?")?;
    let client = admin.map(|admin| Client::of_directory(admin, &config.data_dir));
    Ok(client.filter(|client| client.get("/api/health/live").is_ok()))
}

fn in_this_process<T: Send + 'static>(
    config: &StackConfig,
    dir: DataDir,
    work: impl FnOnce(&Client) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let token = credentials::token();
        // Nobody logs in here: the password is thrown away.
        let auth = Auth::new(&credentials::token(), &[0; 32], &token)?;
        let app = App::new(auth, env!("CARGO_PKG_VERSION"));
        let mut http = Http::start("127.0.0.1:0", None, &app).await?;
        let stack = Stack::open(config, &dir).await?;
        // Who only wants to see a job does not wait for new views of all of them.
        stack.attach(&app, Redaction::default(), None);
        let client = Client::new(Admin { address: http.local_address(), url: None, token, pid: std::process::id() });
        let done = tokio::task::spawn_blocking(move || work(&client)).await?;
        http.stop().await;
        stack.close().await?;
        done
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(dir);
    result
}
