//! Tests of opening pools on disks in memory, with a partner that serves them in between.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use futures_util::stream::LocalBoxStream;
use tokio::sync::mpsc;
use understudy_device::{
    Elsewhere, Keep, Medium, NexusHandle, NexusName, Outcome, TaskAttribute, UnitIdentity, UnitOnMedium, UnitOptions,
};
use understudy_disk::disk::{Disk, Link};
use understudy_disk::session::{Nexus, Options, Place};
use understudy_disk::url::LunUrl;
use understudy_fabric::PAGE_BYTES;
use understudy_failover::machine::Machine;
use understudy_failover::words::{Incarnation, PairId};
use understudy_pool::testing::MemoryDisk;
use understudy_pool::{self as pool, Existing, LegPlace, PoolPlan, VolumeMedium, VolumeWish, initialise_pool};
use understudy_portal::{PortalError, PortalOptions};
use understudy_scsi::encode;
use understudy_scsi::reservation::{OutAction, OutList};

use super::*;
use crate::admin::AdminRequest;
use crate::config::tests::GOOD;
use crate::driver::lane::Lane;
use crate::driver::locks::LockDisks;
use crate::driver::overseer::OverseerParts;
use crate::driver::world::{DataWay, Interconnect, OwnPage, Witness};
use crate::timeline::Recorder;

/// A service without portals asks nothing of its world.
struct Nowhere;

impl World for Nowhere {
    fn incarnation(&self) -> anyhow::Result<Incarnation> {
        anyhow::bail!("nowhere")
    }

    fn interconnect(&self, _: &Config, _: NodeName) -> anyhow::Result<Interconnect> {
        anyhow::bail!("nowhere")
    }

    fn recorder(&self, _: &Config, _: NodeName, _: Incarnation) -> anyhow::Result<Recorder> {
        anyhow::bail!("nowhere")
    }

    fn witness(&self, _: &Config, _: NodeName, _: &Machine) -> anyhow::Result<Box<dyn Witness>> {
        anyhow::bail!("nowhere")
    }

    fn open_disk(&self, _: &LunUrl, _: Nexus, _: Options) -> Rc<dyn Disk> {
        unreachable!("the test gives the disks")
    }

    fn open_forward(&self, _: Place, _: &NexusName, _: Option<&DataWay>) -> Rc<dyn Elsewhere> {
        unreachable!("no client comes")
    }

    fn bind_portal(&self, _: SocketAddr, _: PortalOptions) -> Result<Portal, PortalError> {
        unreachable!("no portal is opened")
    }

    fn operators(&self, _: &Config, _: NodeName, _: &Rc<Recorder>) -> anyhow::Result<mpsc::Receiver<AdminRequest>> {
        anyhow::bail!("nowhere")
    }

    fn halts(&self) -> anyhow::Result<LocalBoxStream<'static, ()>> {
        anyhow::bail!("nowhere")
    }

    fn wall_micros(&self) -> u64 {
        0
    }
}

struct Unread;

impl OwnPage for Unread {
    fn publish(&self, _: &[u8; PAGE_BYTES]) {}
}

/// A pool on two disks, and whom its overseers tell.
struct Bench {
    config: Rc<Config>,
    id: PoolId,
    uuid: Uuid,
    disks: Vec<Rc<MemoryDisk>>,
    facts: mpsc::UnboundedSender<understudy_failover::input::Input>,
}

impl Bench {
    async fn new() -> Self {
        let config = Config::parse(Path::new("/pair.toml"), GOOD).expect("a good file");
        let layout = config.pools.first().expect("one pool");
        let disks: Vec<_> = ["d0", "d1"].iter().map(|name| MemoryDisk::new(name, 512, 16 << 20)).collect();
        let plan = PoolPlan {
            number: layout.id,
            pair: 1,
            home: 0,
            name: layout.name.clone(),
            chunk_bytes: 1 << 20,
            mirrors: vec![disks.iter().map(|disk| Rc::clone(disk) as Rc<dyn Disk>).collect()],
        };
        let uuid = initialise_pool(plan, Existing::Refuse).await.expect("blank disks").pool;
        let id = crate::driver::shelves::pool_id(layout.id);
        Self { config: Rc::new(config), id, uuid, disks, facts: mpsc::unbounded_channel().0 }
    }

