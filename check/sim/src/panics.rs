//! Panics of simulated processes: a task that panics must not just vanish.

use std::cell::{Cell, RefCell};
use std::sync::Once;

thread_local! {
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
    static SEED: Cell<u64> = const { Cell::new(0) };
}

static HOOK: Once = Once::new();

/// Forgets what happened before and takes down what happens on this thread from now on. A program built to end at a panic at least says
/// in which run it was.
pub fn watch(seed: u64) {
    FIRST.take();
    SEED.set(seed);
    HOOK.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            FIRST.with_borrow_mut(|first| first.get_or_insert_with(|| format!("panic: {panic}")).clone());
            eprintln!("seed {}: panic", SEED.get());
            earlier(panic);
        }));
    });
}

/// Whether there was one.
#[must_use]
pub fn happened() -> bool {
    FIRST.with_borrow(Option::is_some)
}

/// The first one in words.
#[must_use]
pub fn first() -> Option<String> {
    FIRST.with_borrow(Clone::clone)
}
