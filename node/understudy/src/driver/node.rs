//! One node's parts and how they are put together at the start.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use understudy_disk::disk::Disk;
use understudy_disk::session::{Nexus, Place};
use understudy_disk::url::LunUrl;
use understudy_failover::config as failover;
use understudy_failover::effect::Alarm;
use understudy_failover::input::{Input, Request};
use understudy_failover::key::ReservationKey;
use understudy_failover::page::StateWord;
use understudy_failover::survey::Survey;
use understudy_failover::words::{Generation, Incarnation, LegSet, Micros, NodeId, PairId, PoolId, RequestId};
use understudy_iscsi::serial::Isid;
use understudy_pool::{FencedLeg, LegPlace};

use super::addresses::{PortalAddresses, tell_partner};
use super::fence::Foreseen;
use super::lane::Lane;
use super::locks::LockDisks;
use super::overseer::{OverseerParts, PoolOverseer};
use super::partner::{Pace, PartnerView, PollTimes, watch, watch_link};
use super::publisher::Publisher;
use super::service::{Service, node_id};
use super::shelves::{PoolDisks, pool_id};
use super::world::{Interconnect, LinkNews, PartnerPage, Post, World};
use crate::admin::{AdminRequest, Response};
use crate::config::{AutomaticGiveback, Config, DiskSource, NodeName, OnEnd, PoolLayout};
use crate::timeline::{Recorder, describe};

/// Qualifier of the random-type ISIDs this node logs in with (RFC 7143 §11.12.5); the number is the disk's place, so that a
/// restarted node finds its old nexuses again.
const ISID_QUALIFIER: u16 = 0;

/// The fence a pool's disks were last given.
#[derive(Debug, Clone)]
pub struct Fence {
    /// Own key on them.
    pub key: ReservationKey,
    /// Legs recorded good, whose disks are fenced.
    pub legs: Vec<LegSet>,
    /// The sessions in which the fence was read back.
    pub fenced: Vec<FencedLeg>,
}

/// What is put together at the start and used by the parts that run from then on.
pub struct Parts {
    partner: Box<dyn PartnerPage>,
    link: Box<dyn LinkNews>,
    post: Option<Box<dyn Post>>,
}

/// One node.
pub struct Node {
    world: Rc<dyn World>,
    pub(super) config: Rc<Config>,
    pub(super) own: NodeName,
    pub(super) incarnation: Incarnation,
    pub(super) publisher: Rc<Publisher>,
    pub(super) recorder: Rc<Recorder>,
    pub(super) partner: Rc<PartnerView>,
    pub(super) addresses: Rc<PortalAddresses>,
    pub(super) pace: Rc<Pace>,
    pub(super) locks: Rc<LockDisks>,
    pub(super) disks: Rc<PoolDisks>,
    pub(super) service: Rc<Service>,
    pub(super) facts: mpsc::UnboundedSender<Input>,
    pub(super) record_lane: Lane,
    pub(super) pool_lanes: BTreeMap<PoolId, Lane>,
    pub(super) fences: RefCell<BTreeMap<PoolId, Fence>>,
    pub(super) foreseen: Foreseen,
    pub(super) alarms: RefCell<BTreeSet<Alarm>>,
    pub(super) state: Cell<(Option<StateWord>, Instant)>,
    /// When the giveback that is being delayed is due.
    pub(super) giveback_due: Cell<Option<Instant>>,
    pub(super) beating: Rc<Cell<bool>>,
    pub(super) waiting: RefCell<BTreeMap<RequestId, (crate::admin::Request, oneshot::Sender<Response>)>>,
    pub(super) last_request: Cell<u64>,
    /// The partner's heartbeat last seen, and when it was first seen so.
    pub(super) heartbeat_seen: Cell<Option<(Incarnation, u64, Instant)>>,
}

