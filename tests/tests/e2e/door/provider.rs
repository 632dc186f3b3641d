//! A small real provider of OpenID Connect.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use forebay_tests::{Process, tool, wait_for};
use serde_json::json;
use tempfile::TempDir;
use ureq::Agent;

pub(crate) struct Provider {
    _process: Process,
    _dir: TempDir,
    pub(crate) address: String,
    agent: Agent,
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Provider {
    pub(crate) fn start() -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let mut command = Command::new(tool("venv-oidc/bin/oidc-provider-mock"));
        command.args(["--port", &port.to_string(), "--require-nonce", "true"]);
        for claims in [
            json!({ "sub": "1", "email": "ann@example.com", "email_verified": true, "groups": ["dev"] }),
            json!({ "sub": "2", "email": "bob@example.com", "email_verified": true }),
            json!({ "sub": "3", "email": "mallory@example.com", "email_verified": false }),
            json!({ "sub": "4", "preferred_username": "root\r\nx", "groups": ["ops"] }),
            json!({ "sub": "5", "email": "eve@evil.example", "email_verified": true }),
        ] {
            command.args(["--user-claims", &claims.to_string()]);
        }
        let process = Process::start("oidc-provider-mock", &mut command, &dir.path().join("oidc.log"));
        let config = Agent::config_builder().http_status_as_error(false).max_redirects(0).proxy(None);
        let agent: Agent = config.timeout_global(Some(Duration::from_secs(20))).build().into();
        let address = format!("http://127.0.0.1:{port}");
        let up = || agent.get(format!("{address}/.well-known/openid-configuration")).call().ok();
        wait_for("the provider to answer", 60, || up().filter(|answer| answer.status() == 200));
        Self { _process: process, _dir: dir, address, agent }
    }

    /// Logs in there as this one, and gives where that leads: back to us.
    pub(crate) fn pass(&self, url: &str, sub: &str) -> String {
        let answer = self.agent.post(url).send_form([("sub", sub)]).unwrap();
        assert!(answer.status().is_redirection(), "{}", answer.status());
        answer.headers()["location"].to_str().unwrap().to_owned()
    }
}
