//! Private PostgreSQL servers from installed binaries.
