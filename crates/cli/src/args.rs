//! The command line: verbs, flags, and help that teaches, in English and Chinese.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args as ClapArgs, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::{
    exit,
    index_args::{self, IndexArgs},
    words::Lang,
};

#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    arg_required_else_help = true,
    subcommand_required = true
)]
#[command(about = "Real-time data for thousands of Socket.IO clients", after_help = EXAMPLES_EN)]
struct Raw {
    /// Language of what people read: en or zh [default: from LC_ALL or LANG]
    #[arg(long, global = true, value_enum, hide_possible_values = true)]
    lang: Option<Lang>,
    /// Print what programs read: one JSON object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

/// The arguments of one call.
#[derive(Debug)]
pub(crate) struct Args {
    /// Language of what people read.
    pub(crate) lang: Lang,
    /// JSON instead of text.
    pub(crate) json: bool,
    /// What to do.
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the server
    #[command(after_help = SERVE_EXAMPLES_EN)]
    Serve(ServerArgs),
    /// Run a simulated trading day to look at and to connect to; needs no set-up
    #[command(after_help = DEMO_EXAMPLES_EN)]
    Demo(DemoArgs),
    /// Look at the configuration and this machine: what is right, what is wrong, what to do
    #[command(after_help = CHECK_EXAMPLES_EN)]
    Check(CheckArgs),
    /// Indexes: plan, create, find what is superfluous, get advice, drop
    #[command(after_help = index_args::EXAMPLES_EN)]
    Index(IndexArgs),
    /// Profile a running server: bottlenecks with evidence and what to change; compare two profiles
    #[command(after_help = PROFILE_EXAMPLES_EN)]
    Profile(ProfileArgs),
    /// Make what feeds need in the database: our own tables, managed tables, roll-ups, partitions
    #[command(after_help = MIGRATE_EXAMPLES_EN)]
    Migrate(MigrateArgs),
    /// Look at rows that wait on this machine's disk for the database
    #[command(after_help = SPOOL_EXAMPLES_EN)]
    Spool(SpoolArgs),
    /// Look at rows that the database refused, and send them again
    #[command(after_help = DEADLETTER_EXAMPLES_EN)]
    Deadletter(DeadletterArgs),
}

/// What every verb that reads the configuration takes.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct ServerArgs {
    /// File with the settings [default for serve and check: tidegate.toml, if it is there]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Size of the installation, over what the file says: small, medium or large
    #[arg(long, value_enum, hide_possible_values = true)]
    pub(crate) preset: Option<PresetArg>,
    /// Address and port, over what the file says; port 0 takes a free one
    #[arg(long, short, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Form of the log: auto, text or json, over what the file says
    #[arg(long, value_enum, hide_possible_values = true)]
    pub(crate) log: Option<LogArg>,
}

/// What `demo` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Length of the simulated day, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 240, value_parser = clap::value_parser!(u32).range(10..=86_400))]
    pub(crate) day: u32,
    /// Price changes a second, averaged over the day
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    pub(crate) rate: u32,
    /// Seed of the simulation; the same seed makes the same day
    #[arg(long, value_name = "NUMBER", default_value_t = 600_519)]
    pub(crate) seed: u64,
    /// Folder that keeps the data for the next start [default: a temporary one]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,
    /// Allow an address that is not loopback: anybody who reaches it may come in
    #[arg(long)]
    pub(crate) anyone: bool,
}

/// What `check` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Print a file with every setting, its default and its reason, and stop
    #[arg(long)]
    pub(crate) sample: bool,
    /// Print the settings as tables in Markdown, and stop
    #[arg(long)]
    pub(crate) reference: bool,
}

/// What `profile` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct ProfileArgs {
    /// The running server, on its administration address, as http://127.0.0.1:9090
    #[arg(value_name = "URL", required_unless_present = "compare")]
    pub(crate) url: Option<String>,
    /// How long to watch it
    #[arg(long, short, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=300))]
    pub(crate) seconds: u16,
    /// Token of an administrator; others of this machine can read it while this runs, so --token-env is better
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Environment variable with the token
    #[arg(long, value_name = "NAME", default_value = "TIDEGATE_TOKEN")]
    pub(crate) token_env: String,
    /// Write the report: .html one page, .json for --compare, .svg flame graph, .folded stacks; several times
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Vec<PathBuf>,
    /// Name the places that hold memory too
    #[arg(long)]
    pub(crate) heap: bool,
    /// Compare two JSON reports of the same work: keep the change, roll it back, or inconclusive
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"], conflicts_with_all = ["url", "out", "heap", "token"])]
    pub(crate) compare: Vec<PathBuf>,
}

