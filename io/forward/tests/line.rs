//! Commands over a line to a target that is served for the other node, over real sockets on loopback.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use understudy_device::memory::MemoryMedium;
use understudy_device::{
    Answer, Carried, Completion, Elsewhere, NexusName, Presence, Status, Target, TaskAttribute, TaskManagement,
    TaskManagementResponse, UnitIdentity, UnitOnMedium, UnitOptions,
};
use understudy_disk::session::{Place, Session};
use understudy_forward::{Line, nexus, options};
use understudy_portal::{LoginGate, Portal, PortalOptions, Way};
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::encode;
use understudy_scsi::reservation::{InAction, OutAction, OutList};

const PATIENCE: Duration = Duration::from_secs(20);
const TARGET: &str = "iqn.2026-01.test:there";

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async { timeout(PATIENCE, test).await.expect("in time") });
}

fn client() -> NexusName {
    NexusName { initiator_name: "iqn.2026-01.test:host".into(), isid: [0x80, 0, 0, 0, 0, 1], target_portal_group: 2 }
}

struct There {
    target: Rc<Target>,
    gate: LoginGate,
    portal: Portal,
    line: Rc<dyn Elsewhere>,
}

impl There {
    fn serve() -> Self {
        let medium = MemoryMedium::new(512, 64);
        let identity = UnitIdentity { uuid: *b"0123456789abcdef", product: "TEST".into() };
        let unit = UnitOnMedium::new(UnitOptions::new(identity), medium, None).unwrap();
        let target = Target::new(TARGET);
        target.add(0, unit).unwrap();
        target.set_presence(Presence::Whole);
        let portal = Portal::bind("127.0.0.1:0".parse().unwrap(), PortalOptions::default()).unwrap();
        let gate = LoginGate::held();
        portal.add_target_by(Rc::clone(&target), gate.clone(), 2, Way::Forwarded);
        let place = Place { portal: portal.address().to_string(), target: TARGET.to_owned() };
        let line = Line::over(Session::start(place, nexus(&client()), options()));
        Self { target, gate, portal, line }
    }

    async fn with_a_session() -> Self {
        let there = Self::serve();
        assert_eq!(there.line.session(), None);
        there.gate.open();
        there.line.changed(None).await;
        there
    }

    async fn go(&self, cdb: [u8; 16], data_out: Bytes, data_in_room: u32) -> Answer {
        let carried = Carried { lun: 0, attribute: TaskAttribute::Simple, cdb, data_out, data_in_room };
        self.line.send(&carried).expect("there is a session").answer.await
    }
}

fn read(blocks: u64) -> [u8; 16] {
    encode::read_16(Span { lba: 0, blocks }, Force::CacheAllowed)
}

fn write(blocks: u64) -> [u8; 16] {
    encode::write_16(Span { lba: 0, blocks }, Force::CacheAllowed)
}

#[test]
fn a_login_waits_until_the_pools_are_served_and_no_unit_attention_of_it_is_left() {
    run(async {
        let there = There::with_a_session().await;
        assert_eq!(there.line.session(), Some(1));
        let answer = there.go(encode::test_unit_ready(), Bytes::new(), 0).await;
        assert_eq!(answer, Answer::Answered { completion: Completion::good(), data_out_wanted: 0 });
    });
}

/// RFC 7143 §11.4.5.
#[test]
fn what_was_too_much_or_too_little_is_told_as_if_the_client_had_asked_there() {
    run(async {
        let there = There::with_a_session().await;
        let length = |answer| match answer {
            Answer::Answered { completion, data_out_wanted } => {
                (completion.status, completion.data_in.len(), data_out_wanted)
            }
            other => panic!("{other:?}"),
        };
        for (room, is_told) in [(1024, 1024), (2048, 1024), (512, 1024), (0, 1024)] {
            let (status, told, _) = length(there.go(read(2), Bytes::new(), room).await);
            assert_eq!((status, told), (Status::Good, is_told), "room for {room}");
        }
        for (brought, wanted) in [(512, 1024), (1024, 1024), (1536, 1024)] {
            let (_, told, asked_for) = length(there.go(write(2), Bytes::from(vec![7; brought]), 0).await);
            assert_eq!((told, asked_for), (0, wanted), "brought {brought}");
        }
    });
}

/// SPC-4 r37 §5.13.1: a registration is of an I_T nexus.
#[test]
fn a_registration_is_the_clients_own_and_of_its_way() {
    run(async {
        let there = There::with_a_session().await;
        let list = OutList { action_key: 0xabcd, ..OutList::default() };
        let register = encode::persistent_reserve_out(OutAction::RegisterAndIgnoreExistingKey, None, 24);
        there.go(register, list.encode().into(), 0).await;
        let status = encode::persistent_reserve_in(InAction::ReadFullStatus, 512);
        let Answer::Answered { completion, .. } = there.go(status, Bytes::new(), 512).await else { panic!("answered") };
        let text = String::from_utf8_lossy(&completion.data_in).into_owned();
        assert!(text.contains("iqn.2026-01.test:host"), "{text}");
        // RELATIVE TARGET PORT IDENTIFIER of the one descriptor (SPC-4 r37 §6.15.5).
        assert_eq!(completion.data_in[8 + 18..8 + 20], [0, 2]);
    });
}

#[test]
fn a_session_that_is_asked_to_end_takes_nothing_more_and_comes_back_when_the_gate_opens() {
    run(async {
        let there = There::with_a_session().await;
        there.gate.hold();
        there.portal.request_logout(TARGET);
        there.line.changed(Some(1)).await;
        assert_eq!(there.line.session(), None);
        let carried = Carried {
            lun: 0,
            attribute: TaskAttribute::Simple,
            cdb: encode::test_unit_ready(),
            data_out: Bytes::new(),
            data_in_room: 0,
        };
        assert!(there.line.send(&carried).is_none());
        there.gate.open();
        there.line.changed(None).await;
        assert_eq!(there.line.session(), Some(2));
    });
}

#[test]
fn task_management_reaches_the_unit_and_an_unknown_command_is_not_aborted() {
    run(async {
        let there = There::with_a_session().await;
        let reset = there.line.manage(TaskManagement::LogicalUnitReset, 0, None).await;
        assert_eq!(reset, Some(TaskManagementResponse::Complete));
        let abort = there.line.manage(TaskManagement::AbortTask, 0, Some(0x1234)).await;
        assert_eq!(abort, Some(TaskManagementResponse::TaskDoesNotExist));
    });
}

#[test]
fn a_unit_that_was_taken_away_turns_commands_away() {
    run(async {
        let there = There::with_a_session().await;
        there.target.set_presence(Presence::Unsettled);
        there.target.remove(0);
        let Answer::Answered { completion, .. } = there.go(read(1), Bytes::new(), 512).await else {
            panic!("answered")
        };
        let sense = understudy_scsi::Sense::parse(&completion.sense.unwrap()).unwrap();
        assert_eq!(sense.asc, understudy_scsi::sense::Asc::ASYMMETRIC_ACCESS_STATE_TRANSITION);
    });
}

#[test]
fn a_connection_that_is_not_the_partners_is_closed() {
    run(async {
        let elsewhere = Some("127.0.0.9".parse().unwrap());
        let options = PortalOptions { only_from: elsewhere, ..PortalOptions::default() };
        let portal = Portal::bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
        let mut stranger = TcpStream::connect(portal.address()).await.unwrap();
        assert_eq!(stranger.read(&mut [0; 1]).await.unwrap(), 0);
    });
}
