//! Rows of one chunk as they lie in the spool: a versioned, bounded encoding that trusts nothing it reads.

use bytes::Bytes;

use crate::{
    error::{Error, Result},
    feed::Operation,
};

/// A chunk of rows that waits for the database, with the claim that makes it stored once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The declaration under which the rows were checked, see `Feed::version`.
    pub feed_version: u64,
    /// What makes the chunk stored once.
    pub claim: Claim,
    /// What is done with the rows.
    pub operation: Operation,
    /// How many rows `rows` holds.
    pub n_rows: u32,
    /// The rows, in the encoding of whoever spools them; the spool does not look inside.
    pub rows: Bytes,
}

/// The mark under which a chunk is stored once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Who sent the rows; at most [`PRINCIPAL_BYTES_MAX`] bytes.
    pub principal: String,
    /// The request's id; at most [`ID_BYTES_MAX`] bytes.
    pub id: String,
    /// Which 1,000 rows of the request, from 0.
    pub chunk: u32,
    /// SHA-256 of the chunk's content.
    pub hash: [u8; 32],
}

/// Longest name of a principal in a record.
pub const PRINCIPAL_BYTES_MAX: usize = 4_096;

/// Longest id in a record: ids of callers have at most 64 bytes, ours leave room for a prefix.
pub const ID_BYTES_MAX: usize = 256;

/// The version this code writes; older ones are read for as long as a spool may hold them.
const VERSION: u8 = 1;

/// `version | operation | principal length | id length | chunk | n_rows | feed version | at | hash`.
const HEAD_BYTES: usize = 1 + 1 + 2 + 2 + 4 + 4 + 8 + 8 + 32;

/// The most bytes that a record adds to its rows.
pub(super) const OVERHEAD_BYTES_MAX: usize = HEAD_BYTES + PRINCIPAL_BYTES_MAX + ID_BYTES_MAX;

/// A record and when it was spooled, in unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dated {
    pub(super) at_ms: u64,
    pub(super) record: Record,
}

// === impl Record ===

impl Record {
    /// The most that [`Record::encode`] makes of it.
    pub(super) fn bytes_max(&self) -> usize {
        HEAD_BYTES + self.claim.principal.len() + self.claim.id.len() + self.rows.len()
    }

    /// The bytes for the log.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when the principal or the id is longer than a record takes.
    pub(super) fn encode(&self, at_ms: u64) -> Result<Vec<u8>> {
        let Claim {
            principal,
            id,
            chunk,
            hash,
        } = &self.claim;
        bounded("principal", principal, PRINCIPAL_BYTES_MAX)?;
        bounded("id", id, ID_BYTES_MAX)?;
        let mut bytes = Vec::with_capacity(self.bytes_max());
        bytes.extend([VERSION, operation_code(self.operation)]);
        bytes.extend((principal.len() as u16).to_le_bytes());
        bytes.extend((id.len() as u16).to_le_bytes());
        bytes.extend(chunk.to_le_bytes());
        bytes.extend(self.n_rows.to_le_bytes());
        bytes.extend(self.feed_version.to_le_bytes());
        bytes.extend(at_ms.to_le_bytes());
        bytes.extend(hash);
        bytes.extend(principal.as_bytes());
        bytes.extend(id.as_bytes());
        bytes.extend(&self.rows);
        Ok(bytes)
    }
}

fn bounded(what: &str, text: &str, limit: usize) -> Result<()> {
    if text.len() <= limit {
        return Ok(());
    }
    Err(Error::TooLarge {
        what: format!("{what} of a spooled chunk"),
        size: text.len() as u64,
        limit: limit as u64,
    })
}

const fn operation_code(operation: Operation) -> u8 {
    match operation {
        Operation::Insert => 1,
        Operation::Upsert => 2,
        Operation::Update => 3,
        Operation::Delete => 4,
    }
}

const fn operation_of(code: u8) -> Option<Operation> {
    Some(match code {
        1 => Operation::Insert,
        2 => Operation::Upsert,
        3 => Operation::Update,
        4 => Operation::Delete,
        _ => return None,
    })
}

