//! Settings: what is accepted, what is refused and in which words, and that table, sample and guide agree.

use std::{io, path::Path};

use tidegate::settings::{GROUPS, Initial, Outside, Preset, Settings, TABLE, markdown, sample};

fn refused(text: &str, expected: &str) {
    let error = Settings::parse(text).map(|_| ()).unwrap_err();
    assert!(
        error.to_string().contains(expected),
        "{text:?} said {error}, expected {expected}"
    );
}

#[test]
fn bad_values_are_named_with_key_value_and_range() {
    refused("shards = 1000", "shards is 1000, allowed is 0 to 64");
    refused("shards = -1", "shards is -1, allowed is 0 to 64");
    refused("shards = \"two\"", "shards is \"two\", allowed is 0 to 64");
    refused(
        "preset = \"huge\"",
        "preset is \"huge\", allowed is \"small\" or \"medium\" or \"large\"",
    );
    refused(
        "listen = \"localhost\"",
        "listen is \"localhost\", allowed is an IP address and a port",
    );
    refused(
        "[transport]\nping_interval = \"1ms\"",
        "transport.ping_interval is \"1ms\", allowed is \"50ms\" to \"1h\"",
    );
    refused(
        "[transport]\nping_interval = 25",
        "transport.ping_interval is 25, allowed is",
    );
    refused(
        "[outbox]\nsoft_bytes = \"1 potato\"",
        "outbox.soft_bytes is \"1 potato\", allowed is \"1KiB\" to \"1GiB\"",
    );
    refused("[deflate]\nlevel = 10", "deflate.level is 10, allowed is 1 to 9");
    refused(
        "[deflate]\nenabled = 1",
        "deflate.enabled is 1, allowed is true or false",
    );
    refused(
        "[rooms.\"ticks:*\"]\nlast = -1",
        "rooms.\"ticks:*\".last is -1, allowed is 0 to 10000",
    );
    refused("[rooms.\"u:{user}\"]\nlast = 1", "a pattern without {…}");
    refused(
        "[roles.trader]\njoin = \"ticks\"",
        "roles.trader.join is \"ticks\", allowed is a list",
    );
    refused(
        "[builtins]\nevents = [\"fly\"]",
        "builtins.events is [\"fly\"], allowed is a list of \"join\"",
    );
    refused("limits = 3", "limits is 3, allowed is a table of settings");
    refused(
        "[memory]\ncritical = 0",
        "memory.critical is 0, allowed is 10 to 100",
    );
    refused("listen = ", "not valid TOML");
}

#[test]
fn unknown_keys_suggest_the_nearest() {
    refused(
        "lisen = \"127.0.0.1:1\"",
        "unknown setting lisen, did you mean listen?",
    );
    refused(
        "[limits]\nconections = 1",
        "unknown setting limits.conections, did you mean limits.connections?",
    );
    refused(
        "soft_bytes = 1",
        "unknown setting soft_bytes, did you mean outbox.soft_bytes?",
    );
    refused(
        "[rooms.\"a.b\"]\nlats = 1",
        "unknown setting rooms.\"a.b\".lats, did you mean rooms.*.last?",
    );
    refused(
        "[[auth.api_keys]]\nnames = \"a\"",
        "unknown setting auth.api_keys[0].names, did you mean auth.api_keys.*.name?",
    );
    refused("[auth.jwt]\nsecret = \"x\"", "unknown setting auth.jwt.secret");
    refused("[zzzzzzzz]\na = 1", "unknown setting zzzzzzzz");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    refused(
        "[outbox]\nsoft_bytes = \"2MiB\"",
        "outbox.hard_bytes is \"1MiB\", allowed is at least outbox.soft_bytes",
    );
    refused(
        "[sessions]\nidle_after = \"10m\"",
        "sessions.stale_after is \"5m\", allowed is at least",
    );
    refused(
        "[transport]\nwebsocket = false\npolling = false",
        "one of them must be on",
    );
    refused("[auth.jwt]\nalgorithm = \"HS256\"", "exactly one of secret_env");
    refused(
        "[auth.jwt]\nalgorithm = \"RS256\"\nsecret_env = \"A\"",
        "HS256 beside secret_env",
    );
    refused(
        "[[auth.api_keys]]\nname = \"a\"\nuser = \"b\"",
        "exactly one of key_env and sha256",
    );
    refused(
        "[[auth.api_keys]]\nname = \"a\"\nkey_env = \"K\"",
        "auth.api_keys[0].user is missing",
    );
    refused("[tls]\ncert = \"a.pem\"", "tls.key is missing");
    refused("path = \"/api/x/\"", "a path outside /api/");
    refused("path = \"socket.io\"", "starts with / and ends with /");
}

