//! Frames: what a segment consists of after its header.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 4 | length of the body, at most [`BODY_BYTES_MAX`] |
//! | 4 | 1 | kind |
//! | 5 | length | body |
//! | 5 + length | 4 | CRC-32C of everything before |
//!
//! Kinds below 128 have to be understood: a reader that does not know one stops and says so. Kinds from 128 on may be left out.
//! The one idea: a frame is whole or it is not there, so a process killed in the middle of writing one loses that one only.

use crc_fast::CrcAlgorithm;

/// Largest body. Several times a snapshot of the machine of a pair with 60 pools; and what a damaged length can make a reader ask for.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Bytes of a frame beside its body.
pub const AROUND: usize = 9;

/// A frame with [`crate::start::Start`] in postcard form.
pub const START: u8 = 1;

/// A frame with steps, one behind the other, as [`crate::step`] says.
pub const STEPS: u8 = 2;

/// From here on a reader may leave out what it does not know.
pub const MAY_BE_LEFT_OUT: u8 = 128;

/// Why nothing more can be read from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The file ends in the middle of a frame: its writer was killed while it wrote, or is writing now.
    Unfinished,
    /// The CRC does not fit.
    Damaged,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<'b> {
    /// A whole frame.
    Frame {
        /// Its kind.
        kind: u8,
        /// Its body.
        body: &'b [u8],
        /// What follows it.
        rest: &'b [u8],
    },
    /// Nothing.
    End,
    /// Nothing that can be read.
    Cut(Cut),
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// A frame of these.
///
/// # Panics
/// On a body longer than [`BODY_BYTES_MAX`]: the writer has looked.
#[must_use]
pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= BODY_BYTES_MAX, "a frame is bounded");
    let mut bytes = Vec::with_capacity(body.len() + AROUND);
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes.extend(crc32c(&bytes).to_le_bytes());
    bytes
}

/// The frame at the beginning of `bytes`.
#[must_use]
pub fn next(bytes: &[u8]) -> Next<'_> {
    if bytes.is_empty() {
        return Next::End;
    }
    let Some((length, _)) = bytes.split_first_chunk() else { return Next::Cut(Cut::Unfinished) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > BODY_BYTES_MAX {
        return Next::Cut(Cut::Damaged);
    }
    let Some((covered, after)) = bytes.split_at_checked(5 + length) else { return Next::Cut(Cut::Unfinished) };
    let Some((crc, rest)) = after.split_first_chunk() else { return Next::Cut(Cut::Unfinished) };
    if crc32c(covered) != u32::from_le_bytes(*crc) {
        return Next::Cut(Cut::Damaged);
    }
    Next::Frame { kind: covered[4], body: &covered[5..], rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_leaves_what_follows() {
        let mut bytes = frame(STEPS, b"abc");
        bytes.extend(frame(START, b""));
        let Next::Frame { kind: STEPS, body: b"abc", rest } = next(&bytes) else { panic!("the first") };
        let Next::Frame { kind: START, body: b"", rest } = next(rest) else { panic!("the second") };
        assert_eq!(next(rest), Next::End);
    }

    #[test]
    fn a_frame_cut_anywhere_is_unfinished_and_a_changed_one_damaged() {
        let whole = frame(STEPS, b"something");
        for length in 1..whole.len() {
            assert_eq!(next(&whole[..length]), Next::Cut(Cut::Unfinished), "{length} bytes");
        }
        for at in 4..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            assert_eq!(next(&changed), Next::Cut(Cut::Damaged), "byte {at}");
        }
    }

    #[test]
    fn a_length_no_frame_has_is_damage_and_not_a_wish_for_memory() {
        assert_eq!(next(&[0xff; 64]), Next::Cut(Cut::Damaged));
    }
}
