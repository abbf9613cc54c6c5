//! Which web pages may open connections, and the CORS headers that tell their browsers so.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, HeaderName, HeaderValue, VARY,
};

/// Most entries of the list: each is compared on every handshake.
const ORIGINS_MAX: usize = 256;

/// How long a browser may remember a preflight answer, in seconds: Chromium's own ceiling.
const PREFLIGHT_AGE_S: HeaderValue = HeaderValue::from_static("7200");

/// Methods that polling uses.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, OPTIONS");

/// Request headers allowed to a page that names none.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type, x-api-key");

/// Longest list of request headers that is allowed as asked, in bytes.
const REQUEST_HEADERS_BYTES_MAX: usize = 1024;

/// The pages that may connect. Requests without `Origin` come from programs, not pages, and always may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origins {
    /// `*`: every page, `null` included.
    any: bool,
    /// `same-origin`: the page came from the host that the request names.
    same: bool,
    listed: Box<[Listed]>,
}

/// An entry of the list that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum OriginError {
    /// The entry has none of the allowed forms.
    #[error(
        "origin {entry:?}: allowed are \"*\", \"same-origin\", \"https://a.example[:port]\", \"https://*.example\""
    )]
    Form {
        /// The entry as written.
        entry: String,
    },
    /// The list is too long.
    #[error("{count} origins, allowed 0 to {max}")]
    TooMany {
        /// How many there are.
        count: usize,
        /// The limit.
        max: usize,
    },
}

/// One page address of the list, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    scheme: Box<str>,
    /// The host, or with `subdomains` what follows the star, dot included.
    host: Box<str>,
    port: Option<u16>,
    subdomains: bool,
}

/// An `Origin` header taken apart (RFC 6454, section 6.2).
#[derive(Clone, Copy)]
struct Page<'a> {
    scheme: &'a str,
    host: &'a str,
    /// The port given or implied by the scheme; `None` for schemes without one.
    port: Option<u16>,
}

/// Why a page is let in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The list or the host names it.
    Named,
    /// Everyone is.
    Any,
}

// === impl Origins ===

impl Origins {
    /// Reads a list of `*`, `same-origin`, exact origins and subdomain patterns. The empty list lets no page in.
    ///
    /// # Errors
    /// The first entry that has another form; paths, `null` and stars elsewhere are among them.
    pub(crate) fn parse<S: AsRef<str>>(list: &[S]) -> Result<Self, OriginError> {
        if list.len() > ORIGINS_MAX {
            return Err(OriginError::TooMany {
                count: list.len(),
                max: ORIGINS_MAX,
            });
        }
        let mut origins = Self {
            any: false,
            same: false,
            listed: Box::default(),
        };
        let mut listed = Vec::new();
        for entry in list.iter().map(AsRef::as_ref) {
            match entry {
                "*" => origins.any = true,
                "same-origin" => origins.same = true,
                _ => listed.push(Listed::parse(entry).ok_or_else(|| OriginError::Form {
                    entry: entry.to_owned(),
                })?),
            }
        }
        origins.listed = listed.into();
        Ok(origins)
    }

    /// Whether a request with these `Origin` and `Host` headers may pass.
    pub(crate) fn allows(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        origin.is_none_or(|origin| self.reason(origin, host).is_some())
    }

    /// Headers for the answer to a polling request with these `Origin` and `Host`.
    ///
    /// A page that is named may send cookies. One that only `*` lets in is answered `*` without credentials: else
    /// every page of the web could act with the cookies of whoever reads it. `Vary` is always there, for caches.
    pub(crate) fn cors_headers(
        &self,
        origin: Option<&str>,
        host: Option<&str>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::with_capacity(6);
        headers.push((VARY, HeaderValue::from_static("origin")));
        let Some((origin, reason)) = origin.and_then(|origin| Some((origin, self.reason(origin, host)?)))
        else {
            return headers;
        };
        match (reason, HeaderValue::from_str(origin)) {
            (Reason::Named, Ok(origin)) => {
                headers.push((ACCESS_CONTROL_ALLOW_ORIGIN, origin));
                headers.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
            }
            _ => headers.push((ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))),
        }
        headers
    }

    /// Headers for the answer to a preflight (`OPTIONS`) request, which asks for the request headers `requested`
    /// (`Access-Control-Request-Headers`): an allowed page may send any, as clients have `extraHeaders`.
    pub(crate) fn preflight_headers(
        &self,
        origin: Option<&str>,
        host: Option<&str>,
        requested: Option<&HeaderValue>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = self.cors_headers(origin, host);
        if headers.len() > 1 {
            let requested = requested.filter(|names| is_header_list(names.as_bytes()));
            headers.push((ACCESS_CONTROL_ALLOW_METHODS, METHODS));
            headers.push((
                ACCESS_CONTROL_ALLOW_HEADERS,
                requested.cloned().unwrap_or(REQUEST_HEADERS),
            ));
            headers.push((ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE_S));
        }
        headers
    }

    fn reason(&self, origin: &str, host: Option<&str>) -> Option<Reason> {
        let named = Page::parse(origin).is_some_and(|page| {
            (self.same && host.is_some_and(|host| page.is_from(host)))
                || self.listed.iter().any(|listed| listed.matches(page))
        });
        if named {
            return Some(Reason::Named);
        }
        self.any.then_some(Reason::Any)
    }
}

