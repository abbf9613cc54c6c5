//! The tidegate binary: reads arguments, environment and files, and runs one verb.

mod args;
mod check;
mod config;
mod demo;
mod exit;
mod http;
mod index;
mod index_args;
mod index_source;
mod index_words;
mod log;
mod manager;
mod out;
mod profile;
mod serve;
mod store;
mod words;

use std::process::ExitCode;

use args::Verb;
use exit::Failure;

/// Connections come and go in great numbers; this allocator gives their memory back and keeps threads apart.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Options that jemalloc reads at its start (its manual, jemalloc(3)): a pointer to a C string.
#[repr(transparent)]
struct Options(*const std::ffi::c_char);

// SAFETY: the pointer is to a constant that nobody writes.
unsafe impl Sync for Options {}

/// Unused memory goes back after five seconds. Heap profiling is there and off until somebody asks for a profile or a leak
/// is suspected.
// SAFETY: the one name that jemalloc looks for, with the type that it has there; nothing else defines it.
#[unsafe(export_name = "_rjem_malloc_conf")]
#[used]
static OPTIONS: Options = Options(
    c"prof:true,prof_active:false,background_thread:true,dirty_decay_ms:5000,muzzy_decay_ms:0".as_ptr(),
);

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
        Verb::Profile(profile) => profile::run(&args, profile),
        Verb::Migrate(migrate) => store::migrate(&args, migrate),
        Verb::Spool(spool) => store::spool(&args, spool),
        Verb::Deadletter(letters) => store::deadletter(&args, letters),
    };
    result.unwrap_or_else(|failure: Failure| failure.report(&args))
}