    fn pool_disks(&self) -> Rc<PoolDisks> {
        let all = self.disks.iter().map(|disk| Rc::clone(disk) as Rc<dyn Disk>).collect();
        Rc::new(PoolDisks::new(&self.config, all))
    }

    fn overseer(&self) -> Rc<PoolOverseer> {
        Rc::new(PoolOverseer::new(OverseerParts {
            pool: self.id,
            name: "fast".into(),
            disks: Vec::new(),
            disk_names: BTreeMap::new(),
            lane: Lane::start(),
            facts: self.facts.clone(),
            recorder: Rc::new(Recorder::in_memory(NodeName::A, 1, 1, || 0)),
            locks: Rc::new(LockDisks::new(Vec::new(), PairId(1), NodeId::A, Incarnation(1), Duration::from_secs(1))),
        }))
    }

    fn service(&self) -> Service {
        let publisher = Rc::new(Publisher::new(Box::new(Unread), PairId(1), NodeId::A, Incarnation(1)));
        let (overseers, config) = ([(self.id, self.overseer())].into(), || Rc::clone(&self.config));
        let recorder = Rc::new(Recorder::in_memory(NodeName::A, 1, 1, || 0));
        let addresses = PortalAddresses::new((&config(), NodeName::A), None, &publisher, &Rc::default(), &recorder);
        Service::new(Rc::new(Nowhere), (config(), NodeName::A), self.pool_disks(), publisher, addresses, overseers)
    }

    fn recorded(version: MetadataVersion) -> Recorded {
        let legs_are = LegsAre::PerhapsDifferent;
        Recorded { generation: Generation(4), metadata_version: version, legs_are, legs: vec![LegSet(0b11)] }
    }

    /// The pool as the partner serves it.
    async fn partner(&self) -> Rc<Pool> {
        let disks = self.disks.iter().map(|disk| Rc::clone(disk) as Rc<dyn Disk>).collect();
        let found = discover(disks, 2, |_| {}).await.pool_disks(self.uuid);
        let expected = expected(self.uuid, &Self::recorded(MetadataVersion(0)));
        let pool = Pool::load(found, expected, self.overseer(), PoolOptions::default()).await.expect("loads");
        let fenced = self.disks.iter().enumerate().map(|(leg, disk)| {
            let Link::Connected { epoch } = disk.link() else { panic!("the disk is there") };
            FencedLeg { place: LegPlace { mirror: 0, leg: u8::from(leg == 1) }, epoch }
        });
        pool.start(3, &fenced.collect::<Vec<_>>()).await.expect("starts");
        pool
    }
}

/// A host at the partner's unit on this volume, with its power-on unit attention taken.
async fn host(volume: Rc<VolumeMedium>) -> NexusHandle {
    let identity = UnitIdentity { uuid: [1; 16], product: "VOLUME".into() };
    let options = UnitOptions { keep: Keep::Always, ..UnitOptions::new(identity) };
    let unit = UnitOnMedium::new(options, volume as Rc<dyn Medium>, None).expect("opens");
    let target = Target::new("iqn.2026-01.com.example:a");
    target.add(0, unit).expect("free");
    let initiator_name = "iqn.2026-01.com.example:host".to_owned();
    let host = target.attach(NexusName { initiator_name, isid: [0x80, 0, 0, 0, 0, 1], target_portal_group: 1 });
    answer(&host, encode::test_unit_ready(), Bytes::new()).await;
    host
}

async fn answer(host: &NexusHandle, cdb: [u8; 16], data_out: Bytes) -> Outcome {
    host.begin(0, 1, TaskAttribute::Simple, cdb).execute(data_out).await
}

async fn register(host: &NexusHandle, key: u64) {
    let list = OutList { action_key: key, ..OutList::default() };
    let cdb = encode::persistent_reserve_out(OutAction::RegisterAndIgnoreExistingKey, None, 24);
    let Outcome::Completed(done) = answer(host, cdb, list.encode().into()).await else { panic!("not answered") };
    assert_eq!(done.status, understudy_scsi::Status::Good);
}

