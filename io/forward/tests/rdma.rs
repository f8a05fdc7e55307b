//! Data of forwarded commands moved by RDMA: over shared memory of this host, with the session on loopback.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, join_all};
use tokio::time::timeout;
use understudy_device::medium::{Durability, Geometry, Medium, MediumError, Stretch};
use understudy_device::memory::MemoryMedium;
use understudy_device::{
    Answer, Carried, Completion, Elsewhere, NexusName, Presence, Target, TaskAttribute, UnitIdentity, UnitOnMedium,
    UnitOptions,
};
use understudy_disk::disk::DiskError;
use understudy_disk::session::{Options, Place, RegionOffer, Request, Session, Transfer};
use understudy_fabric::{DataMover, Identity, MOVE_BYTES, Provider, ReaderOptions};
use understudy_forward::landings::{At, Landings};
use understudy_forward::movers::{Moves, Partner, reach};
use understudy_forward::{Line, RDMA_FROM_BYTES, nexus, options, options_with};
use understudy_iscsi::Advertised;
use understudy_iscsi::codes::TaskAttribute as Attribute;
use understudy_portal::{LoginGate, Portal, PortalOptions, Way};
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::encode;

const PATIENCE: Duration = Duration::from_secs(60);
const TARGET: &str = "iqn.2026-01.test:there";
const BLOCK: usize = 512;

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async { timeout(PATIENCE, test).await.expect("in time") });
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn here() -> Identity {
    Identity { pair: 7, node: 1 }
}

fn client() -> NexusName {
    NexusName { initiator_name: "iqn.2026-01.test:host".into(), isid: [0x80, 0, 0, 0, 0, 1], target_portal_group: 2 }
}

fn pattern(length: usize, seed: usize) -> Bytes {
    (0..length).map(|at| (at * 13 + seed * 101 + (at >> 9) * 5) as u8).collect()
}

/// Memory whose reads do not end while they are kept waiting.
struct Waiting {
    medium: Rc<MemoryMedium>,
    keeps: Rc<Cell<bool>>,
}

impl Medium for Waiting {
    fn geometry(&self) -> Geometry {
        self.medium.geometry()
    }

    fn read(&self, lba: u64, blocks: u32) -> LocalBoxFuture<'_, Result<Bytes, MediumError>> {
        if self.keeps.get() { Box::pin(std::future::pending()) } else { self.medium.read(lba, blocks) }
    }

    fn write(&self, lba: u64, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.medium.write(lba, bytes, durability)
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.medium.flush()
    }

    fn zero(&self, lba: u64, blocks: u64) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.medium.zero(lba, blocks)
    }

    fn unmap(&self, ranges: Vec<(u64, u64)>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.medium.unmap(ranges)
    }

    fn stretches(&self, lba: u64, most: usize) -> LocalBoxFuture<'_, Result<Vec<Stretch>, MediumError>> {
        self.medium.stretches(lba, most)
    }

    fn keep_state(&self, state: Vec<u8>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.medium.keep_state(state)
    }
}

/// The node that owns the unit.
struct There {
    gate: LoginGate,
    portal: Portal,
    moves: Moves,
    keeps: Rc<Cell<bool>>,
    unit: Rc<UnitOnMedium>,
}

/// What it says to a data region.
#[derive(Clone, Copy)]
enum Knows {
    Regions,
    Nothing,
}

impl There {
    fn serve(knows: Knows) -> Self {
        let keeps = Rc::new(Cell::new(false));
        let medium = Rc::new(Waiting { medium: MemoryMedium::new(BLOCK as u32, 64 << 10), keeps: Rc::clone(&keeps) });
        let identity = UnitIdentity { uuid: *b"0123456789abcdef", product: "TEST".into() };
        let unit = UnitOnMedium::new(UnitOptions::new(identity), medium, None).unwrap();
        let target = Target::new(TARGET);
        target.add(0, Rc::clone(&unit)).unwrap();
        target.set_presence(Presence::Whole);
        let own = Identity { pair: 7, node: 2 };
        let (data, moves) = reach(Partner { provider: Provider::Shm, address: loopback(), node: 1, own });
        let data = match knows {
            Knows::Regions => Some(data),
            Knows::Nothing => None,
        };
        let portal = Portal::bind(loopback(), PortalOptions { data, ..PortalOptions::default() }).unwrap();
        let gate = LoginGate::held();
        gate.open();
        portal.add_target_by(target, gate.clone(), 2, Way::Forwarded);
        Self { gate, portal, moves, keeps, unit }
    }

    fn place(&self) -> Place {
        Place { portal: self.portal.address().to_string(), target: TARGET.to_owned() }
    }
}

