//! One leg of a mirror: a disk, whether it may be used right now, and how it gets usable again.
//!
//! A leg is *up* for one link epoch in which its fence was proved. Any other sign takes it *away*: a new epoch, a lost
//! session, an unknown outcome, a conflict. Its [`supervise`] task then waits for the link, has the fence proved and
//! puts it up again; or, when it stays away too long while another leg is up, has its loss recorded and drops it. A leg
//! whose medium refused a write that another leg took has *failed* and is dropped as soon as that is recorded.
//!
//! ```text
//! up(epoch) --link, error--> away(since, why) --proved--> up(epoch')
//!     \--write refused--> failed    \--lost--> (pool stops)
//!                          \--recorded--> dropped <--recorded, after leg_timeout-- away
//! ```
//!
//! Beside its state a leg has a [`Standing`]: a dropped one comes back as a new [`Leg`] that counts for nothing while it is
//! copied to (`crate::take_back`), then is waited for, and only when the record says so is read.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use futures_util::future::select;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};
use understudy_disk::disk::{Disk, DiskError, Durability, Extent, Geometry, Link};
use understudy_layout::label::PoolAreas;

use crate::mirror::{Doubt, Mirror};
use crate::overseer::{LegPlace, Proof, Reason};
use crate::switch::Switch;
use crate::witness::Witness;

/// Whether a leg may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegState {
    /// Fence proved in this link epoch.
    Up { epoch: u64 },
    /// Not usable now; nothing is sent.
    Away { since: Instant, why: Reason },
    /// Refused a write that another leg took: older than the others, never to be read again.
    Failed,
    /// Recorded as not good: not part of the mirror any more.
    Dropped,
}

/// What a leg's answer is worth; only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Copied to, recorded bad. Nobody waits for it, and its first trouble ends the attempt: no record is needed to leave
    /// it out.
    Returning,
    /// Holds the same, and may be recorded good at any moment: nothing is acknowledged without it, nothing is read from it.
    Joining,
    /// Recorded good.
    Good,
}

/// How a write or flush ended, once it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegOutcome {
    /// Done.
    Done,
    /// The disk is there and says it cannot.
    Refused,
    /// The leg was dropped meanwhile; it need not be done.
    Dropped,
    /// The pool was stopped; it must not be answered.
    Stopped,
}

/// Why a single read brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFault {
    /// The leg is not up (any more).
    NotUp,
    /// The disk is there and cannot read these blocks.
    Medium,
}

/// A conflict within this many retry delays of the proof is no news: the disk is asked again only after one of them.
const JUST_PROVED: u32 = 10;

/// What a disk's error means for what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Certainly not carried out, and no reason to look.
    NotNow,
    /// Take the leg away until the fence is proved for this reason.
    Look(Reason),
    /// The disk cannot do it.
    Refused,
}

/// Sense keys and status bytes: SPC-4 r37 §4.5.6, SAM-5 r21 §5.3.1.
fn meaning(error: &DiskError) -> Meaning {
    match error {
        DiskError::Conflict => Meaning::Look(Reason::Conflict),
        DiskError::Unreachable(_) => Meaning::Look(Reason::NewLink),
        DiskError::OutcomeUnknown(_) => Meaning::Look(Reason::OutcomeUnknown),
        DiskError::CheckCondition { key, .. } => match key {
            0x1 | 0x2 => Meaning::NotNow,                 // recovered error, not ready
            0x6 | 0xb => Meaning::Look(Reason::Conflict), // unit attention, aborted command
            _ => Meaning::Refused,
        },
        DiskError::Status(0x08 | 0x28) => Meaning::NotNow, // BUSY, TASK SET FULL
        DiskError::Status(0x40) => Meaning::Look(Reason::Conflict), // TASK ABORTED: by another nexus
        DiskError::Status(_) | DiskError::Io(_) | DiskError::Protocol(_) => Meaning::Refused,
    }
}

/// Regions written to a disk's cache and not flushed since: what the disk forgets if it loses power.
#[derive(Default)]
struct Unflushed {
    since_flush: BTreeSet<u32>,
    /// Those a running flush will have made durable.
    flushing: BTreeSet<u32>,
}

