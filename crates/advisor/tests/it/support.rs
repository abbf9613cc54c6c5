//! The server these tests share, and the orders table.

use std::sync::LazyLock;

use tidegate_cluster::Cluster;
use tokio_postgres::{Client, NoTls};

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::temporary().unwrap());

/// As many rows as the demo has, over four stores and a quarter of a year.
pub(crate) const ORDERS: &str = "
    CREATE TABLE orders (
        id bigint PRIMARY KEY, store text NOT NULL, date date NOT NULL, time_period text NOT NULL,
        channel text NOT NULL, product text NOT NULL, category_l1 text NOT NULL, scene text NOT NULL,
        quantity int NOT NULL, amount numeric(10, 2) NOT NULL, note text NOT NULL);
    INSERT INTO orders
    SELECT n, 'store-' || n % 4, date '2025-01-01' + (n * 7919 % 90)::int, 'period-' || n * 31 % 5,
           'channel-' || n * 17 % 6, 'product-' || n * 131 % 220, 'category-' || n * 13 % 9, 'scene-' || n * 11 % 3,
           1 + n % 5, (n * 37 % 9000) / 100.0, repeat('x', 60)
    FROM generate_series(1, 93728) n;
    VACUUM ANALYZE orders;";

/// A connection to a server.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The server of this test binary.
pub(crate) fn cluster() -> &'static Cluster {
    &CLUSTER
}

/// A connection to a fresh database, and its URL.
pub(crate) async fn database() -> (Client, String) {
    let url = tokio::task::spawn_blocking(|| cluster().create_database("advisor").unwrap())
        .await
        .unwrap();
    (connect(&url).await, url)
}

/// Runs statements one by one, each in a transaction of its own.
pub(crate) async fn run(client: &Client, sql: &str) {
    for statement in sql.split(";\n").filter(|statement| !statement.trim().is_empty()) {
        client.batch_execute(statement).await.unwrap();
    }
}

/// The first column of the first row, as text.
pub(crate) async fn ask(client: &Client, sql: &str) -> String {
    let row = client
        .query_one(&format!("SELECT ({sql})::text"), &[])
        .await
        .unwrap();
    row.get::<_, Option<String>>(0).unwrap_or_default()
}
