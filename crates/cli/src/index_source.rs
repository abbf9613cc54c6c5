//! Where `tidegate index` gets its database, its plan and its statements from.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tidegate::store::backend::postgres::{Connection, Dsn, Postgres, Session};
use tidegate_advisor::{Plan, Statement, from_database, from_server};

use crate::{
    http::{self, Request},
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

/// The statements of a server of ours, as it tells them on the address of its administration.
fn fetch(server: &str, token: Option<&str>, limit: usize) -> Result<String, Error> {
    let failed = |problem: String| Error::Server {
        server: server.to_owned(),
        problem,
    };
    let request = Request {
        method: "GET",
        path: &format!("/api/performance/database/statements?limit={limit}"),
        token,
        timeout: TIMEOUT,
    };
    let answer = http::ask(server, &request).map_err(|error| failed(error.to_string()))?;
    match answer.status {
        200 => Ok(answer.body),
        status => Err(failed(format!(
            "it answered {status} {}",
            answer.message().unwrap_or_default()
        ))),
    }
}
