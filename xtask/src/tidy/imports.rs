//! Who may import whom: the layers of ARCHITECTURE.md, read from each crate's manifest.

use toml::{Table, Value};

use super::{File, Finding};

/// Whom a crate may import.
enum May {
    Nothing,
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

/// Every crate of the house by its folder. Siblings never import siblings; a new crate starts with a line here.
const TABLE: [(&str, May); 15] = [
    // It re-exports #[profiled]; the attribute itself imports nothing.
    ("vitals", May::Only(&["macros"])),
    ("wire", May::Nothing),
    ("auth", May::Nothing),
    ("seglog", May::Nothing),
    ("cluster", May::Nothing),
    ("macros", May::Nothing),
    ("flow", May::Only(&["vitals"])),
    ("cache", May::Only(&["seglog", "flow", "vitals", "macros"])),
    ("store", May::Only(&["seglog", "flow", "vitals"])),
    ("advisor", May::Only(&["flow", "vitals"])),
    ("gateway", May::Only(&["wire", "auth", "flow", "vitals"])),
    ("load", May::Only(&["wire", "flow", "vitals"])),
    ("ops", May::Only(&["auth", "flow", "vitals"])),
    ("tidegate", May::AllBut(&["cli", "load", "cluster"])),
    (
        "cli",
        May::Only(&["tidegate", "load", "advisor", "cluster", "flow", "vitals"]),
    ),
];

impl May {
    fn import(&self, other: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Only(names) => names.contains(&other),
            Self::AllBut(names) => !names.contains(&other),
        }
    }
}

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let manifests = files.iter().filter_map(|file| Some((file, folder(&file.path)?)));
    manifests
        .flat_map(|(file, folder)| check_manifest(file, folder))
        .collect()
}

/// `gateway` for `crates/gateway/Cargo.toml`; benches, xtask and fuzz targets may import anything.
fn folder(path: &str) -> Option<&str> {
    let folder = path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?;
    (!folder.contains('/')).then_some(folder)
}

fn check_manifest(file: &File, folder: &str) -> Vec<Finding> {
    let Some((_, may)) = TABLE.iter().find(|(name, _)| *name == folder) else {
        let message = format!("crate `{folder}` has no line in the import table (xtask/src/tidy/imports.rs)");
        return vec![Finding::file(&file.path, message)];
    };
    let manifest = match file.text.parse::<Table>() {
        Ok(manifest) => manifest,
        Err(error) => {
            return vec![Finding::file(
                &file.path,
                format!("not TOML: {}", error.message()),
            )];
        }
    };
    let ours = dependencies(&manifest)
        .into_iter()
        .filter(|name| !may.import(name));
    let finding = |name| Finding::file(&file.path, format!("`{folder}` must not import `{name}`"));
    ours.map(finding).collect()
}

/// The crates of ours in every table of dependencies that ships: dev-dependencies do not.
fn dependencies(manifest: &Table) -> Vec<String> {
    let everywhere = [manifest].into_iter();
    let by_target = manifest.get("target").and_then(Value::as_table).into_iter();
    let by_target = by_target.flat_map(|targets| targets.values().filter_map(Value::as_table));
    let mut ours = Vec::new();
    for place in everywhere.chain(by_target) {
        for key in ["dependencies", "build-dependencies"] {
            let table = place.get(key).and_then(Value::as_table).into_iter().flatten();
            ours.extend(table.filter_map(|(name, value)| crate_of(name, value)));
        }
    }
    ours
}

/// The folder of the crate behind a dependency, if it is ours: by its name, its `package` or its `path`.
fn crate_of(name: &str, value: &Value) -> Option<String> {
    let field = |key| value.get(key).and_then(Value::as_str);
    if let Some(path) = field("path") {
        return path
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .map(ToOwned::to_owned);
    }
    match field("package").unwrap_or(name) {
        "tidegate" => Some("tidegate".to_owned()),
        package => package.strip_prefix("tidegate-").map(ToOwned::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{compare, file},
        *,
    };

    fn check_one(folder: &str, manifest: &str, expected: &[&str]) {
        compare(
            &check(&[file(&format!("crates/{folder}/Cargo.toml"), manifest)]),
            expected,
        );
    }

    #[test]
    fn what_the_table_grants_is_silent() {
        check_one(
            "gateway",
            "[dependencies]\ntidegate-wire.workspace = true\nbytes.workspace = true\n",
            &[],
        );
        check_one(
            "cli",
            "[dependencies]\ntidegate = { workspace = true, features = [\"x\"] }\n",
            &[],
        );
        check_one(
            "tidegate",
            "[dependencies]\ntidegate-gateway.workspace = true\n",
            &[],
        );
    }

    #[test]
    fn siblings_never_import_siblings() {
        let expected = ["crates/ops/Cargo.toml: `ops` must not import `gateway`"];
        check_one(
            "ops",
            "[dependencies]\ntidegate-gateway.workspace = true\n",
            &expected,
        );
        check_one(
            "ops",
            "[dependencies]\ng = { path = \"../gateway/\" }\n",
            &expected,
        );
        check_one(
            "ops",
            "[dependencies]\ng = { package = \"tidegate-gateway\", workspace = true }\n",
            &expected,
        );
        check_one(
            "ops",
            "[build-dependencies]\ntidegate-gateway = \"0.1\"\n",
            &expected,
        );
        check_one(
            "ops",
            "[target.'cfg(unix)'.dependencies]\ntidegate-gateway = \"0.1\"\n",
            &expected,
        );
    }

    #[test]
    fn nobody_imports_upwards() {
        let text = "[dependencies]\ntidegate-cli.workspace = true\n";
        check_one(
            "tidegate",
            text,
            &["crates/tidegate/Cargo.toml: `tidegate` must not import `cli`"],
        );
        let text = "[dependencies]\ntidegate.workspace = true\n";
        check_one(
            "vitals",
            text,
            &["crates/vitals/Cargo.toml: `vitals` must not import `tidegate`"],
        );
    }

    #[test]
    fn tests_may_import_anything() {
        check_one(
            "ops",
            "[dev-dependencies]\ntidegate-gateway.workspace = true\n",
            &[],
        );
        compare(
            &check(&[file(
                "benches/Cargo.toml",
                "[dependencies]\ntidegate-cli = \"1\"\n",
            )]),
            &[],
        );
        compare(
            &check(&[file(
                "crates/wire/fuzz/Cargo.toml",
                "[dependencies]\ntidegate-cli = \"1\"\n",
            )]),
            &[],
        );
    }

    #[test]
    fn a_new_crate_needs_a_line() {
        let expected = [
            "crates/utils/Cargo.toml: crate `utils` has no line in the import table (xtask/src/tidy/imports.rs)",
        ];
        check_one("utils", "", &expected);
    }
}
