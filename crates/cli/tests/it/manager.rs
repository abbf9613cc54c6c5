//! What a service manager hears from `serve`: ready, alive, reloading, stopping.

use std::{os::unix::net::UnixDatagram, time::Duration};

use super::{Server, Settings, tidegate};

/// The manager's side of sd_notify(3).
struct Manager {
    socket: UnixDatagram,
    path: std::path::PathBuf,
}

impl Manager {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-{}-notify.sock", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { socket, path }
    }

    /// The next that is said; signs of life between are for `alive`.
    fn hear(&self) -> String {
        let mut buffer = [0; 64];
        let n_bytes = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n_bytes].to_vec()).unwrap()
    }

    fn hear_of(&self, expected: &str) {
        loop {
            match self.hear().as_str() {
                said if said == expected => return,
                "WATCHDOG=1" => {}
                said => panic!("heard {said} before {expected}"),
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
    }
}

#[test]
fn the_service_manager_is_told_how_it_stands() {
    let manager = Manager::new();
    let settings = Settings::new("manager", "listen = \"127.0.0.1:0\"");
    let mut command = tidegate(&["serve", "-c", settings.path()]);
    command
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "200000");
    let server = Server::start_command(command);
    assert_eq!(manager.hear(), "READY=1");
    assert_eq!(
        (manager.hear(), manager.hear()),
        ("WATCHDOG=1".into(), "WATCHDOG=1".into())
    );
    server.signal("HUP");
    manager.hear_of("RELOADING=1");
    manager.hear_of("READY=1");
    server.signal("TERM");
    manager.hear_of("STOPPING=1");
    assert!(server.wait().success());
}

#[test]
fn a_service_manager_that_is_gone_stops_nothing() {
    let mut command = tidegate(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", "/no/such/socket");
    let mut server = Server::start_command(command);
    server.wait_for("the service manager was not told");
    server.signal("TERM");
    assert!(server.wait().success());
}