/// Keys registered at each unit a service has of the pool, by LUN.
fn keys(service: &Service, id: PoolId) -> Vec<(u16, Vec<u64>)> {
    let opened = service.opened(id).expect("open");
    let units = opened.units.borrow();
    let keys = |known: &VolumeUnit| (known.lun, known.unit.look(|unit| unit.reservations().keys().collect()));
    let mut found: Vec<_> = units.values().map(keys).collect();
    found.sort_unstable();
    found
}

/// A claim opens its pools, fails, and is made again later. Meanwhile the partner served: what a client registered there, and the
/// volume that was deleted there, are not what they were.
#[test]
fn a_pool_opened_for_a_second_claim_has_what_the_partner_kept_in_between() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let test = async {
        let bench = Bench::new().await;
        let partner = bench.partner().await;
        let make = async |name: &str, lun| {
            let wish = VolumeWish {
                name: name.into(),
                lun: Some(lun),
                block_bytes: 512,
                blocks: 2048,
                provisioning: understudy_pool::Provisioning::Thick,
            };
            partner.create_volume(wish).await.expect("room").uuid
        };
        let (kept, gone) = (make("kept", 0).await, make("gone", 1).await);
        let host = host(partner.medium(kept).expect("just made")).await;
        register(&host, 1).await;
        let version = |pool: &Pool| MetadataVersion(pool.metadata_version().0);

        let service = bench.service();
        let opened = service.open(bench.id, Bench::recorded(version(&partner))).await;
        assert!(matches!(opened, OpenOutcome::Opened { .. }));
        assert_eq!(keys(&service, bench.id), [(0, vec![1]), (1, vec![])]);

        register(&host, 2).await;
        partner.delete_volume(gone).await.expect("there");
        make("new", 1).await;
        let opened = service.open(bench.id, Bench::recorded(version(&partner))).await;
        assert!(matches!(opened, OpenOutcome::Opened { .. }));
        assert_eq!(keys(&service, bench.id), [(0, vec![2]), (1, vec![])]);
        let opened = service.opened(bench.id).expect("open");
        assert!(!opened.units.borrow().contains_key(&gone), "a deleted volume is offered");
        assert_eq!(service.identity_of(bench.id).expect("home").target.luns(), [0, 1]);
    };
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime"), test);
}

/// Which units of a service clients may not write to, by LUN.
fn protected(service: &Service, id: PoolId) -> Vec<u16> {
    let opened = service.opened(id).expect("open");
    let units = opened.units.borrow();
    let mut luns: Vec<_> = units
        .values()
        .filter(|known| known.unit.look(|unit| unit.is_write_protected()))
        .map(|known| known.lun)
        .collect();
    luns.sort_unstable();
    luns
}

/// What the partner protected, let go and gave room to since the pool was opened here holds here as well.
#[test]
fn write_protection_and_chunks_of_thin_volumes_move_with_the_pool() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let test = async {
        let bench = Bench::new().await;
        let partner = bench.partner().await;
        let make = async |name: &str, lun, provisioning| {
            let wish = VolumeWish { name: name.into(), lun: Some(lun), block_bytes: 512, blocks: 4096, provisioning };
            partner.create_volume(wish).await.expect("room").uuid
        };
        let thin = make("thin", 0, pool::Provisioning::Thin).await;
        let thick = make("thick", 1, pool::Provisioning::Thick).await;
        partner.protect_volume(thick, pool::Protection::WriteProtected).await.expect("kept");
        let version = |pool: &Pool| MetadataVersion(pool.metadata_version().0);

        let service = bench.service();
        let opened = service.open(bench.id, Bench::recorded(version(&partner))).await;
        assert!(matches!(opened, OpenOutcome::Opened { .. }));
        assert_eq!(protected(&service, bench.id), [1]);

        let medium = partner.medium(thin).expect("there");
        let block = Bytes::from(vec![7; 512]);
        medium.write(3000, block, understudy_device::medium::Durability::Cached).await.expect("written");
        partner.protect_volume(thin, pool::Protection::WriteProtected).await.expect("kept");
        partner.protect_volume(thick, pool::Protection::Writable).await.expect("kept");
        let opened = service.open(bench.id, Bench::recorded(version(&partner))).await;
        assert!(matches!(opened, OpenOutcome::Opened { .. }));
        assert_eq!(protected(&service, bench.id), [0]);
        let opened = service.opened(bench.id).expect("open");
        let summaries = opened.pool.volumes();
        assert_eq!((summaries[0].chunks, summaries[1].chunks), (1, 2));
    };
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime"), test);
}

