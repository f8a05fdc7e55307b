//! One run from the first disk to the last read: begin, faults and load, healing, and what must then be true.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};
use understudy::admin::{Request, SoftVetoes};
use understudy::config::NodeName;
use understudy_failover::page::StateWord;
use understudy_failover::words::{NodeId, PoolId};

use crate::client::{Client, Visitor};
use crate::clock;
use crate::faults::{begin, heal};
use crate::panics;
use crate::plan::{Fault, Plan, Planned};
use crate::stage::Stage;

/// A sound pair is up this long after it was started, and home again this long after everything was mended: boot waits of three
/// seconds, deadlines of two for whatever hung, a takeover and a giveback, all of them twice.
const HOME_WITHIN: Duration = Duration::from_secs(60);

/// Between two looks at the history, and at a pair that is on its way home.
const LOOK: Duration = Duration::from_millis(200);

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What went wrong first.
    pub failure: Option<String>,
    /// Digest of everything that happened.
    pub digest: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Faults carried out or planned.
    pub faults: usize,
    /// Processes of nodes started.
    pub starts: u64,
    /// Writes acknowledged, in blocks.
    pub acknowledged: u64,
    /// Writes of unknown outcome, in blocks.
    pub unknown: u64,
    /// Blocks read and judged.
    pub reads: u64,
    /// Moments at which all invariants were looked at.
    pub moments: u64,
    /// From healing to both nodes up and every pool at home and served.
    pub home_after: Option<Duration>,
    /// It ended with a pool that is rightly refused: the only leg recorded good is gone.
    pub refused: bool,
    /// The last things that happened; only of a run that went wrong.
    pub last_lines: Vec<String>,
}

/// Runs a plan. The thread's clock is the simulation's: nothing else may run on it.
///
/// # Panics
/// If the system gives no event queue.
#[must_use]
pub fn run(plan: &Plan) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without input and output needs nothing of the system");
    panics::watch(plan.seed);
    understudy_pool::testing::name_from(plan.seed);
    let tasks = LocalSet::new();
    let plan = plan.clone();
    let (stage, outcome) = runtime.block_on(tasks.run_until(async move {
        clock::begin();
        let stage = Stage::new(plan);
        let home_after = whole_run(&stage).await;
        let outcome = outcome(&stage, home_after);
        (stage, outcome)
    }));
    // Tasks hold the stage and the stage holds nodes: broken up in this order nothing is left behind.
    stage.nodes.iter().for_each(|node| node.kill(crate::process::End::PowerLost));
    stage.shelves.iter().for_each(|shelf| shelf.end(crate::process::End::PowerLost));
    drop(tasks);
    outcome
}

fn outcome(stage: &Rc<Stage>, home_after: Option<Duration>) -> Outcome {
    let history = stage.history.borrow();
    let failure = panics::first().or_else(|| stage.failure());
    Outcome {
        seed: stage.plan.seed,
        digest: stage.digest().value(),
        simulated: clock::elapsed(),
        faults: stage.plan.faults.len(),
        starts: stage.nodes.iter().map(|node| node.starts.get()).sum(),
        acknowledged: history.acknowledged,
        unknown: history.unknown,
        reads: history.reads,
        moments: stage.moments.get(),
        home_after,
        refused: stage.refused.get(),
        last_lines: if failure.is_some() { stage.last_lines(60) } else { Vec::new() },
        failure,
    }
}

async fn whole_run(stage: &Rc<Stage>) -> Option<Duration> {
    if let Err(error) = stage.begin().await {
        stage.fail(format!("the pair could not be made: {error:#}"));
        return None;
    }
    if until_within(HOME_WITHIN, || stage.failure().is_some() || everything_is_home(stage)).await.is_none() {
        stage.fail(format!("a fresh pair is not up: {}", describe(stage)));
        return None;
    }
    let values = Rc::new(Cell::new(0));
    let visitors = Visitor::all(stage.plan.other_way).into_iter();
    let clients: Vec<_> = visitors.map(|visitor| Client::start(stage, visitor, &values)).collect();
    let watching = spawn_local(judge_again_and_again(Rc::clone(stage)));
    first_phase(stage).await;
    heal(stage);
    let home_after = second_phase(stage, &clients).await;
    watching.abort();
    if let Err(violation) = stage.history.borrow().judge() {
        stage.fail(format!("volume {} block {}: {}", violation.place.0, violation.place.1, violation.text));
    }
    home_after
}

async fn first_phase(stage: &Rc<Stage>) {
    let began = Instant::now();
    for planned in &stage.plan.faults {
        tokio::time::sleep_until(began + Duration::from_millis(planned.at_ms)).await;
        if has_failed(stage) {
            return;
        }
        begin(stage, *planned);
    }
    tokio::time::sleep_until(began + Duration::from_millis(stage.plan.length_ms)).await;
}

fn has_failed(stage: &Stage) -> bool {
    stage.failure().is_some() || panics::happened()
}

