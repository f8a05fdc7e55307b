//! Partition tables, with their checksums made right, and what else may stand at the two ends of a disk.
//!
//! Properties: a disk is ours only with exactly one partition of our types in a table that is whole; bytes that are not
//! all zero are never taken for blank; our own table is recognised on every shape of disk, from either end.

use understudy_layout::gpt::{self, Contents, DiskKind};
use understudy_layout::{DiskShape, Uuid};

use crate::choices::{Choices, Script};

const SHAPES: [DiskShape; 4] = [
    DiskShape { block_bytes: 512, blocks: 1 << 17 },
    DiskShape { block_bytes: 4096, blocks: 1 << 14 },
    DiskShape { block_bytes: 512, blocks: 8192 },
    DiskShape { block_bytes: 520, blocks: 1 << 17 },
];

/// How much of either end is made: what a table takes. Looking at all that a node looks at would only be slower.
const END_BYTES: usize = 64 << 10;

/// Lays the fuzzer's runs of bytes over a sound table and looks at it.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let (way, shape) = (choices.byte(), *choices.pick(&SHAPES));
    let kind = if way & 1 == 0 { DiskKind::Pool } else { DiskKind::Lock };
    let (mut head, mut tail) = (vec![0; END_BYTES], vec![0; END_BYTES]);
    if way & 2 == 0 && let Some(image) = gpt::table(shape, kind, Uuid([1; 16]), Uuid([2; 16])) {
        head[..image.head.len()].copy_from_slice(&image.head);
        let at = tail.len() - image.tail.len();
        tail[at..].copy_from_slice(&image.tail);
        if bytes.len() < 8 {
            assert_eq!(gpt::inspect(shape, &head, &tail), Contents::Ours(kind));
        }
        if way & 4 != 0 {
            head[512..1024].fill(0);
            head[4096..8192].fill(0);
        }
    }
    // BOUND: the input is short, and so is each run.
    while !choices.is_over() {
        let end = if choices.flag() { &mut tail } else { &mut head };
        let at = usize::from(choices.u16()) % 20_000;
        let run = choices.chunk();
        end[at..at + run.len()].copy_from_slice(run);
    }
    if way & 0x70 != 0x70 {
        seal(&mut head, shape.block_bytes as usize);
    }
    let contents = gpt::inspect(shape, &head, &tail);
    let is_zero = head == [0; END_BYTES] && tail == [0; END_BYTES];
    assert_eq!(contents == Contents::Blank, is_zero);
    // A disk read only in part, and one that is smaller than what was read from it.
    let _ = gpt::inspect(shape, &head[..1000], &tail[..10]);
    let _ = gpt::inspect(DiskShape { block_bytes: 512, blocks: 16 }, &head[..1000], &tail[..10_000]);
}

/// Checksums of the primary table (UEFI 2.10 §5.3.2): of the entries, then of the header.
fn seal(head: &mut [u8], block: usize) {
    let entries = crc_fast::crc32_iso_hdlc(&head[2 * block..2 * block + 128 * 128]).to_le_bytes();
    head[block + 88..block + 92].copy_from_slice(&entries);
    head[block + 16..block + 20].fill(0);
    let header = crc_fast::crc32_iso_hdlc(&head[block..block + 92]).to_le_bytes();
    head[block + 16..block + 20].copy_from_slice(&header);
}

/// A changed entry, a second entry, a damaged primary table, a file system.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let over = |end: u8, at: u16, bytes: &[u8]| Script::new().bytes(&[end]).bytes(&at.to_le_bytes()).chunk(bytes).done();
    let whole = |way: u8, shape: u8, parts: &[Vec<u8>]| [&[way, shape][..], &parts.concat()].concat();
    vec![
        whole(0, 0, &[over(0, 1024 + 32, &[0xff; 16])]),
        whole(1, 0, &[over(0, 1024 + 128, &[7; 56])]),
        whole(4, 1, &[over(0, 0x438, &[0x53, 0xef])]),
        whole(0, 2, &[over(0, 512 + 72, &[0xff; 16])]),
    ]
}
