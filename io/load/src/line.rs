//! A session that comes back: what every client does when its connection is lost, and nothing more.
//!
//! The first attempt follows at once, the next ones every 2 ms at first and slowly more rarely, because what is measured is
//! the pair and not the client's patience. The line never sends a command again; whoever issued it decides that.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use understudy_disk::disk::{Disk, DiskError, DiskIdentity, Geometry, Link};

use crate::route::{Deadlines, Route};
use crate::score::Score;

/// Wait before the second attempt. Shorter only burns processor time of the machine under test.
const FIRST_WAIT: Duration = Duration::from_millis(2);

/// Longest wait between two attempts: adds at most this to a pause that was long anyway.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// One login.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) disk: Rc<dyn Disk>,
    number: u64,
}

/// A way to a LUN that is connected again whenever it is lost.
pub(crate) struct Line {
    route: Rc<dyn Route>,
    deadlines: Deadlines,
    score: Arc<Mutex<Score>>,
    current: watch::Sender<Option<Session>>,
    first: Rc<FirstSeen>,
}

/// What a LUN was at the first login, by whichever way; it must stay that.
#[derive(Default)]
pub(crate) struct FirstSeen(RefCell<Option<(Geometry, DiskIdentity)>>);

impl Line {
    /// Starts connecting in the background.
    pub(crate) fn open(
        route: Rc<dyn Route>,
        deadlines: Deadlines,
        score: Arc<Mutex<Score>>,
        first: Rc<FirstSeen>,
    ) -> Rc<Self> {
        let line = Rc::new(Self { route, deadlines, score, current: watch::Sender::new(None), first });
        spawn_local(Rc::clone(&line).connect(1));
        line
    }

    /// The session that is up now.
    pub(crate) fn session_now(&self) -> Option<Session> {
        self.current.borrow().clone()
    }

    /// The session that is up, waiting for one if necessary.
    pub(crate) async fn session(&self) -> Session {
        let mut changes = self.current.subscribe();
        let up = changes.wait_for(Option::is_some).await;
        // PANIC: the sender lives as long as `self`, so waiting cannot fail, and the predicate was `is_some`.
        up.expect("the line outlives its users").clone().expect("a session is up")
    }

    /// Waits until `session` is of no more use. Whoever has a command on it stops waiting for an answer then, so that the
    /// session is really dropped, and with it everything it might still send.
    pub(crate) async fn replaced(&self, session: &Session) {
        let mut changes = self.current.subscribe();
        let other = |current: &Option<Session>| current.as_ref().is_none_or(|up| up.number != session.number);
        // PANIC: the sender lives as long as `self`, so waiting cannot fail.
        changes.wait_for(other).await.map(drop).expect("the line outlives its users");
    }

    /// Longest time a command may take.
    pub(crate) fn command_deadline(&self) -> Duration {
        self.deadlines.command
    }

    pub(crate) fn score(&self) -> MutexGuard<'_, Score> {
        self.score.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports that `session` is of no more use. Only the first report of a session counts; it drops the session and
    /// connects again at once.
    pub(crate) fn lost(self: &Rc<Self>, session: &Session, why: String) {
        let was_current = self.current.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|up| up.number == session.number);
            if same {
                *current = None;
            }
            same
        });
        if was_current {
            self.score().connection_lost(why);
            spawn_local(Rc::clone(self).connect(session.number + 1));
        }
    }

    /// BOUND: ends with the first login that succeeds, or with the runtime.
    async fn connect(self: Rc<Self>, number: u64) {
        let mut wait = Duration::ZERO;
        loop {
            match timeout(self.deadlines.login, self.route.connect()).await {
                Ok(Ok(disk)) => return self.connected(Session { disk, number }),
                Ok(Err(error)) => self.score().connect_failed(error.to_string()),
                Err(_elapsed) => self.score().connect_failed("login not answered in time".to_owned()),
            }
            sleep(wait).await;
            wait = (wait * 9 / 8).clamp(FIRST_WAIT, LONGEST_WAIT);
        }
    }

    fn connected(self: Rc<Self>, session: Session) {
        self.score().connected();
        spawn_local(Rc::clone(&self).compare_identity(session.clone()));
        self.current.send_replace(Some(session.clone()));
        spawn_local(self.notice_end(session));
    }

    /// A way that is not used is looked after as well, so that it is there when the other one ends.
    async fn notice_end(self: Rc<Self>, session: Session) {
        let up = session.disk.link();
        let ended = async {
            // BOUND: until it differs, or the session is replaced.
            if matches!(up, Link::Connected { .. }) {
                session.disk.link_changed(up).await;
            }
        };
        tokio::select! {
            biased;
            () = self.replaced(&session) => {}
            () = ended => self.lost(&session, "the connection ended".to_owned()),
        }
    }

    /// A takeover must not change what a client sees at its address. Asked beside the commands, not before them, so that it
    /// does not lengthen the pause.
    async fn compare_identity(self: Rc<Self>, session: Session) {
        let answer = timeout(self.deadlines.command, session.disk.identify()).await;
        let (Ok(Ok(identity)), Ok(geometry)) = (answer, session.disk.geometry()) else {
            return; // The session went away again; the next one is compared.
        };
        let now = (geometry, identity);
        let first = self.first.0.borrow_mut().get_or_insert_with(|| now.clone()).clone();
        if first != now {
            self.score().identity_changed(format!("the LUN was {first:?} and is now {now:?}"));
        }
    }
}

/// What an error says to a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Unit attention: news, not a failure; the command is issued again.
    Attention,
    /// The target cannot tell whether it was carried out, and leaves it to the client to issue it again.
    Repeat,
    /// The target refused or failed the command.
    Command(String),
    /// No answer will come on this session.
    Connection(String),
}

/// Sense key UNIT ATTENTION, SPC-4 r37 §4.5.6.
const UNIT_ATTENTION: u8 = 6;

/// Sense key ABORTED COMMAND: "the application client may be able to recover by trying the command again", SPC-4 r37 §4.5.6.
const ABORTED_COMMAND: u8 = 0xb;

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::CheckCondition { key: UNIT_ATTENTION, .. } => Self::Attention,
            DiskError::CheckCondition { key: ABORTED_COMMAND, .. } => Self::Repeat,
            DiskError::Unreachable(_) | DiskError::OutcomeUnknown(_) => Self::Connection(error.to_string()),
            DiskError::Conflict
            | DiskError::CheckCondition { .. }
            | DiskError::Status(_)
            | DiskError::Io(_)
            | DiskError::Protocol(_) => Self::Command(error.to_string()),
        }
    }
}
