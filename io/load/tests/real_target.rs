//! Both clients against a real target: our own, on a LUN in memory, over loopback sockets, on a thread of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use understudy_device::memory::MemoryMedium;
use understudy_device::{Target, UnitIdentity, UnitOnMedium, UnitOptions};
use understudy_load::{Length, LoadError, LoadPlan, LunAddress, Order, Verifier, VerifierOptions, generate};
use understudy_portal::{LoginGate, Portal, PortalOptions};

const TARGET: &str = "iqn.2026-01.io.understudy:test";
const LIMIT: Duration = Duration::from_secs(20);

/// What the test does to the target.
enum Blow {
    /// Closes every session of the target without answers.
    DropSessions,
    /// Stops the portal; nothing listens any more.
    Stop,
    /// Binds the same address again.
    StartAgain,
}

/// A target on its own thread; ends when dropped.
struct Served {
    address: SocketAddr,
    blows: Option<UnboundedSender<(Blow, oneshot::Sender<()>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn start() -> Self {
        let (blows, received) = unbounded_channel();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(LocalSet::new().run_until(serve(tell, received)));
        });
        let address = told.recv_timeout(LIMIT).expect("the target listens");
        Self { address, blows: Some(blows), thread: Some(thread) }
    }

    fn strike(&self, blow: Blow) {
        let (done, landed) = oneshot::channel();
        self.blows.as_ref().expect("still there").send((blow, done)).expect("the target runs");
        landed.blocking_recv().expect("the target answers");
    }

    fn lun(&self) -> LunAddress {
        let (target, initiator) = (TARGET.to_owned(), "iqn.2026-01.io.understudy:client".to_owned());
        LunAddress { portal: self.address, target, lun: 0, initiator }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.blows = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the target ends in order");
        }
    }
}

fn bind(address: SocketAddr, target: &Rc<Target>) -> Portal {
    let portal = Portal::bind(address, PortalOptions::default()).expect("the address is free");
    portal.add_target(Rc::clone(target), LoginGate::opened());
    portal
}

async fn serve(tell: std::sync::mpsc::Sender<SocketAddr>, mut blows: UnboundedReceiver<(Blow, oneshot::Sender<()>)>) {
    let identity = UnitIdentity { uuid: [9; 16], product: "TEST".to_owned() };
    let unit = UnitOnMedium::new(UnitOptions::new(identity), MemoryMedium::new(512, 8192), None).expect("a fresh unit");
    let target = Target::new(TARGET);
    target.add(0, unit).expect("the first unit");
    let mut portal = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &target);
    let address = portal.address();
    tell.send(address).expect("the test waits for it");
    while let Some((blow, done)) = blows.recv().await {
        match blow {
            Blow::DropSessions => {
                portal.drop_sessions(TARGET);
            }
            Blow::Stop => portal.close().await,
            Blow::StartAgain => portal = bind(address, &target),
        }
        done.send(()).expect("the test waits for it");
    }
    portal.close().await;
}

fn verifier(served: &Served) -> Verifier {
    let options = VerifierOptions { span_bytes: 1 << 20, ..VerifierOptions::default() };
    let verifier = Verifier::start("volume", served.lun(), options).expect("a thread");
    assert!(verifier.wait_until_running(LIMIT), "{:?}", verifier.progress());
    verifier
}

/// Waits until `reached`, which the target's or the client's own progress brings about.
fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !reached() {
        assert!(Instant::now() < deadline, "{what} never happened");
        std::thread::yield_now();
    }
}

fn wait_for_more(verifier: &Verifier, writes: u64) {
    let before = verifier.progress().acknowledged_writes;
    wait_until("more writes", || verifier.progress().acknowledged_writes >= before + writes);
}

