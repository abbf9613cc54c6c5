//! The examples that people copy run.

#[path = "../../examples/cache.rs"]
mod cache;
#[path = "../../examples/cached.rs"]
mod cached;

#[test]
fn the_example_of_a_cache_runs() {
    cache::main().unwrap();
}

#[test]
fn the_example_of_cached_functions_runs() {
    cached::main();
}
