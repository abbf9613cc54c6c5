//! Finds and reads the settings: file, command line, and what the settings name outside.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tidegate::{Outside, Settings};

use crate::{
    args::{ConfigArgs, LogArg, PresetArg, ServerArgs},
    exit::Failure,
};

/// The file that is read when none is named.
const USUAL_FILE: &str = "tidegate.toml";

/// The settings and where they came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The settings.
    pub(crate) settings: Settings,
    /// The access rules, secrets included.
    pub(crate) auth: tidegate::auth::Config,
    /// The database, its passwords included, where something is declared that needs it.
    pub(crate) store: Option<tidegate::settings::StoreConfig>,
    /// The cache, its password included, where a query asks for it.
    pub(crate) cache: Option<tidegate::settings::CacheSettings>,
    /// The application behind the server, its secret included, if there is one.
    pub(crate) app: Option<tidegate::settings::AppConfig>,
    /// Where publishers speak through Redis, its password included, if they do.
    pub(crate) bridge: Option<tidegate::settings::BridgeConfig>,
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
}

/// Reads `base` (TOML that the verb brings along), the file over it, the command line over both.
///
/// # Errors
/// A file that cannot be read, a setting that is wrong.
pub(crate) fn load(base: &str, args: &ServerArgs) -> Result<Loaded, Failure> {
    let file = args
        .config
        .clone()
        .or_else(|| base.is_empty().then(usual_file).flatten());
    let text = match &file {
        Some(path) => read(path)?,
        None => String::new(),
    };
    let name = file
        .as_ref()
        .map_or_else(|| "tidegate".to_owned(), |path| path.display().to_string());
    let wrong = |source| Failure::Settings {
        file: name.clone(),
        source,
    };
    let settings = Settings::parse_layers(&[base, &text, &command_line(args)]).map_err(wrong)?;
    // Relative files in the settings are meant from the settings' own folder.
    let folder = file
        .as_deref()
        .and_then(Path::parent)
        .unwrap_or_else(|| Path::new(""));
    let read_beside = |path: &Path| fs::read_to_string(folder.join(path));
    let outside = Outside {
        env: &|name| std::env::var(name).ok(),
        read: &read_beside,
    };
    let auth = settings.auth(&outside).map_err(wrong)?;
    let settings = settings.in_folder(folder);
    let store = settings.store(&outside).map_err(wrong)?;
    let cache = settings.cache(&outside).map_err(wrong)?;
    let app = settings.app(&outside).map_err(wrong)?;
    let bridge = settings.bridge(&outside).map_err(wrong)?;
    Ok(Loaded {
        settings,
        auth,
        store,
        cache,
        app,
        bridge,
        file,
    })
}

/// As [`load`], for a verb that takes a file alone.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_file(args: &ConfigArgs) -> Result<Loaded, Failure> {
    let server = ServerArgs {
        config: args.config.clone(),
        preset: None,
        listen: None,
        log: None,
    };
    load("", &server)
}

fn usual_file() -> Option<PathBuf> {
    let path = PathBuf::from(USUAL_FILE);
    path.is_file().then_some(path)
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|source: io::Error| Failure::Unreadable {
        file: path.display().to_string(),
        source,
    })
}

/// What the command line says, as settings.
fn command_line(args: &ServerArgs) -> String {
    let mut text = String::new();
    if let Some(preset) = args.preset {
        let name = match preset {
            PresetArg::Small => "small",
            PresetArg::Medium => "medium",
            PresetArg::Large => "large",
        };
        text += &format!("preset = \"{name}\"\n");
    }
    if let Some(address) = args.listen {
        text += &format!("listen = \"{address}\"\n");
    }
    match args.log {
        Some(LogArg::Auto) => text += "log.format = \"auto\"\n",
        Some(LogArg::Text) => text += "log.format = \"text\"\n",
        Some(LogArg::Json) => text += "log.format = \"json\"\n",
        None => {}
    }
    text
}