#[test]
fn an_application_that_cannot_be_asked_is_refused() {
    let with = |line: &str| format!("[app]\nurl = \"http://a:1/x\"\nsecret_env = \"S\"\n{line}");
    refused("[app]\nurl = \"http://a:1/x\"", "app.secret_env is missing");
    refused(
        "[app]\nurl = \"ftp://a\"\nsecret_env = \"S\"",
        "app.url is \"ftp://a\", allowed is \"http://host",
    );
    refused("[app]\nurl = \"/x\"\nsecret_env = \"S\"", "app.url is \"/x\"");
    refused(
        &with("namespaces = [\"admin\"]"),
        "app.namespaces is \"admin\", allowed is a name that begins with /",
    );
    refused(&with("namespaces = [\"/\", \"/\"]"), "app.namespaces is \"/\"");
    refused(
        &with("namespaces = []"),
        "app.namespaces is [], allowed is at least one name",
    );
    refused(
        &with("events = [\"u:{user}\"]"),
        "app.events is \"u:{user}\", allowed is a pattern without {…}",
    );
    refused(&with("builtin = [\"fly\"]"), "app.builtin is [\"fly\"]");
    refused(
        &with("data_bytes_max = \"16MiB\"\nspool = { bytes_max = \"1MiB\" }"),
        "app.spool.bytes_max is \"1MiB\", allowed is at least",
    );
    let settings = Settings::parse(&with("")).unwrap();
    let secret = |value: &'static str| Outside {
        env: Box::leak(Box::new(move |_: &str| Some(value.to_owned()))),
        ..Outside::none()
    };
    let error = settings.app(&Outside::none()).map(|_| ()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("app.secret_env names the environment variable S"),
        "{error}"
    );
    let error = settings.app(&secret("too short")).map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "app.secret_env is a secret of 9 bytes, allowed is at least 32 bytes"
    );
    let app = settings
        .app(&secret("a secret of more than thirty-two bytes"))
        .unwrap()
        .unwrap();
    assert!(!format!("{app:?}").contains("thirty-two"));
    assert!(Settings::default().app(&Outside::none()).unwrap().is_none());
}

const FEED: &str = "[feeds.ticks]\ntable = \"ticks\"\ncolumns = { id = \"int8\", symbol = \"text\" }\n";

#[test]
fn declarations_that_cannot_work_are_named() {
    refused("[feeds.ticks]\ntable = \"t\"", "feeds.ticks.columns is missing");
    refused(
        "[feeds.\"A b\"]\ntable = \"t\"\ncolumns = { a = \"int8\" }",
        "a name is 1 to 64 of",
    );
    refused(
        &FEED.replace("int8", "money"),
        "feeds.ticks.columns.id: type \"money\": known are bool",
    );
    refused(
        &FEED.replace("\"int8\"", "8"),
        "feeds.ticks.columns.id is 8, allowed is a type",
    );
    let with = |line: &str| format!("{FEED}{line}");
    refused(&with("key = [\"no\"]"), "feeds.ticks: ");
    refused(
        &with("room = \"{no}\""),
        "feeds.ticks.room: \"no\" is no column of the feed",
    );
    refused(&with("room = \"{\""), "feeds.ticks.room: template");
    refused(
        &with("on_conflict = \"panic\""),
        "feeds.ticks.on_conflict is \"panic\"",
    );
    refused(
        &with("colums = {}"),
        "unknown setting feeds.ticks.colums, did you mean feeds.*.columns?",
    );
    refused(
        &with("partition = { column = \"id\" }"),
        "feeds.ticks.partition.every is missing",
    );
    refused(
        &with("partition = { colum = \"id\" }"),
        "unknown setting feeds.ticks.partition.colum, did you mean feeds.ticks.partition.column?",
    );
    refused(
        &with("[feeds.ticks.rollups.all]\ngroup = [\"symbol\"]"),
        "feeds.ticks.rollups.all.table is missing",
    );
}

