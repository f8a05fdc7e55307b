//! One logical unit behind an iSCSI session, as a [`Disk`].
//!
//! Not here: the session (`session`), reservations (`registrations`). What this adds to a bare session is the meaning
//! of answers: unit attentions are swallowed and the command repeated where that is harmless, BUSY and TASK SET FULL
//! are waited out within a bound, everything else becomes a [`DiskError`].
//!
//! The one idea is the *epoch*. It grows with every login and every power-on or reset unit attention (29h/xx), because
//! each of them may mean that registrations are gone. A write answered by a 29h/xx unit attention is not repeated but
//! handed back, and after [`Disk::trust`] no write leaves in another epoch than the trusted one: the fence has to be
//! proved again first.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use understudy_iscsi::codes::{TaskAttribute, TaskFunction, TaskFunctionResponse};
use understudy_scsi::capacity::Capacity;
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::encode::{self, Cdb};
use understudy_scsi::inquiry::{Association, DesignatorName, parse_designators, parse_page, parse_standard};
use understudy_scsi::luns::encode_lun;
use understudy_scsi::operations::opcode;
use understudy_scsi::{Asc, Sense, SenseKey, Status};

use crate::disk::{Disk, DiskError, DiskIdentity, Durability, Extent, Geometry, Link};
use crate::network::{Network, Tcp};
use crate::registrations::Renewal;
use crate::reservation::Reservations;
use crate::session::{Answer, Nexus, Options, Request, Session, Transfer};
use crate::url::LunUrl;
use crate::watched::Watched;

/// Most unit attentions swallowed for one command. A target keeps a handful for each nexus; one that has always
/// another is broken, and the last one is handed to the caller.
const ATTENTIONS: u32 = 16;

/// Most repeats after BUSY or TASK SET FULL, with pauses of 1, 2, 4, … 64 ms: together a quarter of a second.
const BUSY_REPEATS: u32 = 9;

/// Longest single transfer. Every disk takes it, and a queue of such transfers still interleaves with small ones.
const TRANSFER_BYTES: u32 = 1024 * 1024;

/// Allocation length for INQUIRY and its pages.
const INQUIRY_BYTES: u16 = 1024;

/// What may be done when a unit attention answers instead of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterAttention {
    /// Always repeat: the command only asks.
    Repeat,
    /// Repeat, except after 29h/xx: then what the disk had in its cache, and the fence, may be gone.
    RepeatUnlessReset,
}

/// The part of a logical unit that its background task and its callers share.
pub(crate) struct Unit {
    pub(crate) name: String,
    pub(crate) session: Rc<Session>,
    pub(crate) lun: u64,
    pub(crate) options: Options,
    geometry: Cell<Option<Geometry>>,
    /// Why there is no geometry yet.
    trouble: RefCell<String>,
    /// Number of the newest login or reset seen.
    epoch: Cell<u64>,
    /// The newest of them that may have begun with a power-on.
    powered_on_in: Cell<u64>,
    /// Login of the session in which pending unit attentions have been swallowed; the link shows no other.
    settled_login: Cell<Option<u64>>,
    trusted: Cell<Option<u64>>,
    link_moved: Watched<()>,
    pub(crate) keeps_through_power_loss: Cell<bool>,
    pub(crate) aborts_exactly: Cell<bool>,
    /// Held while a registration of this nexus changes.
    pub(crate) registering: tokio::sync::Mutex<()>,
    pub(crate) renewal: Cell<Option<Renewal>>,
}

/// One logical unit. Dropping it ends its background task, and its session if nobody else uses it.
pub struct IscsiLun {
    pub(crate) unit: Rc<Unit>,
    task: JoinHandle<()>,
}

impl Drop for IscsiLun {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl IscsiLun {
    /// Starts a session of its own and returns at once; [`IscsiLun::ready`] waits.
    ///
    /// PANIC: outside a tokio `LocalSet`.
    #[must_use]
    pub fn open(url: &LunUrl, nexus: Nexus, options: Options) -> Rc<Self> {
        Self::open_over(Tcp, url, nexus, options)
    }

    /// As [`IscsiLun::open`], over another network.
    ///
    /// PANIC: outside a tokio `LocalSet`.
    #[must_use]
    pub fn open_over(network: impl Network, url: &LunUrl, nexus: Nexus, options: Options) -> Rc<Self> {
        Self::on(Session::start_over(network, url.place.clone(), nexus, options.clone()), url.lun, options)
    }

