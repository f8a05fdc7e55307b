//! What operators ask: requests for the failover machine are passed on, everything else is answered from what the node
//! knows.

use std::collections::BTreeSet;
use std::rc::Rc;

use tokio::sync::oneshot;
use tokio::time::Instant;
use understudy_device::Audience;
use understudy_disk::disk::{Disk, Link};
use understudy_eventlog::segment::RELEASE_AND_BUILD;
use understudy_failover::input::{Earnest, Input, Request as Order, SoftVetoes as Soft, TakeoverKind as Kind};
use understudy_failover::page::{PagePool, PoolState};
use understudy_failover::words::PoolId;
use understudy_layout::Uuid;
use understudy_pool::{ReturnProgress, VolumeSummary};

use super::fence::standing_of;
use super::node::Node;
use super::replies::{movement_of, really, refused};
use super::service::{CreateError, OpenPool, node_name};
use super::shelves::pool_id;
use super::told::{Movement, of_alarm};
use crate::admin::{
    AdminRequest, DiskStatus, LegStatus, LinkState, MirrorStatus, PartnerStatus, PoolStatus, PortalStatus, Protection,
    Provisioning, Request, Response, SoftVetoes, Status, TakeoverKind, VolumeStatus,
};
use crate::cli::Size;
use crate::config::DiskSource;
use crate::timeline::step;

impl Node {
    /// Takes a request: gives the fact the machine has to hear of it, or answers it by itself.
    pub fn ask(self: &Rc<Self>, asked: AdminRequest) -> Option<Input> {
        if asked.request == Request::PartnerLost {
            return Some(self.hear(asked, Order::PartnerLost));
        }
        let Some((movement, earnest)) = movement_of(&asked.request) else {
            let me = Rc::clone(self);
            tokio::task::spawn_local(async move { me.answer_asked(asked.request, asked.reply).await });
            return None;
        };
        let order = match self.order_of(&asked.request) {
            Ok(order) => order?,
            Err(unknown) => {
                // Whoever asked may have gone.
                let _ = asked.reply.send(self.no_such_pool(unknown));
                return None;
            }
        };
        match (movement, earnest) {
            (_, Earnest::DryRun) => {}
            (Movement::Takeover, Earnest::Do) => {
                self.recorder.record(step::TAKEOVER_ASKED, "an operator asked for a takeover", Default::default());
            }
            (Movement::Giveback, Earnest::Do) => {
                self.recorder.record(step::GIVEBACK_ASKED, "an operator asked for a giveback", Default::default());
            }
        }
        Some(self.hear(asked, order))
    }

    /// The fact that `order` was asked for; whoever asked waits for the machine's answer.
    fn hear(&self, asked: AdminRequest, order: Order) -> Input {
        let request = self.next_request();
        self.waiting.borrow_mut().insert(request, (asked.request, asked.reply));
        Input::OperatorAsked { request, what: order }
    }

