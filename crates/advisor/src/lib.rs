//! Indexes over any PostgreSQL connection.
