//! Ids of connections and sessions: 20 url-safe characters, unguessable.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// 20 url-safe characters, 120 bits. Engine.IO sids give 24 of them to node and shard and keep 96 random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id([u8; Id::LEN]);

impl Id {
    pub(crate) const LEN: usize = 20;

    /// A random id.
    pub(crate) fn random(random: &mut Random) -> Self {
        Self::from_bytes(random.take())
    }

    /// The Engine.IO sid of a connection of `shard` of this node.
    pub(crate) fn engine(node: u16, shard: u16, random: &mut Random) -> Self {
        let mut bytes = random.take();
        let place = (u32::from(node & 0xfff) << 12) | u32::from(shard & 0xfff);
        bytes[..3].copy_from_slice(&place.to_be_bytes()[1..]);
        Self::from_bytes(bytes)
    }

    fn from_bytes(bytes: [u8; 15]) -> Self {
        let mut text = [0; Self::LEN];
        URL_SAFE_NO_PAD
            .encode_slice(bytes, &mut text)
            .expect("15 bytes are 20 characters of base64");
        Self(text)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; Self::LEN] = text.as_bytes().try_into().ok()?;
        let valid = bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        valid.then_some(Self(bytes))
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base64 is ASCII")
    }

    /// The shard that an Engine.IO sid names.
    pub(crate) fn shard(&self) -> Option<u16> {
        let bytes = URL_SAFE_NO_PAD.decode(&self.0[..4]).ok()?;
        Some(u16::from_be_bytes([bytes[1], bytes[2]]) & 0xfff)
    }
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where ids come from: the operating system, or a seed in simulations.
pub(crate) enum Random {
    System {
        pool: Box<[u8; 480]>,
        used: usize,
    },
    #[cfg(test)]
    Seeded(u64),
}

impl Random {
    pub(crate) fn system() -> Self {
        Self::System {
            pool: Box::new([0; 480]),
            used: 480,
        }
    }

    fn take(&mut self) -> [u8; 15] {
        let mut bytes = [0; 15];
        match self {
            Self::System { pool, used } => {
                if *used + bytes.len() > pool.len() {
                    getrandom::fill(&mut pool[..]).expect("the operating system gives random bytes");
                    *used = 0;
                }
                let fresh = &mut pool[*used..*used + 15];
                bytes.copy_from_slice(fresh);
                fresh.fill(0);
                *used += bytes.len();
            }
            #[cfg(test)]
            Self::Seeded(state) => {
                for byte in &mut bytes {
                    *state ^= *state << 13;
                    *state ^= *state >> 7;
                    *state ^= *state << 17;
                    *byte = *state as u8;
                }
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_sid_names_its_shard_and_reads_back() {
        for shard in [0, 1, 63, 4095] {
            let id = Id::engine(7, shard, &mut Random::Seeded(9));
            assert_eq!(id.shard(), Some(shard));
            assert_eq!(Id::parse(id.as_str()), Some(id));
        }
    }

    #[test]
    fn ids_differ() {
        let mut random = Random::system();
        let ids: std::collections::HashSet<_> = (0..1_000).map(|_| Id::random(&mut random)).collect();
        assert_eq!(ids.len(), 1_000);
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in [
            "",
            "short",
            "0123456789012345678 ",
            "012345678901234567890",
            "日本語日本語日",
        ] {
            assert_eq!(Id::parse(text), None, "{text:?}");
        }
    }
}
