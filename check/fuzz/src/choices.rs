//! Decisions read off a fuzzer's bytes, and the writer that lays down bytes for the same decisions.
//!
//! Not a general deserialiser: no lengths from the end, no recursion. The one idea: every decision takes a fixed number
//! of bytes off the front and zero once there are none left, so that a changed byte changes one decision and a longer
//! input only adds decisions.

/// Reads decisions.
#[derive(Debug, Clone)]
pub(crate) struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.rest.len().min(N);
        out[..taken].copy_from_slice(&self.rest[..taken]);
        self.rest = &self.rest[taken..];
        out
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub(crate) fn exactly<const N: usize>(&mut self) -> [u8; N] {
        self.array()
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// A number below `end`; zero if `end` is.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()).checked_rem(end).unwrap_or(0)
    }

    /// One of these.
    pub(crate) fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }

    /// A run of bytes behind its length of two bytes; shorter if there are not so many.
    pub(crate) fn chunk(&mut self) -> &'a [u8] {
        let length = usize::from(self.u16()).min(self.rest.len());
        let (chunk, rest) = self.rest.split_at(length);
        self.rest = rest;
        chunk
    }

    /// Everything that is left.
    pub(crate) fn remainder(self) -> &'a [u8] {
        self.rest
    }
}

/// Writes decisions: what seeds are made with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script(Vec<u8>);

impl Script {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn chunk(self, bytes: &[u8]) -> Self {
        let length = u16::try_from(bytes.len()).expect("a seed is short");
        self.bytes(&length.to_le_bytes()).bytes(bytes)
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_chosen_and_the_end_chooses_zero() {
        let bytes = Script::new().bytes(&[7]).u32(8).u64(9).chunk(b"abc").done();
        let mut choices = Choices::new(&bytes);
        assert_eq!((choices.byte(), choices.u32(), choices.u64()), (7, 8, 9));
        assert_eq!(choices.chunk(), b"abc");
        assert!(choices.is_over());
        assert_eq!((choices.u64(), choices.chunk(), choices.flag()), (0, &[][..], false));
    }

    #[test]
    fn a_chunk_longer_than_what_is_left_is_what_is_left() {
        let mut choices = Choices::new(&[200, 0, 1, 2]);
        assert_eq!(choices.chunk(), [1, 2]);
    }
}
