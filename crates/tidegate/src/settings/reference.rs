//! The settings as text for people: the sample file and the tables of the operations guide.

use std::fmt::Write as _;

use super::{GROUPS, Initial, Setting, TABLE, Words};

const INTRO: &str = "\
# Every setting of Tidegate with its default and its reason.
#
# A line `#key = value` shows the default, or an example where it says \"absent\"; take away the # to change it.
# Times are \"250ms\", \"30s\", \"2m\", \"1h\", \"1d\"; sizes are bytes or \"256KiB\", \"32MiB\", \"1GB\".
# Settings marked [live] are taken by a running server on SIGHUP, the others by a new process.
# A wrong key or value stops the start and is named; `tidegate check` looks without starting.
";

/// The text of `tidegate.toml`: every setting, commented out, with default, range and reason.
#[must_use]
pub fn sample() -> String {
    let mut out = INTRO.to_owned();
    for group in GROUPS {
        put(&mut out, format_args!("\n# {}\n", group.why.en));
        if !group.header.is_empty() {
            // A block that means something by being there stays commented out as a whole.
            let quiet =
                group.header.starts_with("[[") || group.name.ends_with('*') || is_optional(group.name);
            put(
                &mut out,
                format_args!("{}{}\n", if quiet { "#" } else { "" }, group.header),
            );
        }
        for setting in TABLE.iter().filter(|setting| setting.group() == group.name) {
            put_sample(&mut out, setting);
        }
    }
    out
}

/// A table of all settings in Markdown, in English or Chinese.
#[must_use]
pub fn markdown(chinese: bool) -> String {
    let say = |words: Words| if chinese { words.zh } else { words.en };
    let mut out = String::new();
    for group in GROUPS {
        let title = if group.header.is_empty() {
            "tidegate.toml"
        } else {
            group.header
        };
        put(
            &mut out,
            format_args!("\n### `{title}`\n\n{}\n\n", say(group.why)),
        );
        out.push_str(if chinese {
            "| 设置 | 默认 | 允许 | 作用与代价 |\n|---|---|---|---|\n"
        } else {
            "| setting | default | allowed | what it does, what a change costs |\n|---|---|---|---|\n"
        });
        for setting in TABLE.iter().filter(|setting| setting.group() == group.name) {
            let live = if setting.reload { " ⟳" } else { "" };
            put(
                &mut out,
                format_args!(
                    "| `{}`{live} | {} | {} | {} |\n",
                    setting.name(),
                    default_cell(setting, chinese),
                    setting.kind.allowed().replace('|', "\\|"),
                    say(setting.why)
                ),
            );
        }
    }
    out
}

fn put_sample(out: &mut String, setting: &Setting) {
    let live = if setting.reload { " [live]" } else { "" };
    put(
        out,
        format_args!(
            "# {} Allowed: {}.{live}\n",
            setting.why.en,
            setting.kind.allowed()
        ),
    );
    match setting.initial {
        Initial::Always(value) => put(out, format_args!("#{} = {value}\n", setting.name())),
        Initial::ByPreset([small, medium, large]) => {
            let note = format_args!(
                "#{} = {medium}  # small {small}, medium {medium}, large {large}\n",
                setting.name()
            );
            put(out, note);
        }
        Initial::Absent(example) => put(out, format_args!("#{} = {example}  # absent\n", setting.name())),
        Initial::Required(example) => put(
            out,
            format_args!("#{} = {example}  # needed in such a block\n", setting.name()),
        ),
    }
}

fn default_cell(setting: &Setting, chinese: bool) -> String {
    match setting.initial {
        Initial::Always(value) => format!("`{value}`"),
        Initial::ByPreset([small, medium, large]) => format!("`{small}` / `{medium}` / `{large}`"),
        Initial::Required(example) if chinese => format!("必填（如 `{example}`）"),
        Initial::Required(example) => format!("required (such as `{example}`)"),
        Initial::Absent(example) if chinese => format!("无（如 `{example}`）"),
        Initial::Absent(example) => format!("none (such as `{example}`)"),
    }
}

fn is_optional(group: &str) -> bool {
    matches!(group, "tls" | "auth.jwt")
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}
