//! Frames on their way out: one gathered queue for vectored writes.
//!
//! Not here: the socket. The one idea: headers and short data segments are copied into one growing run of bytes, long
//! data segments are queued by reference, and the whole is a [`bytes::Buf`], so one `write_buf` sends many PDUs.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::bhs::BHS_BYTES;
use crate::frame::{Digest, Digests, Frame, crc32c, padding};

/// Data segments up to this length are copied behind their header: below about two pages a copy is cheaper than
/// another slice for the kernel to gather.
const COPY_LIMIT: usize = 4096;

/// Frames waiting to be sent, as one [`Buf`].
#[derive(Debug, Default)]
pub struct Outgoing {
    segments: VecDeque<Bytes>,
    tail: BytesMut,
    length: usize,
}

impl Outgoing {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of short frames that wait behind the last long one.
    #[must_use]
    pub fn short_bytes(&self) -> usize {
        self.tail.len()
    }

    /// Drops everything that waits.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.tail.clear();
        self.length = 0;
    }

    /// Queues one frame with the digests in force.
    pub fn push(&mut self, frame: Frame, digests: Digests) {
        let Frame { bhs, ahs, data } = frame;
        let before = self.tail.len();
        self.tail.reserve(BHS_BYTES + ahs.len() + 12 + if data.len() <= COPY_LIMIT { data.len() } else { 0 });
        self.tail.put_slice(&bhs.0);
        self.tail.put_slice(&ahs);
        if digests.header == Digest::Crc32c {
            let digest = crc32c(&self.tail[before..]);
            self.tail.put_slice(&digest);
        }
        self.length += self.tail.len() - before;
        if !data.is_empty() {
            self.push_data(data, digests.data);
        }
    }

    fn push_data(&mut self, data: Bytes, digest: Digest) {
        let pad = padding(data.len());
        let trailer = match digest {
            Digest::None => None,
            Digest::Crc32c => Some(padded_crc32c(&data, pad)),
        };
        self.length += data.len() + pad + trailer.map_or(0, |bytes| bytes.len());
        if data.len() <= COPY_LIMIT {
            self.tail.put_slice(&data);
        } else {
            self.seal_tail();
            self.segments.push_back(data);
        }
        self.tail.put_bytes(0, pad);
        if let Some(bytes) = trailer {
            self.tail.put_slice(&bytes);
        }
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.segments.push_back(self.tail.split().freeze());
        }
    }
}

fn padded_crc32c(data: &[u8], pad: usize) -> [u8; 4] {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(data);
    digest.update(&[0; 3][..pad]);
    (digest.finalize() as u32).to_le_bytes()
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.segments.front().map_or(&self.tail, |segment| segment)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = Some(&self.tail[..]).filter(|tail| !tail.is_empty());
        let waiting = self.segments.iter().map(|segment| &segment[..]).chain(tail);
        let mut used = 0;
        for (slice, chunk) in slices.iter_mut().zip(waiting) {
            *slice = IoSlice::new(chunk);
            used += 1;
        }
        used
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.length, "advanced past the end of the outgoing queue");
        self.length -= count;
        while let Some(front) = self.segments.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.segments.pop_front();
        }
        self.tail.advance(count);
    }
}
