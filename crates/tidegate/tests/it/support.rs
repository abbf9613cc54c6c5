//! The real database that these tests share, and servers that stand on it.

use std::sync::LazyLock;

use tidegate::{Settings, Tidegate};
use tidegate_cluster::Cluster;

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::temporary().unwrap());

/// The server of this test binary. It ends with the process.
pub(crate) fn cluster() -> &'static Cluster {
    &CLUSTER
}

/// Held while a profile is made: the processor of this process can be sampled by one at a time.
pub(crate) static PROFILING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A folder that goes away with the test.
pub(crate) struct Folder(pub(crate) std::path::PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = N.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Not the system's temporary folder, which may lie in memory where no spool may be.
        let base = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = base.join(format!("tidegate-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A database, and everything that a server on it keeps.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) folder: Folder,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            url: cluster().create_database("tidegate").unwrap(),
            folder: Folder::new(),
        }
    }

    /// On a SQLite file.
    pub(crate) fn sqlite() -> Self {
        let folder = Folder::new();
        Self {
            url: format!("sqlite:{}/tidegate.db", folder.0.display()),
            folder,
        }
    }

    /// The name of the database.
    pub(crate) fn database(&self) -> &str {
        self.url.rsplit('/').next().unwrap()
    }

    /// What the database says.
    pub(crate) fn psql(&self, sql: &str) -> String {
        cluster().psql(self.database(), sql).unwrap()
    }

    /// `declared` with the address of the database.
    pub(crate) fn settings(&self, declared: &str) -> Settings {
        self.settings_with(declared, "")
    }

    /// The same, and a line for the store's own block.
    pub(crate) fn settings_with(&self, declared: &str, line: &str) -> Settings {
        let store = format!(
            "[store]\n{line}\nurl = \"{}\"\ndata_dir = \"{}\"\npool = {{ min = 1, size = 4, overflow = 4, acquire_timeout = \"5s\" }}\n",
            self.url,
            self.folder.0.display()
        );
        Settings::parse_layers(&[declared, &store]).unwrap()
    }

    pub(crate) async fn start(&self, declared: &str) -> Tidegate {
        Tidegate::builder()
            .settings(self.settings(declared))
            .start()
            .await
            .unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)))
    }
}

/// Settings over settings: tables key by key, everything else whole.
pub(crate) fn layered(texts: &[&str]) -> String {
    let mut merged = toml::Table::new();
    for text in texts {
        overlay(&mut merged, &text.parse().unwrap());
    }
    merged.to_string()
}

fn overlay(lower: &mut toml::Table, upper: &toml::Table) {
    for (key, value) in upper {
        match (lower.get_mut(key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => overlay(below, above),
            _ => {
                lower.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Two feeds and three queries, open to everybody who is called visitor.
pub(crate) const DECLARED: &str = r#"
listen = "127.0.0.1:0"
[auth]
anonymous = true
anonymous_roles = ["visitor"]
[roles.visitor]
join = ["ticks:*", "chat"]
publish = ["ticks:*", "chat"]
presence = ["chat"]
query = ["latest", "all", "mine", "sums"]
ingest = ["ticks", "notes"]
[roles.service]
publish = ["*"]
[roles.operator]
admin = true
[rooms."ticks:*"]
last = 1
[rooms.chat]
presence = true
history_messages = 10

[feeds.ticks]
table = "ticks"
manage = true
columns = { id = "int8", symbol = "text", price = "numeric not null", ts = "timestamptz" }
key = ["id"]
on_conflict = "update"
room = "ticks:{symbol}"
event = "price_update"
conflate = "{symbol}"
row_bytes_max = "1KiB"
[feeds.ticks.rollups.symbol]
table = "ticks_by_symbol"
group = ["symbol"]
sum = ["price"]

[feeds.notes]
table = "notes"
manage = true
columns = { tenant = "text not null", body = "text" }

[queries.latest]
sql = "SELECT id, symbol, price, ts FROM ticks WHERE symbol = :symbol"
params = { symbol = "text" }
page = ["id desc"]
returns = { id = "int8", symbol = "text", price = "numeric", ts = "timestamptz" }
[queries.all]
sql = "SELECT id, symbol, price FROM ticks"
page = ["id"]
returns = { id = "int8", symbol = "text", price = "numeric" }
[queries.sums]
sql = "SELECT symbol, n_rows, price_sum FROM ticks_by_symbol ORDER BY symbol"
returns = { symbol = "text", n_rows = "int8", price_sum = "numeric" }
[queries.mine]
sql = "SELECT body FROM notes WHERE tenant = :tenant ORDER BY body"
returns = { body = "text" }
params = { tenant = { type = "text", from = "claim:tenant" } }
"#;