#[test]
fn dropped_sessions_cost_connections_and_nothing_else() {
    let served = Served::start();
    let verifier = verifier(&served);
    for _ in 0..5 {
        wait_for_more(&verifier, 50);
        served.strike(Blow::DropSessions);
    }
    wait_for_more(&verifier, 50);
    let verdict = verifier.finish(LIMIT);
    assert!(verdict.holds(), "{verdict:?}");
    assert_eq!(verdict.connection_losses, 5, "{verdict:?}");
}

#[test]
fn an_outage_is_measured_from_the_last_completion_to_the_first() {
    let served = Served::start();
    let verifier = verifier(&served);
    wait_for_more(&verifier, 50);
    let mark = verifier.mark();
    served.strike(Blow::Stop);
    wait_until("the loss", || !verifier.progress().connected);
    let outage = Duration::from_millis(60);
    wait_until("the outage", || verifier.progress().since_last_completion >= outage);
    served.strike(Blow::StartAgain);
    wait_for_more(&verifier, 50);
    let later = verifier.mark();
    wait_for_more(&verifier, 1);
    let pause = verifier.pause_between(mark, later);
    assert!(pause.length >= outage, "{pause:?}");
    assert!(pause.ended_unix_micros - pause.began_unix_micros >= 60_000, "{pause:?}");
    let verdict = verifier.finish(LIMIT);
    assert!(verdict.holds(), "{verdict:?}");
}

#[test]
fn a_client_started_before_its_target_waits_for_it() {
    let served = Served::start();
    served.strike(Blow::Stop);
    let options = VerifierOptions { span_bytes: 1 << 20, ..VerifierOptions::default() };
    let early = Verifier::start("early", served.lun(), options).expect("a thread");
    wait_until("a refused login", || early.progress().last_failure.is_some());
    served.strike(Blow::StartAgain);
    assert!(early.wait_until_running(LIMIT), "{:?}", early.progress());
    let verdict = early.finish(LIMIT);
    assert!(verdict.holds() && verdict.acknowledged_writes > 0, "{verdict:?}");
    assert_eq!(verdict.connection_losses, 0);
}

fn plan(served: &Served) -> LoadPlan {
    LoadPlan {
        address: served.lun(),
        connections: 2,
        depth: 4,
        command_bytes: 4096,
        read_percent: 50,
        order: Order::Random,
        span_bytes: None,
        length: Length::Commands(2000),
        warm_up: Duration::ZERO,
        seed: 1,
        awake: Duration::ZERO,
    }
}

#[test]
fn a_counted_run_counts_what_was_asked_for() {
    let served = Served::start();
    for (order, awake) in [(Order::Random, Duration::ZERO), (Order::Sequential, Duration::from_millis(1))] {
        let report = generate(&LoadPlan { order, awake, ..plan(&served) }).expect("a report");
        assert_eq!(report.commands, 2000, "{report:?}");
        let latency = &report.latency_micros;
        assert!(0.0 < latency.p50 && latency.p50 <= latency.p99 && latency.p99 <= latency.max, "{report:?}");
        assert_eq!(report.histogram.iter().map(|bucket| bucket.commands).sum::<u64>(), 2000, "{report:?}");
        assert!(report.commands_altogether >= 2000, "{report:?}");
        assert!((report.megabytes_per_second - report.iops * 4096.0 / 1e6).abs() < 1e-6, "{report:?}");
    }
}

#[test]
fn a_plan_that_does_not_fit_the_lun_is_refused() {
    let served = Served::start();
    let odd = generate(&LoadPlan { command_bytes: 1000, ..plan(&served) });
    assert!(matches!(odd, Err(LoadError::Plan(_))), "{odd:?}");
    let crowded = generate(&LoadPlan { order: Order::Sequential, span_bytes: Some(4096), ..plan(&served) });
    assert!(matches!(crowded, Err(LoadError::Plan(_))), "{crowded:?}");
}

#[test]
fn a_target_that_is_not_there_is_named() {
    let served = Served::start();
    let mut missing = plan(&served);
    missing.address.target.push_str("-other");
    let error = generate(&missing).expect_err("no such target");
    assert!(error.to_string().contains("-other"), "{error}");
}