// === impl Dated ===

impl Dated {
    /// Reads what [`Record::encode`] wrote, or says why these bytes are not that. The rows share `bytes`.
    pub(super) fn decode(bytes: &Bytes) -> std::result::Result<Self, &'static str> {
        let mut rest = Rest(bytes);
        if rest.u8()? != VERSION {
            return Err("unknown version");
        }
        let operation = operation_of(rest.u8()?).ok_or("unknown operation")?;
        let (n_principal, n_id) = (usize::from(rest.u16()?), usize::from(rest.u16()?));
        if n_principal > PRINCIPAL_BYTES_MAX || n_id > ID_BYTES_MAX {
            return Err("principal or id too long");
        }
        let (chunk, n_rows) = (rest.u32()?, rest.u32()?);
        let (feed_version, at_ms) = (rest.u64()?, rest.u64()?);
        let hash = rest.array()?;
        let principal = rest.text(n_principal)?;
        let id = rest.text(n_id)?;
        let rows = bytes.slice(bytes.len() - rest.0.len()..);
        let claim = Claim {
            principal,
            id,
            chunk,
            hash,
        };
        let record = Record {
            feed_version,
            claim,
            operation,
            n_rows,
            rows,
        };
        Ok(Self { at_ms, record })
    }
}

/// What is left of the bytes of a record.
struct Rest<'a>(&'a [u8]);

type Part<T> = std::result::Result<T, &'static str>;

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Part<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or("too short")?;
        self.0 = rest;
        Ok(*first)
    }

    fn text(&mut self, len: usize) -> Part<String> {
        let (first, rest) = self.0.split_at_checked(len).ok_or("too short")?;
        self.0 = rest;
        simdutf8::basic::from_utf8(first)
            .map(str::to_owned)
            .map_err(|_| "principal or id is not UTF-8")
    }

    fn u8(&mut self) -> Part<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Part<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Part<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Part<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(principal: &str, id: &str, rows: Vec<u8>) -> Record {
        Record {
            feed_version: 7,
            claim: Claim {
                principal: principal.to_owned(),
                id: id.to_owned(),
                chunk: 3,
                hash: [9; 32],
            },
            operation: Operation::Upsert,
            n_rows: 2,
            rows: rows.into(),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(principal in ".{0,40}", id in "[a-z0-9]{0,64}", rows: Vec<u8>, at_ms: u64) {
            let record = record(&principal, &id, rows);
            let bytes = Bytes::from(record.encode(at_ms).unwrap());
            prop_assert_eq!(Dated::decode(&bytes), Ok(Dated { at_ms, record }));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Dated::decode(&bytes.into());
        }

        #[test]
        fn damaged_records_are_read_or_refused(at in 0_usize..120, byte: u8, cut in 0_usize..120) {
            let mut bytes = record("alice", "id-1", vec![1; 40]).encode(5).unwrap();
            let n_bytes = bytes.len();
            bytes[at % n_bytes] = byte;
            bytes.truncate(n_bytes.saturating_sub(cut));
            if let Ok(read) = Dated::decode(&bytes.into()) {
                prop_assert!(read.record.rows.len() <= n_bytes);
            }
        }
    }

    #[test]
    fn each_operation_has_its_code() {
        for operation in [
            Operation::Insert,
            Operation::Upsert,
            Operation::Update,
            Operation::Delete,
        ] {
            assert_eq!(operation_of(operation_code(operation)), Some(operation));
        }
        assert_eq!(operation_of(0), None);
    }

    #[test]
    fn names_beyond_the_bound_are_refused() {
        let check = |record: Record, expected: &str| {
            assert_eq!(record.encode(0).unwrap_err().to_string(), expected);
        };
        check(
            record(&"p".repeat(4_097), "id", Vec::new()),
            "principal of a spooled chunk too large: 4097, at most 4096",
        );
        check(
            record("p", &"i".repeat(257), Vec::new()),
            "id of a spooled chunk too large: 257, at most 256",
        );
    }
}
