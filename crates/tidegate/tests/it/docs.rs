//! The protocol page says what the code says: close reasons and error codes.

use std::collections::BTreeSet;

use tidegate::gateway::{CloseKind, CloseReason, Code};

const PROTOCOL: &str = include_str!("../../../../docs/protocol.md");

/// The rows of the table below a heading.
fn rows(heading: &str) -> BTreeSet<&'static str> {
    let (_, rest) = PROTOCOL
        .split_once(&format!("\n## {heading}\n"))
        .expect("the page has this heading");
    let section = rest.split("\n## ").next().unwrap();
    section.lines().filter(|line| line.starts_with("| `")).collect()
}

#[test]
fn the_page_lists_every_close_reason() {
    let expected: BTreeSet<String> = CloseReason::ALL
        .iter()
        .map(|reason| {
            let kind = match reason.kind() {
                CloseKind::Terminal => "terminal",
                CloseKind::Retryable => "retryable",
                CloseKind::Client => "by the client",
            };
            format!(
                "| `{}` | {kind} | {} | {} |",
                reason.as_str(),
                reason.code(),
                reason.advice()
            )
        })
        .collect();
    assert_eq!(
        rows("Close reasons"),
        expected.iter().map(String::as_str).collect()
    );
}

#[test]
fn the_page_lists_every_error_code() {
    let all = [
        Code::BadRequest,
        Code::CursorInvalid,
        Code::Unauthenticated,
        Code::TokenExpired,
        Code::Forbidden,
        Code::NotFound,
        Code::UnknownFeed,
        Code::IdReused,
        Code::TooLarge,
        Code::InvalidRow,
        Code::RateLimited,
        Code::Overloaded,
        Code::BacklogFull,
        Code::SpoolFull,
        Code::Timeout,
        Code::Unavailable,
        Code::Internal,
    ];
    let listed = rows("Error codes");
    assert_eq!(listed.len(), all.len());
    for code in all {
        let retryable = if code.is_retryable() { "yes" } else { "no" };
        let start = format!("| `{}` | {} | {retryable} | ", code.as_str(), code.status());
        assert!(
            listed.iter().any(|row| row.starts_with(&start)),
            "no row begins with {start}"
        );
    }
}
