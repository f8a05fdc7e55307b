//! Text keys of login and text PDUs: `key=value` separated by NUL bytes (RFC 7143 §6).
//!
//! Not here: the meaning and negotiation of a key. The one idea: a key list keeps order and repetition as sent, because
//! SendTargets needs both, and parsing is bounded before it allocates.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

/// Longest key name, RFC 7143 §6.1.
pub const KEY_NAME_LIMIT: usize = 63;
/// Longest value of a key without a longer limit of its own, RFC 7143 §6.1.
pub const VALUE_LIMIT: usize = 255;
/// Longest value taken at all: authentication answers may be long, nothing sensible is longer.
pub const LONG_VALUE_LIMIT: usize = 8192;
/// Longest text collected over a chain of PDUs with the C bit; discovery of a thousand targets fits.
pub const TEXT_LIMIT: usize = 256 * 1024;
/// Most keys in one text.
pub const KEY_COUNT_LIMIT: usize = 8192;

/// Why a text is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TextError {
    /// Not UTF-8, or a NUL or `=` where none may be.
    #[error("text is not a list of key=value")]
    Syntax,
    /// A key name is empty, too long or has a character outside RFC 7143 §6.1.
    #[error("invalid key name")]
    KeyName,
    /// A value or the whole text is too long, or there are too many keys.
    #[error("text too long")]
    TooLong,
}

/// A list of keys with values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyList {
    pairs: Vec<(String, String)>,
}

impl KeyList {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Parses a whole text (the concatenated data segments of a chain of PDUs).
    ///
    /// # Errors
    /// [`TextError`].
    pub fn parse(text: &[u8]) -> Result<Self, TextError> {
        if text.len() > TEXT_LIMIT {
            return Err(TextError::TooLong);
        }
        let mut pairs = Vec::new();
        for item in text.split(|byte| *byte == 0).filter(|item| !item.is_empty()) {
            if pairs.len() == KEY_COUNT_LIMIT {
                return Err(TextError::TooLong);
            }
            pairs.push(parse_pair(item)?);
        }
        Ok(Self { pairs })
    }

    /// Adds a key at the end.
    ///
    /// PANIC: with a name or value that [`KeyList::parse`] would refuse: only this end's own text comes here.
    pub fn push(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        assert!(is_key_name(key) && value.len() <= LONG_VALUE_LIMIT && !value.contains('\0'), "bad text key {key}");
        self.pairs.push((key.to_owned(), value));
    }

    /// Value of the first `key`, if present.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| &value[..])
    }

    /// All pairs in the order sent.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (&key[..], &value[..]))
    }

    /// Number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The text as sent.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut text = BytesMut::new();
        for (key, value) in &self.pairs {
            text.put_slice(key.as_bytes());
            text.put_u8(b'=');
            text.put_slice(value.as_bytes());
            text.put_u8(0);
        }
        text.freeze()
    }
}

fn parse_pair(item: &[u8]) -> Result<(String, String), TextError> {
    let item = core::str::from_utf8(item).map_err(|_| TextError::Syntax)?;
    let (key, value) = item.split_once('=').ok_or(TextError::Syntax)?;
    if !is_key_name(key) {
        return Err(TextError::KeyName);
    }
    if value.len() > LONG_VALUE_LIMIT {
        return Err(TextError::TooLong);
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// RFC 7143 §6.1: a key name starts with a capital letter (or `X-`, `X#`) and has letters, digits and `.-+@_/#`.
fn is_key_name(key: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b".-+@_/#".contains(&c);
    key.len() <= KEY_NAME_LIMIT && key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.bytes().all(allowed)
}

/// Reads a numerical value: decimal, or hexadecimal with `0x` (RFC 7143 §6.1).
#[must_use]
pub fn parse_number(value: &str) -> Option<u64> {
    let hex = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((value, 10), |digits| (digits, 16));
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// Reads a boolean value: `Yes` or `No`.
#[must_use]
pub fn parse_boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _neither => None,
    }
}

/// Yes or No as written in a text.
#[must_use]
pub const fn boolean(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}