/// Everything is mended: within a bounded time every pool is home and served, and every acknowledged write can be read.
async fn second_phase(stage: &Rc<Stage>, clients: &[Rc<Client>]) -> Option<Duration> {
    let asking = spawn_local(ask_back(Rc::clone(stage)));
    let home_after = all_home(stage).await;
    // Faults whose time is not over yet take back what they did, which was taken back already. Then it has to be home still.
    let longest = stage.plan.faults.iter().map(|planned| planned.for_ms).max().unwrap_or(0);
    sleep(Duration::from_millis(longest)).await;
    let still = all_home(stage).await;
    asking.abort();
    let (home_after, _) = (home_after?, still?);
    clients.iter().for_each(|client| client.paused.set(true));
    let quiet = || has_failed(stage) || clients.iter().all(|client| client.under_way.get() == 0);
    if until_within(HOME_WITHIN, quiet).await.is_none() {
        stage.fail("a client's command is not answered although everything is mended".to_owned());
        return None;
    }
    for (number, client) in clients.iter().enumerate() {
        let reading = async {
            while !client.read_everything().await {
                sleep(LOOK).await
            }
        };
        if timeout(HOME_WITHIN, reading).await.is_err() {
            stage.fail(format!("client {number} cannot read its volume although everything is mended"));
        }
    }
    Some(home_after)
}

/// Waits until both nodes are up and every pool is at home, and takes the time.
async fn all_home(stage: &Rc<Stage>) -> Option<Duration> {
    let home = until_within(HOME_WITHIN, || has_failed(stage) || everything_is_home(stage)).await;
    if has_failed(stage) {
        return None;
    }
    if home.is_none() && is_rightly_not_home(stage) {
        stage.log(format_args!("refused: {}", describe(stage)));
        stage.refused.set(true);
    } else if home.is_none() {
        stage.fail(format!("not home {} s after everything was mended: {}", HOME_WITHIN.as_secs(), describe(stage)));
    }
    home
}

/// What an operator took over is asked back by an operator: no node gives that back by itself.
async fn ask_back(stage: Rc<Stage>) {
    let is_takeover = |planned: &Planned| matches!(planned.fault, Fault::AskTakeover { .. });
    // Without an operator's takeover everything has to come home by itself.
    while stage.plan.faults.iter().any(is_takeover) {
        sleep(LOOK * 25).await;
        for node in &stage.nodes {
            node.ask(Request::Giveback { soft_vetoes: SoftVetoes::Override }).await;
        }
    }
}

/// A history that broke the rule never keeps it again, so it is enough to look often: whenever a sixteenth of it is new, which makes
/// all looks together cost no more than a number of looks at the whole.
async fn judge_again_and_again(stage: Rc<Stage>) {
    let mut judged_at = 0;
    loop {
        sleep(LOOK * 10).await;
        let moments = stage.history.borrow().moments();
        if moments < judged_at + judged_at / 16 {
            continue;
        }
        judged_at = moments;
        let judged = stage.history.borrow().judge();
        if let Err(violation) = judged {
            stage.fail(format!("volume {} block {}: {}", violation.place.0, violation.place.1, violation.text));
            return;
        }
    }
}

async fn until_within(limit: Duration, is_so: impl Fn() -> bool) -> Option<Duration> {
    let began = Instant::now();
    let waiting: std::pin::Pin<Box<dyn Future<Output = ()>>> = Box::pin(async {
        while !is_so() {
            sleep(LOOK).await;
        }
    });
    timeout(limit, waiting).await.ok()?;
    Some(began.elapsed())
}

fn everything_is_home(stage: &Stage) -> bool {
    let is_up = |name: NodeName| {
        let machine = stage.nodes[name.index()].seen.machine.borrow();
        machine.as_ref().is_some_and(|machine| machine.state_word() == StateWord::Up)
    };
    NodeName::BOTH.into_iter().all(is_up) && stage.pools().all(|(pool, home, _)| is_served_at_home(stage, pool, home))
}

fn is_served_at_home(stage: &Stage, pool: PoolId, home: NodeName) -> bool {
    let machine = stage.nodes[home.index()].seen.machine.borrow();
    let owner = machine.as_ref().and_then(|machine| machine.entry(pool).map(|entry| entry.owner));
    let services = stage.nodes[home.index()].seen.services.borrow();
    let answers = services.get(&pool) == Some(&understudy_failover::invariants::Service::Answering);
    owner == Some(NodeId::BOTH[home.index()]) && answers
}

/// Whether nothing is missing but pools that are rightly refused.
fn is_rightly_not_home(stage: &Stage) -> bool {
    let pools = stage.pools().enumerate();
    let mut missing = pools.filter(|(_, (pool, home, _))| !is_served_at_home(stage, *pool, *home)).peekable();
    missing.peek().is_some() && missing.all(|(place, _)| stage.is_rightly_refused(place))
}

/// What keeps the pair from being home.
fn describe(stage: &Stage) -> String {
    let told = stage.nodes.iter().map(|node| {
        let machine = node.seen.machine.borrow();
        let state = machine.as_ref().map_or("not running".to_owned(), |machine| {
            let alarms: Vec<_> = machine.alarms().iter().map(|alarm| format!("{alarm:?}")).collect();
            format!("{} {}", machine.state_word(), alarms.join(" "))
        });
        format!("{}: {state}, {:?}", node.name, node.seen.services.borrow())
    });
    told.collect::<Vec<_>>().join("; ")
}