pub struct Leg {
    pub place: LegPlace,
    pub disk: Rc<dyn Disk>,
    pub areas: PoolAreas,
    geometry: Geometry,
    switch: Rc<Switch>,
    state: Cell<LegState>,
    standing: Cell<Standing>,
    doubted: Cell<bool>,
    /// When the fence was proved last.
    proved: Cell<Option<Instant>>,
    /// The disk's epoch when it was up last.
    last_up: Cell<u64>,
    /// Since when the disk has refused commands with a conflict and yet shown the fence whenever it was asked.
    refusing: Cell<Option<Instant>>,
    unflushed: RefCell<Unflushed>,
    reads_admitted: Witness,
    changed: Notify,
}

/// What a leg is made of.
pub struct LegParts {
    pub place: LegPlace,
    pub disk: Rc<dyn Disk>,
    pub areas: PoolAreas,
    pub geometry: Geometry,
}

impl Leg {
    pub fn new(parts: LegParts, standing: Standing, switch: Rc<Switch>) -> Self {
        let LegParts { place, disk, areas, geometry } = parts;
        let state = LegState::Away { since: Instant::now(), why: Reason::NewLink };
        Self {
            place,
            disk,
            areas,
            geometry,
            switch,
            state: Cell::new(state),
            standing: Cell::new(standing),
            doubted: Cell::new(false),
            proved: Cell::new(None),
            last_up: Cell::new(0),
            refusing: Cell::new(None),
            unflushed: RefCell::default(),
            reads_admitted: Witness::default(),
            changed: Notify::new(),
        }
    }

    /// Recorded good: read, and all there is if the others go.
    pub fn is_good(&self) -> bool {
        self.standing.get() == Standing::Good && !self.is_dropped()
    }

    /// Part of the mirror: nothing is acknowledged without it.
    pub fn counts(&self) -> bool {
        self.standing.get() != Standing::Returning && !self.is_dropped()
    }

    pub fn is_dropped(&self) -> bool {
        self.state.get() == LegState::Dropped
    }

    pub fn standing(&self) -> Standing {
        self.standing.get()
    }

    /// From now on its answers are waited for, but not its reads.
    pub fn join(&self) {
        self.standing.set(Standing::Joining);
    }