    /// What the machine is asked, if it is; the name of a pool that the pair does not have otherwise.
    fn order_of<'r>(&self, asked: &'r Request) -> Result<Option<Order>, &'r str> {
        let planned = |vetoes, earnest| Order::Takeover { kind: Kind::Planned, vetoes, earnest };
        Ok(Some(match asked {
            Request::Takeover { kind: TakeoverKind::Planned } => planned(Soft::Count, Earnest::Do),
            Request::Takeover { kind: TakeoverKind::Forced } => {
                Order::Takeover { kind: Kind::Forced, vetoes: Soft::Count, earnest: Earnest::Do }
            }
            Request::TakeoverOf { pools, soft_vetoes, earnest } => {
                let (pools, vetoes, earnest) = (self.pools_named(pools)?, soft(*soft_vetoes), really(*earnest));
                if pools.is_empty() { planned(vetoes, earnest) } else { Order::TakeoverOf { pools, vetoes, earnest } }
            }
            Request::Giveback { soft_vetoes } => Order::Giveback { vetoes: soft(*soft_vetoes), earnest: Earnest::Do },
            Request::GivebackDryRun => Order::Giveback { vetoes: Soft::Count, earnest: Earnest::DryRun },
            Request::GivebackOf { pools, soft_vetoes, earnest } => {
                let (pools, vetoes, earnest) = (self.pools_named(pools)?, soft(*soft_vetoes), really(*earnest));
                if pools.is_empty() {
                    Order::Giveback { vetoes, earnest }
                } else {
                    Order::GivebackOf { pools, vetoes, earnest }
                }
            }
            Request::PartnerLost => Order::PartnerLost,
            Request::Status
            | Request::VolumeCreate { .. }
            | Request::VolumeList
            | Request::VolumeProtect { .. }
            | Request::VolumeDelete { .. }
            | Request::Timeline { .. }
            | Request::Events { .. } => return Ok(None),
        }))
    }

    fn pools_named<'r>(&self, names: &'r [String]) -> Result<BTreeSet<PoolId>, &'r str> {
        let number = |name: &'r String| self.config.pool(name).map(|pool| pool_id(pool.id)).ok_or(name.as_str());
        names.iter().map(number).collect()
    }

    fn no_such_pool(&self, name: &str) -> Response {
        let known: Vec<&str> = self.config.pools.iter().map(|pool| pool.name.as_str()).collect();
        refused(
            format!("there is no pool `{name}` in this pair"),
            &format!("name one of the pair's pools: {}", known.join(", ")),
        )
    }

    async fn answer_asked(&self, request: Request, reply: oneshot::Sender<Response>) {
        let response = match request {
            Request::Status => Response::Status { status: Box::new(self.status().await) },
            Request::VolumeCreate { pool, name, bytes, provisioning } => {
                self.create_volume(&pool, &name, bytes, provisioning).await
            }
            Request::VolumeProtect { name, protection } => self.protect_volume(&name, protection).await,
            Request::VolumeList => Response::Volumes { volumes: self.volumes() },
            Request::VolumeDelete { name } => self.delete_volume(&name).await,
            Request::Takeover { .. }
            | Request::PartnerLost
            | Request::TakeoverOf { .. }
            | Request::Giveback { .. }
            | Request::GivebackDryRun
            | Request::GivebackOf { .. }
            | Request::Timeline { .. }
            | Request::Events { .. } => return,
        };
        // Whoever asked may have gone.
        let _ = reply.send(response);
    }

    async fn create_volume(&self, pool: &str, name: &str, bytes: u64, provisioning: Provisioning) -> Response {
        let Some(layout) = self.config.pool(pool) else {
            return refused(format!("there is no pool `{pool}` in this pair"), "`understudy status` lists the pools");
        };
        if self.served_pools().any(|(_, opened)| opened.pool.metadata().volume_named(name).is_some()) {
            return refused(format!("there is a volume `{name}` already"), "choose another name");
        }
        match self.service.create_volume(pool_id(layout.id), name, bytes, provisioning.into()).await {
            Ok(volume) => Response::Volumes { volumes: vec![self.volume_status(pool_id(layout.id), &volume)] },
            Err(error) => not_made(&error),
        }
    }

    async fn delete_volume(&self, name: &str) -> Response {
        let Some((id, volume)) = self.volume_named(name) else { return no_such_volume(name) };
        if volume.protection == understudy_pool::Protection::WriteProtected {
            let advice = format!("`understudy volume unprotect {name}` first, if it can really go");
            return refused(format!("volume {name} is write-protected"), &advice);
        }
        match self.service.delete_volume(id, volume.uuid).await {
            Ok(()) => Response::Done { text: format!("volume {name} deleted") },
            Err(error) => not_made(&error),
        }
    }

    async fn protect_volume(&self, name: &str, protection: Protection) -> Response {
        let Some((id, volume)) = self.volume_named(name) else { return no_such_volume(name) };
        match self.service.protect_volume(id, volume.uuid, protection.into()).await {
            Ok(()) => Response::Done {
                text: match protection {
                    Protection::WriteProtected => format!("volume {name} is write-protected"),
                    Protection::Writable => format!("clients may write to volume {name}"),
                },
            },
            Err(error) => not_made(&error),
        }
    }

    fn volume_named(&self, name: &str) -> Option<(PoolId, VolumeSummary)> {
        self.service.open_pools().into_iter().find_map(|(id, opened)| {
            opened.pool.volumes().into_iter().find(|volume| volume.name == name).map(|volume| (id, volume))
        })
    }

    fn is_served_here(&self, pool: PoolId) -> bool {
        self.page_pool(pool).is_some_and(|pool| matches!(pool.state, PoolState::Serving | PoolState::Held))
    }

    fn page_pool(&self, pool: PoolId) -> Option<PagePool> {
        self.publisher.content()?.pool(pool).copied()
    }

    fn served_pools(&self) -> impl Iterator<Item = (PoolId, Rc<OpenPool>)> {
        self.service.open_pools().into_iter().filter(|(id, _)| self.is_served_here(*id))
    }

    fn volumes(&self) -> Vec<VolumeStatus> {
        let mut volumes: Vec<_> = self
            .served_pools()
            .flat_map(|(id, opened)| {
                opened.pool.volumes().into_iter().map(|volume| self.volume_status(id, &volume)).collect::<Vec<_>>()
            })
            .collect();
        volumes.sort_by(|one, other| (&one.pool, &one.name).cmp(&(&other.pool, &other.name)));
        volumes
    }

    fn volume_status(&self, id: PoolId, volume: &VolumeSummary) -> VolumeStatus {
        let layout = self.config.pools.iter().find(|layout| pool_id(layout.id) == id);
        let home = self.config.node(layout.map_or(self.own, |layout| layout.home));
        let chunk_bytes = self.service.opened(id).map_or(0, |opened| opened.pool.metadata().chunk_bytes);
        VolumeStatus {
            name: volume.name.clone(),
            pool: self.pool_name(id),
            bytes: volume.blocks * u64::from(volume.block_bytes),
            used_bytes: volume.chunks * u64::from(chunk_bytes),
            provisioning: volume.provisioning.into(),
            protection: volume.protection.into(),
            lun: volume.lun,
            target: home.target.clone(),
            portals: home.portals.clone(),
            serial: serial_of(volume.uuid),
            initiators: match self.config.audiences.of(&volume.name) {
                Audience::Everyone => None,
                Audience::Only(names) => Some(names.iter().cloned().collect()),
            },
        }
    }

    async fn status(&self) -> Status {
        let content = self.publisher.content();
        let (state, since) = self.state.get();
        let lock_disks = self.disk_statuses(&self.config.lock_disks, self.locks.disks()).await;
        let disks = self.disk_statuses(&self.config.disks, self.disks.all()).await;
        Status {
            pair: self.config.pair.name.clone(),
            node: self.own,
            incarnation: self.incarnation.to_string(),
            process: std::process::id(),
            release: RELEASE_AND_BUILD.to_owned(),
            state: state.map(|state| state.to_string()).unwrap_or_default(),
            stage: content.as_ref().map(|content| format!("{:?}", content.stage)).unwrap_or_default(),
            state_for_ms: millis_since(since),
            giveback_in_ms: self.giveback_due.get().map(|due| {
                u64::try_from(due.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX)
            }),
            partner: self.partner_status(),
            lock_disks,
            disks,
            pools: self.config.pools.iter().map(|layout| self.pool_status(pool_id(layout.id))).collect(),
            portals: self.portal_statuses(),
            alarms: self.alarm_texts(),
        }
    }

    fn partner_status(&self) -> PartnerStatus {
        let page = self.partner.page.borrow();
        PartnerStatus {
            state: page.as_ref().map(|page| page.content.state.to_string()).unwrap_or_default(),
            incarnation: page.as_ref().map(|page| page.incarnation.to_string()).unwrap_or_default(),
            interconnect: self.partner.last_read.borrow().clone(),
            page_age_ms: self.partner.read_at.get().map(millis_since),
            heartbeat_age_ms: self.heartbeat_seen.get().map(|(_, _, at)| millis_since(at)),
            pages_read: self.partner.pages_read.get(),
            read_micros_median: self.partner.median_read_micros(),
            connections_told: self.addresses.told_by_partner().len() as u64,
            moved_by_rdma: self.service.moved_by_rdma(),
        }
    }

    async fn disk_statuses(&self, sources: &[DiskSource], disks: &[Rc<dyn Disk>]) -> Vec<DiskStatus> {
        let named = sources.iter().zip(disks).map(|(source, disk)| self.disk_status(&source.name, disk.as_ref()));
        futures_util::future::join_all(named).await
    }

    async fn disk_status(&self, name: &str, disk: &dyn Disk) -> DiskStatus {
        let patience = self.config.timing.silent;
        let standing = tokio::time::timeout(patience, standing_of(disk)).await.ok().flatten();
        let geometry = disk.geometry().ok();
        DiskStatus {
            name: name.to_owned(),
            link: match disk.link() {
                Link::Connected { .. } => LinkState::Connected,
                Link::Down => LinkState::Down,
            },
            bytes: geometry.map(|geometry| geometry.blocks * u64::from(geometry.block_bytes)),
            keys: standing.iter().flat_map(|standing| &standing.keys).map(|key| format!("{:016x}", key.0)).collect(),
            reservation: self.describe_standing(standing.as_ref()),
        }
    }

    fn pool_status(&self, id: PoolId) -> PoolStatus {
        let layout = self.config.pools.iter().find(|layout| pool_id(layout.id) == id);
        let page = self.page_pool(id);
        let opened = self.service.open_pools().into_iter().find(|(other, _)| *other == id).map(|(_, opened)| opened);
        let opened = opened.as_deref();
        PoolStatus {
            name: self.pool_name(id),
            home: layout.map_or(self.own, |layout| layout.home),
            owner: page.and_then(|pool| pool.owner).map(node_name),
            generation: page.map_or(0, |pool| u64::from(pool.generation.0)),
            state: page.map_or("away", |pool| pool_state_word(pool.state)).to_owned(),
            mirrors: self.mirror_statuses(id, opened),
            bytes: opened.map(|opened| opened.pool.metadata().capacity_bytes()),
            free_bytes: opened.map(|opened| opened.pool.metadata().free_bytes()),
            promised_bytes: opened.map(|opened| opened.pool.metadata().promised_bytes()),
            volumes: opened.map(|opened| opened.pool.metadata().volumes.len()),
        }
    }

    fn mirror_statuses(&self, id: PoolId, opened: Option<&OpenPool>) -> Vec<MirrorStatus> {
        let layout = self.config.pools.iter().find(|layout| pool_id(layout.id) == id);
        let good = opened.map(|opened| opened.pool.legs_good()).unwrap_or_default();
        let left = opened.map_or(0, |opened| {
            let progress = opened.pool.resync_progress();
            (progress.of - progress.equal) << 20
        });
        let returning = opened.map(|opened| opened.pool.returning_legs()).unwrap_or_default();
        let leg = |mirror: usize, leg: usize, place: usize| {
            let is_good = good.get(mirror).is_none_or(|legs| legs.0 & (1 << leg) != 0);
            let at = |progress: &&ReturnProgress| {
                (usize::from(progress.place.mirror), usize::from(progress.place.leg)) == (mirror, leg)
            };
            let copied_percent = returning.iter().find(at).map(|progress| progress.percent());
            let state = match (is_good, copied_percent, left > 0 && leg > 0) {
                (false, None, _) => "dropped",
                (false, Some(_), _) | (true, _, true) => "resyncing",
                (true, _, false) => "good",
            };
            LegStatus { disk: self.config.disks[place].name.clone(), state: state.to_owned(), copied_percent }
        };
        let mirrors = layout.iter().flat_map(|layout| &layout.mirrors).enumerate();
        mirrors
            .map(|(mirror, legs)| MirrorStatus {
                legs: legs.iter().enumerate().map(|(index, place)| leg(mirror, index, *place)).collect(),
                resync_left_bytes: left,
            })
            .collect()
    }

    fn portal_statuses(&self) -> Vec<PortalStatus> {
        let portals = self.service.portals().into_iter();
        portals
            .map(|(identity, portal)| {
                let counters = portal.counters();
                PortalStatus {
                    address: portal.address(),
                    identity,
                    sessions: counters.sessions as u64,
                    commands: counters.commands,
                }
            })
            .collect()
    }

    /// What the machine raised, and mirrors of pools served here that do without a leg.
    fn alarm_texts(&self) -> Vec<String> {
        let mut texts: Vec<_> = self
            .alarms
            .borrow()
            .iter()
            .map(|alarm| of_alarm(*alarm, self.own, |pool| self.pool_name(pool)).to_string())
            .collect();
        for (id, opened) in self.service.open_pools().into_iter().filter(|(id, _)| self.is_served_here(*id)) {
            for (mirror, status) in self.mirror_statuses(id, Some(&opened)).into_iter().enumerate() {
                texts.extend(missing_text(&self.pool_name(id), mirror, &status));
            }
        }
        texts.extend(self.unseen_texts());
        texts.extend(self.space_texts());
        texts.extend(self.addresses.alarms());
        texts
    }

    /// Pools served here that will refuse clients' writes soon, or do already.
    fn space_texts(&self) -> Vec<String> {
        let served = self.service.open_pools().into_iter().filter(|(id, _)| self.is_served_here(*id));
        let of = served.filter_map(|(id, opened)| {
            let metadata = opened.pool.metadata();
            space_text(&self.pool_name(id), metadata.free_bytes(), metadata.capacity_bytes(), metadata.promised_bytes())
        });
        of.collect()
    }

    /// Volumes served here that no client sees, and entries for volumes that there are not, if this node can tell.
    fn unseen_texts(&self) -> Vec<String> {
        let config = &self.config;
        let mut texts = Vec::new();
        for (id, opened) in self.served_pools() {
            let home = self.service.home_of(id).unwrap_or(self.own);
            let metadata = opened.pool.metadata();
            let unseen = metadata.volumes.values().filter(|volume| config.nobody_sees(&volume.name, home));
            let unseen: BTreeSet<_> = unseen.map(|volume| &volume.name).collect();
            texts.extend(unseen.into_iter().map(|name| {
                format!(
                    "no client sees volume {name}: none that its [[volume]] names, if it has one, may use the volumes of node {home}; add \
                     one in the pair's file and restart the nodes one after the other"
                )
            }));
        }
        let mut listed = config.audiences.listed().peekable();
        if listed.peek().is_some() && config.pools.iter().all(|pool| self.is_served_here(pool_id(pool.id))) {
            let served: Vec<_> = self.served_pools().map(|(_, opened)| opened.pool.metadata()).collect();
            let known: BTreeSet<&str> =
                served.iter().flat_map(|pool| pool.volumes.values()).map(|volume| volume.name.as_str()).collect();
            texts.extend(listed.filter(|name| !known.contains(name)).map(|name| {
                format!("the pair's file has a [[volume]] `{name}`, but there is no such volume: is the name right?")
            }));
        }
        texts
    }
}

