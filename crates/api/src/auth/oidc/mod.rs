//! Logging in with a provider of OpenID Connect: the authorization code flow with PKCE, `state` and `nonce`.
//!
//! What has to be known when somebody comes back from the provider is in a signed cookie of the browser that left, so that
//! nobody can be logged in by a link of somebody else, and nothing has to be kept here.

mod fetch;
mod rules;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreAuthenticationFlow, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreProviderMetadata, CoreRevocableToken,
    CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AdditionalClaims, AuthorizationCode, Client, ClientId, ClientSecret, CsrfToken, EmptyExtraTokenFields,
    EndpointMaybeSet, EndpointNotSet, EndpointSet, IdTokenClaims, IdTokenFields, IssuerUrl, Nonce, PkceCodeChallenge,
    PkceCodeVerifier, RedirectUrl, Scope, StandardErrorResponse, StandardTokenResponse, TokenResponse as _,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use self::fetch::Fetcher;
pub use self::rules::Rules;
use self::rules::Told;
use super::cookie::Signer;
use super::person::{Login, Person, is_name};
use crate::door::BasePath;

/// Where somebody comes back to.
pub(crate) const CALLBACK: &str = "/api/session/oidc/callback";
/// The cookie of who has left for the provider.
pub(crate) const COOKIE: &str = "forebay_oidc";
/// For all that the provider wants to know of them.
const AWAY: u64 = 10 * 60;
/// How long what the provider says of itself is good.
const METADATA: Duration = Duration::from_secs(5 * 60);
/// Of a path to go on at.
const NEXT_BYTES: usize = 300;

/// A provider, and who of those whom it knows is let in.
#[derive(Clone)]
pub struct OidcSettings {
    /// Its address, as it writes it itself.
    pub issuer: String,
    /// Who we are there.
    pub client_id: String,
    /// How we prove it, where the provider wants to know.
    pub client_secret: Option<Zeroizing<String>>,
    /// Where people reach us, with the base path.
    pub public_url: String,
    /// What to ask for beside `openid`, `email` and `profile`.
    pub scopes: Vec<String>,
    /// The claim that holds groups.
    pub groups_claim: String,
    /// Who is let in.
    pub rules: Rules,
    /// Whom to trust beside the system's authorities, in PEM.
    pub ca: Option<PathBuf>,
}

impl std::fmt::Debug for OidcSettings {
    /// Leaves out the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OidcSettings").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// An address is none.
    #[error("{0}")]
    Address(String),
    /// The authorities cannot be read.
    #[error(transparent)]
    Authorities(#[from] std::io::Error),
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// They did not leave from here, or long ago.
    #[error("the log-in was not begun in this browser, or too long ago")]
    NotBegun,
    /// The provider did not let them in, or does not answer as it should.
    #[error("the provider: {0}")]
    Provider(String),
    /// No rule lets them in.
    #[error("{0} is let in by no rule of oidc-allow and oidc-admins")]
    NotAllowed(String),
}

impl Refusal {
    /// For the page, which has words for it.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::NotBegun => "not-begun",
            Self::Provider(_) => "provider",
            Self::NotAllowed(_) => "not-allowed",
        }
    }
}

/// All that a provider says beside what is standard.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Claims(serde_json::Map<String, serde_json::Value>);

impl AdditionalClaims for Claims {}

type TokenFields = IdTokenFields<
    Claims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

type Provider = Client<
    Claims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    StandardTokenResponse<TokenFields, CoreTokenType>,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// What the browser keeps for us while somebody is with the provider.
#[derive(Serialize, Deserialize)]
struct Begun {
    /// Says that it is this and no session.
    oidc: bool,
    state: String,
    nonce: String,
    verifier: String,
    next: String,
    expiry: u64,
}

/// A provider, and who of those whom it knows is let in.
pub struct Oidc {
    settings: OidcSettings,
    issuer: IssuerUrl,
    redirect: RedirectUrl,
    fetcher: Fetcher,
    /// What the provider says of itself, and since when we know.
    metadata: Mutex<Option<(CoreProviderMetadata, Instant)>>,
}