    /// The record says that it is good.
    pub fn recorded_good(&self) {
        self.standing.set(Standing::Good);
        self.changed.notify_waiters();
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state.get(), LegState::Up { .. })
    }

    fn set(&self, state: LegState) {
        self.state.set(state);
        self.changed.notify_waiters();
    }

    /// The leg as the driver fenced it, right before the pool serves.
    pub fn begin(&self, fenced_epoch: Option<u64>) {
        if matches!(self.state.get(), LegState::Failed | LegState::Dropped) {
            return;
        }
        if let Link::Connected { epoch } = self.disk.link() {
            self.last_up.set(epoch);
        }
        match fenced_epoch {
            Some(epoch) if self.disk.link() == (Link::Connected { epoch }) => self.set(LegState::Up { epoch }),
            Some(_) | None => self.set(LegState::Away { since: Instant::now(), why: Reason::NewLink }),
        }
    }

    /// Takes the leg away, or adds a graver reason to look.
    fn away(&self, reason: Reason) {
        self.away_since(Instant::now(), reason);
    }

    fn away_since(&self, since: Instant, reason: Reason) {
        match self.state.get() {
            LegState::Up { .. } => {
                let since = if reason == Reason::Conflict { self.refusing_since(since) } else { since };
                warn!(leg = %self.place, disk = self.disk.name(), ?reason, "leg away");
                self.set(LegState::Away { since, why: reason });
            }
            LegState::Away { since, why } => self.set(LegState::Away { since, why: why.max(reason) }),
            LegState::Failed | LegState::Dropped => return,
        }
        if reason == Reason::Conflict && !self.doubted.replace(true) {
            self.switch.doubt();
        }
    }

    fn was_just_proved(&self) -> bool {
        self.proved.get().is_some_and(|last| last.elapsed() < self.switch.retry_delay * JUST_PROVED)
    }

    /// A disk that refuses what it should take, again and again, is away from its first refusal on: such a leg must get
    /// overdue like any other.
    fn refusing_since(&self, now: Instant) -> Instant {
        let before = self.refusing.get().filter(|_| self.was_just_proved());
        let since = before.unwrap_or(now);
        self.refusing.set(Some(since));
        since
    }

    fn settle_doubt(&self) {
        if self.doubted.replace(false) {
            self.switch.settle_doubt();
        }
    }

    /// Refused a write that another leg took.
    pub fn fail(&self) {
        if !self.is_dropped() {
            warn!(leg = %self.place, disk = self.disk.name(), "leg refused a write and must be dropped");
            self.settle_doubt();
            self.set(LegState::Failed);
        }
    }

    pub fn drop_for_good(&self) {
        self.settle_doubt();
        self.set(LegState::Dropped);
    }

    /// Ends when the leg's state changed, the pool stopped, or it is time to look again.
    pub async fn changed_or_time_to_look(&self) {
        let changed = self.changed.notified();
        tokio::select! { biased; () = changed => {}, () = self.switch.stopped() => {}, () = sleep(self.switch.retry_delay) => {} }
    }

    /// Reads bytes of the disk whatever the leg's state: for metadata, before the pool serves.
    pub async fn read_raw(&self, offset: u64, bytes: u64) -> Result<Bytes, DiskError> {
        let extent = self.extent(offset, bytes);
        let extent = extent.ok_or_else(|| DiskError::Protocol("range past the end of the disk".into()))?;
        self.disk.read(extent).await
    }

    /// Up in the disk's present epoch; a newer epoch takes the leg away as a side effect.
    pub fn up_now(&self) -> bool {
        let LegState::Up { epoch } = self.state.get() else { return false };
        let same = self.disk.link() == (Link::Connected { epoch });
        if !same {
            self.away(Reason::NewLink);
        }
        same
    }

    /// Waits until a command may be sent.
    async fn ready(&self) -> Result<(), LegOutcome> {
        loop {
            let changed = self.changed.notified();
            if self.switch.is_stopped() {
                return Err(LegOutcome::Stopped);
            }
            match self.state.get() {
                LegState::Up { .. } if self.up_now() => return Ok(()),
                LegState::Up { .. } | LegState::Away { .. } => {}
                LegState::Failed => return Err(LegOutcome::Refused),
                LegState::Dropped => return Err(LegOutcome::Dropped),
            }
            let stopped = std::pin::pin!(self.switch.stopped());
            select(std::pin::pin!(changed), stopped).await;
        }
    }

    /// Waits until the leg is dropped (`Dropped`) or the pool stopped (`Stopped`).
    pub async fn dropped(&self) -> LegOutcome {
        loop {
            let changed = self.changed.notified();
            if self.switch.is_stopped() {
                return LegOutcome::Stopped;
            }
            if self.state.get() == LegState::Dropped {
                return LegOutcome::Dropped;
            }
            let stopped = std::pin::pin!(self.switch.stopped());
            select(std::pin::pin!(changed), stopped).await;
        }
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent(&self, offset: u64, bytes: u64) -> Option<Extent> {
        let block = u64::from(self.geometry.block_bytes);
        let blocks = u32::try_from(bytes / block).ok()?;
        Extent::within(self.geometry, offset / block, blocks)
    }

    /// Reads bytes of the disk once, without waiting for the leg to come up.
    pub async fn read_once(&self, offset: u64, bytes: u64) -> Result<Bytes, ReadFault> {
        loop {
            if !self.up_now() || self.switch.is_stopped() {
                return Err(ReadFault::NotUp);
            }
            let extent = self.extent(offset, bytes).ok_or(ReadFault::Medium)?;
            let put = self.reads_admitted.put();
            match self.disk.read(extent).await {
                Ok(read) => {
                    // It says as much as the question that nothing else is asked for. A read of nothing may not have been sent.
                    if extent.blocks() > 0 && self.up_now() {
                        self.reads_admitted.affirm(put);
                    }
                    return Ok(read);
                }
                Err(error) => match meaning(&error) {
                    // BOUND: ends with the disk's answer or the leg's state; a read has no side effect to repeat.
                    Meaning::NotNow => sleep(self.switch.retry_delay).await,
                    Meaning::Look(reason) => {
                        // Nothing of a read can land late, so an unknown outcome is just a lost answer.
                        self.away(if reason == Reason::OutcomeUnknown { Reason::NewLink } else { reason });
                        return Err(ReadFault::NotUp);
                    }
                    Meaning::Refused => return Err(ReadFault::Medium),
                },
            }
        }
    }

    /// Whether the disk, asked after this call, still carries out this node's reads. Does not wait for the leg to come up.
    pub async fn admits_reads(&self) -> bool {
        let ask = async || {
            if !self.up_now() {
                return false;
            }
            match self.disk.admits_reads().await {
                Ok(()) => self.up_now(),
                Err(error) => {
                    if let Meaning::Look(reason) = meaning(&error) {
                        self.away(if reason == Reason::OutcomeUnknown { Reason::NewLink } else { reason });
                    }
                    false
                }
            }
        };
        self.reads_admitted.holds_now(ask).await
    }

    /// Writes bytes of the disk; ends only when it is done, refused, or need not be done any more.
    pub async fn write(&self, offset: u64, bytes: Bytes, durability: Durability) -> LegOutcome {
        let Some(extent) = self.extent(offset, bytes.len() as u64) else {
            return LegOutcome::Refused;
        };
        self.until_done(|| self.disk.write(extent, bytes.clone(), durability)).await
    }

    /// Flushes the disk's cache; ends as [`Leg::write`] does.
    pub async fn flush(&self) -> LegOutcome {
        {
            let mut unflushed = self.unflushed.borrow_mut();
            let mut written = std::mem::take(&mut unflushed.since_flush);
            unflushed.flushing.append(&mut written);
        }
        let outcome = self.until_done(|| self.disk.flush()).await;
        if outcome == LegOutcome::Done {
            self.unflushed.borrow_mut().flushing.clear();
        }
        outcome
    }

    /// Remembers that a region's bytes may be in the disk's cache only.
    pub fn note_cached(&self, region: u32) {
        self.unflushed.borrow_mut().since_flush.insert(region);
    }

    /// The regions a power loss of the disk may have taken back.
    fn take_unflushed(&self) -> BTreeSet<u32> {
        let mut unflushed = self.unflushed.borrow_mut();
        let mut all = std::mem::take(&mut unflushed.since_flush);
        all.append(&mut unflushed.flushing);
        all
    }

    /// Repeats a command on this disk, and only this disk, until it has an outcome.
    async fn until_done<'a, F>(&'a self, send: impl Fn() -> F) -> LegOutcome
    where
        F: Future<Output = Result<(), DiskError>> + 'a,
    {
        let mut unknown = UnknownOutcome::new(&self.switch);
        let mut busy_since = None;
        // BOUND: each round ends with an answer of the disk; a leg that stays away is dropped, or waited for by rule.
        loop {
            if let Err(outcome) = self.ready().await {
                return outcome;
            }
            let error = match send().await {
                Ok(()) => return LegOutcome::Done,
                Err(error) => error,
            };
            match meaning(&error) {
                Meaning::NotNow => {
                    let since = *busy_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > self.switch.leg_timeout {
                        // Overdue at once: dropped if another leg is up, else asked again and again.
                        self.away_since(since, Reason::NewLink);
                    }
                    sleep(self.switch.retry_delay).await;
                }
                Meaning::Look(reason) => {
                    if reason == Reason::OutcomeUnknown {
                        unknown.count();
                    }
                    self.away(reason);
                }
                Meaning::Refused => {
                    warn!(leg = %self.place, disk = self.disk.name(), %error, "disk refused a write");
                    return LegOutcome::Refused;
                }
            }
        }
    }
}