/// Less than one part in so many free is nearly full: time for an operator to act, on a pool that grows by what clients write.
const NEARLY_FULL_PARTS: u64 = 10;

/// Of a pool that was promised to more than it can hold and has little left.
fn space_text(pool: &str, free: u64, capacity: u64, promised: u64) -> Option<String> {
    if promised.saturating_add(free) <= capacity || free >= capacity / NEARLY_FULL_PARTS {
        return None;
    }
    let what = if free == 0 {
        format!("{pool} is full: writes to new places of its thin volumes fail")
    } else {
        format!("{pool} is nearly full: {} of {} are free", Size(free), Size(capacity))
    };
    Some(format!(
        "{what}, and its volumes may grow to {}; delete volumes, or have clients give back what they do not use (fstrim)",
        Size(promised)
    ))
}

/// Of a mirror that does without a leg.
fn missing_text(pool: &str, mirror: usize, status: &MirrorStatus) -> Option<String> {
    let missing = |leg: &LegStatus| match leg.copied_percent {
        Some(percent) => Some(format!("{} is being copied to, {percent} %", leg.disk)),
        None if leg.state == "dropped" => Some(format!(
            "{} was dropped and is taken back by itself once it works: check the disk and its path",
            leg.disk
        )),
        None => None,
    };
    let missing: Vec<_> = status.legs.iter().filter_map(missing).collect();
    let of = status.legs.len();
    (!missing.is_empty())
        .then(|| format!("mirror {mirror} of {pool} has {} of {of} legs: {}", of - missing.len(), missing.join("; ")))
}