impl Node {
    /// Registers the page and prepares everything that touches no disk.
    ///
    /// # Errors
    /// When the interconnect or the state folder cannot be used.
    pub fn start(
        world: Rc<dyn World>,
        config: Rc<Config>,
        own: NodeName,
        facts: mpsc::UnboundedSender<Input>,
    ) -> anyhow::Result<(Rc<Self>, Parts)> {
        let incarnation = world.incarnation()?;
        let (pair, node) = (PairId(config.pair.id), node_id(own));
        // First of all: nobody may find an address here that the partner serves.
        let keeper = world.addresses(&config, own)?;
        let Interconnect { own: page, partner, link, post } = world.interconnect(&config, own)?;
        let recorder = Rc::new(world.recorder(&config, own, incarnation)?);

        let publisher = Rc::new(Publisher::new(page, pair, node, incarnation));
        let disks = |sources: &[DiskSource], from: usize| -> Vec<Rc<dyn Disk>> {
            sources
                .iter()
                .enumerate()
                .map(|(place, source)| open_disk(world.as_ref(), &config, own, source, from + place))
                .collect()
        };
        let lock_disks = disks(&config.lock_disks, 0);
        let pool_disks = disks(&config.disks, config.lock_disks.len());
        let locks = Rc::new(LockDisks::new(lock_disks, pair, node, incarnation, config.timing.silent));
        let disks = Rc::new(PoolDisks::new(&config, pool_disks));
        let pool_lanes: BTreeMap<_, _> = config.pools.iter().map(|pool| (pool_id(pool.id), Lane::start())).collect();
        let made = (Rc::clone(&recorder), Rc::clone(&locks));
        let overseers = overseers(&config, &pool_lanes, &disks, &facts, made);
        let view: Rc<PartnerView> = Rc::default();
        let addresses = PortalAddresses::new((&config, own), keeper, &publisher, &view, &recorder);
        let service = Rc::new(Service::new(
            Rc::clone(&world),
            (Rc::clone(&config), own),
            Rc::clone(&disks),
            Rc::clone(&publisher),
            Rc::clone(&addresses),
            overseers,
        ));
        tokio::task::spawn_local({
            let service = Rc::clone(&service);
            async move { service.open_forwarding().await }
        });
        let node = Self {
            world,
            config: Rc::clone(&config),
            own,
            incarnation,
            publisher,
            recorder,
            partner: view,
            addresses,
            pace: Rc::default(),
            locks,
            disks,
            service,
            facts,
            record_lane: Lane::start(),
            pool_lanes,
            fences: RefCell::default(),
            foreseen: Foreseen::default(),
            alarms: RefCell::default(),
            state: Cell::new((None, Instant::now())),
            giveback_due: Cell::new(None),
            beating: Rc::default(),
            waiting: RefCell::default(),
            last_request: Cell::new(0),
            heartbeat_seen: Cell::new(None),
        };
        Ok((Rc::new(node), Parts { partner, link, post }))
    }

    /// Starts what runs for as long as the node does: reading the partner's page, looking at the lock disks, the admin socket.
    ///
    /// # Errors
    /// When the admin socket cannot be used.
    pub fn go_on(self: &Rc<Self>, parts: Parts) -> anyhow::Result<mpsc::Receiver<AdminRequest>> {
        let inbox = self.world.operators(&self.config, self.own, &self.recorder)?;
        let timing = &self.config.timing;
        let times = PollTimes {
            routine: timing.poll,
            brisk: timing.poll_brisk,
            eager: Duration::from_micros(self.machine_config().timing.poll_eager().0),
            deadline: timing.read_deadline,
        };
        let whose = (PairId(self.config.pair.id), node_id(self.own.partner()));
        let (pace, view) = (Rc::clone(&self.pace), Rc::clone(&self.partner));
        tokio::task::spawn_local(watch(parts.partner, whose, times, pace, view, self.facts.clone()));
        tokio::task::spawn_local(watch_link(parts.link, self.facts.clone()));
        tokio::task::spawn_local(Rc::clone(&self.addresses).keep());
        if let Some(post) = parts.post {
            let (service, whose) = (Rc::clone(&self.service), (Rc::clone(&self.config), self.own));
            let first = (self.incarnation, self.world.wall_micros());
            tokio::task::spawn_local(tell_partner(post, service, whose, first));
        }
        tokio::task::spawn_local(Rc::clone(self).beat());
        tokio::task::spawn_local(Rc::clone(self).refresh());
        Ok(inbox)
    }