    /// A logical unit of a session that others may use too. They share its fate: one command that is not answered by
    /// its deadline costs all of them the session.
    ///
    /// PANIC: outside a tokio `LocalSet`.
    #[must_use]
    pub fn on(session: Rc<Session>, lun: u16, options: Options) -> Rc<Self> {
        let unit = Rc::new(Unit {
            name: LunUrl { place: session.place().clone(), lun }.to_string(),
            session,
            lun: encode_lun(lun),
            options,
            geometry: Cell::new(None),
            trouble: RefCell::new(String::new()),
            epoch: Cell::new(0),
            powered_on_in: Cell::new(0),
            settled_login: Cell::new(None),
            trusted: Cell::new(None),
            link_moved: Watched::new(()),
            keeps_through_power_loss: Cell::new(false),
            aborts_exactly: Cell::new(true),
            registering: tokio::sync::Mutex::new(()),
            renewal: Cell::new(None),
        });
        let task = tokio::task::spawn_local(settle_again_and_again(Rc::clone(&unit)));
        Rc::new(Self { unit, task })
    }

    /// Waits until the link is connected.
    ///
    /// # Errors
    /// [`DiskError::Unreachable`] with the last reason, after `limit`.
    pub async fn ready(&self, limit: Duration) -> Result<(), DiskError> {
        let connected = async { while self.unit.link_changed(Link::Down).await == Link::Down {} };
        timeout(limit, connected)
            .await
            .map_err(|_| DiskError::Unreachable(format!("{}: {}", self.unit.name, self.unit.session.last_trouble())))
    }

    /// The session underneath.
    #[must_use]
    pub fn session(&self) -> &Rc<Session> {
        &self.unit.session
    }
}

/// After every login: swallow pending unit attentions, ask for the size, and only then show the link as connected.
async fn settle_again_and_again(unit: Rc<Unit>) {
    let mut seen = Link::Down;
    // BOUND: as long as the unit lives; every turn waits for a change of the session's link.
    loop {
        seen = match unit.session.link() {
            now if now == seen => unit.session.link_changed(seen).await,
            now => now,
        };
        match seen {
            Link::Down => unit.settled_login.set(None),
            Link::Connected { epoch: login } => {
                unit.settled_login.set(None);
                unit.epoch.set(unit.epoch.get() + 1);
                if !unit.settle().await {
                    continue;
                }
                // A login that was lost meanwhile is noticed by `Unit::link` itself.
                unit.settled_login.set(Some(login));
            }
        }
        unit.link_moved.set(());
    }
}

impl Unit {
    /// Returns whether the session lived through it. A disk that conflicts or is not ready is connected all the same:
    /// its reservations can be asked for, and the next probe finds its size.
    async fn settle(&self) -> bool {
        _ = self.swallow_attentions().await;
        let probed = self.probe().await;
        if let Err(error) = &probed {
            *self.trouble.borrow_mut() = error.to_string();
        }
        !matches!(probed, Err(DiskError::Unreachable(_) | DiskError::OutcomeUnknown(_)))
    }

    fn link(&self) -> Link {
        match self.session.link() {
            Link::Connected { epoch: login } if self.settled_login.get() == Some(login) => {
                Link::Connected { epoch: self.epoch.get() }
            }
            Link::Connected { .. } | Link::Down => Link::Down,
        }
    }

    async fn link_changed(&self, seen: Link) -> Link {
        // BOUND: every turn waits for a change of one of the two links.
        loop {
            let moved = self.link_moved.version();
            let session = self.session.link();
            let now = self.link();
            if now != seen {
                return now;
            }
            tokio::select! {
                biased;
                () = self.link_moved.set_after(moved) => {}
                _ = self.session.link_changed(session) => {}
            }
        }
    }

    /// A power-on or reset unit attention was seen: whatever was proved before proves nothing now.
    fn begin_epoch(&self) {
        self.epoch.set(self.epoch.get() + 1);
        self.link_moved.set(());
    }

    /// Sends a command once and returns its sense data with the answer, noting resets.
    async fn once(
        &self,
        attribute: TaskAttribute,
        cdb: Cdb,
        transfer: Transfer,
    ) -> Result<(Answer, Option<Sense>), DiskError> {
        let deadline = match cdb[0] {
            opcode::SYNCHRONIZE_CACHE_10 | opcode::SYNCHRONIZE_CACHE_16 => self.options.flush_deadline,
            _other_commands => self.options.command_deadline,
        };
        let request = Request { cdb, transfer, deadline };
        let answer = self.session.submit(self.lun, attribute, request)?.1.await?;
        let sense = if answer.status == Status::CheckCondition as u8 { Sense::parse(&answer.sense) } else { None };
        if let Some(reset) = sense.as_ref().filter(|sense| is_reset(sense)) {
            tracing::info!(disk = %self.name, asc = reset.asc.0, "power-on, reset or nexus-loss unit attention");
            self.begin_epoch();
            if !matches!(reset.asc, Asc::BUS_DEVICE_RESET_FUNCTION | Asc::I_T_NEXUS_LOSS) {
                self.powered_on_in.set(self.epoch.get());
            }
        }
        Ok((answer, sense))
    }