/// Counts a write among those of unknown outcome until it has one.
pub struct UnknownOutcome<'a> {
    switch: &'a Switch,
    counted: bool,
}

impl<'a> UnknownOutcome<'a> {
    /// Of which the outcome is not unknown yet.
    pub fn new(switch: &'a Switch) -> Self {
        Self { switch, counted: false }
    }

    /// It is from now on.
    pub fn count(&mut self) {
        if !self.counted {
            self.counted = true;
            self.switch.unknown_writes.set(self.switch.unknown_writes.get() + 1);
        }
    }
}

impl Drop for UnknownOutcome<'_> {
    fn drop(&mut self) {
        if self.counted {
            self.switch.unknown_writes.set(self.switch.unknown_writes.get() - 1);
        }
    }
}

/// The leg's task, from the start of serving to the leg's drop or the pool's end.
pub async fn supervise(leg: Rc<Leg>, mirror: Weak<Mirror>) {
    loop {
        let changed = leg.changed.notified();
        let Some(siblings) = mirror.upgrade() else { return };
        if leg.switch.is_stopped() {
            return;
        }
        match leg.state.get() {
            LegState::Dropped => return,
            LegState::Up { .. } => {
                drop(siblings);
                let seen = leg.disk.link();
                if !leg.up_now() {
                    continue;
                }
                let link = leg.disk.link_changed(seen);
                let ended = leg.switch.stopped();
                tokio::select! { biased; _ = link => {}, () = changed => {}, () = ended => return }
            }
            // Nothing was promised on its behalf: the next attempt begins anew.
            LegState::Away { .. } | LegState::Failed if leg.standing() == Standing::Returning => {
                leg.drop_for_good();
                return;
            }
            LegState::Away { since, .. } => recover(&leg, &siblings, since).await,
            LegState::Failed => {
                drop_if_possible(&leg, &siblings).await;
            }
        }
    }
}

