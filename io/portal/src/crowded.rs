//! A foreign interface of the portal: how often this thread was put off its processor because somebody else wanted to run.

use std::mem::MaybeUninit;

/// Involuntary context switches of the calling thread, getrusage(2).
pub(crate) fn times_put_off() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the pointer is to memory of the right size that the kernel may write to.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    if result != 0 {
        return 0;
    }
    // SAFETY: the call succeeded, so the kernel has filled it in.
    let usage = unsafe { usage.assume_init() };
    usage.ru_nivcsw.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_never_goes_back() {
        let before = times_put_off();
        assert!(times_put_off() >= before);
    }
}