#[test]
fn queries_that_cannot_work_are_named() {
    refused("[queries.q]\nrows_max = 5", "queries.q.sql is missing");
    let query = |line: &str| format!("[queries.q]\nsql = \"SELECT a FROM t WHERE b = :b\"\n{line}");
    refused(
        &query("params = { b = \"texts\" }"),
        "queries.q.params.b: type \"texts\"",
    );
    refused(
        &query("params = { b = { from = \"claim:b\" } }"),
        "queries.q.params.b.type is missing",
    );
    refused(
        &query("params = { b = { type = \"text\", from = \"b\" } }"),
        "queries.q.params.b.from is \"b\", allowed is \"claim:\"",
    );
    refused(&query("page = [\"a sideways\"]"), "queries.q.page: ");
    refused(
        &query("rows_max = 0"),
        "queries.q.rows_max is 0, allowed is 1 to 100000",
    );
    refused(
        "[queries.q]\nsql = { oracle = \"\" }",
        "unknown setting queries.q.sql.oracle",
    );
    refused(
        "[store.pool]\nmin = 30",
        "store.pool.min is 30, allowed is at most store.pool.size, which is 20",
    );
    refused(
        "[store]\nslow = \"10s\"",
        "store.critical is \"5s\", allowed is at least store.slow",
    );
}

#[test]
fn the_database_comes_from_the_settings_and_from_outside() {
    let declared = |store: &str| Settings::parse(&format!("{store}\n{FEED}")).unwrap();
    assert!(
        Settings::parse("")
            .unwrap()
            .store(&Outside::none())
            .unwrap()
            .is_none()
    );
    let store = declared("").in_folder(Path::new("/etc/tidegate"));
    let store = store.store(&Outside::none()).unwrap().unwrap();
    assert_eq!(store.url, "sqlite:/etc/tidegate/data/tidegate.db");
    assert_eq!(store.spool.unwrap().dir, Path::new("/etc/tidegate/data/spool"));
    let named = declared(
        "[store]\nurl_env = \"U\"\ncursor_secret_env = \"S\"\npool = { size = 7, leak_after = \"0s\" }",
    );
    let error = named.store(&Outside::none()).unwrap_err().to_string();
    assert_eq!(
        error,
        "store.url_env names the environment variable U, which is not set"
    );
    let env = |name: &str| Some(name.repeat(40));
    let outside = Outside {
        env: &env,
        ..Outside::none()
    };
    let store = named.store(&outside).unwrap().unwrap();
    assert_eq!(
        (store.url.len(), store.pool.size, store.pool.leak_after),
        (40, 7, None)
    );
    let short = |name: &str| Some(name.to_owned());
    let outside = Outside {
        env: &short,
        ..Outside::none()
    };
    let error = named.store(&outside).unwrap_err().to_string();
    assert!(
        error.contains("a secret of 1 bytes, allowed is at least 32 bytes"),
        "{error}"
    );
}

#[test]
fn presets_decide_only_what_nobody_wrote() {
    let check = |text: &str, connections, messages, delay_ms, critical| {
        let settings = Settings::parse(text).unwrap();
        let config = settings.gateway();
        assert_eq!(config.limits.connections, connections, "{text}");
        assert_eq!(config.batch.messages_max, messages, "{text}");
        assert_eq!(config.batch.delay.as_millis(), delay_ms, "{text}");
        assert_eq!(settings.ledger_limit_bytes(1_000_000), critical, "{text}");
    };
    check("preset = \"small\"", Some(100), 50, 100, 700_000);
    check("", Some(1_000), 100, 50, 800_000);
    check("preset = \"large\"", Some(5_000), 200, 25, 850_000);
    check(
        "preset = \"large\"\n[limits]\nconnections = 0",
        None,
        200,
        25,
        850_000,
    );
    assert_eq!(
        Settings::parse("preset = \"large\"").unwrap().preset(),
        Preset::Large
    );
}

#[test]
fn a_later_layer_wins_key_by_key() {
    let file = "preset = \"small\"\n[limits]\nconnections = 7\nrooms_per_session = 9";
    let settings = Settings::parse_layers(&[file, "preset = \"large\"\n[limits]\nconnections = 8"]).unwrap();
    let limits = settings.gateway().limits;
    assert_eq!((limits.connections, limits.rooms_per_session), (Some(8), 9));
    assert_eq!(settings.preset(), Preset::Large);
}