    /// Sends a command until it is answered by something else than a unit attention or a full queue, within bounds.
    pub(crate) async fn ask(&self, cdb: Cdb, transfer: Transfer, after: AfterAttention) -> Result<Bytes, DiskError> {
        self.ask_while(TaskAttribute::SIMPLE, cdb, transfer, after, || Ok(())).await
    }

    /// As [`Unit::ask`] for a command that may be repeated after any attention, with a task attribute.
    pub(crate) async fn ask_as(
        &self,
        attribute: TaskAttribute,
        cdb: Cdb,
        transfer: Transfer,
    ) -> Result<Bytes, DiskError> {
        self.ask_while(attribute, cdb, transfer, AfterAttention::Repeat, || Ok(())).await
    }

    /// As [`Unit::ask`]; before every sending `may_send` is asked.
    async fn ask_while(
        &self,
        attribute: TaskAttribute,
        cdb: Cdb,
        transfer: Transfer,
        after: AfterAttention,
        may_send: impl Fn() -> Result<(), DiskError>,
    ) -> Result<Bytes, DiskError> {
        let (mut attentions, mut busy) = (0, 0);
        // BOUND: every turn uses up one of the allowed repeats.
        loop {
            may_send()?;
            let (answer, sense) = self.once(attribute, cdb, transfer.clone()).await?;
            match Status::from_byte(answer.status) {
                Some(Status::Good | Status::ConditionMet) => return Ok(answer.data_in),
                Some(Status::ReservationConflict) => return Err(DiskError::Conflict),
                Some(Status::Busy | Status::TaskSetFull) if busy < BUSY_REPEATS => {
                    sleep(Duration::from_millis(1 << busy.min(6))).await;
                    busy += 1;
                }
                Some(Status::CheckCondition) => {
                    let sense = sense.ok_or_else(|| DiskError::Protocol("CHECK CONDITION without sense".to_owned()))?;
                    let may_repeat = sense.key == SenseKey::UnitAttention
                        && attentions < ATTENTIONS
                        && !(after == AfterAttention::RepeatUnlessReset && is_reset(&sense));
                    if !may_repeat {
                        return Err(DiskError::CheckCondition { key: sense.key as u8, asc: sense.asc.0 });
                    }
                    attentions += 1;
                }
                _busy_for_too_long_or_aborted => return Err(DiskError::Status(answer.status)),
            }
        }
    }