async fn region_of(landings: &Rc<Landings>, other_than: Option<&str>) -> String {
    loop {
        match landings.name() {
            Some(name) if Some(&name[..]) != other_than => return name,
            _ => tokio::task::yield_now().await,
        }
    }
}

async fn landings() -> Rc<Landings> {
    let landings = Landings::start(At { provider: Provider::Shm, address: loopback(), identity: here() });
    region_of(&landings, None).await;
    landings
}

async fn line_to(there: &There, landings: &Rc<Landings>) -> Rc<dyn Elsewhere> {
    let session = Session::start(there.place(), nexus(&client()), options_with(landings));
    let line = Line::with(session, Rc::clone(landings));
    line.changed(None).await;
    line
}

fn carried(cdb: [u8; 16], data_out: Bytes, data_in_room: usize) -> Carried {
    Carried { lun: 0, attribute: TaskAttribute::Simple, cdb, data_out, data_in_room: data_in_room as u32 }
}

fn span(at: usize, bytes: usize) -> Span {
    Span { lba: (at / BLOCK) as u64, blocks: (bytes / BLOCK) as u64 }
}

async fn write(line: &Rc<dyn Elsewhere>, at: usize, data: Bytes) {
    let cdb = encode::write_16(span(at, data.len()), Force::CacheAllowed);
    let wanted = data.len() as u32;
    let answer = line.send(&carried(cdb, data, 0)).expect("a session").answer.await;
    assert_eq!(answer, Answer::Answered { completion: Completion::good(), data_out_wanted: wanted });
}

async fn read(line: &Rc<dyn Elsewhere>, at: usize, bytes: usize, room: usize) -> Bytes {
    let cdb = encode::read_16(span(at, bytes), Force::CacheAllowed);
    match line.send(&carried(cdb, Bytes::new(), room)).expect("a session").answer.await {
        Answer::Answered { completion, .. } => completion.data_in,
        other => panic!("{other:?}"),
    }
}

#[test]
fn long_commands_move_their_data_by_rdma_and_short_ones_bring_it_along() {
    run(async {
        let (there, landings) = (There::serve(Knows::Regions), landings().await);
        let line = line_to(&there, &landings).await;
        let mut moved = 0;
        for (seed, bytes) in
            [4096, RDMA_FROM_BYTES - BLOCK, RDMA_FROM_BYTES, 3 * 65_536 + BLOCK, MOVE_BYTES].into_iter().enumerate()
        {
            let data = pattern(bytes, seed);
            write(&line, 0, data.clone()).await;
            assert_eq!(read(&line, 0, bytes, bytes).await, data, "{bytes} bytes");
            moved += if bytes < RDMA_FROM_BYTES { 0 } else { 2 };
            assert_eq!(there.moves.count(), moved, "{bytes} bytes");
        }
        // Longer than a stretch.
        let data = pattern(2 * MOVE_BYTES, 9);
        write(&line, 0, data.clone()).await;
        assert_eq!(read(&line, 0, data.len(), data.len()).await, data);
        assert_eq!(there.moves.count(), moved);
    });
}

/// RFC 7143 §11.4.5: what there was more or less of than the client has room for.
#[test]
fn residuals_are_the_same_as_without_rdma() {
    run(async {
        let (there, with_rdma) = (There::serve(Knows::Regions), landings().await);
        let line = line_to(&there, &with_rdma).await;
        let data = pattern(2 * RDMA_FROM_BYTES, 4);
        write(&line, 0, data.clone()).await;
        let before = there.moves.count();
        let less = read(&line, 0, RDMA_FROM_BYTES, data.len()).await;
        assert_eq!(less, data[..RDMA_FROM_BYTES]);
        let more = read(&line, 0, data.len(), RDMA_FROM_BYTES).await;
        assert_eq!((more.len(), &more[..RDMA_FROM_BYTES]), (data.len(), &data[..RDMA_FROM_BYTES]));
        assert_eq!(there.moves.count(), before + 2);
        // Beyond the end: CHECK CONDITION, and no data by any way.
        let cdb = encode::read_16(span(64 << 20, RDMA_FROM_BYTES), Force::CacheAllowed);
        let refused = line.send(&carried(cdb, Bytes::new(), RDMA_FROM_BYTES)).expect("a session").answer.await;
        let Answer::Answered { completion, .. } = refused else { panic!("{refused:?}") };
        assert!(completion.sense.is_some() && completion.data_in.is_empty());
        assert_eq!(there.moves.count(), before + 2);
    });
}

