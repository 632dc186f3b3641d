//! The settings of the door: TLS, proxies, logins by others, limits.

use std::num::NonZeroU32;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use api::door::{BasePath, Limits, Proxies, ProxyUsers};
use api::{Door, OidcSettings, Rules};
use clap::Args;
use zeroize::Zeroizing;

use crate::config::{TomlFile, given, variable};

/// How the server is reached, and by whom.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DoorArgs {
    /// Where people reach the server, as they write it: `https://jobs.example.com/forebay`; for links, and for OpenID
    /// Connect to come back to
    #[arg(long, value_name = "URL", env = "FOREBAY_PUBLIC_URL", help_heading = "TLS and proxies")]
    public_url: Option<String>,

    /// The path below which a proxy serves us, whether it takes it away or not [default: that of --public-url]
    #[arg(long, value_name = "PATH", env = "FOREBAY_BASE_PATH", help_heading = "TLS and proxies")]
    base_path: Option<String>,

    /// Certificate to show, in PEM, with those between it and its authority; read anew when it changes, and at SIGHUP
    ///
    /// With it the server speaks TLS alone, but for commands on this machine.
    #[arg(long, value_name = "FILE", env = "FOREBAY_TLS_CERT", help_heading = "TLS and proxies")]
    tls_cert: Option<PathBuf>,

    /// Key of the certificate, in PEM
    #[arg(long, value_name = "FILE", env = "FOREBAY_TLS_KEY", help_heading = "TLS and proxies")]
    tls_key: Option<PathBuf>,

    /// Address or network of a proxy whose X-Forwarded-For, -Proto and -Host are believed; may be given more than once
    #[arg(
        long,
        value_name = "CIDR",
        env = "FOREBAY_TRUSTED_PROXY",
        value_delimiter = ',',
        help_heading = "TLS and proxies"
    )]
    trusted_proxy: Vec<String>,

    /// Header in which a trusted proxy says who has logged in with it, such as X-Remote-User: they may read
    #[arg(long, value_name = "NAME", env = "FOREBAY_AUTH_HEADER", help_heading = "Logins by others")]
    auth_header: Option<String>,

    /// Who of them may change things as well; may be given more than once
    #[arg(
        long,
        value_name = "NAME",
        env = "FOREBAY_AUTH_ADMINS",
        value_delimiter = ',',
        help_heading = "Logins by others"
    )]
    auth_admins: Vec<String>,

    /// Provider of OpenID Connect to log in with; needs --public-url and --oidc-client-id
    ///
    /// Its secret is in `FOREBAY_OIDC_CLIENT_SECRET`, or in the file as oidc-client-secret.
    #[arg(long, value_name = "URL", env = "FOREBAY_OIDC_ISSUER", help_heading = "Logins by others")]
    oidc_issuer: Option<String>,

    /// Who we are there
    #[arg(long, value_name = "ID", env = "FOREBAY_OIDC_CLIENT_ID", help_heading = "Logins by others")]
    oidc_client_id: Option<String>,

    /// Who of those whom it knows may read: `ann@example.com`, `@example.com`, `group:NAME`, or `*` for all of them; may
    /// be given more than once
    #[arg(
        long,
        value_name = "WHO",
        env = "FOREBAY_OIDC_ALLOW",
        value_delimiter = ',',
        help_heading = "Logins by others"
    )]
    oidc_allow: Vec<String>,

    /// Who of them may change things as well, likewise
    #[arg(
        long,
        value_name = "WHO",
        env = "FOREBAY_OIDC_ADMINS",
        value_delimiter = ',',
        help_heading = "Logins by others"
    )]
    oidc_admins: Vec<String>,

    /// What to ask it for beside openid, email and profile, such as groups
    #[arg(
        long,
        value_name = "SCOPE",
        env = "FOREBAY_OIDC_SCOPES",
        value_delimiter = ',',
        help_heading = "Logins by others"
    )]
    oidc_scopes: Vec<String>,

    /// The claim in which it names groups [default: groups]
    #[arg(long, value_name = "NAME", env = "FOREBAY_OIDC_GROUPS_CLAIM", help_heading = "Logins by others")]
    oidc_groups_claim: Option<String>,

    /// Certificate authority of the provider, in PEM [default: those of the system]
    #[arg(long, value_name = "FILE", env = "FOREBAY_OIDC_CA", help_heading = "Logins by others")]
    oidc_ca: Option<PathBuf>,

    /// Connections at a time; more wait [default: 4096]
    #[arg(long, value_name = "N", env = "FOREBAY_MAX_CONNECTIONS", help_heading = "Limits")]
    max_connections: Option<u32>,

    /// Connections of one address at a time, where it is no trusted proxy: a number, or `off` [default: 2048]
    #[arg(long, value_name = "COUNT", env = "FOREBAY_MAX_CONNECTIONS_PER_ADDRESS", help_heading = "Limits")]
    max_connections_per_address: Option<String>,

    /// Requests a second with one key or session: a number, or `off` [default: 10000]
    #[arg(long, value_name = "COUNT", env = "FOREBAY_MAX_REQUESTS_PER_KEY", help_heading = "Limits")]
    max_requests_per_key: Option<String>,

    /// Requests a second of one address: a number, or `off` [default: 20000]
    #[arg(long, value_name = "COUNT", env = "FOREBAY_MAX_REQUESTS_PER_ADDRESS", help_heading = "Limits")]
    max_requests_per_address: Option<String>,

    /// Wrong keys a minute of one address: a number, or `off` [default: 300]
    ///
    /// Beyond it only keys are heard from there that were good before, for a while.
    #[arg(long, value_name = "COUNT", env = "FOREBAY_MAX_WRONG_KEYS", help_heading = "Limits")]
    max_wrong_keys: Option<String>,
}

