//! The reader against a partner that is killed, stopped, restarted, or somebody else: real processes, with the
//! providers that run anywhere (`verbs` is accepted by `cargo xtask accept verbs`).
//!
//! The partner is this test binary started again with [`ROLE`] set; it serves a page with its incarnation and a growing
//! counter until its standard input closes, so it never outlives the test.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use understudy_fabric::{
    Identity, LANDING_BYTES, LinkEvent, MeasureOptions, PAGE_BYTES, PageReader, PageServer, Provider, ReadFailure,
    ReaderOptions, ServerOptions, measure_polling_cost, measure_read_latency,
};

/// Set in the environment of the child: `<provider> <incarnation> <address>`.
const ROLE: &str = "UNDERSTUDY_FABRIC_TEST_PARTNER";
const PAIR: u64 = 0x5eed;
const SEQUENCE: usize = 24;
const INCARNATION: usize = 8;
const COUNTER: usize = 16;

/// Generous, for a busy machine; nothing below waits this long unless it fails.
const PATIENT: Duration = Duration::from_secs(10);
/// For reads that are expected to run into their deadline.
const SHORT: Duration = Duration::from_millis(200);

fn identity(node: u8) -> Identity {
    Identity { pair: PAIR, node }
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn serve(provider: Provider, address: SocketAddr, node: u8) -> PageServer {
    let options = ServerOptions { provider, address, identity: identity(node), sequence_offset: SEQUENCE };
    PageServer::start(options).expect("a page server on loopback")
}

fn reader_of(provider: Provider, partner: SocketAddr) -> (PageReader, understudy_fabric::LinkEvents) {
    PageReader::start(options(provider, partner)).expect("a reader")
}

fn options(provider: Provider, partner: SocketAddr) -> ReaderOptions {
    ReaderOptions { provider, partner, identity: identity(2), partner_node: 1 }
}

/// The next link event; `None` at the end of the reader.
fn next(events: &mut understudy_fabric::LinkEvents) -> Option<LinkEvent> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENT, events.next()).await }).expect("an event in time")
}

