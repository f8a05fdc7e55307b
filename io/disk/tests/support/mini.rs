//! A target in a few lines that answers each command as a test wants it to.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, spawn_local};
use understudy_disk::session::Place;
use understudy_disk::url::LunUrl;
use understudy_iscsi::codes::{LogoutResponseCode, Residual, ServiceResponse, TaskFunctionResponse};
use understudy_iscsi::login::{LoginStatus, Stage};
use understudy_iscsi::request::{LoginRequest, ScsiCommand};
use understudy_iscsi::response::{
    DataIn, LoginResponse, LogoutResponse, NopIn, ScsiResponse, TaskManagementResponse, Window,
};
use understudy_iscsi::serial::{CmdSn, Isid, StatSn, TransferTag, Tsih};
use understudy_iscsi::text::KeyList;
use understudy_iscsi::{Digests, FrameDecoder, InitiatorPdu, Outgoing};
use understudy_scsi::operations::opcode;
use understudy_scsi::sense::SenseFormat;
use understudy_scsi::{Asc, Sense, Status, capacity};

pub const MINI_TARGET: &str = "iqn.2026-01.example:mini";
pub const BLOCKS: u64 = 1 << 20;

/// How a command is answered.
#[derive(Debug, Clone)]
pub enum Reply {
    Status(Status),
    /// CHECK CONDITION.
    Sense(Sense),
    Data(Bytes),
    /// Never.
    Silence,
    /// The connection is closed instead.
    Close,
}

impl Reply {
    pub fn attention(asc: u16) -> Self {
        Self::Sense(Sense { key: understudy_scsi::SenseKey::UnitAttention, ..Sense::illegal(Asc(asc)) })
    }
}

/// How a login is answered.
pub type LoginRule = dyn Fn(&LoginRequest) -> Result<(), (LoginStatus, Option<String>)>;
pub type CommandRule = dyn Fn(&ScsiCommand) -> Option<Reply>;

/// The target. What its rule does not answer is answered as a sound disk of zeroes would.
pub struct Mini {
    pub address: SocketAddr,
    pub commands: RefCell<Vec<ScsiCommand>>,
    pub logins: RefCell<Vec<Isid>>,
    pub logouts: Cell<u32>,
    rule: RefCell<Rc<CommandRule>>,
    login_rule: RefCell<Rc<LoginRule>>,
    connections: RefCell<Vec<AbortHandle>>,
}

