//! Watching what two nodes record, across their deaths and restarts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::admin::Client;
use crate::timeline::TimelineStep;

/// Between two tries to reach a node that does not run.
const RETRY: Duration = Duration::from_millis(5);

/// Steps asked for on connecting: everything the node keeps, so that what it recorded before is not missed.
const EARLIER: usize = 4096;

/// A running watch; dropping it ends it, at the latest when the nodes end.
#[derive(Debug)]
pub struct Watch {
    steps: Receiver<TimelineStep>,
    over: Arc<AtomicBool>,
}

impl Watch {
    /// Watches the nodes whose admin sockets these are.
    #[must_use]
    pub fn start(sockets: impl IntoIterator<Item = PathBuf>) -> Self {
        let (sender, steps) = channel();
        let over = Arc::new(AtomicBool::new(false));
        for socket in sockets {
            let (sender, over) = (sender.clone(), Arc::clone(&over));
            std::thread::spawn(move || follow(&socket, &sender, &over));
        }
        Self { steps, over }
    }

    /// The next step, waiting no longer than until `deadline`.
    #[must_use]
    pub fn next(&self, deadline: Instant) -> Option<TimelineStep> {
        self.steps.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Follows one node until the watch is over.
fn follow(socket: &std::path::Path, sender: &Sender<TimelineStep>, over: &AtomicBool) {
    let mut newest = 0;
    // BOUND: ends with the watch; a connection ends with its node.
    while !over.load(Ordering::Relaxed) {
        let events = Client::connect(socket).and_then(|client| client.events(EARLIER));
        for step in events.into_iter().flatten() {
            // On every new connection the node tells everything again.
            if step.number <= newest {
                continue;
            }
            newest = step.number;
            if sender.send(step).is_err() {
                return;
            }
        }
        std::thread::sleep(RETRY);
    }
}