    /// Beats on the lock disks once ordered to, and looks at them each time.
    async fn beat(self: Rc<Self>) {
        let majority = self.config.lock_disks.len() / 2 + 1;
        let mut ticks = tokio::time::interval(self.config.timing.heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Before it beats on the disks a node only shows that it runs; afterwards, that its I/O path works.
            if !self.beating.get() || self.locks.beat().await >= majority {
                self.publisher.beat();
            }
            let survey = Box::new(self.locks.survey().await);
            self.see_heartbeat(&survey);
            if self.facts.send(Input::Surveyed { op: None, survey }).is_err() {
                return;
            }
        }
    }

    /// Remembers since when the partner's heartbeat stands, for the operator's eyes.
    fn see_heartbeat(&self, survey: &Survey) {
        let beats = survey.heartbeats(self.partner_id()).into_iter().flatten();
        let Some(newest) = beats.max_by_key(|beat| beat.counter) else { return };
        let seen = self.heartbeat_seen.get().map(|(incarnation, counter, _)| (incarnation, counter));
        if seen != Some((newest.incarnation, newest.counter)) {
            self.heartbeat_seen.set(Some((newest.incarnation, newest.counter, Instant::now())));
        }
    }

    /// Keeps the time of the last completed command in the page fresh.
    async fn refresh(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(self.config.timing.poll);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Some(last) = self.service.last_completion(self.service.moving_identity(self.own)) {
                self.publisher.last_completion(self.wall_micros_of(last));
            }
        }
    }

    /// This run's number.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What the failover machine is told of the configuration.
    #[must_use]
    pub fn machine_config(&self) -> failover::Config {
        let timing = &self.config.timing;
        let pools = self.config.pools.iter();
        failover::Config {
            pair: PairId(self.config.pair.id),
            node: node_id(self.own),
            preferred: node_id(self.config.pair.preferred),
            lock_disks: self.config.lock_disks.len(),
            pools: pools.map(|pool| (pool_id(pool.id), failover::PoolConfig { home: node_id(pool.home) })).collect(),
            may_split: self.config.forwarding().is_some(),
            policy: self.policy(),
            timing: failover::Timing {
                poll_routine: micros(timing.poll),
                poll_brisk: micros(timing.poll_brisk),
                heartbeat: micros(timing.heartbeat),
                wait_ended: micros(timing.ended),
                wait_closed: micros(timing.closed),
                wait_long: micros(timing.silent),
                boot_wait: micros(timing.boot),
                retry: micros(timing.retry),
                hold_limit: micros(timing.handoff),
                ..failover::Timing::default()
            },
        }
    }

    fn policy(&self) -> failover::Policy {
        failover::Policy {
            giveback: match self.config.giveback {
                AutomaticGiveback::Within { limit, window } => {
                    failover::AutomaticGiveback::Within { limit, window: micros(window) }
                }
                AutomaticGiveback::OnRequest => failover::AutomaticGiveback::OnRequest,
            },
            giveback_delay: micros(self.config.giveback_delay),
            on_halt: self.config.takeover.on_halt.into(),
            on_panic: self.config.takeover.on_panic.into(),
        }
    }

    /// An operator's request that needs no answer.
    #[must_use]
    pub fn operator_asks(&self, what: Request) -> Input {
        Input::OperatorAsked { request: self.next_request(), what }
    }

    pub(super) fn next_request(&self) -> RequestId {
        self.last_request.set(self.last_request.get() + 1);
        RequestId(self.last_request.get())
    }

    /// Own key on the disks of a pool.
    pub(super) fn pool_key(&self, generation: Generation) -> ReservationKey {
        let (pair, node) = (PairId(self.config.pair.id), node_id(self.own));
        ReservationKey::on_pool_disk(pair, node, 0, generation, self.incarnation)
    }

    /// The partner as the failover core calls it.
    pub(super) fn partner_id(&self) -> NodeId {
        node_id(self.own.partner())
    }

    /// Records a step of the timeline.
    pub(super) fn note(&self, step: &understudy_failover::timeline::Step) {
        let told = describe(step, &self.config, self.own);
        self.recorder.record(&told.step, told.text, told.values);
        self.reached(&told.step);
    }

    /// A place where a drill may have asked this node to be killed or stopped; nothing in the product.
    pub(super) fn reached(&self, place: &str) {
        #[cfg(feature = "drill")]
        super::drill::reached(&self.config.node(self.own).state, place);
        #[cfg(not(feature = "drill"))]
        let _ = place;
    }

    /// Microseconds since 1970 of a moment of the monotonic clock, for people and the timeline only.
    pub(super) fn wall_micros_of(&self, moment: Instant) -> u64 {
        let ago = u64::try_from(moment.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.world.wall_micros().saturating_sub(ago)
    }

    /// Gives what was just answered a moment to leave the process, and takes the addresses of portals away.
    pub async fn wind_up(&self) {
        for (_, portal) in self.service.portals() {
            portal.close().await;
        }
        self.addresses.wind_up().await;
    }
}

