//! Arguments of `tidegate index`, with help in English and Chinese.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Command, Subcommand};

/// What `index` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct IndexArgs {
    /// Database [default: store.url of the configuration, then DATABASE_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// File with the settings [default: tidegate.toml, if it is there]
    #[arg(long, short, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: IndexVerb,
}

/// What to do with indexes.
#[derive(Debug, Subcommand)]
pub(crate) enum IndexVerb {
    /// Compare a plan with the database; changes nothing
    Plan(PlanArgs),
    /// Create what a plan names and the database lacks, while its tables stay in use
    Apply(PlanArgs),
    /// Find indexes that nobody reads
    Unused(UnusedArgs),
    /// Find indexes whose work another one does as well
    Duplicate,
    /// Find indexes that would help the statements that were seen
    Advise(AdviseArgs),
    /// Drop indexes by name, while their tables stay in use
    Drop(DropArgs),
}

/// A plan.
#[derive(Debug, ClapArgs)]
pub(crate) struct PlanArgs {
    /// File with the plan; the word `orders` means the demo's own
    #[arg(long, short, value_name = "FILE")]
    pub(crate) plan: PathBuf,
}

/// What `unused` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct UnusedArgs {
    /// How long nobody must have read an index, as in 12h or 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = duration)]
    pub(crate) window: Duration,
    /// A standby whose reads count too; may be given several times
    #[arg(long, value_name = "URL")]
    pub(crate) replica: Vec<String>,
}

/// What `advise` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct AdviseArgs {
    /// A running tidegate that has seen statements [default: pg_stat_statements of the database]
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Environment variable with the token for that server
    #[arg(long, value_name = "NAME", default_value = "TIDEGATE_TOKEN")]
    pub(crate) token_env: String,
    /// Statements that are looked at, those with the most time first
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) statements: u16,
    /// Indexes to propose at most
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=20))]
    pub(crate) findings: u16,
    /// Write what is proposed as a plan for `index apply`
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// What `drop` takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct DropArgs {
    /// Indexes, as in SQL
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

pub(crate) const EXAMPLES_EN: &str = "\
Examples:
  tidegate index plan --plan indexes.toml           what is there, what is missing, what is different
  tidegate index apply --plan indexes.toml          create what is missing
  tidegate index advise --server http://127.0.0.1:9090 -o advice.toml
  tidegate index unused --window 30d --replica postgres://app@standby/market
  tidegate index drop idx_orders_scene";

const EXAMPLES_ZH: &str = "\
示例：
  tidegate index plan --plan indexes.toml           已有、缺少、不同各有哪些
  tidegate index apply --plan indexes.toml          创建缺少的
  tidegate index advise --server http://127.0.0.1:9090 -o advice.toml
  tidegate index unused --window 30d --replica postgres://app@standby/market
  tidegate index drop idx_orders_scene";

/// Help texts in Chinese, by verb below `index` (empty for all) and argument (empty for the verb itself).
const CHINESE: &[(&str, &str, &str)] = &[
    ("", "url", "数据库 [默认取配置的 store.url，其次 DATABASE_URL]"),
    ("", "config", "设置文件 [默认 tidegate.toml，若存在]"),
    ("", "plan", "计划文件；写 orders 表示演示自带的计划"),
    ("plan", "", "把计划与数据库对照，不作改动"),
    ("apply", "", "创建计划中有而数据库缺少的索引，期间表可正常读写"),
    ("unused", "", "找出无人读取的索引"),
    ("unused", "window", "多长时间无人读取才算，例如 12h 或 7d"),
    ("unused", "replica", "其读取也计入的备库，可多次给出"),
    ("duplicate", "", "找出可由另一索引代替的索引"),
    ("advise", "", "为已观察到的语句找出有帮助的索引"),
    (
        "advise",
        "server",
        "观察过语句的运行中 tidegate [默认用数据库的 pg_stat_statements]",
    ),
    ("advise", "token_env", "存放该服务器令牌的环境变量"),
    ("advise", "statements", "考察的语句数，耗时多者在前"),
    ("advise", "findings", "最多提出的索引数"),
    ("advise", "output", "把建议写成可供 index apply 使用的计划"),
    ("drop", "", "按名称删除索引，期间表可正常读写"),
    ("drop", "names", "索引名，写法同 SQL"),
];

/// Puts the help of `index` and its verbs into Chinese.
pub(crate) fn in_chinese(command: Command) -> Command {
    let command = command
        .about("索引：计划、创建、找多余、给建议、删除")
        .after_help(EXAMPLES_ZH);
    let command = translate(command, "");
    let verbs: Vec<String> = command
        .get_subcommands()
        .map(|verb| verb.get_name().to_owned())
        .collect();
    verbs
        .iter()
        .filter(|verb| *verb != "help")
        .fold(command, |command, verb| {
            command.mut_subcommand(verb, |command| translate(command, verb))
        })
}

fn translate(mut command: Command, verb: &str) -> Command {
    let known: Vec<String> = command
        .get_arguments()
        .map(|arg| arg.get_id().to_string())
        .collect();
    for (of, name, text) in CHINESE {
        if name.is_empty() && *of == verb {
            command = command.about(*text);
        } else if (of.is_empty() || *of == verb) && known.iter().any(|id| id == name) {
            command = command.mut_arg(*name, |arg| arg.help(*text));
        }
    }
    command
}

/// A number with `s`, `m`, `h` or `d`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a time is a number with s, m, h or d, as in 12h or 7d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()]
        .parse()
        .map_err(|_| wrong())?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let check = |text, expected| assert_eq!(duration(text).ok(), expected, "{text}");
        check("7d", Some(Duration::from_secs(604_800)));
        check("90s", Some(Duration::from_secs(90)));
        check("0h", Some(Duration::ZERO));
        check("7", None);
        check("d", None);
        check("7天", None);
        check("999999999999999999d", None);
    }

    #[test]
    fn every_verb_and_argument_has_a_chinese_help() {
        let has_chinese = |text: Option<String>| text.is_some_and(|text| text.contains(|c| c > '\u{2e80}'));
        let command = in_chinese(IndexArgs::augment_args(Command::new("index")));
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let name = verb.get_name();
            assert!(has_chinese(verb.get_about().map(ToString::to_string)), "{name}");
            for arg in verb.get_arguments().filter(|arg| arg.get_id() != "help") {
                assert!(
                    has_chinese(arg.get_help().map(ToString::to_string)),
                    "{name} {}",
                    arg.get_id()
                );
            }
        }
    }
}