/// Where a verb of the database finds the settings.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct ConfigArgs {
    /// File with the settings [default: tidegate.toml, if it is there]
    #[arg(long, short, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
}

/// What `migrate` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) file: ConfigArgs,
    /// Print the statements and run none
    #[arg(long)]
    pub(crate) sql: bool,
    /// Make roll-ups anew whose groups were changed; nothing else is ever dropped
    #[arg(long)]
    pub(crate) replace_rollups: bool,
}

/// What `spool` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct SpoolArgs {
    #[command(flatten)]
    pub(crate) file: ConfigArgs,
    #[command(subcommand)]
    pub(crate) what: SpoolVerb,
}

/// What to do with the spool.
#[derive(Debug, Subcommand)]
pub(crate) enum SpoolVerb {
    /// Feeds with rows that wait, their number, bytes and age
    List,
    /// Print what waits, one JSON object a line
    Export {
        /// Of this feed only
        #[arg(long)]
        feed: Option<String>,
    },
}

/// What `deadletter` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct DeadletterArgs {
    #[command(flatten)]
    pub(crate) file: ConfigArgs,
    #[command(subcommand)]
    pub(crate) what: DeadletterVerb,
}

/// What to do with refused rows.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadletterVerb {
    /// Refused rows with the reason
    List {
        /// Of this feed only
        #[arg(long)]
        feed: Option<String>,
        /// Behind the row of this number
        #[arg(long, default_value_t = 0)]
        after: i64,
        /// Rows at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
    },
    /// Send refused rows again, after the reason was mended
    Retry {
        /// Of this feed
        #[arg(long)]
        feed: String,
        /// Rows at most
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Print all refused rows, one JSON object a line
    Export {
        /// Of this feed only
        #[arg(long)]
        feed: Option<String>,
    },
}

/// A preset by name.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PresetArg {
    /// Below 100 users.
    Small,
    /// 100 to 1,000 users.
    Medium,
    /// Above 1,000 users.
    Large,
}

/// A form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogArg {
    /// Text on a terminal, otherwise JSON.
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there are no arguments to run with.
#[derive(Debug)]
pub(crate) struct Stop(clap::Error);

const EXAMPLES_EN: &str = "\
Examples:
  tidegate demo                               watch a trading day at http://127.0.0.1:8080/demo
  tidegate check --sample > tidegate.toml     begin a configuration
  tidegate check                              see what is wrong with it, and with this machine
  tidegate serve                              run with it

Exit codes: 0 good, 1 a finding or a failure, 64 wrong usage, 78 wrong configuration.";

const EXAMPLES_ZH: &str = "\
示例：
  tidegate demo                               在 http://127.0.0.1:8080/demo 看一个模拟交易日
  tidegate check --sample > tidegate.toml     生成一份配置
  tidegate check                              检查配置与本机有何问题
  tidegate serve                              按配置运行

退出码：0 正常，1 有发现或失败，64 用法错误，78 配置错误。";

const SERVE_EXAMPLES_EN: &str = "\
Examples:
  tidegate serve                                     with ./tidegate.toml
  tidegate serve -c /etc/tidegate.toml --preset large
  kill -HUP <pid>                                    take changed limits, rooms, roles and certificates
  kill <pid>                                         drain: close connections at a pace, then end";

const SERVE_EXAMPLES_ZH: &str = "\
示例：
  tidegate serve                                     使用 ./tidegate.toml
  tidegate serve -c /etc/tidegate.toml --preset large
  kill -HUP <pid>                                    重载限制、房间、角色与证书
  kill <pid>                                         排空：按节奏关闭连接后结束";

