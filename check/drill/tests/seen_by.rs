//! Which client sees which volume: at both nodes, before a takeover and after it, and in a discovery.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::task::LocalSet;
use understudy::config::NodeName;
use understudy::harness::{Plan, volume_name};
use understudy_disk::discover::discover;
use understudy_disk::session::{Answer, Nexus, Options, Place, Request, Session, Transfer};
use understudy_drill::stage::plan;
use understudy_drill::{Stage, play};
use understudy_iscsi::codes::{TaskFunction, TaskFunctionResponse};
use understudy_iscsi::serial::Isid;
use understudy_load::LunAddress;
use understudy_scsi::sense::{Asc, Sense};
use understudy_scsi::{Status, encode, luns};

/// Several times what a test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// How long anything may take, a takeover included.
const PATIENCE: Duration = Duration::from_secs(30);

const WEB: &str = "iqn.2026-01.org.example:web";
const BOOKS: &str = "iqn.2026-01.org.example:books";

/// The first volume of node a is for `web`, the only two of node b are for `books`; everyone sees the second one of node a.
const VOLUMES: &str = r#"
[[volume]]
name = "vol-a0"
initiators = ["iqn.2026-01.org.example:web"]

[[volume]]
name = "vol-b0"
initiators = ["iqn.2026-01.org.example:books"]

[[volume]]
name = "vol-b1"
initiators = ["iqn.2026-01.org.example:books"]
"#;

/// Does `work` in a session of this initiator.
fn logged_in<T>(
    initiator: &str,
    volume: &LunAddress,
    work: impl AsyncFnOnce(&Rc<Session>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let place = Place { portal: volume.portal.to_string(), target: volume.target.clone() };
    let nexus = Nexus { initiator_name: initiator.to_owned(), isid: Isid::random(7, 1) };
    let visit = async {
        let session = Session::start(place, nexus, Options::default());
        tokio::time::timeout(PATIENCE, session.connected()).await.context("no login")??;
        let done = work(&session).await;
        session.close().await;
        done
    };
    LocalSet::new().block_on(&runtime, visit).with_context(|| format!("client {initiator}"))
}

async fn command(session: &Session, lun: u16, cdb: [u8; 16], length: u32) -> anyhow::Result<Answer> {
    let transfer = if length == 0 { Transfer::None } else { Transfer::Read(length) };
    let answer = session.execute(luns::encode_lun(lun), Request { cdb, transfer, deadline: PATIENCE });
    Ok(answer.await?)
}

/// The units that REPORT LUNS shows to this initiator; every other number has none, whichever way it is tried.
fn seen(initiator: &str, volume: &LunAddress) -> anyhow::Result<Vec<u16>> {
    logged_in(initiator, volume, async |session| {
        let listed = luns::parse_report(&command(session, 0, encode::report_luns(256), 256).await?.data_in);
        let listed: Vec<u16> = listed.into_iter().filter_map(luns::decode_lun).collect();
        for lun in (0..4).filter(|lun| !listed.contains(lun)) {
            let inquiry = command(session, lun, encode::inquiry(96), 96).await?;
            ensure!(inquiry.data_in.first() == Some(&0x7f), "INQUIRY shows {:02x?}", inquiry.data_in);
            let ready = command(session, lun, encode::test_unit_ready(), 0).await?;
            let sense = Sense::parse(&ready.sense).context("no sense data")?;
            ensure!(sense.asc == Asc::LOGICAL_UNIT_NOT_SUPPORTED, "{sense:?}");
            let reset = session.manage(luns::encode_lun(lun), TaskFunction::LOGICAL_UNIT_RESET).await?;
            ensure!(reset == TaskFunctionResponse::LUN_DOES_NOT_EXIST, "a reset reached it: {reset:?}");
        }
        for lun in &listed {
            // The unit attentions of a new session come first.
            let mut status = Status::Busy as u8;
            for _ in 0..8 {
                status = command(session, *lun, encode::test_unit_ready(), 0).await?.status;
                if status == Status::Good as u8 {
                    break;
                }
            }
            ensure!(status == Status::Good as u8, "unit {lun} is not ready: {status:#04x}");
        }
        Ok(listed)
    })
}

/// The targets that a discovery at this volume's portal shows.
fn shown(initiator: &str, volume: &LunAddress) -> anyhow::Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let nexus = Nexus { initiator_name: initiator.to_owned(), isid: Isid::random(9, 1) };
    let portal = volume.portal.to_string();
    let found = runtime.block_on(async { discover(&portal, nexus, &Options::default()).await })?;
    Ok(found.into_iter().map(|target| target.name).collect())
}

fn masked(folder: &Path) -> anyhow::Result<Stage> {
    let usual = plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder);
    let more = format!("{}{VOLUMES}", usual.more);
    Stage::set_up(Plan { more, volumes: 2, volume_bytes: 8 << 20, ..usual })
}

#[test]
fn a_volume_is_seen_by_its_initiators_only_also_after_a_takeover() {
    play(LIMIT, |folder| {
        let mut stage = masked(folder)?;
        let of = |stage: &Stage, node, index| stage.address_of(&volume_name(node, index), node);
        let (own, open) = (of(&stage, NodeName::A, 0)?, of(&stage, NodeName::A, 1)?);
        let books = of(&stage, NodeName::B, 0)?;
        let check = |when: &str| {
            ensure!(seen(WEB, &own)? == [own.lun, open.lun], "web sees other volumes {when}");
            ensure!(seen(BOOKS, &own)? == [open.lun], "books sees other volumes {when}");
            ensure!(seen(WEB, &books)?.is_empty(), "web sees volumes of books {when}");
            ensure!(seen(BOOKS, &books)?.len() == 2, "books sees other volumes of its own {when}");
            ensure!(shown(BOOKS, &books)?.contains(&books.target), "books does not find its target {when}");
            ensure!(!shown(WEB, &books)?.contains(&books.target), "web finds the target of books {when}");
            ensure!(shown(BOOKS, &own)?.contains(&own.target), "books does not find what everyone sees {when}");
            Ok(())
        };
        check("while both nodes are well")?;
        stage.lose(NodeName::B)?;
        check("after a takeover")
    });
}