/// Whether `names` is a plain list of header names, short enough to be repeated.
fn is_header_list(names: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_, ".contains(byte);
    (1..=REQUEST_HEADERS_BYTES_MAX).contains(&names.len()) && names.iter().all(plain)
}

// === impl Listed ===

impl Listed {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.to_ascii_lowercase();
        let (scheme, rest) = entry.split_once("://")?;
        let subdomains = rest.starts_with("*.");
        let rest = if subdomains { &rest[1..] } else { rest };
        // With the star gone, what stays after the dot must be an ordinary host.
        let (dot, rest) = if subdomains { rest.split_at(1) } else { ("", rest) };
        let page = format!("{scheme}://{rest}");
        let page = Page::parse(&page).filter(|page| !(subdomains && page.host.starts_with('[')))?;
        Some(Self {
            scheme: page.scheme.into(),
            host: format!("{dot}{}", page.host).into(),
            port: page.port,
            subdomains,
        })
    }

    fn matches(&self, page: Page<'_>) -> bool {
        page.scheme.eq_ignore_ascii_case(&self.scheme)
            && page.port == self.port
            && self.matches_host(page.host)
    }

    fn matches_host(&self, host: &str) -> bool {
        if !self.subdomains {
            return host.eq_ignore_ascii_case(&self.host);
        }
        // Hosts are ASCII, so every byte is a place where they may be cut.
        host.len()
            .checked_sub(self.host.len())
            .is_some_and(|at| at > 0 && host[at..].eq_ignore_ascii_case(&self.host))
    }
}

// === impl Page ===

impl<'a> Page<'a> {
    /// Takes `scheme://host[:port]` apart; `None` for anything else, the opaque `null` included.
    fn parse(origin: &'a str) -> Option<Self> {
        let (scheme, authority) = origin.split_once("://")?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let (host, port) = split_authority(authority)?;
        let implied = default_port(scheme);
        is_scheme.then_some(Self {
            scheme,
            host,
            port: port.or(implied),
        })
    }

