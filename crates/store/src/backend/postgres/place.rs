//! Where a server's data lies, as far as this machine can know it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tokio_postgres::SimpleQueryMessage;

use super::Connection;
use crate::backend::is_in_memory;

/// Null for a role that may not read it, so that nothing fails and nothing is logged.
const DATA_DIRECTORY: &str = "SELECT CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE') \
     THEN current_setting('data_directory') END";

/// The line of `postmaster.pid` that holds the port, from 0.
const PORT_LINE: usize = 3;

/// Whether the server keeps its data in memory; none where that cannot be known: the server is on another machine, or the
/// role may not know its folder.
pub(super) async fn is_on_tmpfs(connection: &Connection) -> Option<bool> {
    let host = &connection.info().host;
    let (place, port) = host.rsplit_once(['.', ':'])?;
    let is_socket = host.starts_with('/');
    if !is_socket && !matches!(place, "127.0.0.1" | "localhost" | "[::1]") {
        return None;
    }
    let messages = connection.client().simple_query(DATA_DIRECTORY).await.ok()?;
    let folder = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(PathBuf::from),
        _ => None,
    })?;
    // A port of this machine may lead into a container, whose folder of that name is not ours.
    (is_socket || is_of_port(&folder, port)).then_some(())?;
    is_in_memory(&folder)
}

fn is_of_port(folder: &Path, port: &str) -> bool {
    let text = fs::read_to_string(folder.join("postmaster.pid"));
    text.is_ok_and(|text| {
        text.lines()
            .nth(PORT_LINE)
            .is_some_and(|line| line.trim() == port)
    })
}
