//! Reads the URL of a PostgreSQL database; every error names the part that is wrong.

use std::{fmt, path::PathBuf, time::Duration};

use crate::error::{Error, Result};

/// Where a database is and how to log in. Its `Debug` leaves the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn {
    /// Servers, tried in this order.
    pub hosts: Vec<Host>,
    /// Role; the operating system's user if absent.
    pub user: Option<String>,
    /// Password, if one is given.
    pub password: Option<String>,
    /// Database; named like the user if absent.
    pub database: Option<String>,
    /// How TLS is used.
    pub tls: TlsMode,
    /// Certificates that are trusted, in PEM; `system` means those of the machine.
    pub root_cert: Option<PathBuf>,
    /// Shown in the server's list of sessions.
    pub application_name: Option<String>,
    /// Given to the server as they are.
    pub options: Option<String>,
    /// Bound of one attempt to connect to one host.
    pub connect_timeout: Duration,
    /// Whether only a server that takes writes will do; `None`: only when several hosts are listed.
    pub needs_primary: Option<bool>,
    /// Whether a pooler such as pgbouncer stands between us and the server.
    pub pooler: Pooler,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A name, an address, or a folder with a Unix socket.
    pub place: Place,
    /// Port, which also names the socket in its folder.
    pub port: u16,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Name or address.
    Tcp(String),
    /// Folder of the socket.
    Unix(PathBuf),
}

/// How TLS is used; the same words as libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the server offers it; its certificate is not verified.
    Prefer,
    /// Always; the certificate is verified only when `sslrootcert` is given.
    Require,
    /// Always, with a certificate signed by a trusted one.
    VerifyCa,
    /// The same, and the certificate is for this host.
    VerifyFull,
}

/// Whether sessions are shared by a pooler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooler {
    /// Found out when connecting.
    Detect,
    /// Transactions of one client may run on different servers: nothing is kept in the session.
    Transaction,
    /// The session is ours.
    Session,
}

/// Used when the URL has no `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PORT: u16 = 5432;
const SOCKET_FOLDER: &str = "/var/run/postgresql";
const KEYS: &str = "host, port, user, password, dbname, sslmode, sslrootcert, application_name, options, \
                    connect_timeout, target_session_attrs, pooler";

// === impl Dsn ===

