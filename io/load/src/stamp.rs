//! What the verifying client writes into a block, and what it can conclude from a block it reads.
//!
//! Every logical block says who wrote it (the run), where it belongs (its address), and which write it was (a sequence
//! number per slot), and is filled to its end with bytes that follow from those three, under a checksum. So an old block, a block
//! of another address, another run's block and a block torn in the middle are all told apart.

use crc_fast::{CrcAlgorithm, checksum};

/// First bytes of every stamped block.
const MAGIC: [u8; 8] = *b"USTAMP01";

/// Bytes of the header: magic, run, block address, sequence, CRC-32C of the whole block with this field zero, padding.
const HEADER_BYTES: usize = 40;

/// Where the checksum lies in the header.
const CHECKSUM_AT: usize = 32;

/// One run of the verifying client; two runs never take each other's blocks for their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run(pub u64);

/// Number of a write within its slot; zero means "never written by this run".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(pub u64);

/// What one block turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Whole, of this run, at its own address.
    Stamped(Sequence),
    /// Whole and of this run, but it belongs at another address.
    Elsewhere {
        /// The address it names.
        lba: u64,
    },
    /// Begins like a block of this run, but the checksum is wrong: torn or damaged.
    Damaged,
    /// Anything else: never written, or written by another run.
    Foreign,
}

/// Fills `block` with the stamp of this write.
///
/// # Panics
/// If `block` is shorter than the header (40 bytes); the smallest logical block is 512.
pub fn write_stamp(block: &mut [u8], run: Run, lba: u64, sequence: Sequence) {
    assert!(block.len() >= HEADER_BYTES, "a logical block holds at least the stamp's header");
    let (header, filling) = block.split_at_mut(HEADER_BYTES);
    header[0..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&run.0.to_le_bytes());
    header[16..24].copy_from_slice(&lba.to_le_bytes());
    header[24..32].copy_from_slice(&sequence.0.to_le_bytes());
    header[CHECKSUM_AT..].fill(0);
    let mut word = (run.0 ^ lba.rotate_left(24) ^ sequence.0.rotate_left(48)) | 1;
    for piece in filling.chunks_mut(8) {
        word = scramble(word);
        piece.copy_from_slice(&word.to_le_bytes()[..piece.len()]);
    }
    let sum = block_checksum(block);
    block[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
}

/// Says what `block`, read from `lba`, is to `run`.
#[must_use]
pub fn read_stamp(block: &[u8], run: Run, lba: u64) -> Found {
    if block.len() < HEADER_BYTES || block[0..8] != MAGIC || word_at(block, 8) != run.0 {
        return Found::Foreign;
    }
    let written = u32::from_le_bytes([block[32], block[33], block[34], block[35]]);
    if written != block_checksum(block) {
        return Found::Damaged;
    }
    match word_at(block, 16) {
        own if own == lba => Found::Stamped(Sequence(word_at(block, 24))),
        other => Found::Elsewhere { lba: other },
    }
}

/// Whether any run of the verifying client wrote this block, whole or not.
#[must_use]
pub fn is_stamped(block: &[u8]) -> bool {
    block.starts_with(&MAGIC)
}

fn word_at(block: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&block[at..at + 8]);
    u64::from_le_bytes(word)
}

/// CRC-32C over the block as if the checksum field were absent.
fn block_checksum(block: &[u8]) -> u32 {
    let head = checksum(CrcAlgorithm::Crc32Iscsi, &block[..CHECKSUM_AT]);
    let tail = checksum(CrcAlgorithm::Crc32Iscsi, &block[CHECKSUM_AT + 4..]);
    // CRC-32C fits 32 bits; the library answers every width in 64.
    (head as u32).rotate_left(1) ^ (tail as u32)
}

/// One step of a 64-bit xorshift generator (Marsaglia, "Xorshift RNGs", 2003): cheap, never zero from a non-zero start.
pub(crate) fn scramble(mut word: u64) -> u64 {
    word ^= word << 13;
    word ^= word >> 7;
    word ^ (word << 17)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Run = Run(7);

    #[test]
    fn a_stamp_reads_back_as_the_write_it_was() {
        for bytes in [512, 4096] {
            let mut block = vec![0; bytes];
            write_stamp(&mut block, RUN, 99, Sequence(3));
            assert_eq!(read_stamp(&block, RUN, 99), Found::Stamped(Sequence(3)));
        }
    }

    #[test]
    fn a_block_at_the_wrong_address_names_its_own() {
        let mut block = vec![0; 512];
        write_stamp(&mut block, RUN, 99, Sequence(3));
        assert_eq!(read_stamp(&block, RUN, 100), Found::Elsewhere { lba: 99 });
    }

    #[test]
    fn another_runs_block_and_an_empty_block_are_foreign() {
        let mut block = vec![0; 512];
        assert_eq!(read_stamp(&block, RUN, 0), Found::Foreign);
        write_stamp(&mut block, Run(8), 0, Sequence(3));
        assert_eq!(read_stamp(&block, RUN, 0), Found::Foreign);
        assert_eq!(read_stamp(&block[..20], RUN, 0), Found::Foreign);
    }

    #[test]
    fn every_flipped_byte_behind_the_run_is_noticed() {
        let mut block = vec![0; 512];
        write_stamp(&mut block, RUN, 5, Sequence(1));
        for at in 16..512 {
            block[at] ^= 0x40;
            assert_eq!(read_stamp(&block, RUN, 5), Found::Damaged, "byte {at}");
            block[at] ^= 0x40;
        }
    }

    #[test]
    fn a_block_torn_between_two_writes_is_damaged() {
        let (mut old, mut new) = (vec![0; 4096], vec![0; 4096]);
        write_stamp(&mut old, RUN, 5, Sequence(1));
        write_stamp(&mut new, RUN, 5, Sequence(2));
        new[2048..].copy_from_slice(&old[2048..]);
        assert_eq!(read_stamp(&new, RUN, 5), Found::Damaged);
    }
}
