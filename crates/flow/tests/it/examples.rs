//! The examples that people copy run.

#[path = "../../examples/instances.rs"]
mod instances;
#[path = "../../examples/join_bounded.rs"]
mod join_bounded;

#[test]
fn the_example_of_instances_runs() {
    instances::main().unwrap();
}

#[test]
fn the_example_of_bounded_joins_runs() {
    join_bounded::main();
}
