//! Little-endian fields in and out of byte strings: a reader that can only say "not enough bytes", never panic.

use crate::Uuid;

/// Takes fields off the front of a byte string.
#[derive(Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn uuid(&mut self) -> Option<Uuid> {
        self.array().map(Uuid)
    }

    /// A string of at most 255 bytes behind its length.
    pub fn text(&mut self) -> Option<String> {
        let length = usize::from(self.u8()?);
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }

    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// Appends fields to a byte string.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub fn uuid(&mut self, value: Uuid) {
        self.raw(&value.0);
    }

    /// A string behind its length; the caller has limited it to 255 bytes.
    pub fn text(&mut self, value: &str) {
        let length = u8::try_from(value.len()).expect("names are limited to 64 bytes before they get here");
        self.u8(length);
        self.raw(value.as_bytes());
    }

    /// Zeroes up to `length` bytes in all.
    pub fn pad_to(&mut self, length: usize) {
        assert!(self.0.len() <= length, "a page of our own does not fit");
        self.0.resize(length, 0);
    }
}