fn millis_since(moment: Instant) -> u64 {
    u64::try_from(moment.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// VPD 80h of a volume: its uuid, 32 hexadecimal digits.
fn serial_of(uuid: Uuid) -> String {
    uuid.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pool_state_word(state: PoolState) -> &'static str {
    match state {
        PoolState::Away => "away",
        PoolState::Warm => "warm",
        PoolState::Opening => "opening",
        PoolState::Serving => "serving",
        PoolState::Held => "held",
        PoolState::Refused => "refused",
    }
}

/// Which way a request moves pools, and whether really, if it does.
fn soft(vetoes: SoftVetoes) -> Soft {
    match vetoes {
        SoftVetoes::Respect => Soft::Count,
        SoftVetoes::Override => Soft::Overridden,
    }
}

fn no_such_volume(name: &str) -> Response {
    refused(
        format!("no pool served by this node has a volume `{name}`"),
        "`understudy volume list` shows the volumes and where they are",
    )
}

fn not_made(error: &CreateError) -> Response {
    match error {
        CreateError::NotHere => {
            refused(error.to_string(), "ask the node that serves it: `understudy status` shows which one that is")
        }
        CreateError::InPart => {
            refused(error.to_string(), "bring the pools of this home to one node first: `understudy giveback`")
        }
        CreateError::Refused(_) => refused(error.to_string(), "`understudy status` shows sizes and free space"),
    }
}

#[cfg(test)]
mod tests {
    use super::space_text;

    #[test]
    fn only_a_pool_that_was_promised_to_more_than_it_has_raises_an_alarm_before_it_is_full() {
        let text = |free: u64, promised: u64| space_text("fast", free << 30, 100 << 30, promised << 30);
        assert_eq!(text(0, 100), None, "full of thick volumes, which have what they need");
        assert_eq!(text(10, 200), None, "a tenth is free");
        assert!(text(9, 200).is_some_and(|text| text.starts_with("fast is nearly full: 9 GiB of 100 GiB are free")));
        assert!(text(0, 200).is_some_and(|text| text.starts_with("fast is full: writes to new places")));
    }
}