/// How the server is reached, and by whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct DoorConfig {
    pub(crate) door: Door,
    /// Certificate and key.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) oidc: Option<OidcSettings>,
    /// Without a slash at its end.
    pub(crate) public_url: Option<String>,
}

/// Flags win over the file.
fn several(flags: Vec<String>, file: &[String]) -> Vec<String> {
    let flags: Vec<String> = flags.into_iter().filter(|text| !text.is_empty()).collect();
    if flags.is_empty() { file.to_vec() } else { flags }
}

impl DoorArgs {
    /// Puts the flags, the environment and the file together.
    pub(crate) fn over(self, file: &TomlFile) -> anyhow::Result<DoorConfig> {
        let text = |flag: Option<String>, file: &Option<String>| given(flag).or_else(|| file.clone());
        let public_url = text(self.public_url, &file.public_url).map(|url| url.trim_end_matches('/').to_owned());
        let base_path = match text(self.base_path, &file.base_path) {
            Some(path) => path,
            None => public_url.as_deref().map_or(Ok(String::new()), path_of)?,
        };
        let base_path: BasePath = base_path.parse().context("base-path")?;
        let proxies = several(self.trusted_proxy, &file.trusted_proxy);
        let proxies = Proxies::parse(&proxies).context("trusted-proxy")?;
        let admins = several(self.auth_admins, &file.auth_admins);
        let users = match text(self.auth_header, &file.auth_header) {
            Some(name) => Some(users(&name, admins, &proxies)?),
            None => None,
        };
        let tls = match (self.tls_cert.or(file.tls_cert.clone()), self.tls_key.or(file.tls_key.clone())) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => bail!("tls-cert and tls-key go together: give both"),
        };
        let limits = Limits {
            connections: self
                .max_connections
                .or(file.max_connections)
                .map_or(Limits::default().connections, |it| it.max(1) as usize),
            connections_per_address: limit(
                "max-connections-per-address",
                text(self.max_connections_per_address, &file.max_connections_per_address),
                Limits::default().connections_per_address.and_then(|most| NonZeroU32::new(most as u32)),
            )?
            .map(|most| most.get() as usize),
            requests_per_key: limit(
                "max-requests-per-key",
                text(self.max_requests_per_key, &file.max_requests_per_key),
                Limits::default().requests_per_key,
            )?,
            requests_per_address: limit(
                "max-requests-per-address",
                text(self.max_requests_per_address, &file.max_requests_per_address),
                Limits::default().requests_per_address,
            )?,
            wrong_keys: limit(
                "max-wrong-keys",
                text(self.max_wrong_keys, &file.max_wrong_keys),
                Limits::default().wrong_keys,
            )?,
            list_silence: Limits::default().list_silence,
        };
        let oidc = match text(self.oidc_issuer, &file.oidc_issuer) {
            None => None,
            Some(issuer) => {
                let client_id = text(self.oidc_client_id, &file.oidc_client_id);
                let public_url = public_url.clone();
                let readers = several(self.oidc_allow, &file.oidc_allow);
                let rules = Rules::parse(&readers, &several(self.oidc_admins, &file.oidc_admins));
                let rules = rules.context("oidc-allow, oidc-admins")?;
                if rules.is_empty() {
                    bail!(
                        "oidc-issuer lets nobody in without oidc-allow or oidc-admins: say whom, such as @example.com"
                    );
                }
                let secret = variable("FOREBAY_OIDC_CLIENT_SECRET")?.or_else(|| file.oidc_client_secret.clone());
                Some(OidcSettings {
                    issuer,
                    client_id: client_id.context("oidc-issuer needs oidc-client-id: who we are there")?,
                    client_secret: secret.map(Zeroizing::new),
                    public_url: public_url.context("oidc-issuer needs public-url: where people come back to")?,
                    scopes: several(self.oidc_scopes, &file.oidc_scopes),
                    groups_claim: text(self.oidc_groups_claim, &file.oidc_groups_claim)
                        .unwrap_or_else(|| "groups".into()),
                    rules,
                    ca: self.oidc_ca.or(file.oidc_ca.clone()),
                })
            }
        };
        Ok(DoorConfig { door: Door { base_path, proxies, users, limits }, tls, oidc, public_url })
    }
}