fn micros(length: Duration) -> Micros {
    Micros(u64::try_from(length.as_micros()).unwrap_or(u64::MAX))
}

/// What looks after each pool.
fn overseers(
    config: &Config,
    lanes: &BTreeMap<PoolId, Lane>,
    disks: &PoolDisks,
    facts: &mpsc::UnboundedSender<Input>,
    (recorder, locks): (Rc<Recorder>, Rc<LockDisks>),
) -> BTreeMap<PoolId, Rc<PoolOverseer>> {
    let overseer = |(id, lane): (&PoolId, &Lane)| {
        let layout = config.pools.iter().find(|pool| pool_id(pool.id) == *id).expect("lanes are of its pools");
        let parts = OverseerParts {
            pool: *id,
            name: layout.name.clone(),
            disks: disks.placed_of(*id),
            disk_names: disk_names(config, layout),
            lane: lane.clone(),
            facts: facts.clone(),
            recorder: Rc::clone(&recorder),
            locks: Rc::clone(&locks),
        };
        (*id, Rc::new(PoolOverseer::new(parts)))
    };
    lanes.iter().map(overseer).collect()
}

impl From<OnEnd> for failover::OnEnd {
    fn from(end: OnEnd) -> Self {
        match end {
            OnEnd::TakeOver => Self::TakeOver,
            OnEnd::Leave => Self::Leave,
        }
    }
}

/// The names of a pool's disks.
fn disk_names(config: &Config, layout: &PoolLayout) -> BTreeMap<LegPlace, String> {
    let mirrors = (0u16..).zip(&layout.mirrors);
    let legs = mirrors.flat_map(|(mirror, legs)| (0u8..).zip(legs).map(move |(leg, disk)| (mirror, leg, *disk)));
    legs.map(|(mirror, leg, disk)| (LegPlace { mirror, leg }, config.disks[disk].name.clone())).collect()
}

fn open_disk(world: &dyn World, config: &Config, own: NodeName, source: &DiskSource, place: usize) -> Rc<dyn Disk> {
    let url = source.url(own);
    let lun = LunUrl { place: Place { portal: url.portal.to_string(), target: url.target.clone() }, lun: url.lun };
    let nexus = Nexus {
        initiator_name: format!("{}.disks", config.node(own).target),
        isid: Isid::random(u32::try_from(place).unwrap_or(u32::MAX), ISID_QUALIFIER),
    };
    world.open_disk(&lun, nexus, config.disk_options(url))
}
