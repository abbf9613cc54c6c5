//! Checks that need more than one setting, or another crate's reading of it.

use tidegate_auth::Pattern;

use super::{
    SettingsError,
    model::{self, Values},
};

/// Refuses the first combination that cannot work.
pub(super) fn check(values: &Values) -> Result<(), SettingsError> {
    let path = &values.path;
    if !path.starts_with('/') || !path.ends_with('/') || path.len() < 2 {
        return Err(SettingsError::value(
            "path",
            format!("{path:?}"),
            "a path that starts with / and ends with /",
        ));
    }
    if path.starts_with("/api/") {
        return Err(SettingsError::value(
            "path",
            format!("{path:?}"),
            "a path outside /api/",
        ));
    }
    if !values.transport.websocket && !values.transport.polling {
        let allowed = "true while transport.polling is false: one of them must be on";
        return Err(SettingsError::value("transport.websocket", false, allowed));
    }
    let outbox = &values.outbox;
    if outbox.hard_bytes < outbox.soft_bytes {
        let allowed = format!("at least outbox.soft_bytes, which is \"{}\"", outbox.soft_bytes);
        return Err(SettingsError::value(
            "outbox.hard_bytes",
            format!("\"{}\"", outbox.hard_bytes),
            allowed,
        ));
    }
    let sessions = &values.sessions;
    if sessions.stale_after < sessions.idle_after {
        let allowed = format!(
            "at least sessions.idle_after, which is \"{}\"",
            sessions.idle_after
        );
        return Err(SettingsError::value(
            "sessions.stale_after",
            format!("\"{}\"", sessions.stale_after),
            allowed,
        ));
    }
    check_jwt(values)?;
    check_api_keys(values)?;
    check_rooms(values)?;
    check_store(&values.store)?;
    super::limits::check(values)?;
    super::app::check(values)?;
    super::bridge::check(values)?;
    super::feeds::compose(values)?;
    super::queries::compose(values).map(drop)
}

fn check_store(store: &model::Store) -> Result<(), SettingsError> {
    if store.pool.min > store.pool.size {
        let allowed = format!("at most store.pool.size, which is {}", store.pool.size);
        return Err(SettingsError::value("store.pool.min", store.pool.min, allowed));
    }
    if store.critical < store.slow {
        let allowed = format!("at least store.slow, which is \"{}\"", store.slow);
        let critical = format!("\"{}\"", store.critical);
        return Err(SettingsError::value("store.critical", critical, allowed));
    }
    Ok(())
}

fn check_jwt(values: &Values) -> Result<(), SettingsError> {
    let Some(jwt) = &values.auth.jwt else {
        return Ok(());
    };
    let sources = [
        jwt.secret_env.is_some(),
        jwt.secret_file.is_some(),
        jwt.public_key_file.is_some(),
        jwt.jwks_file.is_some(),
    ];
    let given = sources.iter().filter(|given| **given).count();
    if given != 1 {
        let allowed = "exactly one of secret_env, secret_file, public_key_file and jwks_file";
        return Err(SettingsError::value(
            "auth.jwt",
            format!("a block with {given} keys"),
            allowed,
        ));
    }
    let symmetric = jwt.algorithm == tidegate_auth::Algorithm::Hs256;
    let secret = jwt.secret_env.is_some() || jwt.secret_file.is_some();
    if (symmetric && jwt.public_key_file.is_some()) || (!symmetric && secret) {
        let allowed = if symmetric {
            "RS256, ES256 or EdDSA beside public_key_file"
        } else {
            "HS256 beside secret_env or secret_file"
        };
        return Err(SettingsError::value(
            "auth.jwt.algorithm",
            format!("\"{}\"", jwt.algorithm),
            allowed,
        ));
    }
    Ok(())
}

fn check_api_keys(values: &Values) -> Result<(), SettingsError> {
    for (index, key) in values.auth.api_keys.iter().enumerate() {
        let given = usize::from(key.key_env.is_some()) + usize::from(key.sha256.is_some());
        if given != 1 {
            let block = format!("auth.api_keys[{index}]");
            let allowed = "exactly one of key_env and sha256";
            return Err(SettingsError::value(
                &block,
                format!("a block with {given} of them"),
                allowed,
            ));
        }
    }
    Ok(())
}

fn check_rooms(values: &Values) -> Result<(), SettingsError> {
    for (pattern, _) in &values.rooms.0 {
        let key = format!("rooms.{pattern:?}");
        let parsed = Pattern::parse(pattern)
            .map_err(|error| SettingsError::value(&key, error, "a pattern such as \"ticks:*\""))?;
        if parsed.has_placeholders() {
            let allowed = "a pattern without {…}: options belong to rooms, not to users";
            return Err(SettingsError::value(&key, format!("{pattern:?}"), allowed));
        }
    }
    Ok(())
}