impl Dsn {
    /// Reads `postgres://user:password@host:port,host:port/database?key=value`. A host that begins with an encoded slash
    /// (`%2Ftmp`) or `?host=/tmp` is the folder of a Unix socket.
    ///
    /// # Errors
    /// [`Error::Config`] naming the part and what is allowed; never with the password.
    pub fn parse(url: &str) -> Result<Self> {
        let rest = ["postgres://", "postgresql://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme));
        let rest = rest.ok_or_else(|| {
            let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
            wrong(
                "scheme",
                format!("{scheme:?} is not one of postgres://, postgresql://, sqlite:"),
            )
        })?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let is_cut = !authority.contains('@') && rest.contains('@');
        if is_cut || query.contains('@') {
            // Said before anything is quoted: what stands after the slash may be half of the password.
            return Err(wrong(
                "login",
                "the characters / ? # @ in it must be percent-encoded",
            ));
        }
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (login, hosts),
            None => ("", authority),
        };
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (login, None),
        };
        let mut dsn = Self {
            hosts: Vec::new(),
            user: non_empty(decode("user", user)?),
            password: password
                .map(|password| decode("password", password))
                .transpose()?,
            database: non_empty(decode("database", database)?),
            tls: TlsMode::Prefer,
            root_cert: None,
            application_name: None,
            options: None,
            connect_timeout: CONNECT_TIMEOUT,
            needs_primary: None,
            pooler: Pooler::Detect,
        };
        let mut named = Named {
            hosts: hosts.to_owned(),
            ports: String::new(),
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| wrong(pair, "needs a value: key=value"))?;
            dsn.set(key, decode(key, value)?, &mut named)?;
        }
        dsn.hosts = named.read()?;
        dsn.check()?;
        Ok(dsn)
    }

    /// `host:port/database` as errors name it; several hosts with commas between.
    #[must_use]
    pub fn target(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        format!(
            "{}/{}",
            hosts.join(","),
            self.database
                .as_deref()
                .or(self.user.as_deref())
                .unwrap_or_default()
        )
    }

    /// Whether only a server that takes writes will do.
    #[must_use]
    pub fn needs_primary(&self) -> bool {
        self.needs_primary.unwrap_or(self.hosts.len() > 1)
    }

    fn set(&mut self, key: &str, value: String, named: &mut Named) -> Result<()> {
        match key {
            "host" => named.hosts = value,
            "port" => named.ports = value,
            "user" => self.user = non_empty(value),
            "password" => self.password = Some(value),
            "dbname" => self.database = non_empty(value),
            "sslmode" => self.tls = TlsMode::parse(&value)?,
            "sslrootcert" => self.root_cert = Some(value.into()),
            "application_name" => self.application_name = Some(value),
            "options" => self.options = Some(value),
            "connect_timeout" => {
                let seconds = value.parse().ok().filter(|seconds| (1..=600).contains(seconds));
                let seconds =
                    seconds.ok_or_else(|| wrong(key, format!("{value:?} is not 1 to 600 seconds")))?;
                self.connect_timeout = Duration::from_secs(seconds);
            }
            "target_session_attrs" => {
                self.needs_primary = Some(match &*value {
                    "any" => false,
                    "read-write" | "primary" => true,
                    _ => {
                        return Err(wrong(
                            key,
                            format!("{value:?} is not one of any, read-write, primary"),
                        ));
                    }
                });
            }
            "pooler" => {
                self.pooler = match &*value {
                    "detect" => Pooler::Detect,
                    "transaction" => Pooler::Transaction,
                    "session" => Pooler::Session,
                    _ => {
                        return Err(wrong(
                            key,
                            format!("{value:?} is not one of detect, transaction, session"),
                        ));
                    }
                };
            }
            _ => return Err(wrong(key, format!("unknown; known are {KEYS}"))),
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let verifies = matches!(self.tls, TlsMode::VerifyCa | TlsMode::VerifyFull);
        if verifies && self.root_cert.is_none() {
            let problem = "verify-ca and verify-full need sslrootcert=<file>, or sslrootcert=system";
            return Err(wrong("sslmode", problem));
        }
        for (key, value) in [
            ("user", &self.user),
            ("password", &self.password),
            ("database", &self.database),
        ] {
            if value.as_ref().is_some_and(|value| value.contains('\0')) {
                return Err(wrong(key, "contains NUL"));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dsn({}, user {:?}, {:?})", self.target(), self.user, self.tls)
    }
}

// === impl Host ===

impl Host {
    /// What certificates are checked against.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.place {
            Place::Tcp(name) => name,
            Place::Unix(_) => "localhost",
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Place::Tcp(name) => write!(f, "{name}:{}", self.port),
            Place::Unix(folder) => write!(f, "{}/.s.PGSQL.{}", folder.display(), self.port),
        }
    }
}

// === impl TlsMode ===

impl TlsMode {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "disable" => Self::Disable,
            "allow" | "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                let known = "disable, prefer, require, verify-ca, verify-full";
                return Err(wrong("sslmode", format!("{text:?} is not one of {known}")));
            }
        })
    }
}

// === Hosts ===

/// Hosts and ports as they stand in the URL, separated by commas.
struct Named {
    hosts: String,
    ports: String,
}

impl Named {
    fn read(&self) -> Result<Vec<Host>> {
        let ports: Vec<&str> = self.ports.split(',').filter(|port| !port.is_empty()).collect();
        let hosts = self.hosts.split(',').enumerate().map(|(at, text)| {
            let (name, own_port) = split_port(text)?;
            let shared = ports
                .get(at)
                .or(if ports.len() == 1 { ports.first() } else { None });
            let port = own_port
                .or(shared.copied())
                .map(read_port)
                .transpose()?
                .unwrap_or(PORT);
            let name = decode("host", name)?;
            let place = match &*name {
                "" => Place::Unix(SOCKET_FOLDER.into()),
                folder if folder.starts_with('/') => Place::Unix(folder.into()),
                _ => Place::Tcp(name),
            };
            Ok(Host { place, port })
        });
        hosts.collect()
    }
}

