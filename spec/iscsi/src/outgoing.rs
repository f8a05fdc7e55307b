//! Frames on their way out: one gathered queue for vectored writes.
//!
//! Not here: the socket. The one idea: headers and short data segments lie one behind the other in one run of bytes, long
//! data segments are queued by reference, and the whole is a [`bytes::Buf`], so one `write_buf` sends many PDUs. Whoever makes
//! short data may do so in the run itself ([`Outgoing::place`]).

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use crate::bhs::{BHS_BYTES, Bhs};
use crate::frame::{Digest, Digests, Frame, crc32c, padding};

/// Data segments up to this length are copied behind their header: below about two pages a copy is cheaper than
/// another slice for the kernel to gather.
const COPY_LIMIT: usize = 4096;

/// What may stand behind a header and its data: padding and two digests.
const TRAILERS: usize = 3 + 4 + 4;

/// A run longer than this is given back once it is empty: so much waits only while an initiator does not read its answers.
const KEPT_BYTES: usize = 1 << 20;

/// A data segment queued by reference.
#[derive(Debug)]
struct Long {
    /// Bytes of the run that go before it, behind the long one before.
    before: usize,
    data: Bytes,
}

/// Frames waiting to be sent, as one [`Buf`].
#[derive(Debug, Default)]
pub struct Outgoing {
    /// What waits is `from..to`; behind it is room, of bytes that went out earlier.
    run: Vec<u8>,
    from: usize,
    to: usize,
    long: VecDeque<Long>,
    /// Bytes of the run that go before a long data segment.
    sealed: usize,
    length: usize,
    /// Bytes that [`Outgoing::place`] gave room for last, until something is queued.
    placed: Option<usize>,
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
        self.to - self.from - self.sealed
    }

    /// Drops everything that waits.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Queues one frame with the digests in force.
    pub fn push(&mut self, frame: Frame, digests: Digests) {
        let Frame { bhs, ahs, data } = frame;
        let short = if data.len() <= COPY_LIMIT { data.len() } else { 0 };
        self.make_room(BHS_BYTES + ahs.len() + short + TRAILERS);
        self.placed = None;
        let before = self.to;
        self.put(&bhs.0);
        self.put(&ahs);
        if digests.header == Digest::Crc32c {
            self.put(&crc32c(&self.run[before..self.to]));
        }
        if !data.is_empty() {
            self.push_data(data, digests.data);
        }
    }

    fn push_data(&mut self, data: Bytes, digest: Digest) {
        let trailer = Trailer::of(&data, digest);
        if data.len() <= COPY_LIMIT {
            self.put(&data);
        } else {
            let before = self.short_bytes();
            self.sealed += before;
            self.length += data.len();
            self.long.push_back(Long { before, data });
        }
        self.put_trailer(&trailer);
    }

    /// Room for so many bytes of data behind a header, for who makes them right there; `None` if they are not short. It holds bytes that went
    /// out earlier. [`Outgoing::push_placed`] makes a frame of it; until then nothing is queued.
    pub fn place(&mut self, bytes: usize, digests: Digests) -> Option<&mut [u8]> {
        if bytes > COPY_LIMIT {
            return None;
        }
        self.make_room(BHS_BYTES + bytes + TRAILERS);
        self.placed = Some(bytes);
        let start = self.to + BHS_BYTES + digests.header.bytes();
        Some(&mut self.run[start..start + bytes])
    }

    /// Bytes that room was given for, until something is queued.
    #[must_use]
    pub fn placed(&self) -> usize {
        self.placed.unwrap_or(0)
    }

    /// Queues a frame of this header and the data that was placed, with the digests that were named then; sets the length fields.
    ///
    /// PANIC: nothing was placed since the last frame was queued. It would send bytes of another answer.
    pub fn push_placed(&mut self, mut bhs: Bhs, digests: Digests) {
        let bytes = self.placed.take().expect("data was placed");
        bhs.set_lengths(0, bytes);
        self.put(&bhs.0);
        if digests.header == Digest::Crc32c {
            self.put(&crc32c(&bhs.0));
        }
        if bytes != 0 {
            let trailer = Trailer::of(&self.run[self.to..self.to + bytes], digests.data);
            self.to += bytes;
            self.length += bytes;
            self.put_trailer(&trailer);
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.run[self.to..self.to + bytes.len()].copy_from_slice(bytes);
        self.to += bytes.len();
        self.length += bytes.len();
    }

    fn put_trailer(&mut self, trailer: &Trailer) {
        self.put(&[0; 3][..trailer.padding]);
        if let Some(digest) = trailer.digest {
            self.put(&digest);
        }
    }

    /// Sees to it that so many bytes can be put.
    fn make_room(&mut self, bytes: usize) {
        if self.run.len() - self.to >= bytes {
            return;
        }
        let waiting = self.to - self.from;
        // Only where at least as much was sent as has to be moved, so that bytes are not moved again and again.
        if self.from >= waiting && self.run.len() - waiting >= bytes {
            self.run.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, waiting);
            return;
        }
        self.run.resize((2 * self.run.len()).max(self.to + bytes), 0);
    }

    /// Takes bytes off the front of the run.
    fn take(&mut self, count: usize) {
        self.from += count;
        if self.from < self.to {
            return;
        }
        (self.from, self.to) = (0, 0);
        if self.run.len() > KEPT_BYTES {
            self.run = Vec::new();
        }
    }
}

/// What follows a data segment.
struct Trailer {
    padding: usize,
    digest: Option<[u8; 4]>,
}

impl Trailer {
    fn of(data: &[u8], digest: Digest) -> Self {
        let padding = padding(data.len());
        let digest = match digest {
            Digest::None => None,
            Digest::Crc32c => Some(padded_crc32c(data, padding)),
        };
        Self { padding, digest }
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
        match self.long.front() {
            Some(Long { before: 0, data }) => data,
            Some(Long { before, .. }) => &self.run[self.from..self.from + before],
            None => &self.run[self.from..self.to],
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut used, mut at) = (0, self.from);
        let mut add = |chunk: &'a [u8]| {
            if let Some(slice) = slices.get_mut(used).filter(|_| !chunk.is_empty()) {
                *slice = IoSlice::new(chunk);
                used += 1;
            }
            used < slices.len()
        };
        for Long { before, data } in &self.long {
            let short = &self.run[at..at + before];
            at += before;
            if !add(short) || !add(data) {
                return used;
            }
        }
        add(&self.run[at..self.to]);
        used
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.length, "advanced past the end of the outgoing queue");
        self.length -= count;
        self.placed = None;
        while let Some(front) = self.long.front_mut() {
            let short = count.min(front.before);
            front.before -= short;
            count -= short;
            let over = front.before == 0 && count >= front.data.len();
            if over {
                count -= front.data.len();
                self.long.pop_front();
            } else if count != 0 {
                front.data.advance(count);
            }
            self.sealed -= short;
            self.take(short);
            if !over {
                return;
            }
        }
        self.take(count);
    }
}
