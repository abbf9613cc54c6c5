//! The tidegate binary: reads arguments, environment and files, and runs one verb.

mod args;
mod check;
mod config;
mod demo;
mod exit;
mod index;
mod index_args;
mod index_source;
mod index_words;
mod log;
mod out;
mod serve;
mod store;
mod words;

use std::process::ExitCode;

use args::Verb;
use exit::Failure;

/// Connections come and go in great numbers; this allocator gives their memory back and keeps threads apart.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args = match args::parse(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => return error.print(),
    };
    let result = match &args.verb {
        Verb::Serve(server) => serve::run(&args, server),
        Verb::Demo(demo) => demo::run(&args, demo),
        Verb::Check(check) => check::run(&args, check),
        Verb::Index(index) => index::run(&args, index),
        Verb::Migrate(migrate) => store::migrate(&args, migrate),
        Verb::Spool(spool) => store::spool(&args, spool),
        Verb::Deadletter(letters) => store::deadletter(&args, letters),
    };
    result.unwrap_or_else(|failure: Failure| failure.report(&args))
}
