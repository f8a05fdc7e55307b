//! The header of a segment: whose log it is and whether this program can read it.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | magic `USTDEVTS` |
//! | 8 | 2 + 2 | format of the writer; oldest format whose readers understand it |
//! | 12 | 2 + 2 | vocabulary of the writer; oldest vocabulary whose readers understand it |
//! | 16 | 2 + 1 + 5 | pair; node (1 or 2); zero |
//! | 24 | 8 | number of the segment, one more than that of the segment before |
//! | 32 | 8 | incarnation that began it |
//! | 40 | 8 | when it was begun, microseconds since 1970 by the wall clock |
//! | 48 | 40 | release of the writer, UTF-8, filled up with zeros |
//! | 88 | 4 | build of the writer's failover machine; zero where it was not said yet |
//! | 92 | 4 | CRC-32C of bytes 0 to 91 |
//!
//! The *format* is how frames and steps are put together; the *vocabulary* is which facts, orders and states there are and what each
//! consists of. The second changes more often, which is why it has a number of its own: `tests/vocabulary.rs` notices every change.
//! Both say whether a log can be *read*. The *build* says whether the program that reads it decides as the one that wrote it did:
//! within one release there may be many, and then a replay that differs is no wonder.

use std::fmt;

use thiserror::Error;
use understudy_failover::words::{Incarnation, NodeId, PairId};

use crate::frame::crc32c;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 96;

/// How frames and steps are put together here.
pub const FORMAT: u16 = 1;

/// The oldest format this program reads.
pub const OLDEST_FORMAT: u16 = 1;

/// Which facts, orders and states there are. Grows with every change of what any of them consists of.
pub const VOCABULARY: u16 = 7;

/// The oldest vocabulary this program reads: new kinds at the end of an enum leave it, every other change raises it to [`VOCABULARY`].
pub const OLDEST_VOCABULARY: u16 = 7;

/// Release and build of this program, as `0.1.0 (build 01234567)`.
pub const RELEASE_AND_BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), " (build ", env!("UNDERSTUDY_BUILD"), ")");

const MAGIC: [u8; 8] = *b"USTDEVTS";
const RELEASE_OFFSET: usize = 48;
const RELEASE_BYTES: usize = 40;
const BUILD_OFFSET: usize = 88;
const CRC_OFFSET: usize = HEADER_BYTES - 4;

/// Which sources of the failover machine a program was built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build(pub u32);

impl Build {
    /// Of a log written before this was said.
    pub const NOT_SAID: Self = Self(0);

    /// This program's.
    pub const THIS: Self = match u32::from_str_radix(env!("UNDERSTUDY_BUILD"), 16) {
        Ok(number) => Self(number),
        Err(_) => panic!("the build script writes hexadecimal digits"),
    };
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NOT_SAID { f.write_str("not said") } else { write!(f, "{:08x}", self.0) }
    }
}

/// What a segment's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Whose pair.
    pub pair: PairId,
    /// Which node.
    pub node: NodeId,
    /// Grows by one with each segment of this node.
    pub number: u64,
    /// Which run began it; more may have followed in it.
    pub incarnation: Incarnation,
    /// When, microseconds since 1970.
    pub wall_micros: u64,
    /// Release of the program that wrote it.
    pub release: String,
    /// Its vocabulary.
    pub vocabulary: u16,
    /// What its machine was built from.
    pub build: Build,
}

/// Why a file is no segment this program can read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Another file.
    #[error("this is no event log: it does not begin with `USTDEVTS`")]
    Foreign,
    /// Empty, or cut off within its header: its writer died while it began it.
    #[error("the file ends within its header, after {0} bytes of {HEADER_BYTES}: nothing was logged in it")]
    Unfinished(usize),
    /// A log, and damaged.
    #[error("the header is damaged: its CRC does not fit")]
    Damaged,
    /// A release too far away.
    #[error(
        "it was written by release {release}, build {build}, in format {format} with vocabulary {vocabulary}; this is release \
         {RELEASE_AND_BUILD}, which reads format {OLDEST_FORMAT} to {FORMAT} and vocabulary {OLDEST_VOCABULARY} to {VOCABULARY}: \
         replay it with the program that wrote it (that node's `understudy --version` shows which)"
    )]
    Version {
        /// Release of the writer.
        release: String,
        /// Its format.
        format: u16,
        /// Its vocabulary.
        vocabulary: u16,
        /// Its build.
        build: Build,
    },
    /// The CRC fits and a field has a value no release writes.
    #[error("the header names no node or no incarnation")]
    Meaning,
}

impl Header {
    /// Whether this very program's machine wrote it: then it decides here as it did there.
    #[must_use]
    pub fn is_of_this_build(&self) -> bool {
        self.release == env!("CARGO_PKG_VERSION") && self.build == Build::THIS
    }