fn long(page: &[u8; PAGE_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(page[at..at + 8].try_into().expect("eight bytes"))
}

fn page(sequence: u64, incarnation: u64, counter: u64) -> Box<[u8; PAGE_BYTES]> {
    let mut page = Box::new([0; PAGE_BYTES]);
    page[SEQUENCE..SEQUENCE + 8].copy_from_slice(&sequence.to_le_bytes());
    page[INCARNATION..INCARNATION + 8].copy_from_slice(&incarnation.to_le_bytes());
    page[COUNTER..COUNTER + 8].copy_from_slice(&counter.to_le_bytes());
    page
}

/// Not a test of its own: the body of the child process. Without [`ROLE`] it does nothing.
#[test]
#[ignore = "the partner's process, started by the other tests"]
fn partner_process() {
    let Ok(role) = env::var(ROLE) else { return };
    let mut words = role.split(' ');
    let provider = words.next().expect("provider").parse().expect("a provider");
    let incarnation: u64 = words.next().expect("incarnation").parse().expect("a number");
    let address: SocketAddr = words.next().expect("address").parse().expect("an address");
    let server = serve(provider, address, 1);
    server.publish(&page(2, incarnation, 0));
    println!("\nserving {}", server.address());
    std::io::stdout().flush().expect("the parent reads");
    static END: AtomicBool = AtomicBool::new(false);
    thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        END.store(true, Ordering::Relaxed);
    });
    let mut counter = 0;
    while !END.load(Ordering::Relaxed) {
        counter += 1;
        server.publish(&page(counter * 2, incarnation, counter));
        thread::yield_now();
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// A partner in a process of its own, killed by its own id when dropped.
struct Partner {
    child: Child,
    address: SocketAddr,
    _stdin: ChildStdin,
}

impl Partner {
    fn start(provider: Provider, incarnation: u64, address: SocketAddr) -> Self {
        let mut child = Command::new(env::current_exe().expect("this binary"))
            .args(["--exact", "partner_process", "--ignored", "--nocapture"])
            .env(ROLE, format!("{provider} {incarnation} {address}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the partner starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let address = stdout
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("serving ").map(|address| address.parse().expect("an address")))
            .expect("the partner says where it serves");
        Self { child, address, _stdin: stdin }
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).expect("our own child");
    }

    /// Returns when the partner does stand still: the signal itself is only a request.
    fn stop(&self) {
        self.signal(Signal::STOP);
        let stopped = waitpid(Some(Pid::from_child(&self.child)), WaitOptions::UNTRACED).expect("our own child");
        assert!(stopped.is_some_and(|(_, status)| status.stopped()), "{stopped:?}");
    }

    fn kill(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The facts that hold for every provider, each a test with each of them.
macro_rules! with_every_provider {
    ($($fact:ident)+) => {
        mod tcp {
            $(#[test]
            fn $fact() {
                super::$fact(super::Provider::Tcp);
            })+
        }
        mod shm {
            $(#[test]
            fn $fact() {
                super::$fact(super::Provider::Shm);
            })+
        }
    };
}

with_every_provider! {
    counter_of_a_living_partner_advances
    a_partner_killed_between_reads_is_reported_without_a_read
    a_restarted_partner_shows_its_new_incarnation_at_the_same_address
    nobody_listening_is_refused_and_found_once_somebody_does
    a_node_of_another_pair_is_rejected
    a_node_with_the_servers_own_number_is_rejected
    another_node_answering_at_the_partners_address_is_rejected
    a_listener_that_is_no_fabric_ends_at_the_deadline
    a_stranger_talking_nonsense_does_not_disturb_the_server
    a_write_lands_in_the_partners_second_region_only
    a_write_past_the_landing_region_is_refused_on_this_side
    connections_that_were_left_behind_do_not_pile_up
    measurements_come_in_order_and_count_what_was_asked
    a_partner_killed_while_stopped_is_closed
    libraries_of_the_fabric_leave_signals_to_the_process
}

fn counter_of_a_living_partner_advances(provider: Provider) {
    let partner = Partner::start(provider, 7, loopback());
    let (mut reader, _events) = reader_of(provider, partner.address);
    let first = reader.read_blocking(PATIENT).expect("a page");
    assert_eq!(long(&first, INCARNATION), 7);
    let start = Instant::now();
    while long(&reader.read_blocking(PATIENT).expect("a page"), COUNTER) <= long(&first, COUNTER) {
        assert!(start.elapsed() < PATIENT, "the counter stands still");
    }
}

/// Some of them install handlers that print a backtrace and exit.
fn libraries_of_the_fabric_leave_signals_to_the_process(provider: Provider) {
    let mut partner = Partner::start(provider, 1, loopback());
    let (mut reader, _events) = reader_of(provider, partner.address);
    reader.read_blocking(PATIENT).expect("a page");
    partner.signal(Signal::TERM);
    let ended = partner.child.wait().expect("our own child");
    assert_eq!(ended.signal(), Some(Signal::TERM.as_raw()), "{ended}");
}

#[test]
fn a_partner_killed_during_a_read_is_seen_as_closed_and_then_refuses() {
    let mut partner = Partner::start(Provider::Tcp, 1, loopback());
    let (mut reader, mut events) = reader_of(Provider::Tcp, partner.address);
    reader.read_blocking(PATIENT).expect("a page");
    partner.stop();
    // Under way while the partner is stopped, and cut short by its end.
    let reading = thread::spawn(move || (reader.read_blocking(PATIENT), reader));
    partner.kill();
    let (outcome, mut reader) = reading.join().expect("the read ends");
    // Refused: the read began only after the end of the partner had been noticed.
    assert!(matches!(outcome, Err(ReadFailure::Closed | ReadFailure::Refused)), "{outcome:?}");
    assert_eq!(next(&mut events), Some(LinkEvent::Connected { connection: 1 }));
    assert_eq!(next(&mut events), Some(LinkEvent::Closed { connection: 1 }));
    assert_eq!(reader.read_blocking(PATIENT), Err(ReadFailure::Refused));
}

fn a_partner_killed_between_reads_is_reported_without_a_read(provider: Provider) {
    let mut partner = Partner::start(provider, 1, loopback());
    let (mut reader, mut events) = reader_of(provider, partner.address);
    reader.read_blocking(PATIENT).expect("a page");
    assert_eq!(next(&mut events), Some(LinkEvent::Connected { connection: 1 }));
    let start = Instant::now();
    partner.kill();
    assert_eq!(next(&mut events), Some(LinkEvent::Closed { connection: 1 }));
    eprintln!("closed link reported {:?} after the kill began", start.elapsed());
    drop(reader);
    assert_eq!(next(&mut events), None);
}

#[test]
fn a_stopped_partner_times_out_and_is_read_again_once_it_goes_on() {
    let partner = Partner::start(Provider::Tcp, 3, loopback());
    let (mut reader, mut events) = reader_of(Provider::Tcp, partner.address);
    reader.read_blocking(PATIENT).expect("a page");
    partner.stop();
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(reader.read_blocking(SHORT), Err(ReadFailure::TimedOut(SHORT)));
        assert!(start.elapsed() < PATIENT, "the deadline holds");
    }
    partner.signal(Signal::CONT);
    let start = Instant::now();
    let again = loop {
        match reader.read_blocking(PATIENT) {
            Ok(page) => break page,
            // What the partner does first is to close the connections it missed.
            Err(ReadFailure::Closed) => assert!(start.elapsed() < PATIENT),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(long(&again, INCARNATION), 3);
    assert_eq!(next(&mut events), Some(LinkEvent::Connected { connection: 1 }));
    assert!(matches!(next(&mut events), Some(LinkEvent::Connected { connection: 2.. })));
}

fn a_restarted_partner_shows_its_new_incarnation_at_the_same_address(provider: Provider) {
    let mut partner = Partner::start(provider, 10, loopback());
    let (mut reader, _events) = reader_of(provider, partner.address);
    assert_eq!(long(&reader.read_blocking(PATIENT).expect("a page"), INCARNATION), 10);
    for incarnation in 11..14 {
        let address = partner.address;
        partner.kill();
        partner = Partner::start(provider, incarnation, address);
        let start = Instant::now();
        let page = loop {
            match reader.read_blocking(PATIENT) {
                Ok(page) => break page,
                Err(ReadFailure::Closed | ReadFailure::Refused) => assert!(start.elapsed() < PATIENT),
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(long(&page, INCARNATION), incarnation, "never a page of an earlier run");
    }
}

fn nobody_listening_is_refused_and_found_once_somebody_does(provider: Provider) {
    let address = serve(provider, loopback(), 1).address();
    let (mut reader, _events) = reader_of(provider, address);
    assert_eq!(reader.read_blocking(PATIENT), Err(ReadFailure::Refused));
    let server = serve(provider, address, 1);
    server.publish(&page(2, 5, 5));
    assert_eq!(reader.read_blocking(PATIENT).as_deref(), Ok(&*page(2, 5, 5)));
}

fn a_node_of_another_pair_is_rejected(provider: Provider) {
    let server = serve(provider, loopback(), 1);
    let stranger =
        ReaderOptions { identity: Identity { pair: PAIR + 1, node: 2 }, ..options(provider, server.address()) };
    let (mut reader, _events) = PageReader::start(stranger).expect("a reader");
    assert_eq!(reader.read_blocking(PATIENT), Err(ReadFailure::Rejected("it belongs to another pair".into())));
}

fn a_node_with_the_servers_own_number_is_rejected(provider: Provider) {
    let server = serve(provider, loopback(), 1);
    let twin = ReaderOptions { identity: identity(1), ..options(provider, server.address()) };
    let (mut reader, _events) = PageReader::start(twin).expect("a reader");
    assert!(matches!(reader.read_blocking(PATIENT), Err(ReadFailure::Rejected(why)) if why.contains("same node")));
}

fn another_node_answering_at_the_partners_address_is_rejected(provider: Provider) {
    let server = serve(provider, loopback(), 3);
    let (mut reader, _events) = reader_of(provider, server.address());
    assert_eq!(reader.read_blocking(PATIENT), Err(ReadFailure::Rejected("node 3 answers there".into())));
}

fn a_listener_that_is_no_fabric_ends_at_the_deadline(provider: Provider) {
    let listener = std::net::TcpListener::bind(loopback()).expect("a socket");
    let (mut reader, _events) = reader_of(provider, listener.local_addr().expect("an address"));
    assert_eq!(reader.read_blocking(SHORT), Err(ReadFailure::TimedOut(SHORT)));
}

fn a_stranger_talking_nonsense_does_not_disturb_the_server(provider: Provider) {
    let server = serve(provider, loopback(), 1);
    server.publish(&page(2, 1, 1));
    let (mut reader, _events) = reader_of(provider, server.address());
    reader.read_blocking(PATIENT).expect("a page");
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], &[0; 4096], &[]] {
        let mut stranger = std::net::TcpStream::connect(server.address()).expect("a connection");
        // The server may close first.
        let _ = stranger.write_all(bytes);
        drop(stranger);
        reader.read_blocking(PATIENT).expect("a page");
    }
    let (mut second, _events) = reader_of(provider, server.address());
    second.read_blocking(PATIENT).expect("a page");
}

fn a_write_lands_in_the_partners_second_region_only(provider: Provider) {
    let server = serve(provider, loopback(), 1);
    server.publish(&page(2, 1, 1));
    let (mut reader, _events) = reader_of(provider, server.address());
    let bytes: Vec<u8> = (0..10_000u32).map(|number| number.to_le_bytes()[0]).collect();
    reader.write_blocking(777, bytes.clone(), PATIENT).expect("written");
    // A read on the same connection is served after the write arrived.
    assert_eq!(reader.read_blocking(PATIENT).as_deref(), Ok(&*page(2, 1, 1)));
    let mut landed = vec![0; bytes.len() + 2];
    assert!(server.landed(776, &mut landed));
    assert_eq!((landed[0], &landed[1..=bytes.len()], landed[bytes.len() + 1]), (0, &bytes[..], 0));
}

fn a_write_past_the_landing_region_is_refused_on_this_side(provider: Provider) {
    let server = serve(provider, loopback(), 1);
    let (mut reader, _events) = reader_of(provider, server.address());
    for (offset, length) in [(LANDING_BYTES as u64, 1), (LANDING_BYTES as u64 - 1, 2), (u64::MAX, 1)] {
        let outcome = reader.write_blocking(offset, vec![1; length], PATIENT);
        assert!(matches!(outcome, Err(ReadFailure::Fabric(_))), "{offset}: {outcome:?}");
    }
    assert!(!server.landed(LANDING_BYTES - 1, &mut [0; 2]));
    reader.read_blocking(PATIENT).expect("a page");
}

fn connections_that_were_left_behind_do_not_pile_up(provider: Provider) {
    let server = serve(provider, loopback(), 1);
    server.publish(&page(2, 1, 1));
    let mut readers: Vec<_> = (0..12).map(|_| reader_of(provider, server.address())).collect();
    for (reader, _events) in &mut readers {
        reader.read_blocking(PATIENT).expect("a page");
    }
    assert!(server.connections() <= 4, "{} connections", server.connections());
    // Whoever was dropped for a newer one comes back by itself.
    let (oldest, _events) = &mut readers[0];
    let start = Instant::now();
    while oldest.read_blocking(PATIENT).is_err() {
        assert!(start.elapsed() < PATIENT);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn reads_on_a_single_threaded_local_set_leave_it_free() {
    let partner = Partner::start(Provider::Tcp, 4, loopback());
    let (mut reader, mut events) = reader_of(Provider::Tcp, partner.address);
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            let watcher = tokio::task::spawn_local(async move { events.next().await });
            assert_eq!(long(&reader.read(PATIENT).await.expect("a page"), INCARNATION), 4);
            assert_eq!(watcher.await.expect("the watcher ends"), Some(LinkEvent::Connected { connection: 1 }));
            partner.stop();
            let ticks = async {
                let mut ticks = 0u32;
                loop {
                    tokio::task::yield_now().await;
                    ticks += 1;
                    if ticks == 1000 {
                        return;
                    }
                }
            };
            // A read that hangs does not stop the runtime, and may be given up.
            tokio::select! {
                biased;
                outcome = reader.read(PATIENT) => panic!("a stopped partner answered: {outcome:?}"),
                () = ticks => {}
            }
            partner.signal(Signal::CONT);
            assert_eq!(long(&reader.read(PATIENT).await.expect("a page"), INCARNATION), 4);
            reader.write(0, vec![1, 2, 3], PATIENT).await.expect("written");
        })
        .await;
}

fn measurements_come_in_order_and_count_what_was_asked(provider: Provider) {
    let options = MeasureOptions { provider, reads: 50, ..MeasureOptions::default() };
    let latency = measure_read_latency(&options).expect("a measurement");
    assert_eq!(latency.reads, 50);
    assert!(latency.median <= latency.p99 && latency.p99 <= latency.worst, "{latency:?}");
    let cost = measure_polling_cost(&options, Duration::from_millis(1), Duration::from_millis(50)).expect("a cost");
    assert!(cost.reads > 0 && cost.processor_share > 0.0, "{cost:?}");
}

/// On `shm` the reader fetches the page itself, if the host lets it; else libfabric needs the partner's hand.
#[test]
fn a_stopped_partner_on_shared_memory_is_read_on_with_a_counter_that_stands_still() {
    let partner = Partner::start(Provider::Shm, 3, loopback());
    let (mut reader, _events) = reader_of(Provider::Shm, partner.address);
    reader.read_blocking(PATIENT).expect("a page");
    partner.stop();
    match reader.read_blocking(SHORT) {
        Ok(frozen) => {
            for _ in 0..100 {
                assert_eq!(reader.read_blocking(PATIENT).as_deref(), Ok(&*frozen), "nobody changes it");
            }
        }
        Err(failure) => assert_eq!(failure, ReadFailure::TimedOut(SHORT)),
    }
    // Sooner or later the partner's queue is full, and then a deadline holds.
    let start = Instant::now();
    let failure = loop {
        match reader.read_blocking(SHORT) {
            Ok(_) => assert!(start.elapsed() < PATIENT, "the queue has no end"),
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure, ReadFailure::TimedOut(SHORT));
    partner.signal(Signal::CONT);
    let start = Instant::now();
    let again = loop {
        match reader.read_blocking(PATIENT) {
            Ok(page) => break page,
            Err(other) => assert!(other == ReadFailure::Closed && start.elapsed() < PATIENT, "{other}"),
        }
    };
    assert_eq!(long(&again, INCARNATION), 3);
}

fn a_partner_killed_while_stopped_is_closed(provider: Provider) {
    let mut partner = Partner::start(provider, 1, loopback());
    let (mut reader, mut events) = reader_of(provider, partner.address);
    reader.read_blocking(PATIENT).expect("a page");
    partner.stop();
    partner.kill();
    assert_eq!(next(&mut events), Some(LinkEvent::Connected { connection: 1 }));
    assert_eq!(next(&mut events), Some(LinkEvent::Closed { connection: 1 }));
    assert_eq!(reader.read_blocking(PATIENT), Err(ReadFailure::Refused));
}

/// More often than the provider has room for peers: what a connection took is given back when it ends.
#[test]
fn shared_memory_serves_more_reconnections_than_it_has_peers() {
    let partner = Partner::start(Provider::Shm, 8, loopback());
    for _ in 0..300 {
        let (mut reader, _events) = reader_of(Provider::Shm, partner.address);
        assert_eq!(long(&reader.read_blocking(PATIENT).expect("a page"), INCARNATION), 8);
    }
}

/// Files of a process's endpoints.
fn files_of(process: u32) -> usize {
    let prefix = format!("understudy-{process}:");
    let files = std::fs::read_dir("/dev/shm").expect("shared memory").flatten();
    files.filter(|file| file.file_name().to_string_lossy().starts_with(&prefix)).count()
}

#[test]
fn shared_memory_has_no_name_that_a_killed_process_could_leave_behind() {
    let partner = Partner::start(Provider::Shm, 1, loopback());
    let (mut reader, _events) = reader_of(Provider::Shm, partner.address);
    reader.read_blocking(PATIENT).expect("a page");
    assert_eq!(files_of(partner.child.id()), 0);
    reader.read_blocking(PATIENT).expect("the memory itself is still there");
}

#[test]
fn shared_memory_of_a_process_killed_while_connecting_is_removed_by_whoever_starts_next() {
    let mut partner = Partner::start(Provider::Shm, 1, loopback());
    partner.kill();
    let process = partner.child.id();
    std::fs::write(format!("/dev/shm/understudy-{process}:0:0"), b"left behind").expect("shared memory");
    assert_eq!(files_of(process), 1);
    drop(serve(Provider::Shm, loopback(), 1));
    assert_eq!(files_of(process), 0);
}
