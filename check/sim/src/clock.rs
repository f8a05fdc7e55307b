//! The wall clock of the simulated world, which jumps when a fault says so. Nothing that decides reads it.

use std::cell::Cell;

use tokio::time::Instant;

/// When the simulated world begins, microseconds since 1970.
const BEGIN: u64 = 1_800_000_000_000_000;

thread_local! {
    static ORIGIN: Cell<Option<Instant>> = const { Cell::new(None) };
    static JUMP: Cell<i64> = const { Cell::new(0) };
}

/// A world begins on this thread.
pub fn begin() {
    ORIGIN.set(Some(Instant::now()));
    JUMP.set(0);
}

/// Simulated time since the beginning.
#[must_use]
pub fn elapsed() -> std::time::Duration {
    ORIGIN.get().map(|origin| origin.elapsed()).unwrap_or_default()
}

/// Microseconds since 1970 by the simulated wall clock.
#[must_use]
pub fn wall_micros() -> u64 {
    let now = BEGIN + elapsed().as_micros() as u64;
    now.saturating_add_signed(JUMP.get())
}

/// The wall clock jumps, for everybody.
pub fn jump(by_micros: i64) {
    JUMP.set(JUMP.get().saturating_add(by_micros));
}