const DEMO_EXAMPLES_EN: &str = "\
Examples:
  tidegate demo
  tidegate demo --listen 127.0.0.1:0 --day 60 --rate 20000
  DATABASE_URL=postgres://me@localhost/scratch tidegate demo

The database is the one of DATABASE_URL (tables in schema tidegate_demo), else a private PostgreSQL, else SQLite.";

const DEMO_EXAMPLES_ZH: &str = "\
示例：
  tidegate demo
  tidegate demo --listen 127.0.0.1:0 --day 60 --rate 20000
  DATABASE_URL=postgres://me@localhost/scratch tidegate demo

数据库取 DATABASE_URL（表放在 tidegate_demo 模式），否则为私有 PostgreSQL，再否则为 SQLite。";

const CHECK_EXAMPLES_EN: &str = "\
Examples:
  tidegate check -c tidegate.toml
  tidegate check --json | jq '.findings[] | select(.level != \"good\")'";

const CHECK_EXAMPLES_ZH: &str = "\
示例：
  tidegate check -c tidegate.toml
  tidegate check --json | jq '.findings[] | select(.level != \"good\")'";

const PROFILE_EXAMPLES_EN: &str = "\
Examples:
  tidegate profile http://127.0.0.1:9090                              ten seconds, to the terminal
  tidegate profile http://127.0.0.1:9090 -s 30 -o report.html         one page with the flame graph
  tidegate profile http://127.0.0.1:9090 -o before.json               change something, profile again as after.json
  tidegate profile --compare before.json after.json                   keep or roll back, with the evidence

Profile under the load that matters: an idle server has no bottlenecks. Exit code 1 of --compare means roll back.";

const PROFILE_EXAMPLES_ZH: &str = "\
示例：
  tidegate profile http://127.0.0.1:9090                              观察十秒，输出到终端
  tidegate profile http://127.0.0.1:9090 -s 30 -o report.html         含火焰图的单页报告
  tidegate profile http://127.0.0.1:9090 -o before.json               作出改动后再次分析，存为 after.json
  tidegate profile --compare before.json after.json                   保留或回退，并给出依据

请在有意义的负载下分析：空闲的服务器没有瓶颈。--compare 的退出码 1 表示应回退。";

const MIGRATE_EXAMPLES_EN: &str = "\
Examples:
  tidegate migrate --sql          what would run, as SQL
  tidegate migrate                run it; a second time does nothing

serve does the same at its start.";

const MIGRATE_EXAMPLES_ZH: &str = "\
示例：
  tidegate migrate --sql          以 SQL 显示将执行的内容
  tidegate migrate                执行；再次执行不做任何事

serve 启动时也会执行。";

const SPOOL_EXAMPLES_EN: &str = "\
Examples:
  tidegate spool list
  tidegate spool export --feed ticks > ticks.ndjson";

const SPOOL_EXAMPLES_ZH: &str = "\
示例：
  tidegate spool list
  tidegate spool export --feed ticks > ticks.ndjson";

const DEADLETTER_EXAMPLES_EN: &str = "\
Examples:
  tidegate deadletter list --feed ticks
  tidegate deadletter retry --feed ticks
  tidegate deadletter export > refused.ndjson";

const DEADLETTER_EXAMPLES_ZH: &str = "\
示例：
  tidegate deadletter list --feed ticks
  tidegate deadletter retry --feed ticks
  tidegate deadletter export > refused.ndjson";

