//! The example that people copy runs, and finds what it says.

#[path = "../../examples/orders.rs"]
#[expect(dead_code, reason = "its `main` is for people")]
mod orders;

use crate::support;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_orders_example_stores_pages_and_sums() {
    let summary = orders::run(&support::database()).await.unwrap();
    assert_eq!(
        summary,
        orders::Summary {
            stored: 20_000,
            stored_again: 0,
            paged: 5_000,
            n_pages: 10,
            n_different: 0,
            status_after_failure: "paid".to_owned(),
        }
    );
}
