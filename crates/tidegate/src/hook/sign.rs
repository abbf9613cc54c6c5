//! The signature that tells the application that a request is ours, and fresh.

use std::fmt::Write as _;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// Header with the Unix time in seconds at which a request was signed.
pub(super) const TIMESTAMP: &str = "x-tidegate-timestamp";

/// Header with `v1=` and the signature in lower-case hexadecimal digits.
pub(super) const SIGNATURE: &str = "x-tidegate-signature";

/// Signs requests with one secret.
#[derive(Clone)]
pub(super) struct Signer(Hmac<Sha256>);

impl Signer {
    pub(super) fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes keys of every length"))
    }

    /// `v1=` and HMAC-SHA256 over the timestamp in decimal digits, a full stop, and the body as it is sent.
    pub(super) fn sign(&self, timestamp_s: u64, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        mac.update(timestamp_s.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        let mut text = "v1=".to_owned();
        for byte in mac.finalize().into_bytes() {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_covers_time_and_body() {
        // RFC 4231, case 2, whose data happens to need no full stop of ours, holds the algorithm itself.
        let mut mac = Signer::new(b"Jefe").0;
        mac.update(b"what do ya want for nothing?");
        let known = mac.finalize().into_bytes();
        assert_eq!(known[..4], [0x5b, 0xdc, 0xc1, 0x46]);
        let signer = Signer::new(b"secret");
        let signed = signer.sign(1_700_000_000, b"{}");
        assert_eq!(signed.len(), 3 + 64);
        assert_ne!(signed, signer.sign(1_700_000_001, b"{}"));
        assert_ne!(signed, signer.sign(1_700_000_000, b"{ }"));
        assert_ne!(signed, Signer::new(b"Secret").sign(1_700_000_000, b"{}"));
        assert_eq!(signed, signer.sign(1_700_000_000, b"{}"));
    }
}
