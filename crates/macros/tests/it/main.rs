//! Tests of the attributes on real functions.

mod cached;
