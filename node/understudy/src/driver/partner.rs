//! The routine reading of the partner's page by RDMA, all the time, in every state.
//!
//! Reads are one at a time, each with a deadline; what comes of them goes to the failover machine as facts.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use understudy_fabric::{LinkEvent, ReadFailure};
use understudy_failover::effect::PollPace;
use understudy_failover::input::{Input, Unreadable};
use understudy_failover::page::{Page, PageError};
use understudy_failover::words::{NodeId, PairId};

use super::world::{LinkNews, PartnerPage};

/// Reads of one page that was being written, before it counts as torn. BOUND: a publication takes a microsecond; a page torn this
/// often in a row has a writer that died in the middle of one.
const TORN_READS: usize = 16;

/// What is known of the partner's page, for the status and for the pause.
#[derive(Default)]
pub struct PartnerView {
    /// The last page read.
    pub page: RefCell<Option<Page>>,
    /// When it was read.
    pub read_at: Cell<Option<Instant>>,
    /// How the last read ended, in words.
    pub last_read: RefCell<String>,
    /// Pages read since the start.
    pub pages_read: Cell<u64>,
    latency: RefCell<Option<Histogram<u64>>>,
}

impl PartnerView {
    /// Median time of a read that gave a page, microseconds.
    #[must_use]
    pub fn median_read_micros(&self) -> Option<u64> {
        self.latency.borrow().as_ref().filter(|times| !times.is_empty()).map(|times| times.value_at_quantile(0.5))
    }

    fn note(&self, page: &Page, took: Duration) {
        *self.page.borrow_mut() = Some(page.clone());
        self.read_at.set(Some(Instant::now()));
        self.pages_read.set(self.pages_read.get() + 1);
        "read".clone_into(&mut self.last_read.borrow_mut());
        let mut latency = self.latency.borrow_mut();
        // Up to a minute with two digits: 20 KiB.
        let times = latency.get_or_insert_with(|| Histogram::new_with_max(60_000_000, 2).expect("valid bounds"));
        times.saturating_record(took.as_micros() as u64);
    }
}

/// How often the partner's page is read, changed by the machine at any time.
pub struct Pace {
    pace: Cell<PollPace>,
    changed: Notify,
}

impl Default for Pace {
    fn default() -> Self {
        Self { pace: Cell::new(PollPace::Routine), changed: Notify::default() }
    }
}

impl Pace {
    /// From now on this often.
    pub fn set(&self, pace: PollPace) {
        self.pace.set(pace);
        self.changed.notify_one();
    }
}

/// Times of the reading.
#[derive(Debug, Clone, Copy)]
pub struct PollTimes {
    /// Between two routine reads.
    pub routine: Duration,
    /// Between two reads while a hand-off is due.
    pub brisk: Duration,
    /// Between two reads while clients wait for what the partner does.
    pub eager: Duration,
    /// A read that takes longer gave no page.
    pub deadline: Duration,
}

/// Reads the partner's page for ever.
pub async fn watch(
    mut reader: Box<dyn PartnerPage>,
    (pair, partner): (PairId, NodeId),
    times: PollTimes,
    pace: Rc<Pace>,
    view: Rc<PartnerView>,
    facts: mpsc::UnboundedSender<Input>,
) {
    loop {
        let began = Instant::now();
        let fact = match read_whole(reader.as_mut(), pair, partner, times.deadline).await {
            Ok(page) => {
                view.note(&page, began.elapsed());
                Input::PartnerPageRead(Box::new(page))
            }
            Err((why, words)) => {
                *view.last_read.borrow_mut() = words;
                Input::PartnerPageUnreadable(why)
            }
        };
        if facts.send(fact).is_err() {
            return;
        }
        let interval = match pace.pace.get() {
            PollPace::Routine => times.routine,
            PollPace::Brisk => times.brisk,
            PollPace::Eager => times.eager,
        };
        tokio::select! {
            biased;
            () = reader.rest(interval.saturating_sub(began.elapsed())) => {}
            () = pace.changed.notified() => {}
        }
    }
}

async fn read_whole(
    reader: &mut dyn PartnerPage,
    pair: PairId,
    partner: NodeId,
    deadline: Duration,
) -> Result<Page, (Unreadable, String)> {
    for _ in 0..TORN_READS {
        let bytes = reader.read(deadline).await.map_err(|failure| (kind_of(&failure), failure.to_string()))?;
        match Page::decode(&bytes, pair, partner) {
            Ok(page) => return Ok(page),
            Err(PageError::Torn) => {}
            // The process has registered its memory and not yet said anything.
            Err(error @ PageError::NoPage) => return Err((Unreadable::Torn, error.to_string())),
            Err(error) => return Err((Unreadable::Rejected, error.to_string())),
        }
    }
    Err((Unreadable::Torn, PageError::Torn.to_string()))
}

fn kind_of(failure: &ReadFailure) -> Unreadable {
    match failure {
        ReadFailure::Refused => Unreadable::Refused,
        ReadFailure::Rejected(_) => Unreadable::Rejected,
        ReadFailure::Closed => Unreadable::Closed,
        ReadFailure::TimedOut(_) => Unreadable::TimedOut,
        ReadFailure::Fabric(_) => Unreadable::Fabric,
    }
}

/// Reports the closing of the connection, also between two reads.
pub async fn watch_link(mut events: Box<dyn LinkNews>, facts: mpsc::UnboundedSender<Input>) {
    while let Some(event) = events.next().await {
        match event {
            LinkEvent::Closed { .. } => {
                if facts.send(Input::PartnerLinkClosed).is_err() {
                    return;
                }
            }
            // A page read over it says more.
            LinkEvent::Connected { .. } => {}
        }
    }
}
