//! Rules for the documents: each crate named, twins alike, links that lead somewhere.

use std::collections::BTreeSet;

use super::{File, Finding};

const MAP: &str = "ARCHITECTURE.md";
const TWIN: &str = ".zh-CN.md";

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(crates_named(files));
    findings.extend(crates_documented(files));
    findings.extend(twins(files));
    findings.extend(documents(files).flat_map(|file| links(file, files)));
    findings
}

fn documents(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.path.ends_with(".md"))
}

fn find<'a>(files: &'a [File], path: &str) -> Option<&'a File> {
    files.iter().find(|file| file.path == path)
}

// === Crates ===

/// Folder of every package, from its manifest.
fn packages(files: &[File]) -> impl Iterator<Item = &str> {
    let folders = files
        .iter()
        .filter_map(|file| file.path.strip_suffix("/Cargo.toml"));
    folders.filter(|folder| !folder.ends_with("/fuzz"))
}

/// The map has a section for each crate.
fn crates_named(files: &[File]) -> Vec<Finding> {
    let Some(map) = find(files, MAP) else {
        return vec![Finding::file(MAP, "missing")];
    };
    let headings: Vec<&str> = prose(&map.text).filter(|line| line.starts_with('#')).collect();
    let names = packages(files).filter_map(|folder| folder.rsplit('/').next());
    let lost = names.filter(|name| !headings.iter().any(|line| line.contains(&format!("`{name}`"))));
    lost.map(|name| Finding::file(MAP, format!("no section is headed `{name}`")))
        .collect()
}

/// Each crate begins with a documented root; that its first line says something is checked for every file.
fn crates_documented(files: &[File]) -> Vec<Finding> {
    let missing = packages(files).filter(|folder| {
        let roots = ["src/lib.rs", "src/main.rs"].map(|root| format!("{folder}/{root}"));
        !roots.iter().any(|root| find(files, root).is_some())
    });
    missing
        .map(|folder| Finding::file(folder, "neither src/lib.rs nor src/main.rs"))
        .collect()
}

// === Twins ===

/// Every document in Chinese has its English twin with the same code, and the README has both.
fn twins(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for required in ["README.md", "README.zh-CN.md"] {
        if find(files, required).is_none() {
            findings.push(Finding::file(required, "missing"));
        }
    }
    for chinese in documents(files).filter(|file| file.path.ends_with(TWIN)) {
        let path = chinese.path.replace(TWIN, ".md");
        match find(files, &path) {
            None => findings.push(Finding::file(
                &chinese.path,
                format!("its twin {path} is missing"),
            )),
            Some(english) => findings.extend(compare(english, chinese)),
        }
    }
    findings
}

fn compare(english: &File, chinese: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (ours, theirs) = (code_blocks(&english.text), code_blocks(&chinese.text));
    let alike = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    if ours != theirs {
        let message = format!(
            "code block {} differs from the one in {}",
            alike + 1,
            english.path
        );
        findings.push(Finding::file(&chinese.path, message));
    }
    let headings = |file: &File| prose(&file.text).filter(|line| line.starts_with('#')).count();
    let (ours, theirs) = (headings(english), headings(chinese));
    if ours != theirs {
        let message = format!("{theirs} headings, but {ours} in {}", english.path);
        findings.push(Finding::file(&chinese.path, message));
    }
    findings
}

/// Lines outside of code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// Code blocks with their language. Pictures (`text`) are left out: their words are translated.
fn code_blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (fence, open.take()) {
            (Some(language), None) => open = Some(format!("{}\n", language.trim())),
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(block)) => open = Some(block + line + "\n"),
            (None, None) => {}
        }
    }
    blocks.retain(|block| !block.starts_with("text\n"));
    blocks
}

// === Links ===

/// Links inside the repository lead to something that is read by these checks, or to a folder or file of another kind.
fn links(file: &File, files: &[File]) -> Vec<Finding> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let known: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut findings = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        let documents = targets(line).filter(|target| target.ends_with(".md") || target.ends_with(".rs"));
        let lost = documents.filter(|target| !known.contains(resolve(folder, target).as_str()));
        findings.extend(lost.map(|target| {
            let message = format!("link to {target}, which is not there");
            Finding {
                path: file.path.clone(),
                line: at + 1,
                message,
            }
        }));
    }
    findings
}

/// Targets of `[text](target)` that are paths, without their `#fragment`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let after = line.split("](").skip(1);
    let targets = after.filter_map(|rest| rest.split([')', ' ']).next());
    let paths = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    paths.filter_map(|target| target.split('#').next())
}

/// `path` as seen from `folder`, without `.` and `..`.
fn resolve(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::{super::testing, *};
    use testing::file;

    /// A tree in which everything is right; `changes` replace or add files.
    fn check_with(changes: &[(&str, &str)], expected: &[&str]) {
        let right = [
            ("ARCHITECTURE.md", "# Map\n## `wire`: bytes\n"),
            ("README.md", "# T\n```sh\nrun\n```\n"),
            ("README.zh-CN.md", "# T\n```sh\nrun\n```\n"),
            ("crates/wire/Cargo.toml", ""),
            ("crates/wire/src/lib.rs", "//! Bytes.\n"),
        ];
        let kept = right
            .iter()
            .filter(|(path, _)| !changes.iter().any(|(changed, _)| changed == path));
        let files: Vec<File> = kept.chain(changes).map(|(path, text)| file(path, text)).collect();
        testing::compare(&check(&files), expected);
    }

    #[test]
    fn a_right_tree_is_silent() {
        check_with(&[], &[]);
    }

    #[test]
    fn the_map_names_each_crate() {
        let text = "# Map\nOnly in prose: `wire`\n```text\n# `wire`\n```\n";
        check_with(
            &[("ARCHITECTURE.md", text)],
            &["ARCHITECTURE.md: no section is headed `wire`"],
        );
        check_with(&[("crates/wire/fuzz/Cargo.toml", "")], &[]);
    }

    #[test]
    fn a_crate_has_a_root() {
        let expected = [
            "ARCHITECTURE.md: no section is headed `auth`",
            "crates/auth: neither src/lib.rs nor src/main.rs",
        ];
        check_with(&[("crates/auth/Cargo.toml", "")], &expected);
    }

    #[test]
    fn twins_have_the_same_code() {
        let other = "# T\n```sh\nrun fast\n```\n";
        let expected = ["README.zh-CN.md: code block 1 differs from the one in README.md"];
        check_with(&[("README.zh-CN.md", other)], &expected);
        let picture = "# T\n```sh\nrun\n```\n```text\n客户端 ─▶\n```\n";
        check_with(&[("README.zh-CN.md", picture)], &[]);
        let longer = "# T\n## More\n```sh\nrun\n```\n";
        check_with(
            &[("README.zh-CN.md", longer)],
            &["README.zh-CN.md: 2 headings, but 1 in README.md"],
        );
    }

    #[test]
    fn a_chinese_document_has_an_english_twin() {
        let expected = ["docs/use.zh-CN.md: its twin docs/use.md is missing"];
        check_with(&[("docs/use.zh-CN.md", "# T\n")], &expected);
    }

    #[test]
    fn links_lead_somewhere() {
        let text = "# T\n[a](../README.md#t) [b](https://x.example/y.md) [c](#t)\n[d](lost.md)\n";
        check_with(
            &[("docs/use.md", text)],
            &["docs/use.md:3: link to lost.md, which is not there"],
        );
    }
}
