//! Rows on their way in.

mod declaration;