    /// TEST UNIT READY until there is no unit attention left. What else it answers is the caller's to find out.
    ///
    /// # Errors
    /// No session, or the outcome is unknown.
    pub(crate) async fn swallow_attentions(&self) -> Result<(), DiskError> {
        match self.ask(encode::test_unit_ready(), Transfer::None, AfterAttention::Repeat).await {
            Err(error @ (DiskError::Unreachable(_) | DiskError::OutcomeUnknown(_))) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub(crate) async fn read_in(&self, cdb: Cdb, bytes: u32) -> Result<Bytes, DiskError> {
        self.ask(cdb, Transfer::Read(bytes), AfterAttention::Repeat).await
    }

    async fn probe(&self) -> Result<Geometry, DiskError> {
        let answer = match self.read_in(encode::read_capacity_16(32), 32).await {
            Err(DiskError::CheckCondition { key, .. }) if key == SenseKey::IllegalRequest as u8 => {
                // Small old disks have only the ten-byte form.
                Capacity::parse_10(&self.read_in(encode::read_capacity_10(), 8).await?)
            }
            answer => Capacity::parse_16(&answer?),
        };
        let capacity = answer.ok_or_else(|| DiskError::Protocol("READ CAPACITY is too short".to_owned()))?;
        if !matches!(capacity.block_bytes, 512 | 4096) {
            return Err(DiskError::Protocol(format!("blocks of {} bytes", capacity.block_bytes)));
        }
        let geometry = Geometry { block_bytes: capacity.block_bytes, blocks: capacity.blocks };
        self.geometry.set(Some(geometry));
        Ok(geometry)
    }

    fn geometry(&self) -> Result<Geometry, DiskError> {
        self.geometry.get().ok_or_else(|| {
            let trouble = self.trouble.borrow();
            let why = if trouble.is_empty() { "its size is not known yet" } else { &trouble };
            DiskError::Unreachable(format!("{}: {why}", self.name))
        })
    }

    async fn identify(&self) -> Result<DiskIdentity, DiskError> {
        let standard = self.read_in(encode::inquiry(INQUIRY_BYTES), INQUIRY_BYTES.into()).await?;
        let (_, identity) =
            parse_standard(&standard).ok_or_else(|| DiskError::Protocol("INQUIRY is too short".to_owned()))?;
        let serial = self.page(0x80).await?.map(|body| printable(&body)).unwrap_or_default();
        let designator = self.page(0x83).await?.map(|body| best_designator(&body)).unwrap_or_default();
        let product = format!("{} {}", identity.vendor.trim(), identity.product.trim()).trim().to_owned();
        Ok(DiskIdentity { product, serial, designator })
    }

    /// The body of a vital product data page, or `None` if the disk has no such page.
    async fn page(&self, page: u8) -> Result<Option<Vec<u8>>, DiskError> {
        match self.read_in(encode::vital_product_data(page, INQUIRY_BYTES), INQUIRY_BYTES.into()).await {
            Ok(bytes) => Ok(parse_page(&bytes, page).map(<[u8]>::to_vec)),
            Err(DiskError::CheckCondition { key, .. }) if key == SenseKey::IllegalRequest as u8 => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read(&self, attribute: TaskAttribute, extent: Extent) -> Result<Bytes, DiskError> {
        let block_bytes = self.geometry()?.block_bytes;
        let mut pieces = pieces(extent, block_bytes);
        let Some(first) = pieces.next() else { return Ok(Bytes::new()) };
        let bytes = self.read_piece(attribute, first, block_bytes).await?;
        if first.blocks() == extent.blocks() {
            return Ok(bytes);
        }
        let mut whole = BytesMut::with_capacity(extent.blocks() as usize * block_bytes as usize);
        whole.extend_from_slice(&bytes);
        for piece in pieces {
            whole.extend_from_slice(&self.read_piece(attribute, piece, block_bytes).await?);
        }
        Ok(whole.freeze())
    }

    /// A READ of no blocks transfers nothing and is no error (SBC-3 r36 §5.10), and is refused like any other (SPC-4 r37 table 64).
    async fn admits_reads(&self) -> Result<(), DiskError> {
        let nothing = encode::read_16(Span { lba: 0, blocks: 0 }, Force::CacheAllowed);
        self.read_in(nothing, 0).await.map(|_| ())
    }

    async fn read_piece(&self, attribute: TaskAttribute, piece: Extent, block_bytes: u32) -> Result<Bytes, DiskError> {
        let wanted = piece.blocks() * block_bytes;
        let cdb = encode::read_16(span(piece), Force::CacheAllowed);
        let bytes = self.ask_as(attribute, cdb, Transfer::Read(wanted)).await?;
        if bytes.len() != wanted as usize {
            return Err(DiskError::Protocol(format!("READ of {wanted} bytes returned {}", bytes.len())));
        }
        Ok(bytes)
    }

    /// A write of several pieces that fails is as unfinished as a single one that failed: any part may be on the disk.
    async fn write(&self, extent: Extent, bytes: Bytes, durability: Durability) -> Result<(), DiskError> {
        let block_bytes = self.geometry()?.block_bytes;
        assert_eq!(bytes.len() as u64, u64::from(extent.blocks()) * u64::from(block_bytes), "data fits the extent");
        let force = match durability {
            Durability::Cached => Force::CacheAllowed,
            Durability::ForceUnitAccess => Force::UnitAccess,
        };
        let mut rest = bytes;
        for piece in pieces(extent, block_bytes) {
            let data = rest.split_to(piece.blocks() as usize * block_bytes as usize);
            let cdb = encode::write_16(span(piece), force);
            let after = AfterAttention::RepeatUnlessReset;
            let ask = self.ask_while(TaskAttribute::SIMPLE, cdb, Transfer::Write(data), after, || self.check_trust());
            ask.await?;
        }
        Ok(())
    }

    /// Called with nothing awaited between it and the sending, so that no login can come between.
    fn check_trust(&self) -> Result<(), DiskError> {
        match (self.trusted.get(), self.link()) {
            (None, _) => Ok(()),
            (Some(trusted), Link::Connected { epoch }) if trusted == epoch => Ok(()),
            (Some(_), Link::Connected { .. } | Link::Down) => {
                Err(DiskError::Unreachable(format!("{}: its fence is not proved in this session", self.name)))
            }
        }
    }

    async fn flush(&self) -> Result<(), DiskError> {
        let after = AfterAttention::RepeatUnlessReset;
        let answer = match self.ask(encode::synchronize_cache_16(), Transfer::None, after).await {
            Err(DiskError::CheckCondition { key, asc })
                if key == SenseKey::IllegalRequest as u8 && asc == Asc::INVALID_COMMAND_OPERATION_CODE.0 =>
            {
                self.ask(encode::synchronize_cache_10(), Transfer::None, after).await
            }
            answer => answer,
        };
        answer.map(|_| ())
    }

    /// LOGICAL UNIT RESET. Aborts this node's own commands too; the unit attention it leaves behind is swallowed, so
    /// that the new epoch has begun when this returns.
    pub(crate) async fn reset(&self) -> Result<(), DiskError> {
        match self.session.manage(self.lun, TaskFunction::LOGICAL_UNIT_RESET).await? {
            TaskFunctionResponse::COMPLETE => self.swallow_attentions().await,
            refused => Err(DiskError::Protocol(format!("LOGICAL UNIT RESET was answered with {:#04x}", refused.0))),
        }
    }
}

fn is_reset(sense: &Sense) -> bool {
    sense.key == SenseKey::UnitAttention && sense.asc.code() == 0x29
}

fn span(extent: Extent) -> Span {
    Span { lba: extent.lba(), blocks: extent.blocks().into() }
}

/// An extent in pieces that one command can carry.
fn pieces(extent: Extent, block_bytes: u32) -> impl Iterator<Item = Extent> {
    let most = TRANSFER_BYTES / block_bytes;
    (0..extent.blocks().div_ceil(most)).map(move |index| {
        let done = index * most;
        extent.part(done, most.min(extent.blocks() - done))
    })
}

fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_matches(['\0', ' ']).to_owned()
}

/// The designator of the logical unit that is unique in the widest circle: NAA, then EUI-64, then T10 vendor.
fn best_designator(body: &[u8]) -> String {
    let name = |name: DesignatorName| match name {
        DesignatorName::Naa(bytes) => Some((0, format!("naa.{}", hex(&bytes)))),
        DesignatorName::Other { kind: 2, bytes } => Some((1, format!("eui.{}", hex(&bytes)))),
        DesignatorName::T10(text) => Some((2, format!("t10.{text}"))),
        DesignatorName::ScsiName(_)
        | DesignatorName::RelativeTargetPort(_)
        | DesignatorName::TargetPortGroup(_)
        | DesignatorName::Other { .. } => None,
    };
    let own = parse_designators(body).into_iter().filter(|one| one.association == Association::LogicalUnit);
    own.filter_map(|one| name(one.name)).min().map(|(_, text)| text).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Disk for IscsiLun {
    fn name(&self) -> &str {
        &self.unit.name
    }

    fn geometry(&self) -> Result<Geometry, DiskError> {
        self.unit.geometry()
    }

    fn identify(&self) -> LocalBoxFuture<'_, Result<DiskIdentity, DiskError>> {
        Box::pin(self.unit.identify())
    }

    fn probe(&self) -> LocalBoxFuture<'_, Result<Geometry, DiskError>> {
        Box::pin(self.unit.probe())
    }

    fn admits_reads(&self) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(self.unit.admits_reads())
    }

    fn read(&self, extent: Extent) -> LocalBoxFuture<'_, Result<Bytes, DiskError>> {
        Box::pin(self.unit.read(TaskAttribute::SIMPLE, extent))
    }

    fn read_behind(&self, extent: Extent) -> LocalBoxFuture<'_, Result<Bytes, DiskError>> {
        Box::pin(self.unit.read(TaskAttribute::ORDERED, extent))
    }

    fn write(&self, extent: Extent, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(self.unit.write(extent, bytes, durability))
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(self.unit.flush())
    }

    fn link(&self) -> Link {
        self.unit.link()
    }

    fn link_changed(&self, seen: Link) -> LocalBoxFuture<'_, Link> {
        Box::pin(self.unit.link_changed(seen))
    }

    fn trust(&self, epoch: u64) {
        self.unit.trusted.set(Some(epoch));
    }

    fn is_trusted(&self) -> bool {
        matches!(self.unit.link(), Link::Connected { epoch } if self.unit.trusted.get() == Some(epoch))
    }

    fn powered_on_in(&self) -> u64 {
        self.unit.powered_on_in.get()
    }

    fn reservations(&self) -> Option<&dyn Reservations> {
        Some(self)
    }
}
