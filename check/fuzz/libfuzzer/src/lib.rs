//! What every program here has besides libFuzzer: an allocator with a limit.
//!
//! Not a sanitizer. libFuzzer on the stable toolchain sees coverage, comparisons and panics; what it does not see is a
//! length field that makes us ask for gigabytes, because the system hands out memory that is never touched. So every
//! allocation is counted, and one beyond the limits ends the program as a finding.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Largest single allocation: the largest transfer of one command is 32 MiB.
const LARGEST: usize = 48 << 20;
/// Most bytes at a time. Inputs are a few KiB, so this is already a factor of ten thousands; libFuzzer's own tables
/// are in C++ and not counted.
const MOST: usize = 192 << 20;

/// The system's allocator with limits.
struct Limited {
    held: AtomicUsize,
}

impl Limited {
    fn charge(&self, bytes: usize) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if bytes > LARGEST || held > MOST {
            // Saying it may allocate: enough is given back first, once.
            self.held.store(0, Ordering::Relaxed);
            eprintln!("understudy-fuzz: {bytes} bytes asked for at once, {held} held: more memory than an input may cost");
            std::process::abort();
        }
    }
}

// SAFETY: every call goes to the system's allocator with the arguments it came with.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.charge(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.charge(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.held.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Limited = Limited { held: AtomicUsize::new(0) };

/// Makes `fuzz_target` a program that runs this target.
#[macro_export]
macro_rules! program {
    ($target:ident) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| understudy_fuzz_targets::$target::run(bytes));
    };
}
