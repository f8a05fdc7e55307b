//! One session as the load generator drives it: a socket, the protocol's machine, and nothing between them.
//!
//! Not here: reconnecting, waiting for somebody else's answer, the meaning of a status. The one idea: what a generator costs is
//! taken from the target when both run on one small machine, so everything that came in one read is handled at once, what
//! follows from it leaves in one write, and no command has a task, a timer or a place of its own in memory.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};
use understudy_iscsi::codes::TaskAttribute;
use understudy_iscsi::login::{LoginStatus, Stage};
use understudy_iscsi::serial::Isid;
use understudy_scsi::capacity::Capacity;
use understudy_scsi::encode::{self, Cdb};
use understudy_scsi::luns::encode_lun;
use understudy_scsi::{Sense, SenseKey, Status};
use understudy_session::Micros;
use understudy_session::initiator::{Command, Config, DigestOffer, Event, Initiator, Purpose, SessionLost, Transfer};

use crate::route::LunAddress;

/// Latest answer to a login the generator waits for, and longest silence while commands are under way.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));

/// Room made for each read: dozens of small answers, or one segment of a large one.
const READ_BYTES: usize = 512 << 10;

/// MaxRecvDataSegmentLength declared, the same as the product's own initiator declares.
const SEGMENT_BYTES: u32 = 256 << 10;

/// Slices given to one gathered write.
const SLICES: usize = 64;

/// Most unit attentions that a target may have ready for a new session.
const ATTENTIONS: u32 = 16;

/// Every connection has an initiator name of its own, so that one ISID will do.
const GENERATOR_ISID: Isid = Isid::random(0x75_736c, 2);

