//! Whose keys are registered on a disk: asked by a session of its own, not by the nodes.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use understudy::config::{Config, DiskSource, NodeName};
use understudy_disk::disk::Disk;
use understudy_disk::lun::IscsiLun;
use understudy_disk::reservation::Key;
use understudy_disk::session::{Nexus, Options};
use understudy_failover::key::ReservationKey;
use understudy_failover::words::{Generation, Incarnation, NodeId, PairId};
use understudy_iscsi::serial::Isid;

/// How long the shelf may take to let it in.
const LOGIN: Duration = Duration::from_secs(5);

/// A key registered on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registered {
    /// Whose it is; none if it is no key of this pair.
    pub node: Option<NodeName>,
    /// Low 16 bits of the incarnation that registered it.
    pub incarnation: u16,
}

/// The keys READ KEYS shows on a disk, each once.
///
/// # Errors
/// The disk does not answer.
pub fn registered_on(source: &DiskSource, config: &Config) -> anyhow::Result<Vec<Registered>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let keys = tokio::task::LocalSet::new().block_on(&runtime, keys_of(source));
    let keys = keys.with_context(|| format!("READ KEYS of {}", source.name))?;
    let mut found: Vec<Registered> = keys.into_iter().map(|key| whose(key, config)).collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Registers a key of an earlier run of `node` on a disk, as a registration does that was under way when its node was stopped.
///
/// # Errors
/// The disk does not answer, or refuses.
pub fn register_late(source: &DiskSource, config: &Config, node: NodeId) -> anyhow::Result<()> {
    let key = ReservationKey::on_pool_disk(PairId(config.pair.id), node, 0, Generation(1), Incarnation(0x1a7e));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let registered = async {
        let disk = session_with(source).await?;
        disk.reservations().context("it has no persistent reservations")?.register(Key(key.0)).await?;
        disk.session().close().await;
        anyhow::Ok(())
    };
    let registered = tokio::task::LocalSet::new().block_on(&runtime, registered);
    registered.with_context(|| format!("REGISTER on {}", source.name))
}

async fn session_with(source: &DiskSource) -> anyhow::Result<Rc<IscsiLun>> {
    let nexus = Nexus {
        initiator_name: "iqn.2026-01.org.example.understudy:drill".to_owned(),
        isid: Isid::random(std::process::id(), 2),
    };
    let disk = IscsiLun::open(&source.url(NodeName::A).lun_url(), nexus, Options::default());
    disk.ready(LOGIN).await?;
    Ok(disk)
}

async fn keys_of(source: &DiskSource) -> anyhow::Result<Vec<ReservationKey>> {
    let disk = session_with(source).await?;
    let keys = disk.reservations().context("it has no persistent reservations")?.read_keys().await?.keys;
    disk.session().close().await;
    Ok(keys.into_iter().map(|key| ReservationKey(key.0)).collect())
}

fn whose(key: ReservationKey, config: &Config) -> Registered {
    match key.parts() {
        Some(parts) if parts.pair == PairId(config.pair.id) => {
            let node = match parts.node {
                NodeId::A => NodeName::A,
                NodeId::B => NodeName::B,
            };
            Registered { node: Some(node), incarnation: parts.incarnation_low }
        }
        Some(_) | None => Registered { node: None, incarnation: 0 },
    }
}
