//! Whose `X-Forwarded-*` is believed: anybody can send such headers.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use warp::http::{HeaderMap, HeaderName};

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
pub(crate) const FORWARDED_HOST: &str = "x-forwarded-host";
/// What may say where a request comes from. Of those that are not read none is left either, so that nobody comes to
/// believe them by mistake.
const FORWARDING: [&str; 7] = [
    FORWARDED_FOR,
    FORWARDED_PROTO,
    FORWARDED_HOST,
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-real-ip",
    "forwarded",
];

/// The networks of the proxies that are trusted.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Vec<IpNet>);

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address and no network such as 10.0.0.0/8 or fd00::/8")]
pub struct ProxyError(String);

/// By which way a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Who asks, as far as can be told.
    pub(crate) client: IpAddr,
    /// Whether it came over TLS, to us or to the proxy.
    pub(crate) secure: bool,
}

impl Proxies {
    /// Addresses and networks, of which each may be a list of its own, separated by commas or blanks.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, ProxyError> {
        let names = texts.iter().flat_map(|text| text.as_ref().split([',', ' '])).filter(|name| !name.is_empty());
        let network = |name: &str| {
            let network = name.parse::<IpNet>().or_else(|_| name.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| ProxyError(name.to_owned()))
        };
        names.map(network).collect::<Result<_, _>>().map(Self)
    }

    /// Whether no proxy is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// By which way a request came. Headers that say so and do not come from a trusted proxy are gone afterwards, that of
    /// a user among them: what is left is to be believed.
    pub(crate) fn way(
        &self,
        headers: &mut HeaderMap,
        peer: SocketAddr,
        tls: bool,
        user_header: Option<&HeaderName>,
    ) -> Way {
        let peer = peer.ip().to_canonical();
        if !self.trust(peer) {
            for name in FORWARDING {
                headers.remove(name);
            }
            if let Some(name) = user_header {
                headers.remove(name);
            }
            return Way { client: peer, secure: tls };
        }
        // With several proxies in a row the first name is that of the one that the client spoke to.
        let scheme = headers.get(FORWARDED_PROTO).and_then(|value| value.to_str().ok());
        let scheme = scheme.and_then(|schemes| schemes.split(',').next()).unwrap_or_default().trim();
        Way { client: self.client(headers, peer), secure: tls || scheme.eq_ignore_ascii_case("https") }
    }

    /// Each proxy adds at the end whom it heard it from: the last that is no trusted proxy is the client. What stands
    /// before it may be anything.
    fn client(&self, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
        let values = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
        let mut client = peer;
        for hop in hops.iter().rev() {
            let Some(address) = address(hop) else { break };
            client = address;
            if !self.trust(address) {
                break;
            }
        }
        client
    }
}

/// With a port or without.
fn address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse::<IpAddr>().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USER: HeaderName = HeaderName::from_static("x-remote-user");

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn way(peer: &str, given: &[(&'static str, &str)]) -> (String, bool, usize) {
        let proxies = Proxies::parse(&["10.0.0.0/8, 127.0.0.1", "fd00::/8"]).unwrap();
        let mut headers = headers(given);
        let way = proxies.way(&mut headers, SocketAddr::new(peer.parse().unwrap(), 1), false, Some(&USER));
        (way.client.to_string(), way.secure, headers.len())
    }

    #[test]
    fn who_is_no_trusted_proxy_says_nothing_about_others() {
        let all = [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("x-remote-user", "root"),
            ("x-real-ip", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1"),
            ("accept", "*/*"),
        ];
        assert_eq!(way("203.0.113.9", &all), ("203.0.113.9".to_owned(), false, 1));
        assert_eq!(
            way("::ffff:10.1.2.3", &all),
            ("192.0.2.1".to_owned(), true, 7),
            "a proxy on a socket of both kinds"
        );
        assert_eq!(way("fd12::1", &all), ("192.0.2.1".to_owned(), true, 7));
    }

    #[test]
    fn the_client_is_the_last_that_is_no_proxy_and_what_it_says_itself_counts_for_nothing() {
        let client = |hops: &[&str]| {
            let given: Vec<_> = hops.iter().map(|hops| ("x-forwarded-for", *hops)).collect();
            way("127.0.0.1", &given).0
        };
        assert_eq!(client(&[]), "127.0.0.1");
        assert_eq!(client(&["192.0.2.1"]), "192.0.2.1");
        assert_eq!(client(&["127.0.0.1, 192.0.2.1"]), "192.0.2.1", "the first was made up");
        assert_eq!(client(&["192.0.2.9, 192.0.2.1, 10.0.0.1"]), "192.0.2.1");
        assert_eq!(client(&["192.0.2.9", "192.0.2.1,10.0.0.1"]), "192.0.2.1");
        assert_eq!(client(&["10.0.0.2, 10.0.0.1"]), "10.0.0.2");
        assert_eq!(client(&["192.0.2.1:4711"]), "192.0.2.1");
        assert_eq!(client(&["[2001:db8::1]:80"]), "2001:db8::1");
        assert_eq!(client(&["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(client(&["192.0.2.1, unknown, 10.0.0.1"]), "10.0.0.1");
        assert_eq!(client(&["::ffff:192.0.2.1"]), "192.0.2.1");
    }

    #[test]
    fn networks_are_addresses_or_have_a_length() {
        assert!(Proxies::parse(&["10.0.0.0/8 ::1", ""]).unwrap().trust("::1".parse().unwrap()));
        assert!(Proxies::parse::<&str>(&[]).unwrap().is_empty());
        for wrong in ["proxy.example", "10.0.0.0/33", "10.0.0/8", "*"] {
            assert_eq!(Proxies::parse(&[wrong]).unwrap_err(), ProxyError(wrong.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_forwarded_there_is_an_answer(values in prop::collection::vec("[ -~]{0,60}", 0..4)) {
            let proxies = Proxies::parse(&["0.0.0.0/0"]).unwrap();
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
                headers.append(FORWARDED_PROTO, value.parse().unwrap());
            }
            let way = proxies.way(&mut headers, SocketAddr::from(([127, 0, 0, 1], 1)), false, None);
            prop_assert!(!way.client.to_string().is_empty());
        }
    }
}
