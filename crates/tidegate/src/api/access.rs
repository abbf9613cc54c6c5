//! Who is calling, and whether that is enough.

use std::{net::IpAddr, sync::Arc};

use axum::http::{HeaderMap, Version};
use tidegate_auth::{AuthError, Credentials, Identity};

use super::{
    Api,
    failure::Failure,
    route::{Access, Caller, header},
};

/// Headers by which a proxy shows itself.
const FORWARDING: [&str; 5] = [
    "x-forwarded-for",
    "x-forwarded-host",
    "x-real-ip",
    "forwarded",
    "via",
];

/// The identity of the caller, where the route needs one and allows this one.
///
/// # Errors
/// `unauthenticated`, `token_expired` or `forbidden`.
pub(crate) fn admit(
    api: &Api,
    access: Access,
    caller: Caller,
    (version, headers): (Version, &HeaderMap),
) -> Result<Option<Arc<Identity>>, Failure> {
    match access {
        Access::Open => Ok(None),
        Access::Known => identify(api, caller, headers).map(Some),
        Access::Admin => {
            if is_operator_at_home(caller, version, headers) {
                return Ok(None);
            }
            let identity = identify(api, caller, headers)?;
            if api.authenticator().permissions().is_admin(&identity) {
                return Ok(Some(identity));
            }
            Err(Failure::forbidden("administer", "server"))
        }
    }
}

fn identify(api: &Api, caller: Caller, headers: &HeaderMap) -> Result<Arc<Identity>, Failure> {
    let credentials = Credentials {
        auth_token: None,
        authorization: header(headers, "authorization"),
        cookie: header(headers, "cookie"),
        api_key: header(headers, "x-api-key"),
        trusted_user: header(headers, "x-user-id").filter(|_| caller.proxied),
    };
    let result: Result<Identity, AuthError> = api
        .authenticator()
        .authenticate(&credentials, api.clock().wall_ms());
    Ok(Arc::new(result?))
}

/// Whether the request comes from a program of this machine over a loopback listener.
///
/// A loopback address alone proves little: a proxy on this machine also calls from it, and a web page can make the
/// browser of this machine call. So whatever bears the mark of either needs the role.
fn is_operator_at_home(caller: Caller, version: Version, headers: &HeaderMap) -> bool {
    let forwarded = caller.proxied || FORWARDING.iter().any(|name| headers.contains_key(*name));
    // Proxies speak HTTP/1.0 to what is behind them unless told otherwise; nothing else does today.
    let old = version < Version::HTTP_11;
    let cross_site =
        header(headers, "sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
    let local_name = header(headers, "host").is_some_and(is_local_name);
    caller.loopback_listener
        && caller.address.is_loopback()
        && local_name
        && !forwarded
        && !old
        && !cross_site
}

/// Whether a Host header names this machine, so that a name rebound to 127.0.0.1 does not count.
fn is_local_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_programs_of_this_machine_are_at_home() {
        let check = |address: &str, headers: &[(&'static str, &'static str)], version, expected| {
            let caller = Caller {
                address: address.parse().unwrap(),
                proxied: false,
                loopback_listener: true,
            };
            let headers = headers
                .iter()
                .map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v)));
            let headers: HeaderMap = headers.collect();
            assert_eq!(
                is_operator_at_home(caller, version, &headers),
                expected,
                "{address} {headers:?}"
            );
        };
        let new = Version::HTTP_11;
        check("127.0.0.1", &[("host", "127.0.0.1:8080")], new, true);
        check("127.0.0.1", &[("host", "localhost")], new, true);
        check("::1", &[("host", "[::1]:8080")], new, true);
        check(
            "127.0.0.1",
            &[("host", "localhost"), ("sec-fetch-site", "same-origin")],
            new,
            true,
        );
        check("127.0.0.1", &[], new, false);
        check("127.0.0.1", &[("host", "evil.example")], new, false);
        check(
            "127.0.0.1",
            &[("host", "localhost"), ("x-forwarded-for", "1.2.3.4")],
            new,
            false,
        );
        check(
            "127.0.0.1",
            &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
            new,
            false,
        );
        check("127.0.0.1", &[("host", "localhost")], Version::HTTP_10, false);
        check("10.0.0.7", &[("host", "localhost")], new, false);
    }

    #[test]
    fn a_public_listener_has_no_home() {
        let caller = Caller {
            address: "127.0.0.1".parse().unwrap(),
            proxied: false,
            loopback_listener: false,
        };
        let headers =
            HeaderMap::from_iter([("host".parse().unwrap(), HeaderValue::from_static("localhost"))]);
        assert!(!is_operator_at_home(caller, Version::HTTP_11, &headers));
    }
}