impl Oidc {
    /// Checks the settings; the provider is asked when somebody logs in.
    pub fn new(settings: OidcSettings) -> Result<Self, OidcError> {
        let address = |what: &str, text: &str, error: &dyn std::fmt::Display| {
            OidcError::Address(format!("{what} {text:?} is no address: {error}"))
        };
        let issuer = IssuerUrl::new(settings.issuer.clone());
        let issuer = issuer.map_err(|error| address("oidc-issuer", &settings.issuer, &error))?;
        let redirect = RedirectUrl::new(format!("{}{CALLBACK}", settings.public_url.trim_end_matches('/')));
        let redirect = redirect.map_err(|error| address("public-url", &settings.public_url, &error))?;
        let fetcher = Fetcher::new(settings.ca.as_deref())?;
        Ok(Self { settings, issuer, redirect, fetcher, metadata: Mutex::default() })
    }

    /// Where to send somebody, and the cookie that they take with them.
    pub(super) async fn begin(&self, signer: &Signer, next: &str, now: u64) -> Result<(String, String), Refusal> {
        let provider = self.provider().await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let flow = CoreAuthenticationFlow::AuthorizationCode;
        let mut url = provider.authorize_url(flow, CsrfToken::new_random, Nonce::new_random);
        for scope in ["email", "profile"].into_iter().chain(self.settings.scopes.iter().map(String::as_str)) {
            url = url.add_scope(Scope::new(scope.to_owned()));
        }
        let (url, state, nonce) = url.set_pkce_challenge(challenge).url();
        let begun = Begun {
            oidc: true,
            state: state.secret().clone(),
            nonce: nonce.secret().clone(),
            verifier: verifier.secret().clone(),
            next: proper_next(next).to_owned(),
            expiry: now + AWAY,
        };
        let bytes = serde_json::to_vec(&begun).map_err(|error| Refusal::Provider(error.to_string()))?;
        Ok((url.to_string(), signer.sign(bytes)))
    }

    /// Lets in whoever comes back with this; the answer says where they wanted to go, too.
    pub(super) async fn complete(
        &self,
        signer: &Signer,
        cookies: impl Iterator<Item = &str>,
        back: &Back,
        now: u64,
    ) -> Result<(Person, String), Refusal> {
        let state = back.state.as_deref().unwrap_or_default();
        let begun = cookies.filter_map(|cookie| serde_json::from_slice(&signer.verified(cookie)?).ok());
        let mut begun = begun.filter(|begun: &Begun| begun.oidc && now < begun.expiry && same(&begun.state, state));
        let begun = begun.next().ok_or(Refusal::NotBegun)?;
        let Some(code) = back.code.clone().filter(|_| back.error.is_none()) else {
            let error = back.error.as_deref().unwrap_or("it gave no code");
            return Err(Refusal::Provider(error.chars().take(200).collect()));
        };
        let claims = self.claims(code, begun.verifier, Nonce::new(begun.nonce)).await?;
        let person = self.person(&claims)?;
        Ok((person, begun.next))
    }

    async fn claims(
        &self,
        code: String,
        verifier: String,
        nonce: Nonce,
    ) -> Result<IdTokenClaims<Claims, CoreGenderClaim>, Refusal> {
        let failed = |error: &dyn std::error::Error| Refusal::Provider(chain(error));
        let provider = self.provider().await?;
        let request = provider.exchange_code(AuthorizationCode::new(code)).map_err(|error| failed(&error))?;
        let fetcher = self.fetcher.clone();
        let fetch = move |request| {
            let fetcher = fetcher.clone();
            async move { fetcher.fetch(request).await }
        };
        let request = request.set_pkce_verifier(PkceCodeVerifier::new(verifier));
        let answer = request.request_async(&fetch).await.map_err(|error| failed(&error))?;
        let token = answer.id_token().ok_or_else(|| Refusal::Provider("it gave no ID token".to_owned()))?;
        let claims = token.claims(&provider.id_token_verifier(), &nonce);
        claims.cloned().map_err(|error| {
            // Its keys may be others by now: the next one to log in learns of them.
            if let Ok(mut metadata) = self.metadata.try_lock() {
                *metadata = None;
            }
            failed(&error)
        })
    }

    fn person(&self, claims: &IdTokenClaims<Claims, CoreGenderClaim>) -> Result<Person, Refusal> {
        let email = claims.email().map(|email| email.as_str()).filter(|_| claims.email_verified() == Some(true));
        let groups = groups(claims.additional_claims().0.get(&self.settings.groups_claim));
        let nickname = claims.preferred_username().map(|name| name.as_str());
        let names = [email, nickname, Some(claims.subject().as_str())].into_iter().flatten();
        let name = names.map(str::trim).find(|name| is_name(name)).unwrap_or("unnamed").to_owned();
        match self.settings.rules.role(&Told { email, groups: &groups }) {
            Some(role) => Ok(Person { name, role, login: Login::Oidc }),
            None => Err(Refusal::NotAllowed(name)),
        }
    }