/// A node that waits for its pool has made the units beforehand. Meanwhile the partner serves: a client registers there, and a volume
/// is deleted.
#[test]
fn units_made_while_the_pool_was_warm_have_what_the_partner_kept_since() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let test = async {
        let bench = Bench::new().await;
        let partner = bench.partner().await;
        let make = async |name: &str, lun| {
            let provisioning = pool::Provisioning::Thick;
            let wish = VolumeWish { name: name.into(), lun: Some(lun), block_bytes: 512, blocks: 2048, provisioning };
            partner.create_volume(wish).await.expect("room").uuid
        };
        let (kept, gone, _) = (make("kept", 0).await, make("gone", 1).await, make("same", 2).await);
        let service = bench.service();
        let found = service.initialise(&[(bench.id, vec![LegSet(0b11)])].into()).await;
        assert!(matches!(found, Ok((_, unopenable)) if unopenable.is_empty()));
        let warm = service.opened(bench.id).expect("warm");
        assert_eq!(warm.units.borrow().len(), 3);
        assert!(service.identity_of(bench.id).expect("home").target.luns().is_empty(), "offered before it is its own");

        let host = host(partner.medium(kept).expect("just made")).await;
        register(&host, 7).await;
        partner.delete_volume(gone).await.expect("there");
        let version = MetadataVersion(partner.metadata_version().0);
        let opened = service.open(bench.id, Bench::recorded(version)).await;
        assert!(matches!(opened, OpenOutcome::Opened { .. }));
        assert_eq!(keys(&service, bench.id), [(0, vec![7]), (2, vec![])]);
        assert_eq!(service.free_lun(bench.id), Some(1));
        assert_eq!(service.identity_of(bench.id).expect("home").target.luns(), [0, 2]);
    };
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime"), test);
}

/// Nothing changed since: the very units that were made beforehand are served, also after a claim that is made a second time.
#[test]
fn units_made_while_the_pool_was_warm_are_served_if_nothing_changed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let test = async {
        let bench = Bench::new().await;
        let partner = bench.partner().await;
        for (name, lun) in [("one", Some(1)), ("other", Some(0))] {
            let provisioning = pool::Provisioning::Thick;
            let wish = VolumeWish { name: name.into(), lun, block_bytes: 512, blocks: 2048, provisioning };
            partner.create_volume(wish).await.expect("room");
        }
        let service = bench.service();
        assert!(service.initialise(&[(bench.id, vec![LegSet(0b11)])].into()).await.is_ok());
        let units = || -> Vec<Rc<UnitOnMedium>> {
            let opened = service.opened(bench.id).expect("open");
            let units = opened.units.borrow();
            units.values().map(|known| Rc::clone(&known.unit)).collect()
        };
        let warm = units();
        assert_eq!(warm.len(), 2);
        let version = MetadataVersion(partner.metadata_version().0);
        for _ in 0..2 {
            let recorded = Recorded { legs_are: LegsAre::Equal, ..Bench::recorded(version) };
            assert!(matches!(service.open(bench.id, recorded).await, OpenOutcome::Opened { .. }));
            assert!(units().iter().zip(&warm).all(|(now, before)| Rc::ptr_eq(now, before)));
            assert_eq!(service.identity_of(bench.id).expect("home").target.luns(), [0, 1]);
        }
        service.close(bench.id);
        assert!(service.identity_of(bench.id).expect("home").target.luns().is_empty());
        assert!(warm.iter().all(|unit| unit.gate() == understudy_device::Gate::Fenced));
    };
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime"), test);
}
