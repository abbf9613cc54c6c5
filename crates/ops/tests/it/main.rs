//! Tests of ops through its public interface.

mod prometheus;
