//! `[giveback]` and `[takeover]`: what a pair does by itself, and when.
//!
//! `docs/policy.md` says of each key what it does and what it does not.

use std::time::Duration;

use super::build::MS;
use super::read::{Mistakes, Table};
use super::{AutomaticGiveback, AutomaticTakeover, OnEnd};

/// Whether a giveback happens by itself, and after what time.
pub(super) fn giveback(table: &Table<'_>, mistakes: &Mistakes) -> (AutomaticGiveback, Duration) {
    let text = table.optional_text("automatic", "\"yes\" or \"on-request\"");
    // Three in ten minutes: a node that fails that often is broken, and each giveback costs its clients two pauses.
    let limit = table.number("limit", 3, "a whole number", 1..=1_000);
    let window = table.number("within_ms", 600_000, MS, 1_000..=86_400_000);
    // At once: the work is done while the partner serves, and the clients see milliseconds.
    let delay = table.number("delay_ms", 0, MS, 0..=86_400_000);
    table.finish();
    let automatic = match text.as_ref().map_or("yes", |text| text.value) {
        "yes" => AutomaticGiveback::Within { limit: limit as u32, window: Duration::from_millis(window) },
        "on-request" => AutomaticGiveback::OnRequest,
        _ => {
            let span = text.map_or(0..0, |text| text.span);
            mistakes.note(&span, "`automatic` in [giveback] is wrong", "expected \"yes\" or \"on-request\"");
            AutomaticGiveback::OnRequest
        }
    };
    (automatic, Duration::from_millis(delay))
}

/// When a partner that has ended is taken over from.
pub(super) fn takeover(table: &Table<'_>, mistakes: &Mistakes) -> AutomaticTakeover {
    let on_end = |key: &'static str| {
        let text = table.optional_text(key, "\"yes\" or \"no\"");
        match text.as_ref().map_or("yes", |text| text.value) {
            "yes" => OnEnd::TakeOver,
            "no" => OnEnd::Leave,
            _ => {
                let span = text.map_or(0..0, |text| text.span);
                mistakes.note(&span, format!("`{key}` in [takeover] is wrong"), "expected \"yes\" or \"no\"");
                OnEnd::TakeOver
            }
        }
    };
    let found = AutomaticTakeover { on_panic: on_end("on_panic"), on_halt: on_end("on_halt") };
    table.finish();
    found
}
