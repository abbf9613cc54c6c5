//! What a caller presented, as header values and the Socket.IO auth payload give it.

use std::fmt;

use crate::error::AuthError;

/// Everything a caller may prove itself with. Borrowed from the request, copied nowhere.
///
/// Empty texts count as absent: many clients send `token: ""` before they are logged in.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// `token` of the Socket.IO auth payload.
    pub auth_token: Option<&'a str>,
    /// The `Authorization` header; only its scheme `Bearer` is read, others are some proxy's business.
    pub authorization: Option<&'a str>,
    /// The whole `Cookie` header.
    pub cookie: Option<&'a str>,
    /// The `X-API-Key` header, or `apiKey` of the auth payload.
    pub api_key: Option<&'a str>,
    /// The `X-User-Id` header. Pass it only if the peer is a trusted proxy: it is believed.
    pub trusted_user: Option<&'a str>,
}

// === impl Credentials ===

impl<'a> Credentials<'a> {
    /// The token of the auth payload, else of the `Authorization` header.
    pub(crate) fn token(&self) -> Option<&'a str> {
        present(self.auth_token).or_else(|| self.authorization.and_then(bearer))
    }

    /// The value of the cookie `name`.
    pub(crate) fn cookie(&self, name: &str) -> Result<Option<&'a str>, AuthError> {
        match self.cookie {
            None => Ok(None),
            Some(header) => cookie(header, name),
        }
    }

    pub(crate) fn api_key(&self) -> Option<&'a str> {
        present(self.api_key)
    }

    pub(crate) fn trusted_user(&self) -> Option<&'a str> {
        present(self.trusted_user)
    }
}

/// Shows what was presented, never its value.
impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            ("auth_token", self.auth_token),
            ("authorization", self.authorization),
            ("cookie", self.cookie),
            ("api_key", self.api_key),
            ("trusted_user", self.trusted_user),
        ];
        f.write_str("Credentials")?;
        f.debug_set()
            .entries(
                named
                    .iter()
                    .filter(|(_, value)| value.is_some())
                    .map(|(name, _)| name),
            )
            .finish()
    }
}

fn present(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

/// The token of a `Bearer` header (RFC 6750, section 2.1; schemes are case-insensitive, RFC 9110 section 11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| present(Some(token)))?
}

/// The value of `name` in a `Cookie` header (RFC 6265, section 4.2).
///
/// Two different values are refused: a neighbouring host can add a cookie of its own, and which one comes first is
/// in its hands.
fn cookie<'a>(header: &'a str, name: &str) -> Result<Option<&'a str>, AuthError> {
    let mut found = None;
    for pair in header.split(';') {
        let Some((own, value)) = pair.split_once('=') else {
            continue;
        };
        let Some(value) = present(Some(value.trim().trim_matches('"'))).filter(|_| own.trim() == name) else {
            continue;
        };
        if found.is_some_and(|earlier| earlier != value) {
            return Err(AuthError::Malformed {
                what: "cookie: two different values",
            });
        }
        found = Some(value);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_is_the_only_scheme_read() {
        for (header, expected) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bearer  a.b.c ", Some("a.b.c")),
            ("BEARER x", Some("x")),
            ("Basic dTpw", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("", None),
        ] {
            assert_eq!(bearer(header), expected, "{header:?}");
        }
    }

    #[test]
    fn a_cookie_is_found_by_its_exact_name() {
        for (header, expected) in [
            ("token=a", Some("a")),
            ("x=1; token=a; y=2", Some("a")),
            ("x=1;token=\"a\"", Some("a")),
            ("token=a; token=a", Some("a")),
            ("token=a=b", Some("a=b")),
            ("xtoken=a; tokenx=b; Token=c", None),
            ("token=; token", None),
            ("", None),
        ] {
            assert_eq!(cookie(header, "token"), Ok(expected), "{header:?}");
        }
    }

    #[test]
    fn a_cookie_given_twice_with_two_values_is_refused() {
        assert!(cookie("token=a; token=b", "token").is_err());
    }

    #[test]
    fn debug_output_hides_the_values() {
        let credentials = Credentials {
            auth_token: Some("s3cret"),
            cookie: Some("s3cret"),
            ..Default::default()
        };
        assert_eq!(
            format!("{credentials:?}"),
            r#"Credentials{"auth_token", "cookie"}"#
        );
    }
}
