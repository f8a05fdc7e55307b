//! A client's initiator port that uses persistent reservations, as the nodes of a cluster of clients do.
//!
//! Not the nodes' own use of reservations (that is `registered`). The one idea: a port is a name and an ISID; it logs in, does
//! something, logs out, and what it registered stays its own, whichever node answers the next time.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::task::LocalSet;
use understudy_disk::session::{Nexus, Options, Place, Request, Session, Transfer};
use understudy_iscsi::serial::Isid;
use understudy_load::LunAddress;
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::reservation::{InAction, KeyList, OutAction, OutList, Persistence, ReservationType};
use understudy_scsi::sense::{Asc, Sense};
use understudy_scsi::{Status, encode};

/// How long a command may take, moves of the pool included.
const COMMAND: Duration = Duration::from_secs(10);
/// How long a login may take, moves of the pool included.
const LOGIN: Duration = Duration::from_secs(30);
/// Bytes asked for by PERSISTENT RESERVE IN: a few dozen ports.
const REPORT_BYTES: u16 = 8192;
/// Block length of the volumes of a drill.
const BLOCK_BYTES: usize = 512;

/// A port: an initiator name and an ISID.
#[derive(Debug, Clone)]
pub struct ClientPort {
    nexus: Nexus,
    place: Place,
    lun: u64,
}

/// A port while it is logged in.
pub struct Visit {
    session: Rc<Session>,
    lun: u64,
    /// The unit attentions it met, in order, before the unit was ready.
    pub told: Vec<Asc>,
}

/// Everything PERSISTENT RESERVE IN shows: PRGENERATION, registrations with their ports, and the reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// READ KEYS.
    pub keys: KeyList,
    /// READ RESERVATION as it came.
    pub reservation: Vec<u8>,
    /// READ FULL STATUS as it came.
    pub full_status: Vec<u8>,
}

impl ClientPort {
    /// A port of the client `name` that goes to this volume.
    #[must_use]
    pub fn new(name: &str, volume: &LunAddress) -> Self {
        let initiator_name = format!("iqn.2026-01.org.example.client:{name}");
        let number = name.bytes().fold(7, |number: u32, byte| number.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let place = Place { portal: volume.portal.to_string(), target: volume.target.clone() };
        Self { nexus: Nexus { initiator_name, isid: Isid::random(number, 1) }, place, lun: u64::from(volume.lun) << 48 }
    }

    /// Logs in, takes what unit attentions there are, does `work`, logs out.
    ///
    /// # Errors
    /// No login within half a minute; what `work` says.
    pub fn visit<T>(&self, work: impl AsyncFnOnce(&Visit) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let visit = async {
            let visit = self.log_in().await?;
            let done = work(&visit).await;
            visit.session.close().await;
            done
        };
        LocalSet::new().block_on(&runtime, visit).with_context(|| format!("client {}", self.nexus.initiator_name))
    }

    async fn log_in(&self) -> anyhow::Result<Visit> {
        let session = Session::start(self.place.clone(), self.nexus.clone(), Options::default());
        tokio::time::timeout(LOGIN, session.connected()).await.context("no login")??;
        let mut visit = Visit { session, lun: self.lun, told: Vec::new() };
        // BOUND: a unit has a handful of unit attentions.
        for _ in 0..16 {
            let (status, sense) = visit.command(encode::test_unit_ready(), Transfer::None).await?;
            match (status, sense) {
                (Status::Good, _) => return Ok(visit),
                (Status::CheckCondition, Some(sense)) => visit.told.push(sense.asc),
                (status, _) => bail!("TEST UNIT READY was answered {status:?}"),
            }
        }
        bail!("unit attentions without end: {:?}", visit.told)
    }
}

impl Visit {
    async fn answer(&self, cdb: [u8; 16], transfer: Transfer) -> anyhow::Result<understudy_disk::session::Answer> {
        let request = Request { cdb, transfer, deadline: COMMAND };
        Ok(self.session.execute(self.lun, request).await?)
    }

    async fn command(&self, cdb: [u8; 16], transfer: Transfer) -> anyhow::Result<(Status, Option<Sense>)> {
        let answer = self.answer(cdb, transfer).await?;
        let status = Status::from_byte(answer.status).with_context(|| format!("status {:#04x}", answer.status))?;
        Ok((status, Sense::parse(&answer.sense)))
    }

    /// PERSISTENT RESERVE OUT; the status it was answered with.
    ///
    /// # Errors
    /// It was not answered.
    pub async fn reserve_out(
        &self,
        action: OutAction,
        kind: Option<ReservationType>,
        list: &OutList,
    ) -> anyhow::Result<Status> {
        let bytes = list.encode();
        let cdb = encode::persistent_reserve_out(action, kind, bytes.len() as u32);
        Ok(self.command(cdb, Transfer::Write(bytes.into())).await?.0)
    }

    /// REGISTER AND IGNORE EXISTING KEY.
    ///
    /// # Errors
    /// It was not answered.
    pub async fn register(&self, key: u64, persistence: Persistence) -> anyhow::Result<Status> {
        let list = OutList { action_key: key, persistence, ..OutList::default() };
        self.reserve_out(OutAction::RegisterAndIgnoreExistingKey, None, &list).await
    }

