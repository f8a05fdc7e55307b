//! Tests of addresses that move, with a keeper that only writes down what it is told.

use std::path::Path;

use futures_util::future::LocalBoxFuture;
use understudy_address::{AddressError, Contested};
use understudy_fabric::PAGE_BYTES;
use understudy_failover::words::PairId;

use super::*;
use crate::config::tests::GOOD;
use crate::driver::world::OwnPage;

/// What a keeper was told.
#[derive(Default)]
struct Told {
    log: RefCell<Vec<String>>,
    refuses: Cell<bool>,
}

impl Told {
    fn take_all(&self) -> Vec<String> {
        self.log.take()
    }
}

impl Addresses for Told {
    fn take(&self, addresses: Vec<ManagedAddress>) -> LocalBoxFuture<'_, Result<(), AddressError>> {
        self.log.borrow_mut().push(format!("take {}", names(&addresses)));
        let refused = self.refuses.get().then(|| AddressError::NoInterface(addresses[0].interface.clone()));
        Box::pin(async { refused.map_or(Ok(()), Err) })
    }

    fn leave(&self, addresses: Vec<ManagedAddress>) -> LocalBoxFuture<'_, Result<(), AddressError>> {
        self.log.borrow_mut().push(format!("leave {}", names(&addresses)));
        Box::pin(async { Ok(()) })
    }

    fn keep(&self) {
        self.log.borrow_mut().push("keep".to_owned());
    }

    fn tickle(&self, connections: Vec<Connection>) {
        let clients: Vec<_> = connections.iter().map(|one| one.client.to_string()).collect();
        self.log.borrow_mut().push(format!("tickle {}", clients.join(" ")));
    }

    fn contested(&self) -> Vec<Contested> {
        Vec::new()
    }
}

/// A page beside which the partner wrote a list.
struct Landed(Rc<RefCell<Vec<u8>>>);

impl OwnPage for Landed {
    fn publish(&self, _: &[u8; PAGE_BYTES]) {}

    fn landed(&self, offset: usize, into: &mut [u8]) -> bool {
        into.copy_from_slice(&self.0.borrow()[offset..offset + into.len()]);
        true
    }
}

struct Stage {
    told: Rc<Told>,
    landing: Rc<RefCell<Vec<u8>>>,
    view: Rc<PartnerView>,
    addresses: Rc<PortalAddresses>,
}

/// Node a of a pair whose own portal is not managed, and whose partner's is.
fn stage() -> Stage {
    let managed = "{ address = \"10.0.0.12:3260\", interface = { a = \"eth1\", b = \"eth2\" } }";
    let text = GOOD.replacen("\"127.0.0.1:3261\"", managed, 1);
    let config = Config::parse(Path::new("/etc/pair.toml"), &text).expect("a sound file");
    let (told, landing) = (Rc::<Told>::default(), Rc::new(RefCell::new(vec![0; understudy_fabric::LANDING_BYTES])));
    let page = Box::new(Landed(Rc::clone(&landing)));
    let publisher = Rc::new(Publisher::new(page, PairId(1), node_id(NodeName::A), Incarnation(1)));
    let (view, recorder) = (Rc::default(), Rc::new(Recorder::in_memory(NodeName::A, 1, 1, || 0)));
    let keeper = Some(Rc::clone(&told) as Rc<dyn Addresses>);
    let addresses = PortalAddresses::new((&Rc::new(config), NodeName::A), keeper, &publisher, &view, &recorder);
    Stage { told, landing, view, addresses }
}

impl Stage {
    /// The partner tells of clients at its managed portal with these ports, and of one at another address.
    fn partner_tells(&self, sequence: u64, ports: &[u16]) {
        let client = |port: u16| std::net::SocketAddr::new([10, 0, 0, 99].into(), port);
        let at = |portal: &str, port| Connection { portal: portal.parse().expect("an address"), client: client(port) };
        let mut connections: Vec<_> = ports.iter().map(|port| at("10.0.0.12:3260", *port)).collect();
        connections.push(at("10.9.9.9:3260", 1));
        let list = Clientele { node: node_id(NodeName::B), incarnation: Incarnation(2), sequence, connections };
        let (at, bytes) = (list.offset() as usize, list.encode());
        self.landing.borrow_mut()[at..at + bytes.len()].copy_from_slice(&bytes);
    }