/// The path of an address.
fn path_of(url: &str) -> anyhow::Result<String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let Some(rest) = rest.filter(|rest| !rest.is_empty() && !rest.starts_with('/')) else {
        bail!("public-url must be an address such as https://jobs.example.com/forebay");
    };
    if rest.contains(['?', '#', '@']) || rest.chars().any(|sign| sign.is_whitespace() || sign.is_control()) {
        bail!("public-url is a scheme, a host and a path, and nothing else");
    }
    Ok(rest.find('/').map(|at| rest[at..].to_owned()).unwrap_or_default())
}

fn users(name: &str, admins: Vec<String>, proxies: &Proxies) -> anyhow::Result<ProxyUsers> {
    if proxies.is_empty() {
        bail!("auth-header needs trusted-proxy: anybody else can send such a header as well");
    }
    let header = name.parse().ok().with_context(|| format!("auth-header: {name:?} is no name of a header"))?;
    // What everybody sends would let in everybody.
    if ["authorization", "cookie", "host", "origin", "user-agent", "accept"]
        .contains(&name.to_ascii_lowercase().as_str())
    {
        bail!("auth-header: {name} is sent by whoever asks, and says nothing of who has logged in");
    }
    Ok(ProxyUsers { header, admins })
}

fn limit(name: &str, text: Option<String>, default: Option<NonZeroU32>) -> anyhow::Result<Option<NonZeroU32>> {
    match text {
        None => Ok(default),
        Some(text) if text == "off" => Ok(None),
        Some(text) => match text.parse() {
            Ok(most) => Ok(Some(most)),
            Err(_) => bail!("{name} must be a number of 1 or more, or off"),
        },
    }
}

impl DoorConfig {
    /// What is in force, for people, without secrets.
    pub(crate) fn describe(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        if let Some(url) = &self.public_url {
            rows.push(("public-url", url.clone()));
        }
        if !self.door.base_path.as_str().is_empty() {
            rows.push(("base-path", self.door.base_path.to_string()));
        }
        if let Some((certificate, _)) = &self.tls {
            rows.push(("tls-cert", certificate.display().to_string()));
        }
        if let Some(users) = &self.door.users {
            rows.push(("auth-header", users.header.to_string()));
        }
        if let Some(oidc) = &self.oidc {
            rows.push(("oidc-issuer", oidc.issuer.clone()));
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_path_is_that_of_the_public_address_unless_another_is_given() {
        let door = |args: DoorArgs| args.over(&TomlFile::default()).map(|config| config.door.base_path.to_string());
        let public = |url: &str| DoorArgs { public_url: Some(url.to_owned()), ..DoorArgs::default() };
        assert_eq!(door(public("https://jobs.example/tools/forebay/")).unwrap(), "/tools/forebay");
        assert_eq!(door(public("https://jobs.example")).unwrap(), "");
        let other = DoorArgs { base_path: Some("/other".to_owned()), ..public("https://jobs.example/forebay") };
        assert_eq!(door(other).unwrap(), "/other");
        for wrong in ["jobs.example", "https://", "ftp://a/b", "https://a/b?c", "https://u@a/b", "https://a/b c"] {
            assert!(door(public(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_would_let_in_the_wrong_people_is_refused() {
        let none = DoorArgs::default;
        let issuer = Some("https://login.example".to_owned());
        let wrong = [
            DoorArgs { auth_header: Some("X-Remote-User".to_owned()), ..none() },
            DoorArgs { auth_header: Some("Cookie".to_owned()), trusted_proxy: vec!["::1".to_owned()], ..none() },
            DoorArgs { trusted_proxy: vec!["somewhere".to_owned()], ..none() },
            DoorArgs { tls_cert: Some("cert.pem".into()), ..none() },
            DoorArgs {
                oidc_issuer: issuer.clone(),
                oidc_client_id: Some("a".to_owned()),
                public_url: issuer.clone(),
                ..none()
            },
            DoorArgs {
                oidc_issuer: issuer,
                oidc_client_id: Some("a".to_owned()),
                oidc_allow: vec!["*".to_owned()],
                ..none()
            },
            DoorArgs { max_wrong_keys: Some("0".to_owned()), ..none() },
        ];
        for args in wrong {
            let shown = format!("{args:?}");
            assert!(args.over(&TomlFile::default()).is_err(), "{shown}");
        }
        let off = DoorArgs { max_requests_per_key: Some("off".to_owned()), ..none() };
        assert_eq!(off.over(&TomlFile::default()).unwrap().door.limits.requests_per_key, None);
    }
}