    /// A header of this program's own making.
    #[must_use]
    pub fn new(pair: PairId, node: NodeId, number: u64, incarnation: Incarnation, wall_micros: u64) -> Self {
        let release = env!("CARGO_PKG_VERSION").to_owned();
        let (vocabulary, build) = (VOCABULARY, Build::THIS);
        Self { pair, node, number, incarnation, wall_micros, release, vocabulary, build }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &MAGIC);
        put(8, &FORMAT.to_le_bytes());
        put(10, &OLDEST_FORMAT.to_le_bytes());
        put(12, &self.vocabulary.to_le_bytes());
        put(14, &OLDEST_VOCABULARY.to_le_bytes());
        put(16, &self.pair.0.to_le_bytes());
        put(18, &[self.node.code()]);
        put(24, &self.number.to_le_bytes());
        put(32, &self.incarnation.0.to_le_bytes());
        put(40, &self.wall_micros.to_le_bytes());
        put(RELEASE_OFFSET, truncated(&self.release, RELEASE_BYTES).as_bytes());
        put(BUILD_OFFSET, &self.build.0.to_le_bytes());
        let crc = crc32c(&bytes[..CRC_OFFSET]);
        bytes[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the beginning of `bytes`.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) {
            return Err(HeaderError::Foreign);
        }
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(HeaderError::Unfinished(bytes.len()));
        };
        if crc32c(&bytes[..CRC_OFFSET]).to_le_bytes() != bytes[CRC_OFFSET..] {
            return Err(HeaderError::Damaged);
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let release = release_of(&bytes[RELEASE_OFFSET..RELEASE_OFFSET + RELEASE_BYTES]);
        let build = Build(u32::from_le_bytes(std::array::from_fn(|byte| bytes[BUILD_OFFSET + byte])));
        let (format, vocabulary) = (u16_at(8), u16_at(12));
        let is_format_read = format >= OLDEST_FORMAT && u16_at(10) <= FORMAT;
        let is_vocabulary_read = vocabulary >= OLDEST_VOCABULARY && u16_at(14) <= VOCABULARY;
        if !(is_format_read && is_vocabulary_read) {
            return Err(HeaderError::Version { release, format, vocabulary, build });
        }
        let (node, incarnation) = (NodeId::from_code(bytes[18]), Incarnation(u64_at(32)));
        let Some(node) = node.filter(|_| incarnation != Incarnation::NONE) else { return Err(HeaderError::Meaning) };
        let (pair, number, wall_micros) = (PairId(u16_at(16)), u64_at(24), u64_at(40));
        Ok(Self { pair, node, number, incarnation, wall_micros, release, vocabulary, build })
    }
}

/// As much of `text` as fits into `most` bytes, at a boundary of characters.
fn truncated(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// What may go to a terminal.
fn release_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text: String = text.trim_end_matches('\0').chars().filter(|letter| !letter.is_control()).collect();
    if text.is_empty() { "unknown".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header::new(PairId(7), NodeId::B, 3, Incarnation(0x1234), 1_800_000_000_000_000)
    }

    fn with_crc(mut bytes: [u8; HEADER_BYTES]) -> [u8; HEADER_BYTES] {
        let crc = crc32c(&bytes[..CRC_OFFSET]);
        bytes[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn header_comes_back() {
        assert_eq!(Header::decode(&header().encode()), Ok(header()));
    }

    #[test]
    fn files_that_are_no_segments_are_told_apart() {
        assert_eq!(Header::decode(b"[pair]\nname = \"x\"\n"), Err(HeaderError::Foreign));
        assert_eq!(Header::decode(b""), Err(HeaderError::Unfinished(0)));
        assert_eq!(Header::decode(&header().encode()[..40]), Err(HeaderError::Unfinished(40)));
        for at in 8..HEADER_BYTES {
            let mut bytes = header().encode();
            bytes[at] ^= 1;
            assert_eq!(Header::decode(&bytes), Err(HeaderError::Damaged), "byte {at}");
        }
    }

    #[test]
    fn neighbours_are_read_and_others_refused_with_their_release() {
        let mut bytes = header().encode();
        bytes[12..14].copy_from_slice(&(VOCABULARY + 1).to_le_bytes());
        let neighbour = Header::decode(&with_crc(bytes)).map(|header| header.vocabulary);
        assert_eq!(neighbour, Ok(VOCABULARY + 1), "a later one that says it is still understood here");
        bytes[14..16].copy_from_slice(&(VOCABULARY + 1).to_le_bytes());
        let error = Header::decode(&with_crc(bytes)).unwrap_err();
        assert!(matches!(error, HeaderError::Version { .. }));
        assert!(error.to_string().contains(RELEASE_AND_BUILD), "{error}");
        let mut bytes = header().encode();
        bytes[8..12].copy_from_slice(&[9, 0, 9, 0]);
        assert!(matches!(Header::decode(&with_crc(bytes)), Err(HeaderError::Version { format: 9, .. })));
    }

    #[test]
    fn a_header_written_before_builds_were_said_is_read() {
        let mut bytes = header().encode();
        bytes[BUILD_OFFSET..CRC_OFFSET].fill(0);
        let read = Header::decode(&with_crc(bytes)).unwrap();
        assert_eq!((read.build, read.is_of_this_build()), (Build::NOT_SAID, false));
        assert_eq!(read.build.to_string(), "not said");
        assert!(header().is_of_this_build() && Build::THIS != Build::NOT_SAID);
        assert!(RELEASE_AND_BUILD.contains(&Build::THIS.to_string()), "{RELEASE_AND_BUILD}");
    }

    #[test]
    fn release_is_fit_for_a_terminal() {
        let mut bytes = header().encode();
        bytes[RELEASE_OFFSET..RELEASE_OFFSET + 4].copy_from_slice(b"\x1b[2J");
        assert!(!Header::decode(&with_crc(bytes)).unwrap().release.contains('\x1b'));
    }
}