    fn partner_is_heard(&self) {
        self.view.read_at.set(Some(Instant::now()));
    }
}

async fn run(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn clients_of_a_silent_partner_are_told_as_soon_as_its_address_is_here() {
    run(async {
        let stage = stage();
        stage.partner_tells(4, &[40_001, 40_002]);
        stage.addresses.arrive(NodeName::B).await;
        let told = stage.told.take_all();
        assert_eq!(told, ["take 10.0.0.12 on eth1", "tickle 10.0.0.99:40001 10.0.0.99:40002"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn clients_of_a_partner_that_hands_over_are_told_only_if_it_did_not_say_goodbye() {
    run(async {
        let stage = stage();
        stage.partner_tells(4, &[40_001, 40_002]);
        stage.partner_is_heard();
        stage.addresses.arrive(NodeName::B).await;
        assert_eq!(stage.told.take_all(), ["take 10.0.0.12 on eth1"]);
        stage.partner_tells(5, &[40_002]);
        sleep(STILL_THERE * 2).await;
        assert_eq!(stage.told.take_all(), ["tickle 10.0.0.99:40002"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_comes_back_during_the_goodbyes_is_not_taken_off() {
    run(async {
        let stage = stage();
        stage.addresses.arrive(NodeName::B).await;
        stage.addresses.depart(NodeName::B, Vec::new());
        stage.addresses.arrive(NodeName::B).await;
        sleep(GOODBYES * 2).await;
        assert_eq!(stage.told.take_all(), ["take 10.0.0.12 on eth1"; 2]);
        stage.addresses.depart(NodeName::B, Vec::new());
        sleep(GOODBYES * 2).await;
        assert_eq!(stage.told.take_all(), ["leave 10.0.0.12 on eth1"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_address_is_reclaimed_only_where_it_is() {
    run(async {
        let stage = stage();
        stage.addresses.reclaim(NodeName::B);
        sleep(GOODBYES).await;
        assert!(stage.told.take_all().is_empty());
        stage.addresses.arrive(NodeName::B).await;
        stage.addresses.reclaim(NodeName::B);
        sleep(GOODBYES).await;
        assert_eq!(stage.told.take_all(), ["take 10.0.0.12 on eth1"; 2]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_can_not_be_brought_is_an_alarm_and_tried_again() {
    run(async {
        let stage = stage();
        stage.told.refuses.set(true);
        stage.addresses.arrive(NodeName::B).await;
        assert!(stage.addresses.alarms()[0].contains("10.0.0.12 could not be put on eth1"));
        stage.told.refuses.set(false);
        tokio::task::spawn_local(Rc::clone(&stage.addresses).keep());
        sleep(RENEW / 2).await;
        assert_eq!(stage.told.take_all(), ["take 10.0.0.12 on eth1", "keep", "take 10.0.0.12 on eth1"]);
        assert!(stage.addresses.alarms().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_for_addresses_that_are_not_managed() {
    run(async {
        let stage = stage();
        stage.addresses.arrive(NodeName::A).await;
        stage.addresses.depart(NodeName::A, Vec::new());
        sleep(GOODBYES * 2).await;
        assert!(stage.told.take_all().is_empty());
        let portal = |text: &str| text.parse().expect("an address");
        assert_eq!(stage.addresses.presence(NodeName::A, portal("127.0.0.1:3260")), Presence::Here);
        assert_eq!(stage.addresses.presence(NodeName::B, portal("10.0.0.12:3260")), Presence::MayComeLater);
    })
    .await;
}
