//! Cuts a stream of lines into pieces of whole rows, a thousand or a multiple of it at a time.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Rows that are claimed together, and therefore never parted.
const CHUNK_ROWS: u64 = 1_000;

/// A piece ends at the first thousand rows at which it has so many bytes: enough for one good commit.
const PIECE_BYTES: usize = 1 << 20;

/// Rows after which a piece ends whatever its bytes.
const PIECE_ROWS: u64 = 10_000;

/// Some whole rows, one a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) lines: Bytes,
    pub(crate) n_rows: u64,
}

/// What has arrived and makes no piece yet.
///
/// Of a line that is longer than a row may be only the beginning is kept, one byte more than allowed: enough for the row
/// to be refused for its length, whatever the sender goes on to send.
#[derive(Debug)]
pub(crate) struct Cutter {
    buffer: BytesMut,
    row_bytes_max: usize,
    /// Pieces that are whole, from the beginning of the buffer: bytes and rows of each.
    whole: VecDeque<(usize, u64)>,
    /// Where the piece begins that is not whole yet.
    piece_from: usize,
    /// Its rows.
    n_rows: u64,
    line_from: usize,
}

impl Cutter {
    /// For rows of at most so many bytes.
    pub(crate) fn new(row_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            row_bytes_max,
            whole: VecDeque::new(),
            piece_from: 0,
            n_rows: 0,
            line_from: 0,
        }
    }

    /// Bytes held.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Takes more bytes.
    pub(crate) fn push(&mut self, mut data: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', data) {
            self.extend(&data[..end]);
            self.end_line();
            data = &data[end + 1..];
        }
        self.extend(data);
    }

    /// The next piece, if it is whole.
    pub(crate) fn take(&mut self) -> Option<Piece> {
        let (bytes, n_rows) = self.whole.pop_front()?;
        self.piece_from -= bytes;
        self.line_from -= bytes;
        let lines = self.buffer.split_to(bytes).freeze();
        Some(Piece { lines, n_rows })
    }

    /// What is left behind the whole pieces, its last line with or without an end.
    pub(crate) fn finish(&mut self) -> Option<Piece> {
        if self.line_from < self.buffer.len() {
            self.end_line();
        }
        if self.n_rows > 0 {
            self.end_piece();
        }
        self.take()
    }

    fn extend(&mut self, part: &[u8]) {
        let room = (self.row_bytes_max + 1).saturating_sub(self.buffer.len() - self.line_from);
        self.buffer.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn end_line(&mut self) {
        if self.buffer[self.line_from..].trim_ascii().is_empty() {
            // Empty lines are no rows and need no place.
            self.buffer.truncate(self.line_from);
            return;
        }
        self.buffer.extend_from_slice(b"\n");
        self.line_from = self.buffer.len();
        self.n_rows += 1;
        let is_large = self.line_from - self.piece_from >= PIECE_BYTES || self.n_rows >= PIECE_ROWS;
        if is_large && self.n_rows.is_multiple_of(CHUNK_ROWS) {
            self.end_piece();
        }
    }

    fn end_piece(&mut self) {
        self.whole
            .push_back((self.line_from - self.piece_from, self.n_rows));
        self.piece_from = self.line_from;
        self.n_rows = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(row_bytes_max: usize, parts: &[&[u8]]) -> Vec<(u64, usize)> {
        let mut cutter = Cutter::new(row_bytes_max);
        let mut found = Vec::new();
        for part in parts {
            cutter.push(part);
            while let Some(piece) = cutter.take() {
                found.push((piece.n_rows, piece.lines.len()));
            }
        }
        found.extend(cutter.finish().map(|piece| (piece.n_rows, piece.lines.len())));
        assert_eq!((cutter.len(), cutter.finish()), (0, None));
        found
    }

    #[test]
    fn pieces_end_at_a_thousand_rows() {
        let lines = b"{}\n".repeat(10_500);
        assert_eq!(pieces(100, &[&lines]), [(10_000, 30_000), (500, 1_500)]);
        let long = [b"\"", "x".repeat(1_498).as_bytes(), b"\"\n"].concat();
        assert_eq!(
            pieces(2_000, &[&long.repeat(2_100)]),
            [(1_000, 1_501_000), (1_000, 1_501_000), (100, 150_100)]
        );
    }

    #[test]
    fn how_the_stream_is_cut_changes_nothing() {
        let lines = b"{\"a\":1}\n\n  \r\n{\"a\":2}\r\n{\"a\":3}".repeat(900);
        let whole = pieces(100, &[&lines]);
        for size in [1, 2, 7, 4_096] {
            let parts: Vec<&[u8]> = lines.chunks(size).collect();
            assert_eq!(pieces(100, &parts), whole, "parts of {size}");
        }
    }

    #[test]
    fn empty_lines_are_no_rows() {
        assert_eq!(pieces(100, &[b"\n\r\n {} \n\n"]), [(1, 5)]);
        assert_eq!(pieces(100, &[b"\n \n"]), []);
        assert_eq!(pieces(100, &[b"{}"]), [(1, 3)]);
        assert_eq!(pieces(100, &[]), []);
    }

    #[test]
    fn a_line_without_end_takes_no_more_than_a_row() {
        let mut cutter = Cutter::new(50);
        for _ in 0..1_000 {
            cutter.push(&[b'x'; 1_000]);
        }
        assert_eq!(cutter.len(), 51);
        cutter.push(b"\n{}\n");
        assert_eq!(cutter.finish().map(|piece| piece.n_rows), Some(2));
    }
}
