//! Reads what Redis sends, one item at a time: nothing is gathered that nobody asked for.
//!
//! A client library would read ahead into a queue of its own. Here the bytes stay in Redis until the gateway has a place for
//! the message, an oversized value is passed over without being kept, and a large one is paid for before it is read.
//!
//! Source: the Redis serialization protocol, version 2.

use std::io;

use tidegate_vitals::{Class, Guard, Ledger};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::UNPAID_BYTES;

/// Longest line: a kind, a length or an error.
const LINE_BYTES_MAX: usize = 4 << 10;
/// What is read at once.
const BUFFER_BYTES: usize = 16 << 10;

/// One item of the protocol.
#[derive(Debug)]
pub(super) enum Item {
    /// An answer without more to it, or a number.
    Plain(String),
    /// The server refuses a command.
    Error(String),
    Value(Value),
    /// So many items follow.
    Array(usize),
    Nil,
}

/// A string of bytes.
#[derive(Debug)]
pub(super) enum Value {
    Whole {
        bytes: Vec<u8>,
        /// Gives its place in the account back.
        _paid: Option<Guard>,
    },
    /// Passed over; its size.
    TooLarge(u64),
    /// Passed over, because the account is full; its size.
    NoMemory(u64),
}

/// The reading half of a connection.
pub(super) struct Reader<R> {
    inner: BufReader<R>,
    ledger: Ledger,
    value_bytes_max: usize,
    line: Vec<u8>,
}

// === impl Value ===

impl Value {
    /// Its bytes, where they were kept.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Whole { bytes, .. } => Some(bytes),
            Self::TooLarge(_) | Self::NoMemory(_) => None,
        }
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Whole { bytes, .. } => bytes.len() as u64,
            Self::TooLarge(len) | Self::NoMemory(len) => *len,
        }
    }
}

