//! Big-endian reads that answer zero past the end, so that a short buffer never panics.
//!
//! Callers check lengths first where a length means something; this is only the seat belt.

/// The byte at `at`, or zero.
pub(crate) fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// Two bytes, big endian.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([u8_at(bytes, at), u8_at(bytes, at + 1)])
}

/// Four bytes, big endian.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    (u32::from(u16_at(bytes, at)) << 16) | u32::from(u16_at(bytes, at + 2))
}

/// Eight bytes, big endian.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (u64::from(u32_at(bytes, at)) << 32) | u64::from(u32_at(bytes, at + 4))
}
