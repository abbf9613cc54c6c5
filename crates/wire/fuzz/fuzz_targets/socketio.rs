//! Fuzz target: any bytes into `harness::socketio`.
#![no_main]

#[path = "../harness.rs"]
#[expect(dead_code, reason = "each target uses its own part of the harness")]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::socketio(data));