/// Name and port of `name:port`, `[::1]:port` or a name alone.
fn split_port(text: &str) -> Result<(&str, Option<&str>)> {
    if let Some(inner) = text.strip_prefix('[') {
        let (address, after) = inner
            .split_once(']')
            .ok_or_else(|| wrong("host", format!("{text:?} lacks a closing bracket")))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((address, Some(port))),
            None if after.is_empty() => Ok((address, None)),
            None => Err(wrong("host", format!("{text:?} has something after the bracket"))),
        };
    }
    if text.starts_with('/') {
        return Ok((text, None));
    }
    match text.rsplit_once(':') {
        Some((name, _)) if name.contains(':') => Err(wrong(
            "host",
            format!("{text:?}: an IPv6 address stands in brackets"),
        )),
        Some((name, port)) => Ok((name, Some(port))),
        None => Ok((text, None)),
    }
}

fn read_port(text: &str) -> Result<u16> {
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| wrong("port", format!("{text:?} is not a number from 1 to 65535")))
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Undoes percent encoding. The value stays out of the error: it may be the password.
fn decode(part: &str, text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let digits = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let value = digits.filter(|pair| pair.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let value = value.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(value.ok_or_else(|| wrong(part, "% needs two hexadecimal digits after it"))?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong(part, "is not UTF-8 after decoding"))
}

fn wrong(part: &str, problem: impl Into<String>) -> Error {
    Error::Config {
        what: format!("database URL, {part}"),
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: &str) {
        assert_eq!(format!("{:?}", Dsn::parse(url).unwrap()), expected, "{url}");
    }

    fn check_wrong(url: &str, expected: &str) {
        let message = Dsn::parse(url).unwrap_err().to_string();
        assert!(message.contains(expected), "{url}: {message}");
        assert!(!message.contains("secret"), "{message}");
    }

    #[test]
    fn urls_are_read() {
        check(
            "postgres://app:secret@db/market",
            "Dsn(db:5432/market, user Some(\"app\"), Prefer)",
        );
        check("postgresql://db:6432", "Dsn(db:6432/, user None, Prefer)");
        check(
            "postgres://a:p%40ss@h1,h2:6000/d?sslmode=require",
            "Dsn(h1:5432,h2:6000/d, user Some(\"a\"), Require)",
        );
        check("postgres://[::1]:99/d", "Dsn([::1]:99/d, user None, Prefer)");
        check(
            "postgres://tidegate@%2Ftmp%2Fx/db?port=7000",
            "Dsn(/tmp/x/.s.PGSQL.7000/db, user Some(\"tidegate\"), Prefer)",
        );
        check(
            "postgres:///db?host=/tmp",
            "Dsn(/tmp/.s.PGSQL.5432/db, user None, Prefer)",
        );
        check(
            "postgres://u@/d",
            "Dsn(/var/run/postgresql/.s.PGSQL.5432/d, user Some(\"u\"), Prefer)",
        );
        assert_eq!(
            Dsn::parse("postgres://a:p%40ss@h/d").unwrap().password.as_deref(),
            Some("p@ss")
        );
    }

    #[test]
    fn a_wrong_url_names_its_part() {
        check_wrong("mysql://a:secret@h/d", "scheme: \"mysql\"");
        check_wrong("secret", "scheme");
        check_wrong("postgres://a:secret@h:port/d", "port: \"port\"");
        check_wrong("postgres://a:secret@h:0/d", "port: \"0\"");
        check_wrong("postgres://a:secret/x@h/d", "percent-encoded");
        check_wrong("postgres://a:secret?x@h/d", "percent-encoded");
        check_wrong("postgres://a:secret%zz@h/d", "password: % needs");
        check_wrong("postgres://a:secret@::1/d", "IPv6");
        check_wrong("postgres://a:secret@[::1/d", "bracket");
        check_wrong("postgres://a:secret@h/d?sslmode=on", "sslmode: \"on\"");
        check_wrong("postgres://a:secret@h/d?sslmode=verify-full", "sslrootcert");
        check_wrong("postgres://a:secret@h/d?ssl=on", "ssl: unknown; known are host");
        check_wrong("postgres://a:secret@h/d?sslmode", "needs a value");
        check_wrong("postgres://a:secret@h/d?connect_timeout=0", "1 to 600 seconds");
        check_wrong("postgres://a:secret@h/d%00", "database: contains NUL");
    }
}
