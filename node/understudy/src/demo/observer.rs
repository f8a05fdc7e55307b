//! Somebody who only asks: READ KEYS and READ RESERVATION of a disk, by a session of its own.
//!
//! What it shows does not come from the nodes: it is what the shelf says, and anybody with an initiator could check it.

use std::time::Duration;

use anyhow::Context;
use understudy_disk::disk::Disk;
use understudy_disk::lun::IscsiLun;
use understudy_disk::reservation::{Key, ReservationType};
use understudy_disk::session::{Nexus, Options};
use understudy_failover::key::ReservationKey;
use understudy_failover::words::{NodeId, PairId};
use understudy_iscsi::serial::Isid;

use crate::config::{Config, DiskSource, NodeName};

/// How long the shelf may take to let it in.
const LOGIN: Duration = Duration::from_secs(5);

/// What the shelf says of a disk, in words.
///
/// # Errors
/// The shelf does not answer.
pub(super) fn look(source: &DiskSource, config: &Config) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, ask(source, config))
}

async fn ask(source: &DiskSource, config: &Config) -> anyhow::Result<String> {
    let nexus = Nexus {
        initiator_name: "iqn.2026-01.org.example.understudy:observer".to_owned(),
        isid: Isid::random(std::process::id(), 1),
    };
    let disk = IscsiLun::open(&source.url(NodeName::A).lun_url(), nexus, Options::default());
    disk.ready(LOGIN).await?;
    let reservations = disk.reservations().context("it has no persistent reservations")?;
    let held = reservations.read_reservation().await?;
    let keys = reservations.read_keys().await?.keys;
    disk.session().close().await;
    let held = match held {
        None => "not reserved".to_owned(),
        Some(held) => format!("type {} ({}) held by {}", held.kind as u8, kind(held.kind), owner(held.key, config)),
    };
    let mut registered: Vec<String> = keys.iter().map(|key| owner(*key, config)).collect();
    registered.sort();
    registered.dedup();
    let registered = if registered.is_empty() { "nobody".to_owned() } else { registered.join(", ") };
    Ok(format!("{held}; registered: {registered}"))
}

fn kind(kind: ReservationType) -> &'static str {
    match kind {
        ReservationType::WriteExclusive => "write exclusive",
        ReservationType::ExclusiveAccess => "exclusive access",
        ReservationType::WriteExclusiveRegistrantsOnly => "write exclusive, registrants only",
        ReservationType::ExclusiveAccessRegistrantsOnly => "exclusive access, registrants only",
        ReservationType::WriteExclusiveAllRegistrants => "write exclusive, all registrants",
        ReservationType::ExclusiveAccessAllRegistrants => "exclusive access, all registrants",
    }
}

/// Whose key it is.
fn owner(key: Key, config: &Config) -> String {
    match ReservationKey(key.0).parts() {
        Some(parts) if parts.pair == PairId(config.pair.id) => match parts.node {
            NodeId::A => "a".to_owned(),
            NodeId::B => "b".to_owned(),
        },
        Some(_) | None => format!("key {:016x}", key.0),
    }
}