#[test]
fn commands_beyond_the_memory_there_is_go_by_tcp_beside_the_others() {
    run(async {
        let (there, landings) = (There::serve(Knows::Regions), landings().await);
        let line = line_to(&there, &landings).await;
        let all: Vec<_> = (0..20).map(|seed| pattern(RDMA_FROM_BYTES, seed)).collect();
        let writes = all.iter().enumerate().map(|(at, data)| write(&line, at * RDMA_FROM_BYTES, data.clone()));
        join_all(writes).await;
        let reads = (0..20).map(|at| read(&line, at * RDMA_FROM_BYTES, RDMA_FROM_BYTES, RDMA_FROM_BYTES));
        assert_eq!(join_all(reads).await, all);
        let moved = there.moves.count();
        assert!((16..40).contains(&moved), "{moved} of 40");
        // All of it is free again.
        write(&line, 0, all[1].clone()).await;
        assert_eq!(there.moves.count(), moved + 1);
    });
}

/// A neighbouring release.
#[test]
fn a_partner_that_knows_no_regions_is_sent_everything_by_tcp() {
    run(async {
        let (there, landings) = (There::serve(Knows::Nothing), landings().await);
        let line = line_to(&there, &landings).await;
        let data = pattern(RDMA_FROM_BYTES, 1);
        write(&line, 0, data.clone()).await;
        assert_eq!(read(&line, 0, data.len(), data.len()).await, data);
        assert_eq!(there.moves.count(), 0);
    });
}

#[test]
fn who_does_not_offer_memory_is_answered_by_tcp() {
    run(async {
        let there = There::serve(Knows::Regions);
        let line = Line::over(Session::start(there.place(), nexus(&client()), options()));
        line.changed(None).await;
        let data = pattern(RDMA_FROM_BYTES, 1);
        write(&line, 0, data.clone()).await;
        assert_eq!(read(&line, 0, data.len(), data.len()).await, data);
        assert_eq!(there.moves.count(), 0);
    });
}

/// The session ends while the disk keeps a read waiting.
async fn lose_a_read(there: &There, line: Rc<dyn Elsewhere>) {
    there.keeps.set(true);
    let cdb = encode::read_16(span(0, RDMA_FROM_BYTES), Force::CacheAllowed);
    let sent = line.send(&carried(cdb, Bytes::new(), RDMA_FROM_BYTES)).expect("a session");
    while there.unit.commands_under_way() == 0 {
        tokio::task::yield_now().await;
    }
    there.gate.hold();
    there.portal.drop_sessions(TARGET);
    assert_eq!(sent.answer.await, Answer::Unknown);
    drop(line);
    there.keeps.set(false);
    there.gate.open();
}

/// The partner may be a process that was stopped in the middle of it and wakes up when its units are served elsewhere.
#[test]
fn memory_of_a_command_without_an_answer_is_never_used_again() {
    run(async {
        let (there, landings) = (There::serve(Knows::Regions), landings().await);
        let first = region_of(&landings, None).await;
        let data = pattern(8 * RDMA_FROM_BYTES, 1);
        write(&line_to(&there, &landings).await, 0, data.clone()).await;
        for lost in 1..8 {
            lose_a_read(&there, line_to(&there, &landings).await).await;
            let line = line_to(&there, &landings).await;
            let before = there.moves.count();
            let reads = (0..8).map(|at| read(&line, at * RDMA_FROM_BYTES, RDMA_FROM_BYTES, RDMA_FROM_BYTES));
            let parts = join_all(reads).await;
            assert_eq!(parts.concat(), data);
            assert_eq!(there.moves.count(), before + 8 - lost, "what is not lost is used, the others go by TCP");
        }
        // The last of it: another region.
        lose_a_read(&there, line_to(&there, &landings).await).await;
        let second = region_of(&landings, Some(&first)).await;
        let line = line_to(&there, &landings).await;
        let before = there.moves.count();
        assert_eq!(read(&line, 0, RDMA_FROM_BYTES, RDMA_FROM_BYTES).await, data[..RDMA_FROM_BYTES]);
        assert_eq!(there.moves.count(), before + 1);
        assert_ne!(first, second);
    });
}