impl Mini {
    pub async fn start() -> Rc<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let mini = Rc::new(Self {
            address: listener.local_addr().expect("a bound address"),
            commands: RefCell::default(),
            logins: RefCell::default(),
            logouts: Cell::new(0),
            rule: RefCell::new(Rc::new(|_| None)),
            login_rule: RefCell::new(Rc::new(|_| Ok(()))),
            connections: RefCell::default(),
        });
        let accepting = Rc::clone(&mini);
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let task = spawn_local(Rc::clone(&accepting).serve(stream));
                accepting.connections.borrow_mut().push(task.abort_handle());
            }
        });
        mini
    }

    pub fn url(&self) -> LunUrl {
        LunUrl { place: Place { portal: self.address.to_string(), target: MINI_TARGET.to_owned() }, lun: 0 }
    }

    pub fn answer(&self, rule: impl Fn(&ScsiCommand) -> Option<Reply> + 'static) {
        self.rule.replace(Rc::new(rule));
    }

    pub fn answer_logins(&self, rule: impl Fn(&LoginRequest) -> Result<(), (LoginStatus, Option<String>)> + 'static) {
        self.login_rule.replace(Rc::new(rule));
    }

    /// Answers the first commands with this operation code with these replies, then as a sound disk.
    pub fn answer_once_each(&self, code: u8, replies: Vec<Reply>) {
        let replies = RefCell::new(replies.into_iter());
        self.answer(move |command| (command.cdb[0] == code).then(|| replies.borrow_mut().next()).flatten());
    }

    pub fn drop_connections(&self) {
        self.connections.take().iter().for_each(AbortHandle::abort);
    }

    /// How many commands with this operation code have arrived.
    pub fn count(&self, code: u8) -> usize {
        self.commands.borrow().iter().filter(|command| command.cdb[0] == code).count()
    }

    async fn serve(self: Rc<Self>, mut stream: TcpStream) {
        stream.set_nodelay(true).expect("a socket");
        let (mut buffer, mut outgoing) = (BytesMut::new(), Outgoing::new());
        let mut decoder = FrameDecoder::new(1 << 20);
        let mut stat_sn = StatSn(1);
        loop {
            while let Some(frame) = decoder.next(&mut buffer).expect("the initiator's stream is sound") {
                let pdu = InitiatorPdu::decode(frame).expect("the initiator's PDUs are sound");
                if !self.take(pdu, &mut stat_sn, &mut outgoing) {
                    return;
                }
            }
            while !outgoing.is_empty() {
                if stream.write_buf(&mut outgoing).await.is_err() {
                    return;
                }
            }
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
    }

    /// Returns whether the connection stays.
    fn take(&self, pdu: InitiatorPdu, stat_sn: &mut StatSn, outgoing: &mut Outgoing) -> bool {
        let window = Window { stat_sn: *stat_sn, exp_cmd_sn: CmdSn(1), max_cmd_sn: CmdSn(1 << 30) };
        let frame = match pdu {
            InitiatorPdu::LoginRequest(request) => self.login(&request, window).into_frame(),
            InitiatorPdu::ScsiCommand(command) => {
                let rule = Rc::clone(&self.rule.borrow());
                let reply = rule(&command).unwrap_or_else(|| as_sound_disk(&command));
                let answer = answer(&command, reply.clone(), window);
                self.commands.borrow_mut().push(command);
                match (answer, reply) {
                    (Some(frame), _) => frame,
                    (None, Reply::Close) => return false,
                    (None, _silence) => return true,
                }
            }
            InitiatorPdu::TaskManagementRequest(request) => {
                TaskManagementResponse { response: TaskFunctionResponse::COMPLETE, tag: request.tag, window }
                    .into_frame()
            }
            InitiatorPdu::NopOut(ping) => {
                let transfer_tag = TransferTag::RESERVED;
                NopIn { lun: 0, tag: ping.tag, transfer_tag, window, data: ping.data }.into_frame()
            }
            InitiatorPdu::LogoutRequest(request) => {
                self.logouts.set(self.logouts.get() + 1);
                let response = LogoutResponseCode::SUCCESS;
                let tag = request.tag;
                LogoutResponse { response, tag, window, time_to_wait_s: 0, time_to_retain_s: 0 }.into_frame()
            }
            other => panic!("the mini target was not told what to do with {other:?}"),
        };
        *stat_sn = stat_sn.next();
        outgoing.push(frame, Digests::default());
        true
    }

    fn login(&self, request: &LoginRequest, window: Window) -> LoginResponse {
        let rule = Rc::clone(&self.login_rule.borrow());
        let (status, address) = rule(request).map_or_else(|refusal| refusal, |()| (LoginStatus::SUCCESS, None));
        let mut keys = KeyList::new();
        match address {
            Some(address) => keys.push("TargetAddress", address),
            None if request.stage == Stage::Operational => {
                keys.push("MaxRecvDataSegmentLength", "1048576");
                keys.push("InitialR2T", "No");
                keys.push("MaxBurstLength", "1048576");
                keys.push("FirstBurstLength", "262144");
            }
            None => {}
        }
        if request.next_stage == Stage::FullFeature && status == LoginStatus::SUCCESS {
            self.logins.borrow_mut().push(request.isid);
        }
        LoginResponse {
            transit: true,
            more_text: false,
            stage: request.stage,
            next_stage: request.next_stage,
            version_max: 0,
            version_active: 0,
            isid: request.isid,
            tsih: Tsih(1),
            tag: request.tag,
            window,
            status,
            text: keys.encode(),
        }
    }
}

fn as_sound_disk(command: &ScsiCommand) -> Reply {
    let size = capacity::Capacity {
        blocks: BLOCKS,
        block_bytes: 512,
        physical_exponent: 0,
        provisioned_on_demand: capacity::ProvisionedOnDemand::No,
    };
    match command.cdb[0] {
        opcode::READ_16 => Reply::Data(Bytes::from(vec![0; command.expected_bytes as usize])),
        // SERVICE ACTION IN (16): only READ CAPACITY (16) is asked.
        0x9e => Reply::Data(size.encode_16().into()),
        _other => Reply::Status(Status::Good),
    }
}

fn answer(command: &ScsiCommand, reply: Reply, window: Window) -> Option<understudy_iscsi::Frame> {
    let tag = command.tag;
    let response = |status: Status, sense| ScsiResponse {
        response: ServiceResponse::COMPLETED,
        status: status as u8,
        tag,
        window,
        exp_data_sn: 0,
        read_residual: Residual::None,
        residual: Residual::None,
        sense,
    };
    Some(match reply {
        Reply::Silence | Reply::Close => return None,
        Reply::Status(status) => response(status, Bytes::new()).into_frame(),
        Reply::Sense(sense) => response(Status::CheckCondition, sense.encode(SenseFormat::Fixed).into()).into_frame(),
        Reply::Data(data) => DataIn {
            is_final: true,
            acknowledge: false,
            status: Some(0),
            residual: Residual::between(command.expected_bytes, data.len() as u32),
            lun: 0,
            tag,
            transfer_tag: TransferTag::RESERVED,
            window,
            data_sn: 0,
            buffer_offset: 0,
            data,
        }
        .into_frame(),
    })
}
