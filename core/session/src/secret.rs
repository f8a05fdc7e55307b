//! A CHAP secret: bytes that are shown to nobody.
//!
//! Not here: where it is kept. The one idea: it has no text form at all, so that it cannot slip into a log.

use std::fmt;

use subtle::ConstantTimeEq;

/// Fewest bytes: 96 bits, below which RFC 7143 §12.1.3 allows CHAP only under IPsec. Whoever hears a login can try secrets
/// offline as fast as machines allow.
pub const SECRET_BYTES_MIN: usize = 12;
/// Most bytes: far beyond what any digest keeps, and beyond what common initiators take (Windows takes 16).
pub const SECRET_BYTES_MAX: usize = 128;

/// Why bytes are no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Too few to withstand guessing.
    #[error("a secret has at least {SECRET_BYTES_MIN} bytes, this has {0}")]
    TooShort(usize),
    /// Too many.
    #[error("a secret has at most {SECRET_BYTES_MAX} bytes, this has {0}")]
    TooLong(usize),
}

/// What both ends of a CHAP exchange know.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// These bytes.
    ///
    /// # Errors
    /// [`SecretError`]: there are too few or too many.
    pub fn new(bytes: &[u8]) -> Result<Self, SecretError> {
        match bytes.len() {
            short if short < SECRET_BYTES_MIN => Err(SecretError::TooShort(short)),
            long if long > SECRET_BYTES_MAX => Err(SecretError::TooLong(long)),
            _sound => Ok(Self(bytes.into())),
        }
    }

    /// The bytes, for computing an answer.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_twelve_to_a_hundred_and_twenty_eight_bytes() {
        assert_eq!(Secret::new(&[7; 11]), Err(SecretError::TooShort(11)));
        assert!(Secret::new(&[7; 12]).is_ok() && Secret::new(&[7; 128]).is_ok());
        assert_eq!(Secret::new(&[7; 129]), Err(SecretError::TooLong(129)));
    }

    #[test]
    fn secret_is_never_shown() {
        let shown = format!("{:?}", Secret::new(b"open sesame, please"));
        assert!(!shown.contains("sesame") && !shown.contains("111"), "{shown}");
    }
}