#[test]
fn the_defaults_are_those_of_the_gateway() {
    let settings = Settings::parse("[limits]\nconnections = 0").unwrap();
    let ours = format!("{:#?}", settings.gateway());
    assert_eq!(ours, format!("{:#?}", tidegate::gateway::Config::default()));
}

#[test]
fn each_gateway_setting_that_passes_here_passes_there() {
    // The gateway holds its own ranges; a value at the border of ours must not be refused after the start.
    for setting in TABLE.iter().filter(|setting| !setting.key.contains('*')) {
        for edge in edges(setting.kind) {
            let (group, name) = (setting.group(), setting.name());
            let header = if group.is_empty() {
                String::new()
            } else {
                format!("[{group}]\n")
            };
            let Ok(settings) = Settings::parse(&format!("{header}{name} = {edge}")) else {
                continue;
            };
            let refusal = settings.gateway().validate().err();
            assert!(refusal.is_none(), "{} = {edge}: {refusal:?}", setting.key);
        }
    }
}

fn edges(kind: tidegate::settings::Kind) -> Vec<String> {
    use tidegate::settings::{Kind, Size, Time};
    match kind {
        Kind::Count { min, max } => vec![min.to_string(), max.to_string()],
        Kind::Time { min_ms, max_ms } => [min_ms, max_ms]
            .map(|ms| format!("\"{}\"", Time::from_millis(ms)))
            .to_vec(),
        Kind::Size { min, max } => [min, max].map(|bytes| format!("\"{}\"", Size(bytes))).to_vec(),
        _ => Vec::new(),
    }
}

#[test]
fn rooms_keep_the_order_of_the_file() {
    let text =
        "[rooms.\"ticks:6*\"]\nlast = 2\n[rooms.\"*\"]\npresence = true\n[rooms.\"a\"]\nhistory_messages = 3";
    let rooms = Settings::parse(text).unwrap().gateway().rooms;
    let names: Vec<&str> = rooms.iter().map(|(pattern, _)| pattern.as_str()).collect();
    assert_eq!(names, ["ticks:6*", "*", "a"]);
    assert_eq!(
        (rooms[0].1.last, rooms[1].1.presence, rooms[2].1.history_messages),
        (2, true, 3)
    );
}

#[test]
fn secrets_come_from_outside() {
    let text = "[auth.jwt]\nsecret_env = \"S\"\n[[auth.api_keys]]\nname = \"b\"\nuser = \"svc\"\nkey_env = \"K\"\nroles = [\"r\"]\n[roles.r]\npublish = [\"*\"]";
    let settings = Settings::parse(text).unwrap();
    let error = settings.auth(&Outside::none()).unwrap_err().to_string();
    assert_eq!(
        error,
        "auth.jwt.secret_env names the environment variable S, which is not set"
    );
    let env = |name: &str| Some(name.repeat(40));
    let outside = Outside {
        env: &env,
        read: &|_: &Path| Err(io::Error::other("none")),
    };
    let auth = settings.auth(&outside).unwrap();
    assert!(tidegate::auth::Authenticator::new(auth).is_ok());
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let settings = Settings::parse("[auth.jwt]\nsecret_file = \"no/such\"").unwrap();
    let error = settings.auth(&Outside::none()).unwrap_err().to_string();
    assert_eq!(
        error,
        "auth.jwt.secret_file names the file no/such, which cannot be read"
    );
}

#[test]
fn what_a_reload_cannot_change_is_named() {
    let check = |old: &str, new: &str, expected: &[&str]| {
        let (old, new) = (Settings::parse(old).unwrap(), Settings::parse(new).unwrap());
        assert_eq!(old.needs_restart(&new), expected);
    };
    check("", "", &[]);
    check("", "[limits]\nconnections = 5", &[]);
    check("", "[rooms.\"a.b*\"]\nlast = 5", &[]);
    check(
        "shards = 1",
        "shards = 2\n[batch]\ndelay = \"1s\"",
        &["batch.delay", "shards"],
    );
}

#[test]
fn the_sample_file_is_the_table() {
    let shown = include_str!("../../../../tidegate.toml");
    assert!(
        shown == sample(),
        "tidegate.toml is not what the table says; `tidegate check --sample` prints it"
    );
    Settings::parse(shown).expect("the sample as it stands starts");
}