/// One attempt to bring a leg back or to have it dropped; the caller looks at the state again.
async fn recover(leg: &Rc<Leg>, siblings: &Rc<Mirror>, since: Instant) {
    let mut overdue = since + leg.switch.leg_timeout;
    if Instant::now() >= overdue && siblings.another_up(leg) {
        drop_if_possible(leg, siblings).await;
        // The record may be impossible just now while the disk is back: give the proof its turn.
        overdue = Instant::now() + leg.switch.leg_timeout / 4;
    }
    if !matches!(leg.state.get(), LegState::Away { .. }) {
        return;
    }
    let droppable = async {
        sleep_until(overdue).await;
        // BOUND: ends with a leg that is up, with the proof, or with the pool.
        while !siblings.another_up(leg) {
            sleep(leg.switch.retry_delay).await;
        }
    };
    let ended = leg.switch.stopped();
    tokio::select! { biased; () = ended => {}, () = prove(leg, siblings) => {}, () = droppable => {} }
}

/// Waits for the link and has the fence proved.
async fn prove(leg: &Rc<Leg>, siblings: &Rc<Mirror>) {
    while leg.disk.link() == Link::Down {
        leg.disk.link_changed(Link::Down).await;
    }
    if leg.was_just_proved() {
        sleep(leg.switch.retry_delay).await;
    }
    let LegState::Away { why: asked, .. } = leg.state.get() else { return };
    let proof = leg.switch.overseer.prove_fence(leg.place, &*leg.disk, asked).await;
    let LegState::Away { why: now, .. } = leg.state.get() else { return };
    match proof {
        Proof::Held { epoch } if now == asked && leg.disk.link() == (Link::Connected { epoch }) => {
            info!(leg = %leg.place, disk = leg.disk.name(), epoch, "leg up again");
            leg.proved.set(Some(Instant::now()));
            let doubt = if leg.disk.powered_on_in() > leg.last_up.get() { Doubt::PoweredOn } else { Doubt::NewSession };
            siblings.distrust(leg, &leg.take_unflushed(), doubt);
            leg.last_up.set(epoch);
            leg.set(LegState::Up { epoch });
            leg.settle_doubt();
        }
        // Something else happened while the proof was made, so it proves nothing; or there is none yet.
        Proof::Held { .. } | Proof::Unknown => sleep(leg.switch.retry_delay).await,
        Proof::Lost => {
            warn!(leg = %leg.place, disk = leg.disk.name(), "fence lost: the pool stops");
            leg.switch.stop();
            leg.switch.overseer.fenced(leg.place);
        }
    }
}

/// Has the loss recorded and drops the leg; only while another leg can carry on.
async fn drop_if_possible(leg: &Rc<Leg>, siblings: &Rc<Mirror>) {
    if siblings.another_up(leg) && leg.switch.overseer.drop_leg(leg.place).await {
        if !leg.switch.is_stopped() {
            warn!(leg = %leg.place, disk = leg.disk.name(), "leg dropped, recorded");
            siblings.drop_leg(leg);
        }
        return;
    }
    // No other leg, or the record does not stand: wait, and never acknowledge without it.
    let pause = std::pin::pin!(sleep(leg.switch.retry_delay));
    let stopped = std::pin::pin!(leg.switch.stopped());
    select(pause, stopped).await;
}