    /// Whether the page came from `authority`, the `Host` of the request.
    ///
    /// Only host and port are compared: behind a proxy that ends TLS the request's own scheme is not known here.
    fn is_from(self, authority: &str) -> bool {
        let Some(implied) = default_port(self.scheme) else {
            return false;
        };
        split_authority(authority).is_some_and(|(host, port)| {
            host.eq_ignore_ascii_case(self.host) && Some(port.unwrap_or(implied)) == self.port
        })
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    [("http", 80), ("https", 443)]
        .into_iter()
        .find_map(|(known, port)| scheme.eq_ignore_ascii_case(known).then_some(port))
}

/// Takes `host[:port]` apart, with IPv6 addresses in brackets (RFC 3986, section 3.2).
fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let host_end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(host_end);
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        _ => return None,
    };
    is_host(host).then_some((host, port))
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !host.is_empty() && !host.starts_with('.') && !host.contains("..") && host.bytes().all(plain)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &[&str], origin: Option<&str>, host: Option<&str>, expected: bool) {
        let origins = Origins::parse(list).unwrap();
        assert_eq!(
            origins.allows(origin, host),
            expected,
            "{list:?}: {origin:?} at {host:?}"
        );
    }

    #[test]
    fn programs_without_origin_pass() {
        for list in [&[][..], &["same-origin"], &["https://a.example"]] {
            check(list, None, Some("b.example"), true);
            check(list, None, None, true);
        }
    }

    #[test]
    fn same_origin_compares_host_and_port() {
        for (origin, host, expected) in [
            ("https://a.example", "a.example", true),
            ("https://A.example", "a.EXAMPLE", true),
            ("http://a.example", "a.example", true),
            ("https://a.example", "a.example:443", true),
            ("https://a.example:443", "a.example", true),
            ("http://a.example", "a.example:443", false),
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true),
            ("http://127.0.0.1:8080", "127.0.0.1", false),
            ("http://[::1]:8080", "[::1]:8080", true),
            ("https://b.example", "a.example", false),
            ("https://a.example.evil", "a.example", false),
            ("https://evil-a.example", "a.example", false),
            ("https://a.example@evil", "a.example", false),
            ("https://a.example/", "a.example", false),
            ("app://a.example", "a.example", false),
            ("null", "null", false),
            ("", "", false),
        ] {
            check(&["same-origin"], Some(origin), Some(host), expected);
        }
        check(&["same-origin"], Some("https://a.example"), None, false);
    }

    #[test]
    fn exact_origins_match_scheme_host_and_port() {
        let list = [
            "https://a.example",
            "http://b.example:8080",
            "capacitor://localhost",
            "http://[::1]",
        ];
        for (origin, expected) in [
            ("https://a.example", true),
            ("https://A.Example:443", true),
            ("http://a.example", false),
            ("https://a.example:8443", false),
            ("https://sub.a.example", false),
            ("http://b.example:8080", true),
            ("http://b.example", false),
            ("capacitor://localhost", true),
            ("http://[::1]:80", true),
            ("null", false),
        ] {
            check(&list, Some(origin), Some("server.example"), expected);
        }
    }

    #[test]
    fn a_star_stands_for_subdomains_only() {
        for (origin, expected) in [
            ("https://a.example.org", true),
            ("https://a.b.EXAMPLE.org", true),
            ("https://a.example.org:443", true),
            ("https://example.org", false),
            ("https://.example.org", false),
            ("https://a..example.org", false),
            ("https://evilexample.org", false),
            ("https://a.example.org.evil", false),
            ("https://a.example.org:8443", false),
            ("http://a.example.org", false),
        ] {
            check(&["https://*.example.org"], Some(origin), None, expected);
        }
    }

    #[test]
    fn a_lone_star_lets_everyone_in() {
        for origin in ["https://a.example", "null", "anything at all"] {
            check(&["*"], Some(origin), None, true);
        }
    }

    #[test]
    fn other_entries_are_refused() {
        for entry in [
            "",
            "a.example",
            "null",
            "https://",
            "https://*",
            "https://*.",
            "https://*.*.example",
            "https://a.*",
            "https://*.[::1]",
            "https://a.example/",
            "https://a.example:x",
            "https://a.example:99999",
            "https://a b",
            "://a",
            "1http://a",
            "https://*a.example",
            "SAME-ORIGIN",
        ] {
            assert_eq!(
                Origins::parse(&[entry]),
                Err(OriginError::Form {
                    entry: entry.to_owned()
                })
            );
        }
        let many = vec!["*"; 257];
        assert_eq!(
            Origins::parse(&many),
            Err(OriginError::TooMany { count: 257, max: 256 })
        );
    }

    fn shown(headers: &[(HeaderName, HeaderValue)]) -> Vec<String> {
        headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn named_pages_get_credentials_and_others_do_not() {
        let origins = Origins::parse(&["*", "https://a.example"]).unwrap();
        let headers = |origin| shown(&origins.cors_headers(origin, None));
        assert_eq!(
            headers(Some("https://a.example")),
            [
                "vary: origin",
                "access-control-allow-origin: https://a.example",
                "access-control-allow-credentials: true"
            ]
        );
        assert_eq!(
            headers(Some("https://b.example")),
            ["vary: origin", "access-control-allow-origin: *"]
        );
        assert_eq!(headers(None), ["vary: origin"]);
        let none = Origins::parse::<&str>(&[]).unwrap();
        assert_eq!(
            shown(&none.cors_headers(Some("https://a.example"), None)),
            ["vary: origin"]
        );
    }

    #[test]
    fn a_preflight_names_methods_and_headers() {
        let origins = Origins::parse(&["same-origin"]).unwrap();
        let check = |origin, requested: Option<&'static str>, expected: &[&str]| {
            let requested = requested.map(HeaderValue::from_static);
            let headers = origins.preflight_headers(Some(origin), Some("a.example"), requested.as_ref());
            assert_eq!(shown(&headers)[1..], *expected, "{origin} {requested:?}");
        };
        let answer = |allowed: &'static str| {
            [
                "access-control-allow-origin: https://a.example",
                "access-control-allow-credentials: true",
                "access-control-allow-methods: GET, POST, OPTIONS",
                allowed,
                "access-control-max-age: 7200",
            ]
        };
        let usual = answer("access-control-allow-headers: authorization, content-type, x-api-key");
        check("https://a.example", None, &usual);
        check(
            "https://a.example",
            Some("x-own, y"),
            &answer("access-control-allow-headers: x-own, y"),
        );
        check("https://a.example", Some("<odd>"), &usual);
        check("https://b.example", Some("x-own"), &[]);
    }
}
