//! One client per address, shared by all who ask: `cargo run --example instances -p tidegate-flow`.

use std::sync::Arc;

use tidegate_flow::instances::{self, Config, Instances};

/// All parameters of a client are its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    address: &'static str,
    n_connections: usize,
}

/// Something costly to make.
#[derive(Debug)]
struct Client {
    key: Key,
}

async fn connect(key: Key) -> Result<Client, std::io::Error> {
    println!(
        "connecting to {} with {} connections",
        key.address, key.n_connections
    );
    tokio::task::yield_now().await;
    Ok(Client { key })
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), instances::Failed> {
    let clients = Instances::<Key, Client>::weak(Config::new("clients"));
    let key = Key {
        address: "replica.example.org",
        n_connections: 4,
    };
    let first = clients.get_or_create_async(&key, || connect(key.clone())).await?;
    let second = clients.get_or_create_async(&key, || connect(key.clone())).await?;
    assert!(Arc::ptr_eq(&first, &second), "it connected once");
    println!("shared: {:?}", first.key);
    for listed in instances::list() {
        println!("{}: {:?}", listed.name, listed.stats);
    }
    drop((first, second));
    println!(
        "nobody holds it: {:?}",
        clients.get(&key).map(|client| client.key.clone())
    );
    Ok(())
}
