//! One request to a running server of ours, blocking, since nothing else is under way.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

/// More than the longest answer of a server: a list of statements, or a profile with its stacks.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// How long the server may take to accept us.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// The method.
    pub(crate) method: &'a str,
    /// Path and query.
    pub(crate) path: &'a str,
    /// The token, if there is one.
    pub(crate) token: Option<&'a str>,
    /// How long the answer may take to come.
    pub(crate) timeout: Duration,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: String,
}

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another scheme.
    #[error("only http:// is spoken; name its administration address")]
    Scheme,
    /// Something that does not belong into a header.
    #[error("the token has characters that no token has")]
    Token,
    /// Its name leads nowhere.
    #[error("its name has no address")]
    NoAddress,
    /// The system or the server refused.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Something else listens there.
    #[error("it does not speak HTTP")]
    NotHttp,
    /// The connection ended too early.
    #[error("its answer was cut off")]
    CutOff,
}

/// Asks `server`, which is `http://host:port`.
pub(crate) fn ask(server: &str, request: &Request<'_>) -> Result<Answer, Error> {
    let rest = server.strip_prefix("http://").ok_or(Error::Scheme)?;
    let authority = rest.split('/').next().unwrap_or_default();
    let address = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let resolved = address.to_socket_addrs()?.next().ok_or(Error::NoAddress)?;
    let head = head(authority, request)?;
    let mut stream = TcpStream::connect_timeout(&resolved, CONNECT_TIMEOUT)?;
    stream.set_read_timeout(Some(request.timeout))?;
    stream.set_write_timeout(Some(request.timeout))?;
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    parse(&answer)
}

fn head(authority: &str, request: &Request<'_>) -> Result<String, Error> {
    let token = request.token.unwrap_or_default();
    if token.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(Error::Token);
    }
    let token = match token {
        "" => String::new(),
        token => format!("Authorization: Bearer {token}\r\n"),
    };
    let length = if request.method == "GET" {
        ""
    } else {
        "Content-Length: 0\r\n"
    };
    let Request { method, path, .. } = request;
    // Not the older version, which has no chunks: who speaks it is taken for a proxy and needs the role.
    Ok(format!(
        "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n{length}{token}\r\n"
    ))
}

impl Answer {
    /// What an error of ours says; none if the answer is not in that shape.
    pub(crate) fn message(&self) -> Option<String> {
        let error: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        error["error"]["message"].as_str().map(str::to_owned)
    }
}

/// An answer that ended with its connection.
fn parse(answer: &[u8]) -> Result<Answer, Error> {
    const END: &[u8] = b"\r\n\r\n";
    let end = answer.windows(END.len()).position(|at| at == END);
    let (head, body) = answer.split_at(end.ok_or(Error::NotHttp)?);
    let (head, body) = (
        String::from_utf8_lossy(head).to_ascii_lowercase(),
        &body[END.len()..],
    );
    let mut lines = head.lines();
    let status = lines.next().filter(|line| line.starts_with("http/"));
    let status = status.and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or(Error::NotHttp)?;
    let header = |name: &str| {
        let mut found = head.lines().filter_map(|line| line.split_once(':'));
        found.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
    };
    let is_chunked = header("transfer-encoding").is_some_and(|value| value.contains("chunked"));
    let length: Option<usize> = header("content-length").and_then(|value| value.parse().ok());
    let body = match (is_chunked, length) {
        (true, _) => unchunked(body).ok_or(Error::CutOff)?,
        (false, Some(length)) if body.len() < length => return Err(Error::CutOff),
        (false, _) => body.to_vec(),
    };
    Ok(Answer {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// The bytes of all chunks; none if the last one did not come.
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|at| at == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?;
        // What stands behind a semicolon says nothing of the size.
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        let (chunk, behind) = rest[end + 2..].split_at_checked(size)?;
        whole.extend_from_slice(chunk);
        rest = behind.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let check = |answer: &str, expected: Result<(u16, &str), &str>| {
            let got = parse(answer.as_bytes());
            let got = got.as_ref().map(|answer| (answer.status, answer.body.as_str()));
            assert_eq!(
                got.map_err(ToString::to_string),
                expected.map_err(str::to_owned),
                "{answer}"
            );
        };
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(
            &format!("{chunked}2\r\n[1\r\n3;a=b\r\n,2]\r\n0\r\n\r\n"),
            Ok((200, "[1,2]")),
        );
        check(&format!("{chunked}5\r\n[1"), Err("its answer was cut off"));
        check(
            &format!("{chunked}ffffffffffffffff\r\n[1"),
            Err("its answer was cut off"),
        );
        check("HTTP/1.0 200 OK\r\nA: b\r\n\r\n[]", Ok((200, "[]")));
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[]",
            Err("its answer was cut off"),
        );
        check("SSH-2.0", Err("it does not speak HTTP"));
        check("220 mail.example\r\n\r\n", Err("it does not speak HTTP"));
    }

    #[test]
    fn the_message_of_an_error_of_ours_is_found() {
        let check = |body: &str, expected: Option<&str>| {
            let answer = Answer {
                status: 403,
                body: body.to_owned(),
            };
            assert_eq!(answer.message().as_deref(), expected, "{body}");
        };
        check(
            r#"{"ok":false,"error":{"message":"role admin is needed"}}"#,
            Some("role admin is needed"),
        );
        check("<html>", None);
        check("{}", None);
    }

    #[test]
    fn a_token_cannot_add_headers() {
        let request = |token| Request {
            method: "POST",
            path: "/",
            token,
            timeout: CONNECT_TIMEOUT,
        };
        let written = head("a:1", &request(Some("abc.def"))).expect("it is a token");
        assert!(
            written.contains("\r\nAuthorization: Bearer abc.def\r\n"),
            "{written}"
        );
        assert!(head("a:1", &request(Some("a\r\nb: c"))).is_err());
    }
}
