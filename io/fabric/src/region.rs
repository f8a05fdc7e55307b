//! Memory that a fabric may read or write while this process does too.
//!
//! It is made of atomic words, so that sharing it with another machine is no data race in Rust's sense; what a
//! concurrent reader sees half-done is told by the sequence word of [`Region::publish`].

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::memory::{Lasting, Part};
use crate::{FabricError, PAGE_BYTES};

const WORD: usize = size_of::<u64>();
const PAGE_WORDS: usize = PAGE_BYTES / WORD;

/// One page, aligned as memory registration likes it.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(crate) struct Page([AtomicU64; PAGE_WORDS]);

/// Whole pages of memory, zero at first.
pub(crate) struct Region {
    pages: Pages,
}

/// Where they lie.
enum Pages {
    /// In this process alone.
    Own(Box<[Page]>),
    /// In memory that another process has too.
    Shared(Part),
    /// In memory whose addresses nobody gets after it.
    Lasting(Lasting),
}

impl Region {
    /// A region of `bytes` bytes, a multiple of the page size.
    pub(crate) fn zeroed(bytes: usize) -> Self {
        assert!(bytes > 0 && bytes.is_multiple_of(PAGE_BYTES), "regions are made of whole pages");
        let pages = (0..bytes / PAGE_BYTES).map(|_| Page([const { AtomicU64::new(0) }; PAGE_WORDS])).collect();
        Self { pages: Pages::Own(pages) }
    }

    /// The same pages for this process and another.
    pub(crate) fn shared(part: Part) -> Self {
        Self { pages: Pages::Shared(part) }
    }

