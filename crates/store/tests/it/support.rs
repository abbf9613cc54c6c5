//! The real server that the tests of this crate share: one server a test binary, one database a test.

use std::sync::LazyLock;

use tidegate_cluster::Cluster;

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::temporary().unwrap());

/// The server of this test binary. It ends with the process; a test that crashes or stops a server starts its own
/// with [`Cluster::temporary`].
pub(crate) fn cluster() -> &'static Cluster {
    &CLUSTER
}

/// The URL of a fresh, empty database on the shared server.
pub(crate) fn database() -> String {
    cluster().create_database("store").unwrap()
}

#[test]
fn each_test_has_a_database_of_its_own() {
    assert_ne!(database(), database());
    assert_eq!(cluster().psql("postgres", "SELECT 1").unwrap(), "1");
}