/// It writes where it was told to, whatever is there by then.
#[test]
fn what_comes_late_harms_no_other_command() {
    run(async {
        let (there, landings) = (There::serve(Knows::Regions), landings().await);
        let partner: SocketAddr = region_of(&landings, None).await.parse().unwrap();
        let data = pattern(RDMA_FROM_BYTES, 1);
        write(&line_to(&there, &landings).await, 0, data.clone()).await;
        lose_a_read(&there, line_to(&there, &landings).await).await;
        let identity = Identity { pair: 7, node: 2 };
        let reader = ReaderOptions { provider: Provider::Shm, partner, identity, partner_node: 1 };
        let mut late = DataMover::start(reader, 8 * MOVE_BYTES, PATIENCE).await.expect("reached");
        // The stretch that was given out last, and first before that.
        late.write(7 * MOVE_BYTES as u32, pattern(4096, 77), PATIENCE).await.expect("nobody prevents it");
        let line = line_to(&there, &landings).await;
        let before = there.moves.count();
        for _ in 0..20 {
            assert_eq!(read(&line, 0, data.len(), data.len()).await, data);
            late.write(7 * MOVE_BYTES as u32, pattern(4096, 78), PATIENCE).await.expect("nobody prevents it");
        }
        assert_eq!(there.moves.count(), before + 20);
    });
}

/// A region that cannot be reached: nobody listens there.
#[test]
fn a_move_that_fails_ends_the_session_and_the_next_one_goes_by_tcp() {
    run(async {
        let there = There::serve(Knows::Regions);
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let asked = Rc::new(Cell::new(0));
        let offer = RegionOffer::new({
            let asked = Rc::clone(&asked);
            move || {
                asked.set(asked.get() + 1);
                Some(nobody.to_string())
            }
        });
        let settings = Options { data_region: Some(offer), ..options() };
        let session = Session::start(there.place(), nexus(&client()), settings);
        session.connected().await.unwrap();
        let data = pattern(RDMA_FROM_BYTES, 2);
        let advertised = Advertised { offset: 0, length: data.len() as u32 };
        let ask = async |cdb, transfer| {
            let request = Request { cdb, transfer, deadline: PATIENCE };
            session.submit(0, Attribute::SIMPLE, request).expect("sent").1.await
        };
        // Data-out that cannot be fetched is asked for.
        let cdb = encode::write_16(span(0, data.len()), Force::CacheAllowed);
        assert_eq!(ask(cdb, Transfer::WriteFrom(data.clone(), advertised)).await.expect("answered").status, 0);
        // By then the target knows that this region is out of reach; a session that begins now is told so.
        session.close().await;
        let settings = Options { data_region: Some(RegionOffer::new(move || Some(nobody.to_string()))), ..options() };
        let session = Session::start(there.place(), nexus(&client()), settings);
        session.connected().await.unwrap();
        let cdb = encode::read_16(span(0, data.len()), Force::CacheAllowed);
        let request = Request { cdb, transfer: Transfer::ReadInto(data.len() as u32, advertised), deadline: PATIENCE };
        let answer = session.submit(0, Attribute::SIMPLE, request).expect("sent").1.await.expect("answered");
        assert_eq!(answer.data_in, data);
        assert_eq!((asked.get(), there.moves.count()), (1, 0));
    });
}

#[test]
fn a_read_whose_data_cannot_be_moved_is_of_unknown_outcome() {
    run(async {
        let there = There::serve(Knows::Regions);
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let settings = Options { data_region: Some(RegionOffer::new(move || Some(nobody.to_string()))), ..options() };
        let session = Session::start(there.place(), nexus(&client()), settings);
        session.connected().await.unwrap();
        let advertised = Advertised { offset: 0, length: RDMA_FROM_BYTES as u32 };
        let cdb = encode::read_16(span(0, RDMA_FROM_BYTES), Force::CacheAllowed);
        let transfer = Transfer::ReadInto(RDMA_FROM_BYTES as u32, advertised);
        let request = Request { cdb, transfer, deadline: PATIENCE };
        let answer = session.submit(0, Attribute::SIMPLE, request).expect("sent").1.await;
        assert!(matches!(answer, Err(DiskError::OutcomeUnknown(_))), "{answer:?}");
    });
}

#[test]
fn memory_elsewhere_than_at_the_partner_is_not_reached() {
    run(async {
        let there = There::serve(Knows::Regions);
        let elsewhere = "192.0.2.1:7000".to_owned();
        let settings = Options { data_region: Some(RegionOffer::new(move || Some(elsewhere.clone()))), ..options() };
        let session = Session::start(there.place(), nexus(&client()), settings);
        session.connected().await.unwrap();
        let data = pattern(RDMA_FROM_BYTES, 2);
        let cdb = encode::write_16(span(0, data.len()), Force::CacheAllowed);
        let transfer = Transfer::WriteFrom(data.clone(), Advertised { offset: 0, length: data.len() as u32 });
        let request = Request { cdb, transfer, deadline: PATIENCE };
        assert_eq!(session.submit(0, Attribute::SIMPLE, request).expect("sent").1.await.expect("answered").status, 0);
        assert_eq!(there.moves.count(), 0);
    });
}