    /// Everything PERSISTENT RESERVE IN shows.
    ///
    /// # Errors
    /// It was not answered, or not with GOOD.
    pub async fn shown(&self) -> anyhow::Result<Shown> {
        let mut parts = Vec::new();
        for action in [InAction::ReadKeys, InAction::ReadReservation, InAction::ReadFullStatus] {
            let cdb = encode::persistent_reserve_in(action, REPORT_BYTES);
            let answer = self.answer(cdb, Transfer::Read(REPORT_BYTES.into())).await?;
            ensure!(answer.status == 0, "{action:?} was answered with status {:#04x}", answer.status);
            parts.push(answer.data_in.to_vec());
        }
        let full_status = parts.pop().context("three parts")?;
        let reservation = parts.pop().context("three parts")?;
        let keys = KeyList::parse(&parts[0]).context("READ KEYS makes no sense")?;
        Ok(Shown { keys, reservation, full_status })
    }

    /// Writes a block; the status it was answered with.
    ///
    /// # Errors
    /// It was not answered.
    pub async fn write(&self, lba: u64) -> anyhow::Result<Status> {
        let cdb = encode::write_16(Span { lba, blocks: 1 }, Force::UnitAccess);
        Ok(self.command(cdb, Transfer::Write(vec![7; BLOCK_BYTES].into())).await?.0)
    }
}

/// What a port that registers all the time knows.
#[derive(Debug, Default)]
struct Ledger {
    /// Keys it may be registered with: the last one acknowledged or seen, and those sent since without an answer.
    possible: BTreeSet<u64>,
    /// Highest PRGENERATION seen.
    generation: u32,
    acknowledged: u64,
    broken: Option<String>,
}

/// A port that registers one key after the other, and looks before each whether what was acknowledged is there.
pub struct RestlessPort {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RestlessPort {
    /// Begins to register, and goes on whatever happens to the session.
    #[must_use]
    pub fn start(port: ClientPort) -> Self {
        let (ledger, stop) = (Arc::<Mutex<Ledger>>::default(), Arc::<AtomicBool>::default());
        let (shared, told) = (Arc::clone(&ledger), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime can be built");
            LocalSet::new().block_on(&runtime, port.register_until_told(&shared, &told));
        });
        Self { ledger, stop, thread: Some(thread) }
    }

    /// Registrations acknowledged so far.
    ///
    /// # Errors
    /// What was acknowledged was not there.
    pub fn acknowledged(&self) -> anyhow::Result<u64> {
        let ledger = self.ledger.lock().map_err(|_| anyhow::anyhow!("the port's thread panicked"))?;
        match &ledger.broken {
            Some(broken) => bail!("{broken}"),
            None => Ok(ledger.acknowledged),
        }
    }

    /// Ends it; the keys one of which it is registered with now.
    ///
    /// # Errors
    /// What was acknowledged was not there at some time.
    pub fn conclude(mut self) -> anyhow::Result<BTreeSet<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().context("it runs")?.join();
        ended.map_err(|_| anyhow::anyhow!("the port's thread panicked"))?;
        self.acknowledged()?;
        let ledger = self.ledger.lock().map_err(|_| anyhow::anyhow!("the port's thread panicked"))?;
        Ok(ledger.possible.clone())
    }
}

impl Drop for RestlessPort {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl ClientPort {
    async fn register_until_told(&self, ledger: &Mutex<Ledger>, stop: &AtomicBool) {
        let mut next = 1;
        // BOUND: until told to stop, one session after the other.
        while !stop.load(Ordering::Relaxed) {
            // Lost with the node: the next login finds the next one.
            let Ok(visit) = self.log_in().await else { continue };
            // BOUND: one command after the other, until the session is lost.
            while !stop.load(Ordering::Relaxed) {
                if self.look_and_register(&visit, ledger, &mut next).await.is_err() {
                    break;
                }
            }
            visit.session.close().await;
        }
    }

    async fn look_and_register(&self, visit: &Visit, ledger: &Mutex<Ledger>, next: &mut u64) -> anyhow::Result<()> {
        let keys = visit.shown().await?.keys;
        let note = |change: &mut dyn FnMut(&mut Ledger)| change(&mut ledger.lock().expect("no holder panics"));
        note(&mut |ledger| ledger.look(&keys));
        let key = *next;
        *next += 1;
        note(&mut |ledger| ledger.possible.extend([key]));
        match visit.register(key, Persistence::Volatile).await? {
            Status::Good => note(&mut |ledger| {
                ledger.possible = [key].into();
                ledger.acknowledged += 1;
            }),
            other => note(&mut |ledger| ledger.broken = Some(format!("REGISTER was answered {other:?}"))),
        }
        Ok(())
    }
}

impl Ledger {
    /// Exactly one key, and one that can be there; PRGENERATION never goes back.
    fn look(&mut self, shown: &KeyList) {
        let sound = match (&shown.keys[..], self.possible.is_empty()) {
            ([], true) => true,
            ([key], false) => self.possible.contains(key),
            (_, _) => false,
        };
        if !sound || shown.generation < self.generation {
            let Self { possible, generation, .. } = self;
            self.broken = Some(format!("{shown:?} is shown, after generation {generation} and keys {possible:?}"));
        }
        self.generation = shown.generation;
        self.possible = shown.keys.iter().copied().collect();
    }
}