/// Why a session is of no more use.
#[derive(Debug, Error)]
pub enum Trouble {
    /// The connection failed.
    #[error("connection: {0}")]
    Socket(#[from] io::Error),
    /// The target closed it.
    #[error("the target closed the connection")]
    Closed,
    /// One of the ends broke the protocol, or the login was refused.
    #[error("{0}")]
    Session(#[from] SessionLost),
    /// Nothing was heard for too long.
    #[error("no answer from the target in time")]
    Silent,
    /// A command did not end with GOOD.
    #[error("status {status:#04x}{}", sense.as_ref().map_or(String::new(), |sense| format!(", {:?}, {:?}", sense.key, sense.asc)))]
    Status {
        /// SCSI status byte.
        status: u8,
        /// Sense data, if there was any.
        sense: Option<Sense>,
    },
    /// The target ended the session or aborted a command.
    #[error("the target ended the session")]
    Ended,
    /// It answers what makes no sense.
    #[error("{0}")]
    Nonsense(&'static str),
}

/// A session.
pub(crate) struct Client {
    stream: TcpStream,
    machine: Initiator<Instant>,
    buffer: BytesMut,
    lun: u64,
    began: Instant,
    heard: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl Client {
    /// Connects and logs in; connection `number` appends its number to the initiator's name.
    pub(crate) async fn log_in(address: &LunAddress, number: usize) -> Result<Self, Trouble> {
        let attempt = async |stage| timeout(PATIENCE.0, Self::try_login(address, number, stage)).await;
        let insists = LoginStatus::AUTHENTICATION_FAILURE;
        match attempt(Stage::Operational).await.map_err(|_late| Trouble::Silent)? {
            // Some targets want to negotiate AuthMethod even when it ends up as None.
            Err(Trouble::Session(SessionLost::LoginRefused { status, .. })) if status == insists => {
                attempt(Stage::Security).await.map_err(|_late| Trouble::Silent)?
            }
            ended => ended,
        }
    }

    async fn try_login(address: &LunAddress, number: usize, first_stage: Stage) -> Result<Self, Trouble> {
        let stream = TcpStream::connect(address.portal).await?;
        stream.set_nodelay(true)?;
        let config = Config {
            initiator_name: format!("{}-{number}", address.initiator),
            isid: GENERATOR_ISID,
            purpose: Purpose::Normal { target: address.target.clone() },
            first_stage,
            proof: None,
            header_digest: DigestOffer::None,
            data_digest: DigestOffer::None,
            receive_segment_bytes: SEGMENT_BYTES,
            data_region: None,
            // The silence is watched here.
            ping_after: Micros(u64::MAX),
            ping_within: Micros(u64::MAX),
            login_within: Micros(u64::MAX),
        };
        let began = Instant::now();
        let mut client = Self {
            stream,
            machine: Initiator::new(config, Micros(0)),
            buffer: BytesMut::new(),
            lun: encode_lun(address.lun),
            began,
            heard: began,
            alarm: Box::pin(sleep(PATIENCE.1)),
        };
        while !client.machine.is_logged_in() {
            client.moved().await?;
        }
        Ok(client)
    }

    /// What the LUN is; takes the unit attentions of a new session away.
    pub(crate) async fn capacity(&mut self) -> Result<Capacity, Trouble> {
        let mut attentions = 0;
        // BOUND: every turn takes one unit attention.
        while let Err(error) = self.ask(encode::test_unit_ready(), Transfer::None).await {
            let is_news =
                matches!(&error, Trouble::Status { sense: Some(sense), .. } if sense.key == SenseKey::UnitAttention);
            attentions += 1;
            if !is_news || attentions > ATTENTIONS {
                return Err(error);
            }
        }
        let answer = self.ask(encode::read_capacity_16(32), Transfer::Read(32)).await?;
        Capacity::parse_16(&answer).ok_or(Trouble::Nonsense("READ CAPACITY is too short"))
    }

    async fn ask(&mut self, cdb: Cdb, transfer: Transfer) -> Result<Bytes, Trouble> {
        self.issue(Instant::now(), cdb, transfer)?;
        // BOUND: the silence of the target.
        loop {
            match self.machine.poll_event() {
                Some(Event::Completed { completion, .. }) if completion.status == Status::Good as u8 => {
                    return Ok(completion.data_in);
                }
                Some(event) => drop(issued(event)?),
                None => self.moved().await?,
            }
        }
    }

    /// Queues a command; [`Client::moved`] sends it.
    pub(crate) fn issue(&mut self, now: Instant, cdb: Cdb, transfer: Transfer) -> Result<(), Trouble> {
        let (ticket, lun, attribute) = (now, self.lun, TaskAttribute::SIMPLE);
        let command = Command { ticket, lun, attribute, cdb, transfer, deadline: Micros(u64::MAX) };
        self.machine.submit(command).map_err(|_command| Trouble::Ended)?;
        Ok(())
    }

    /// When the next command that is answered was issued; `None` if there is no other answer now.
    pub(crate) fn answered(&mut self) -> Result<Option<Instant>, Trouble> {
        // BOUND: every turn takes an event.
        while let Some(event) = self.machine.poll_event() {
            if let Some(issued) = issued(event)? {
                return Ok(Some(issued));
            }
        }
        Ok(None)
    }

    /// Sends what is queued and waits until something came.
    pub(crate) async fn moved(&mut self) -> Result<(), Trouble> {
        poll_fn(|context| self.poll_moved(context)).await
    }

    fn poll_moved(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        self.poll_write(context)?;
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 4 {
            self.buffer.reserve(READ_BYTES);
        }
        if let Poll::Ready(count) = pin!(self.stream.read_buf(&mut self.buffer)).poll(context) {
            if count? == 0 {
                return Poll::Ready(Err(Trouble::Closed));
            }
            self.heard = Instant::now();
            let now = Micros(u64::try_from((self.heard - self.began).as_micros()).unwrap_or(u64::MAX));
            self.machine.receive(now, &mut self.buffer)?;
            return Poll::Ready(Ok(()));
        }
        // BOUND: a turn that goes round moved the alarm into the future.
        while self.alarm.as_mut().poll(context).is_ready() {
            if self.heard.elapsed() >= PATIENCE.1 {
                return Poll::Ready(Err(Trouble::Silent));
            }
            self.alarm.as_mut().reset(self.heard + PATIENCE.1);
        }
        Poll::Pending
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), Trouble> {
        let out = self.machine.outgoing();
        // BOUND: every turn sends bytes, or the socket is full.
        while !out.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = out.chunks_vectored(&mut slices);
            match Pin::new(&mut self.stream).poll_write_vectored(context, &slices[..used]) {
                Poll::Ready(sent) => out.advance(sent?),
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

/// When the command was issued of whose good end this event tells; `None` if it tells of something else that does no harm.
fn issued(event: Event<Instant>) -> Result<Option<Instant>, Trouble> {
    match event {
        Event::Completed { ticket, completion } if completion.status == Status::Good as u8 => Ok(Some(ticket)),
        Event::Completed { completion, .. } => {
            Err(Trouble::Status { status: completion.status, sense: Sense::parse(&completion.sense) })
        }
        Event::LoggedIn(_) | Event::SenseReported { .. } => Ok(None),
        Event::Ended { .. } | Event::Managed { .. } | Event::Targets(_) | Event::LogoutRequested | Event::LoggedOut => {
            Err(Trouble::Ended)
        }
    }
}