// === impl Reader ===

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(inner: R, ledger: Ledger, value_bytes_max: usize) -> Self {
        Self {
            inner: BufReader::with_capacity(BUFFER_BYTES, inner),
            ledger,
            value_bytes_max,
            line: Vec::new(),
        }
    }

    /// Waits until there is something to read; false at the end.
    ///
    /// # Cancel safety
    /// Nothing is taken.
    pub(super) async fn ready(&mut self) -> io::Result<bool> {
        Ok(!self.inner.fill_buf().await?.is_empty())
    }

    /// The next item.
    ///
    /// # Cancel safety
    /// Dropped in the middle, the connection is of no more use.
    pub(super) async fn item(&mut self) -> io::Result<Item> {
        self.line.clear();
        let limit = LINE_BYTES_MAX as u64;
        let mut limited = (&mut self.inner).take(limit);
        limited.read_until(b'\n', &mut self.line).await?;
        let Some(line) = self.line.strip_suffix(b"\r\n") else {
            return Err(match self.line.len() < LINE_BYTES_MAX {
                true => io::ErrorKind::UnexpectedEof.into(),
                false => invalid("a line is too long"),
            });
        };
        let Some((&kind, rest)) = line.split_first() else {
            return Err(invalid("an empty line"));
        };
        let text = std::str::from_utf8(rest).map_err(|_| invalid("a line that is no text"))?;
        match kind {
            b'+' | b':' => Ok(Item::Plain(text.to_owned())),
            b'-' => Ok(Item::Error(text.to_owned())),
            b'*' => Ok(count(text)?.map_or(Item::Nil, |len| Item::Array(len as usize))),
            b'$' => match count(text)? {
                None => Ok(Item::Nil),
                Some(len) => self.value(len).await.map(Item::Value),
            },
            other => Err(invalid(&format!("an item of kind {:?}", char::from(other)))),
        }
    }

    async fn value(&mut self, len: u64) -> io::Result<Value> {
        let value = if len > self.value_bytes_max as u64 {
            self.pass_over(len).await?;
            Value::TooLarge(len)
        } else {
            match self.pay(len as usize) {
                Err(()) => {
                    self.pass_over(len).await?;
                    Value::NoMemory(len)
                }
                Ok(paid) => Value::Whole {
                    bytes: self.take(len).await?,
                    _paid: paid,
                },
            }
        };
        let mut end = [0; 2];
        self.inner.read_exact(&mut end).await?;
        if &end == b"\r\n" {
            Ok(value)
        } else {
            Err(invalid("a value without its end"))
        }
    }

    fn pay(&self, len: usize) -> Result<Option<Guard>, ()> {
        if len <= UNPAID_BYTES {
            return Ok(None);
        }
        let guard = self.ledger.reserve(Class::ReadBuffers, len);
        guard.map(Some).map_err(drop)
    }

    async fn take(&mut self, len: u64) -> io::Result<Vec<u8>> {
        // Grows with what arrives.
        let mut bytes = Vec::with_capacity((len as usize).min(BUFFER_BYTES));
        let read = (&mut self.inner).take(len).read_to_end(&mut bytes).await?;
        if read as u64 == len {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    async fn pass_over(&mut self, len: u64) -> io::Result<()> {
        let mut left = len;
        while left > 0 {
            let here = self.inner.fill_buf().await?.len();
            if here == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = left.min(here as u64);
            self.inner.consume(step as usize);
            left -= step;
        }
        Ok(())
    }

    /// An item that must be a value.
    pub(super) async fn expect_value(&mut self) -> io::Result<Value> {
        match self.item().await? {
            Item::Value(value) => Ok(value),
            other => Err(invalid(&format!("{other:?} where a value was expected"))),
        }
    }

    /// An item that must be the beginning of a list.
    pub(super) async fn expect_array(&mut self) -> io::Result<usize> {
        match self.item().await? {
            Item::Array(len) => Ok(len),
            other => Err(invalid(&format!("{other:?} where a list was expected"))),
        }
    }

    /// Passes over `n` items that nothing is expected of, whatever is in them.
    pub(super) async fn skip(&mut self, n: usize) -> io::Result<()> {
        let mut left = n;
        while left > 0 {
            left -= 1;
            if let Item::Array(len) = self.item().await? {
                left = left.saturating_add(len);
            }
        }
        Ok(())
    }
}

/// The number after `*` or `$`; none for -1, which is nil.
fn count(text: &str) -> io::Result<Option<u64>> {
    if text == "-1" {
        return Ok(None);
    }
    let number = text.parse::<u64>();
    number
        .map(Some)
        .map_err(|_| invalid(&format!("{text:?} as a length")))
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("not what Redis sends: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE_BYTES_MAX: usize = 8 << 10;

    fn reader(bytes: &[u8], budget: u64) -> Reader<&[u8]> {
        Reader::new(bytes, Ledger::new(budget), VALUE_BYTES_MAX)
    }

    async fn check(bytes: &[u8], expected: Result<&str, io::ErrorKind>) {
        let mut reader = reader(bytes, 1 << 20);
        let mut seen = String::new();
        let error = loop {
            match reader.ready().await {
                Ok(false) => break None,
                Ok(true) => {}
                Err(error) => break Some(error),
            }
            match reader.item().await {
                Ok(Item::Plain(text)) => seen += &format!("+{text} "),
                Ok(Item::Error(text)) => seen += &format!("-{text} "),
                Ok(Item::Nil) => seen += "nil ",
                Ok(Item::Array(len)) => seen += &format!("*{len} "),
                Ok(Item::Value(Value::Whole { bytes, .. })) => seen += &format!("{} ", bytes.escape_ascii()),
                Ok(Item::Value(value)) => seen += &format!("{value:?} "),
                Err(error) => break Some(error),
            }
        };
        match expected {
            Ok(text) => assert_eq!((seen.trim_end(), error.map(|e| e.to_string())), (text, None)),
            Err(kind) => assert_eq!(error.map(|error| error.kind()), Some(kind), "{seen}"),
        }
    }

    #[tokio::test]
    async fn items_are_read_one_by_one() {
        check(
            b"+OK\r\n:12\r\n-ERR no\r\n$-1\r\n*-1\r\n",
            Ok("+OK +12 -ERR no nil nil"),
        )
        .await;
        check(
            b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\n\r\n\0\x01\r\n",
            Ok("*3 message c \\r\\n\\x00\\x01"),
        )
        .await;
        let large = [b"$9000\r\n".as_slice(), &[b'x'; 9_000], b"\r\n+OK\r\n"].concat();
        check(&large, Ok("TooLarge(9000) +OK")).await;
    }

    #[tokio::test]
    async fn what_redis_does_not_send_is_an_error() {
        check(b"%1\r\n", Err(io::ErrorKind::InvalidData)).await;
        check(b"$x\r\n", Err(io::ErrorKind::InvalidData)).await;
        check(b"$1\r\naXX", Err(io::ErrorKind::InvalidData)).await;
        check(b"\r\n", Err(io::ErrorKind::InvalidData)).await;
        check(&[b'+'; LINE_BYTES_MAX + 1], Err(io::ErrorKind::InvalidData)).await;
        check(b"$5\r\nab", Err(io::ErrorKind::UnexpectedEof)).await;
        // A length that is not there costs nothing.
        check(b"$99999999999\r\nab", Err(io::ErrorKind::UnexpectedEof)).await;
        check(b"+OK", Err(io::ErrorKind::UnexpectedEof)).await;
    }

    #[tokio::test]
    async fn a_value_without_a_place_in_the_account_is_passed_over() {
        let bytes = [b"$8000\r\n".as_slice(), &[b'x'; 8_000], b"\r\n+OK\r\n"].concat();
        let mut reader = reader(&bytes, 5_000);
        assert!(matches!(
            reader.item().await.unwrap(),
            Item::Value(Value::NoMemory(8_000))
        ));
        assert!(matches!(reader.item().await.unwrap(), Item::Plain(text) if text == "OK"));
    }

    #[tokio::test]
    async fn nested_items_are_skipped_whole() {
        let mut reader = reader(b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n+next\r\n", 0);
        reader.skip(1).await.unwrap();
        assert!(matches!(reader.item().await.unwrap(), Item::Plain(text) if text == "next"));
    }
}