/// Help texts in Chinese, by verb (empty for all) and argument (empty for the verb itself).
const CHINESE: &[(&str, &str, &str)] = &[
    ("", "", "为成千上万 Socket.IO 客户端推送实时数据"),
    ("", "lang", "提示语言：en 或 zh [默认取自 LC_ALL 或 LANG]"),
    ("", "json", "输出供程序读取的内容：每行一个 JSON"),
    (
        "",
        "config",
        "设置文件 [serve 与 check 默认 tidegate.toml，若存在]",
    ),
    ("", "preset", "规模，覆盖文件：small、medium 或 large"),
    ("", "listen", "地址与端口，覆盖文件；端口 0 任取空闲端口"),
    ("", "log", "日志形式，覆盖文件：auto、text 或 json"),
    ("serve", "", "运行服务器"),
    ("demo", "", "运行一个模拟交易日，供观看与连接；无需任何准备"),
    ("demo", "day", "模拟交易日的长度，秒"),
    ("demo", "rate", "每秒价格变动数，按全天平均"),
    ("demo", "seed", "模拟的随机种子；同种子同行情"),
    ("demo", "data", "保存数据供下次启动的目录 [默认：临时目录]"),
    ("demo", "anyone", "允许非回环地址：能访问者皆可进入"),
    ("check", "", "检查配置与本机：哪里对、哪里错、怎么办"),
    ("check", "sample", "打印含全部设置、默认值与理由的文件后结束"),
    ("check", "reference", "以 Markdown 表格打印全部设置后结束"),
    (
        "profile",
        "",
        "分析运行中的服务器：瓶颈、依据与改法；并可比较两次分析",
    ),
    (
        "profile",
        "url",
        "运行中服务器的管理地址，如 http://127.0.0.1:9090",
    ),
    ("profile", "seconds", "观察多少秒"),
    (
        "profile",
        "token",
        "管理员令牌；运行期间本机其他人可见，宜用 --token-env",
    ),
    ("profile", "token_env", "存放令牌的环境变量"),
    (
        "profile",
        "out",
        "写出报告：.html 单页，.json 供 --compare，.svg 火焰图，.folded 调用栈；可多次给出",
    ),
    ("profile", "heap", "同时指出占用内存的位置"),
    (
        "profile",
        "compare",
        "比较同一工作的两份 JSON 报告：保留改动、回退或无定论",
    ),
    (
        "migrate",
        "",
        "在数据库中建立数据源所需：自身的表、托管表、汇总表、分区",
    ),
    ("migrate", "config", "设置文件 [默认 tidegate.toml，若存在]"),
    ("migrate", "sql", "只打印语句，不执行"),
    (
        "migrate",
        "replace_rollups",
        "重建分组已变更的汇总表；其余绝不删除",
    ),
    ("spool", "", "查看在本机磁盘上等待数据库的数据行"),
    ("spool", "config", "设置文件 [默认 tidegate.toml，若存在]"),
    ("spool list", "", "有等待行的数据源，及行数、字节与时长"),
    ("spool export", "", "打印等待的内容，每行一个 JSON"),
    ("spool export", "feed", "仅此数据源"),
    ("deadletter", "", "查看被数据库拒绝的数据行，并重新发送"),
    ("deadletter", "config", "设置文件 [默认 tidegate.toml，若存在]"),
    ("deadletter list", "", "被拒的行及原因"),
    ("deadletter list", "feed", "仅此数据源"),
    ("deadletter list", "after", "此编号之后"),
    ("deadletter list", "limit", "最多行数"),
    ("deadletter retry", "", "排除原因后重新发送"),
    ("deadletter retry", "feed", "此数据源"),
    ("deadletter retry", "limit", "最多行数"),
    ("deadletter export", "", "打印全部被拒的行，每行一个 JSON"),
    ("deadletter export", "feed", "仅此数据源"),
];

/// Reads the command line.
///
/// # Errors
/// Help, version and wrong usage; [`Stop::print`] says it.
pub(crate) fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Args, Stop> {
    let line: Vec<OsString> = line.into_iter().collect();
    let lang = asked_language(&line).unwrap_or_else(locale);
    let command = match lang {
        Lang::En => Raw::command(),
        Lang::Zh => in_chinese(Raw::command()),
    };
    let matches = command.try_get_matches_from(line).map_err(Stop)?;
    let raw = Raw::from_arg_matches(&matches).map_err(Stop)?;
    Ok(Args {
        lang: raw.lang.unwrap_or(lang),
        json: raw.json,
        verb: raw.verb,
    })
}

impl Stop {
    /// Prints help or what is wrong, and gives the exit code.
    pub(crate) fn print(&self) -> ExitCode {
        // Nobody reads the output any more; there is nothing better to do with that than to end.
        let _unread = self.0.print();
        if self.0.use_stderr() {
            ExitCode::from(exit::USAGE)
        } else {
            ExitCode::SUCCESS
        }
    }
}