    /// Pages at addresses that this process never uses for anything else, also when the region is gone.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn lasting(bytes: usize) -> Result<Self, FabricError> {
        assert!(bytes > 0 && bytes.is_multiple_of(PAGE_BYTES), "regions are made of whole pages");
        Ok(Self { pages: Pages::Lasting(Lasting::new(bytes / PAGE_BYTES)?) })
    }

    fn pages(&self) -> &[Page] {
        match &self.pages {
            Pages::Own(pages) => pages,
            Pages::Shared(part) => part.pages(),
            Pages::Lasting(memory) => memory.pages(),
        }
    }

    /// Its length in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.pages().len() * PAGE_BYTES
    }

    /// Where it lies, for registration.
    pub(crate) fn start(&self) -> *mut u8 {
        self.pages().as_ptr().cast_mut().cast()
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.pages()[index / PAGE_WORDS].0[index % PAGE_WORDS]
    }

    /// Copies out `into.len()` bytes from `offset`.
    ///
    /// PANIC: if they do not lie within the region; callers check what they were given.
    pub(crate) fn copy_out(&self, offset: usize, into: &mut [u8]) {
        assert!(offset.checked_add(into.len()).is_some_and(|end| end <= self.bytes()), "read past a region's end");
        fence(Ordering::Acquire);
        for (index, byte) in into.iter_mut().enumerate() {
            let position = offset + index;
            *byte = self.word(position / WORD).load(Ordering::Relaxed).to_ne_bytes()[position % WORD];
        }
    }

    /// Copies out `into.len()` bytes from `offset`. `false`, and nothing copied, if they do not lie within the region.
    pub(crate) fn copy_out_within(&self, offset: usize, into: &mut [u8]) -> bool {
        let inside = offset.checked_add(into.len()).is_some_and(|end| end <= self.bytes());
        if inside {
            self.copy_out(offset, into);
        }
        inside
    }

    /// Copies out the first page.
    pub(crate) fn copy_page(&self) -> Box<[u8; PAGE_BYTES]> {
        let mut page = Box::new([0; PAGE_BYTES]);
        fence(Ordering::Acquire);
        for (index, bytes) in page.chunks_exact_mut(WORD).enumerate() {
            bytes.copy_from_slice(&self.word(index).load(Ordering::Relaxed).to_ne_bytes());
        }
        page
    }

    /// Copies `bytes` to the page-aligned `offset`, the rest of the last word zero.
    ///
    /// PANIC: if the offset is not aligned or they do not lie within the region.
    pub(crate) fn put(&self, offset: usize, bytes: &[u8]) {
        let pages = &self.pages()[Self::first_page(offset)..];
        assert!(bytes.len() <= pages.len() * PAGE_BYTES, "write past a region's end");
        for (page, bytes) in pages.iter().zip(bytes.chunks(PAGE_BYTES)) {
            let (whole, rest) = bytes.as_chunks::<WORD>();
            for (word, bytes) in page.0.iter().zip(whole) {
                word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
            }
            if !rest.is_empty() {
                let mut last = [0; WORD];
                last[..rest.len()].copy_from_slice(rest);
                page.0[whole.len()].store(u64::from_ne_bytes(last), Ordering::Relaxed);
            }
        }
        fence(Ordering::Release);
    }

    /// Copies out `length` bytes from the page-aligned `offset`.
    ///
    /// PANIC: as [`Region::put`].
    pub(crate) fn take(&self, offset: usize, length: usize) -> Vec<u8> {
        let pages = &self.pages()[Self::first_page(offset)..];
        assert!(length <= pages.len() * PAGE_BYTES, "read past a region's end");
        fence(Ordering::Acquire);
        let mut bytes = vec![0; length.next_multiple_of(WORD)];
        for (page, bytes) in pages.iter().zip(bytes.chunks_mut(PAGE_BYTES)) {
            for (word, bytes) in page.0.iter().zip(bytes.as_chunks_mut::<WORD>().0) {
                *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            }
        }
        bytes.truncate(length);
        bytes
    }

    fn first_page(offset: usize) -> usize {
        assert!(offset.is_multiple_of(PAGE_BYTES), "stretches of data begin with a page");
        offset / PAGE_BYTES
    }

    /// Copies `bytes` to the start of the region, the rest of the last word zero.
    pub(crate) fn copy_in(&self, bytes: &[u8]) {
        self.put(0, bytes);
    }

    /// Replaces the first page so that a reader in between can tell: the little-endian u64 at `sequence_offset` is odd
    /// first, then the other words change, then it becomes what `page` says (even).
    ///
    /// One caller at a time. A reader that fetched an odd number, or sees a wrong checksum, reads again.
    pub(crate) fn publish(&self, page: &[u8; PAGE_BYTES], sequence_offset: usize) {
        let sequence_word = sequence_offset / WORD;
        let words = || page.chunks_exact(WORD).map(|bytes| <[u8; WORD]>::try_from(bytes).expect("whole words"));
        let settled = u64::from_le_bytes(words().nth(sequence_word).expect("the sequence word lies in the page"));
        assert!(settled.is_multiple_of(2), "a page is published with an even sequence number");

        self.word(sequence_word).store(settled.wrapping_sub(1).to_le(), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        for (index, bytes) in words().enumerate().filter(|(index, _)| *index != sequence_word) {
            self.word(index).store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.word(sequence_word).store(settled.to_le(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    const SEQUENCE: usize = 24;

    fn page(sequence: u64, fill: u8) -> Box<[u8; PAGE_BYTES]> {
        let mut page = Box::new([fill; PAGE_BYTES]);
        page[SEQUENCE..SEQUENCE + 8].copy_from_slice(&sequence.to_le_bytes());
        page
    }

    #[test]
    fn a_published_page_is_copied_out_whole() {
        let region = Region::zeroed(PAGE_BYTES);
        region.publish(&page(2, 7), SEQUENCE);
        assert_eq!(region.copy_page(), page(2, 7));
        let mut some = [0; 5];
        region.copy_out(PAGE_BYTES - 5, &mut some);
        assert_eq!(some, [7; 5]);
    }

    #[test]
    fn bytes_copied_in_are_found_at_any_offset() {
        let region = Region::zeroed(2 * PAGE_BYTES);
        let bytes: Vec<u8> = (0..5001u32).map(|number| number.to_le_bytes()[0]).collect();
        region.copy_in(&bytes);
        let mut out = vec![0; 4998];
        region.copy_out(3, &mut out);
        assert_eq!(out, bytes[3..]);
    }

    #[test]
    #[should_panic(expected = "even sequence")]
    fn an_odd_sequence_is_the_publishers_mistake() {
        Region::zeroed(PAGE_BYTES).publish(&page(3, 0), SEQUENCE);
    }

    /// A reader in words, seeing the same even sequence before and after, has seen one page and not two halves.
    #[test]
    fn a_page_read_between_equal_even_sequences_is_not_torn() {
        let region = Arc::new(Region::zeroed(PAGE_BYTES));
        region.publish(&page(2, 2), SEQUENCE);
        let stop = Arc::new(AtomicBool::new(false));
        let writer = thread::spawn({
            let (region, stop) = (region.clone(), stop.clone());
            move || {
                let mut sequence = 2;
                while !stop.load(Ordering::Relaxed) {
                    sequence += 2;
                    region.publish(&page(sequence, sequence.to_le_bytes()[0]), SEQUENCE);
                }
            }
        });
        let sequence = || {
            let value = region.word(SEQUENCE / WORD).load(Ordering::Acquire);
            fence(Ordering::SeqCst);
            u64::from_le(value)
        };
        let mut whole = 0;
        for _ in 0..20_000 {
            let before = sequence();
            let seen = region.copy_page();
            fence(Ordering::SeqCst);
            if before.is_multiple_of(2) && sequence() == before {
                assert_eq!(seen, page(before, before.to_le_bytes()[0]));
                whole += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer ends");
        region.publish(&page(8, 8), SEQUENCE);
        assert_eq!((sequence(), whole > 0 || region.copy_page() == page(8, 8)), (8, true));
    }
}
