//! A foreign interface of the portal: freed memory stays with the process.
//!
//! Data of commands lives for some microseconds in memory of its own. The C library gives large pieces of memory back to the
//! system as soon as they are free, and each page that is got again costs a fault and is filled with zeroes first: that took
//! half of the time of a large read.

/// Has freed memory kept from now on. Another C library than GNU's may do as it likes.
pub(crate) fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    gnu::keep_freed_memory();
}

#[cfg(target_env = "gnu")]
mod gnu {
    /// Free memory at the end of the heap that is kept: what a few sessions with deep queues of large commands hold at a time.
    const KEPT_BYTES: libc::c_int = 64 << 20;

    /// Larger pieces are mapped and unmapped one by one. The data of common commands is far smaller.
    const MAPPED_BYTES: libc::c_int = 8 << 20;

    pub(super) fn keep_freed_memory() {
        for (parameter, bytes) in [(libc::M_TRIM_THRESHOLD, KEPT_BYTES), (libc::M_MMAP_THRESHOLD, MAPPED_BYTES)] {
            // SAFETY: `mallopt` takes plain numbers, takes the allocator's lock itself, and refuses what it does not know.
            let taken = unsafe { libc::mallopt(parameter, bytes) };
            if taken == 0 {
                tracing::debug!(parameter, bytes, "the allocator keeps its own measure");
            }
        }
    }
}