/// The language is needed before the command line is parsed: its help is in that language.
fn asked_language(line: &[OsString]) -> Option<Lang> {
    let words: Vec<&str> = line.iter().filter_map(|word| word.to_str()).collect();
    let after = words
        .windows(2)
        .find(|pair| pair[0] == "--lang")
        .map(|pair| pair[1]);
    let joined = words.iter().find_map(|word| word.strip_prefix("--lang="));
    Lang::from_str(after.or(joined)?, true).ok()
}

fn locale() -> Lang {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = set("LC_ALL")
        .or_else(|| set("LC_MESSAGES"))
        .or_else(|| set("LANG"));
    Lang::of_locale(&locale.unwrap_or_default())
}

fn in_chinese(mut command: Command) -> Command {
    command = translate(command, "", EXAMPLES_ZH);
    for (verb, examples) in [
        ("serve", SERVE_EXAMPLES_ZH),
        ("demo", DEMO_EXAMPLES_ZH),
        ("check", CHECK_EXAMPLES_ZH),
        ("profile", PROFILE_EXAMPLES_ZH),
        ("migrate", MIGRATE_EXAMPLES_ZH),
        ("spool", SPOOL_EXAMPLES_ZH),
        ("deadletter", DEADLETTER_EXAMPLES_ZH),
    ] {
        command = command.mut_subcommand(verb, |command| below(translate(command, verb, examples), verb));
    }
    command.mut_subcommand("index", index_args::in_chinese)
}

/// Translates what a verb is divided into.
fn below(mut command: Command, verb: &str) -> Command {
    let names: Vec<String> = command
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    for name in names {
        let path = format!("{verb} {name}");
        command = command.mut_subcommand(name, |command| translate(command, &path, ""));
    }
    command
}

fn translate(mut command: Command, verb: &str, examples: &'static str) -> Command {
    let known: Vec<String> = command
        .get_arguments()
        .map(|arg| arg.get_id().to_string())
        .collect();
    for (of, name, text) in CHINESE
        .iter()
        .filter(|entry| entry.0 == verb || entry.0.is_empty())
    {
        if name.is_empty() && *of == verb {
            command = command.about(*text);
        } else if known.iter().any(|id| id == name) {
            command = command.mut_arg(*name, |arg| arg.help(*text));
        }
    }
    match examples {
        "" => command,
        examples => command.after_help(examples),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_command_is_well_formed() {
        Raw::command().debug_assert();
        in_chinese(Raw::command()).debug_assert();
    }

    #[test]
    fn every_argument_has_a_chinese_help() {
        let has_chinese = |text: &str| text.chars().any(|c| c > '\u{2e80}');
        let command = in_chinese(Raw::command());
        let verbs = command.get_subcommands().filter(|verb| verb.get_name() != "help");
        for verb in verbs.flat_map(|verb| std::iter::once(verb).chain(verb.get_subcommands())) {
            assert!(
                verb.get_about()
                    .is_some_and(|about| has_chinese(&about.to_string())),
                "{}",
                verb.get_name()
            );
            for arg in verb.get_arguments() {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(
                    has_chinese(&help),
                    "{} --{}: {help}",
                    verb.get_name(),
                    arg.get_id()
                );
            }
        }
    }

    #[test]
    fn the_language_is_found_before_parsing() {
        let check =
            |words: &[&str], expected| assert_eq!(asked_language(&line(words)), expected, "{words:?}");
        check(&["tidegate", "--lang", "zh", "demo"], Some(Lang::Zh));
        check(&["tidegate", "demo", "--lang=en"], Some(Lang::En));
        check(&["tidegate", "demo"], None);
        check(&["tidegate", "--lang"], None);
    }

    #[test]
    fn wrong_usage_is_refused() {
        let check = |words: &[&str]| assert!(parse(line(words)).is_err(), "{words:?}");
        check(&["tidegate"]);
        check(&["tidegate", "fly"]);
        check(&["tidegate", "serve", "--listen", "here"]);
        check(&["tidegate", "serve", "--preset", "huge"]);
        check(&["tidegate", "demo", "--day", "1"]);
        assert!(parse(line(&["tidegate", "demo", "-l", "127.0.0.1:0"])).is_ok());
    }
}