#[test]
fn each_line_of_the_sample_works_when_uncommented() {
    let mut lines = 0;
    for group in GROUPS {
        let settings = TABLE.iter().filter(|setting| setting.group() == group.name);
        for setting in settings {
            let value = match setting.initial {
                Initial::Always(value)
                | Initial::Absent(value)
                | Initial::Required(value)
                | Initial::ByPreset([_, value, _]) => value,
            };
            let line = format!("{} = {value}", setting.name());
            assert!(
                sample().contains(&format!("\n#{line}")),
                "{} is not in the sample",
                setting.key
            );
            let text = format!("{}\n{line}\n{}", group.header, companions(setting.key));
            if let Err(error) = Settings::parse(&text) {
                panic!("{text}: {error}");
            }
            lines += 1;
        }
    }
    assert_eq!(lines, TABLE.len(), "a setting stands in no group");
}

macro_rules! feed_columns {
    () => {
        "columns = { trade_id = \"int8\", symbol = \"text\", ts = \"timestamptz\", price = \"float8\", volume = \"int8\" }"
    };
}

const FEED_COLUMNS: &str = feed_columns!();

/// What must stand beside a setting so that its block means something.
fn companions(key: &str) -> &'static str {
    match key {
        "tls.cert" => "key = \"b\"",
        "tls.key" => "cert = \"a\"",
        "auth.jwt.public_key_file" => "algorithm = \"RS256\"",
        "auth.jwt.secret_env" | "auth.jwt.secret_file" | "auth.jwt.jwks_file" => "",
        key if key.starts_with("auth.jwt.") => "secret_env = \"A\"",
        "auth.api_keys.*.name" => "user = \"u\"\nkey_env = \"K\"",
        "auth.api_keys.*.user" => "name = \"n\"\nkey_env = \"K\"",
        "auth.api_keys.*.key_env" | "auth.api_keys.*.sha256" => "name = \"n\"\nuser = \"u\"",
        "feeds.*.table" => FEED_COLUMNS,
        "feeds.*.columns" => "table = \"ticks\"",
        "feeds.*.partition" => concat!(
            "table = \"ticks\"\nmanage = true\nkey = [\"symbol\", \"ts\"]\n",
            feed_columns!()
        ),
        "feeds.*.retain" => concat!(
            "table = \"ticks\"\nmanage = true\npartition = { column = \"ts\", every = \"1d\" }\nkey = [\"symbol\", \"ts\"]\n",
            feed_columns!()
        ),
        "feeds.*.rollups.*.table" => concat!(
            "bucket = { column = \"ts\", every = \"1m\" }\n[feeds.ticks]\ntable = \"ticks\"\n",
            feed_columns!()
        ),
        "feeds.*.rollups.*.bucket" => concat!(
            "table = \"ticks_minute\"\n[feeds.ticks]\ntable = \"ticks\"\n",
            feed_columns!()
        ),
        key if key.starts_with("feeds.*.rollups.") => concat!(
            "table = \"ticks_minute\"\nbucket = { column = \"ts\", every = \"1m\" }\n[feeds.ticks]\ntable = \"ticks\"\n",
            feed_columns!()
        ),
        "feeds.*.event" | "feeds.*.conflate" => {
            concat!("table = \"ticks\"\nroom = \"all\"\n", feed_columns!())
        }
        key if key.starts_with("feeds.") => concat!("table = \"ticks\"\n", feed_columns!()),
        "queries.*.sql" => "",
        "app.url" => "secret_env = \"S\"",
        key if key.starts_with("queries.") => "sql = \"SELECT symbol, ts, trade_id FROM ticks\"",
        "auth.api_keys.*.roles" => "name = \"n\"\nuser = \"u\"\nkey_env = \"K\"",
        _ => "",
    }
}

#[test]
fn the_operations_guides_hold_the_table() {
    let check = |name: &str, text: &str, chinese: bool| {
        let (begin, end) = ("<!-- settings: begin -->", "<!-- settings: end -->");
        let table = text
            .split_once(begin)
            .and_then(|(_, rest)| rest.split_once(end))
            .map(|(table, _)| table);
        let expected = markdown(chinese);
        assert!(
            table.map(str::trim) == Some(expected.trim()),
            "{name} is not what the table says; `tidegate check --reference` prints it"
        );
    };
    check(
        "docs/operations.md",
        include_str!("../../../../docs/operations.md"),
        false,
    );
    check(
        "docs/operations.zh-CN.md",
        include_str!("../../../../docs/operations.zh-CN.md"),
        true,
    );
}
