//! Where `tidegate index` gets its database, its plan and its statements from.

use std::{
    env, fs,
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use tidegate::store::backend::postgres::{Connection, Dsn, Postgres, Session};
use tidegate_advisor::{Plan, Statement, from_database, from_server};

use crate::{
    index::Error,
    index_args::{AdviseArgs, IndexArgs},
    words::Lang,
};

/// The word that stands for the plan that is built in.
const ORDERS: &str = "orders";
/// The file that is read when none is named.
const USUAL_FILE: &str = "tidegate.toml";
/// How long the other server may take for one step.
const TIMEOUT: Duration = Duration::from_secs(10);
/// More than the longest list of statements a server keeps.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Opens a session with the database that was asked for.
pub(crate) async fn connect(lang: Lang, args: &IndexArgs) -> Result<Connection, Error> {
    open(lang, &url(lang, args)?).await
}

/// Opens a session with the database behind `url`.
pub(crate) async fn open(lang: Lang, url: &str) -> Result<Connection, Error> {
    if url.starts_with("sqlite:") {
        return Err(Error::usage(lang, crate::index_words::NOT_POSTGRES));
    }
    let session = Session {
        statement_timeout: None,
        application_name: "tidegate index".to_owned(),
        is_read_only: false,
    };
    let server = Postgres::new(Dsn::parse(url)?, session)?;
    Ok(server.open().await?)
}

/// A session that stays the same from one transaction to the next.
pub(crate) async fn connect_alone(lang: Lang, args: &IndexArgs) -> Result<Connection, Error> {
    let connection = connect(lang, args).await?;
    if connection.info().through_pooler {
        let target = &connection.info().host;
        return Err(Error::Said(crate::index_words::tell(
            lang,
            crate::index_words::POOLER,
            &[("target", target)],
        )));
    }
    Ok(connection)
}

fn url(lang: Lang, args: &IndexArgs) -> Result<String, Error> {
    if let Some(url) = &args.url {
        return Ok(url.clone());
    }
    let usual = PathBuf::from(USUAL_FILE);
    let file = args.config.clone().or_else(|| usual.is_file().then_some(usual));
    let configured = match file {
        Some(file) => configured(&file)?,
        None => None,
    };
    let url = configured.or_else(|| env::var("DATABASE_URL").ok().filter(|url| !url.is_empty()));
    url.ok_or_else(|| Error::usage(lang, crate::index_words::NO_URL))
}

/// Only the database's place is read: the rest of a configuration need not be right to look at indexes.
fn configured(file: &Path) -> Result<Option<String>, Error> {
    let text = read(file)?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| Error::Config {
        file: file.display().to_string(),
        problem: error.message().to_owned(),
    })?;
    let Some(store) = table.get("store") else {
        return Ok(None);
    };
    let text = |key: &str| store.get(key).and_then(toml::Value::as_str);
    match text("url_env") {
        Some(name) => env::var(name).map(Some).map_err(|_| Error::Config {
            file: file.display().to_string(),
            problem: format!("store.url_env names the environment variable {name}, which is not set"),
        }),
        None => Ok(text("url").map(str::to_owned)),
    }
}

/// The plan of a file, or the one that is built in.
pub(crate) fn plan(file: &Path) -> Result<Plan, Error> {
    if file == Path::new(ORDERS) {
        return Ok(Plan::orders());
    }
    Plan::parse(&read(file)?).map_err(|source| Error::Plan {
        file: file.display().to_string(),
        source,
    })
}

fn read(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(|source| Error::File {
        doing: "cannot read",
        file: file.display().to_string(),
        source,
    })
}

/// The statements that a server or the database has seen.
pub(crate) async fn statements(args: &AdviseArgs, connection: &Connection) -> Result<Vec<Statement>, Error> {
    match &args.server {
        Some(server) => {
            let token = env::var(&args.token_env).ok().filter(|token| !token.is_empty());
            let answer = fetch(server, token.as_deref(), usize::from(args.statements))?;
            Ok(from_server(&answer)?)
        }
        None => Ok(from_database(connection.client(), i64::from(args.statements)).await?),
    }
}

// === HTTP ===

/// One request to a server of ours, on the address of its administration; blocking, since nothing else is under way.
fn fetch(server: &str, token: Option<&str>, limit: usize) -> Result<String, Error> {
    let failed = |problem: String| Error::Server {
        server: server.to_owned(),
        problem,
    };
    let rest = server.strip_prefix("http://");
    let rest =
        rest.ok_or_else(|| failed("only http:// is spoken; name its administration address".to_owned()))?;
    let authority = rest.split('/').next().unwrap_or_default();
    let address = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let socket = |error: std::io::Error| failed(error.to_string());
    let resolved = address.to_socket_addrs().map_err(socket)?.next();
    let resolved = resolved.ok_or_else(|| failed("its name has no address".to_owned()))?;
    let mut stream = TcpStream::connect_timeout(&resolved, TIMEOUT).map_err(socket)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(socket)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(socket)?;
    let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    // Not the older version, which has no chunks: who speaks it is taken for a proxy and needs the role.
    let request = format!(
        "GET /api/performance/database/statements?limit={limit} HTTP/1.1\r\nHost: {authority}\r\n\
         Connection: close\r\n{token}\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(socket)?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .map_err(socket)?;
    body(&answer).map_err(failed)
}

/// The body of an answer that ended with its connection.
fn body(answer: &[u8]) -> Result<String, String> {
    const END: &[u8] = b"\r\n\r\n";
    let end = answer.windows(END.len()).position(|at| at == END);
    let (head, body) = answer.split_at(end.ok_or("it does not speak HTTP")?);
    let (head, body) = (
        String::from_utf8_lossy(head).to_ascii_lowercase(),
        &body[END.len()..],
    );
    let is_chunked = head
        .lines()
        .any(|line| line.starts_with("transfer-encoding:") && line.contains("chunked"));
    let body = match is_chunked {
        true => unchunked(body).ok_or("its answer was cut off")?,
        false => body.to_vec(),
    };
    let body = String::from_utf8_lossy(&body).into_owned();
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status == "200" {
        return Ok(body);
    }
    let error: Option<serde_json::Value> = serde_json::from_str(&body).ok();
    let message = error
        .as_ref()
        .and_then(|error| error["error"]["message"].as_str());
    Err(format!("it answered {status} {}", message.unwrap_or_default()))
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
        let check = |answer: &str, expected: Result<&str, &str>| {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(body(answer.as_bytes()), expected);
        };
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(
            &format!("{chunked}2\r\n[1\r\n3;a=b\r\n,2]\r\n0\r\n\r\n"),
            Ok("[1,2]"),
        );
        check(&format!("{chunked}5\r\n[1"), Err("its answer was cut off"));
        check(
            &format!("{chunked}ffffffffffffffff\r\n[1"),
            Err("its answer was cut off"),
        );
        check("HTTP/1.0 200 OK\r\nA: b\r\n\r\n[]", Ok("[]"));
        check(
            "HTTP/1.1 403 Forbidden\r\n\r\n{\"ok\":false,\"error\":{\"message\":\"role admin is needed\"}}",
            Err("it answered 403 role admin is needed"),
        );
        check("SSH-2.0", Err("it does not speak HTTP"));
    }
}