    /// Asked one at a time: whoever wants to log in makes us ask the provider, and anybody may want that.
    async fn provider(&self) -> Result<Provider, Refusal> {
        let mut known = self.metadata.lock().await;
        let still_good = known.as_ref().filter(|(_, since)| since.elapsed() < METADATA);
        let metadata = if let Some((metadata, _)) = still_good {
            metadata.clone()
        } else {
            let fetcher = self.fetcher.clone();
            let fetch = move |request| {
                let fetcher = fetcher.clone();
                async move { fetcher.fetch(request).await }
            };
            let asked = CoreProviderMetadata::discover_async(self.issuer.clone(), &fetch).await;
            let metadata = asked.map_err(|error| Refusal::Provider(chain(&error)))?;
            known.insert((metadata, Instant::now())).0.clone()
        };
        drop(known);
        let secret = self.settings.client_secret.as_ref().map(|secret| ClientSecret::new(secret.to_string()));
        let client = Client::from_provider_metadata(metadata, ClientId::new(self.settings.client_id.clone()), secret);
        Ok(client.set_redirect_uri(self.redirect.clone()))
    }
}

/// What somebody comes back with.
#[derive(Debug, Default)]
pub(crate) struct Back {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
}

impl Back {
    /// Providers add what they like; the rest is left alone.
    pub(crate) fn parse(query: &str) -> Self {
        let mut back = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "code" => &mut back.code,
                "state" => &mut back.state,
                "error" => &mut back.error,
                _ => continue,
            };
            place.get_or_insert_with(|| value.into_owned());
        }
        back
    }
}

/// The `Set-Cookie` header for who leaves for the provider, or comes back. They come back by a link of another site, with
/// which no strict cookie is sent.
pub(crate) fn set_cookie(value: Option<&str>, base: &BasePath, secure: bool) -> String {
    let age = if value.is_some() { AWAY } else { 0 };
    let (secure, value) = (if secure { "; Secure" } else { "" }, value.unwrap_or_default());
    format!("{COOKIE}={value}; Path={base}/api/session/oidc; HttpOnly; SameSite=Lax; Max-Age={age}{secure}")
}

/// A path of ours: what begins otherwise, or as a browser may understand it, leads elsewhere.
fn proper_next(next: &str) -> &str {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\\\"<>`{}|^".contains(&byte);
    let is_ours = next.starts_with('/') && !next.starts_with("//") && !next.starts_with("/api");
    if is_ours && next.len() <= NEXT_BYTES && next.bytes().all(is_plain) { next } else { "/" }
}

/// Takes the same time wherever the two differ.
fn same(one: &str, other: &str) -> bool {
    blake3::hash(one.as_bytes()) == blake3::hash(other.as_bytes())
}

fn groups(claim: Option<&serde_json::Value>) -> Vec<String> {
    match claim {
        Some(serde_json::Value::Array(all)) => all.iter().filter_map(|it| it.as_str()).map(str::to_owned).collect(),
        Some(serde_json::Value::String(one)) => vec![one.clone()],
        _ => Vec::new(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn who_has_logged_in_goes_on_within_this_site() {
        for ours in ["/", "/jobs?state=failed&name=a%20b", "/jobs/a/b"] {
            assert_eq!(proper_next(ours), ours);
        }
        let elsewhere = [
            "",
            "jobs",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/\r\nset-cookie:a=b",
            "/api/export",
        ];
        for elsewhere in elsewhere {
            assert_eq!(proper_next(elsewhere), "/", "{elsewhere:?}");
        }
        assert_eq!(proper_next(&format!("/{}", "a".repeat(NEXT_BYTES))), "/");
    }

    #[test]
    fn groups_are_a_list_or_a_text() {
        assert_eq!(groups(Some(&serde_json::json!(["a", 1, "b"]))), ["a", "b"]);
        assert_eq!(groups(Some(&serde_json::json!("a"))), ["a"]);
        assert_eq!(groups(Some(&serde_json::json!({}))), [""; 0]);
    }

    proptest! {
        #[test]
        fn whatever_comes_back_there_is_an_answer(query in "\\PC{0,200}", next in "\\PC{0,50}") {
            let _ = Back::parse(&query);
            let next = proper_next(&next);
            prop_assert!(next.starts_with('/') && next.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
}
