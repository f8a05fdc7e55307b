//! A hand-driven initiator: sends exactly the PDUs a test asks for, and reads what comes.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use understudy_iscsi::codes::TaskAttribute;
use understudy_iscsi::login::Stage;
use understudy_iscsi::request::{DataOut, LoginRequest, ScsiCommand, TextRequest};
use understudy_iscsi::response::{DataIn, LoginResponse, ScsiResponse};
use understudy_iscsi::serial::{Cid, CmdSn, Isid, StatSn, TaskTag, TransferTag, Tsih};
use understudy_iscsi::{Digests, FrameDecoder, InitiatorPdu, Outgoing, TargetPdu};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Hand {
    pub socket: TcpStream,
    buffer: BytesMut,
    decoder: FrameDecoder,
    cmd_sn: u32,
    tag: u32,
}

impl Hand {
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("nobody is refused");
        Self { socket, buffer: BytesMut::new(), decoder: FrameDecoder::new(1 << 24), cmd_sn: 1, tag: 1 }
    }

    pub async fn send(&mut self, pdu: impl Into<InitiatorPdu>) {
        let mut out = Outgoing::new();
        out.push(pdu.into().into_frame(), Digests::default());
        let bytes = out.copy_to_bytes(out.remaining());
        self.socket.write_all(&bytes).await.expect("the portal reads");
    }

    /// The next PDU; `None` if the connection was ended in order. A reset fails the test.
    pub async fn receive(&mut self) -> Option<TargetPdu> {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.buffer).expect("frames of the portal are good") {
                return Some(TargetPdu::decode(frame).expect("PDUs of the portal are good"));
            }
            let read = timeout(PATIENCE, self.socket.read_buf(&mut self.buffer)).await.expect("an answer in time");
            if read.expect("ended in order, not reset") == 0 {
                return None;
            }
        }
    }

    pub async fn log_in(address: SocketAddr, target: &str, isid: u8) -> Self {
        let mut hand = Self::connect(address).await;
        let response = hand.try_log_in(target, isid).await;
        assert_eq!((response.status.class, response.status.detail), (0, 0));
        hand
    }

    pub async fn try_log_in(&mut self, target: &str, isid: u8) -> LoginResponse {
        self.ask_log_in(&format!("TargetName={target}\0InitialR2T=Yes\0ImmediateData=No\0"), isid).await;
        match self.receive().await {
            Some(TargetPdu::LoginResponse(response)) => response,
            other => panic!("login answered with {other:?}"),
        }
    }

    pub async fn ask_log_in(&mut self, keys: &str, isid: u8) {
        self.send(login(&format!("InitiatorName=iqn.2026-01.test:hand\0{keys}"), isid)).await;
    }

    pub async fn command(&mut self, cdb: &[u8], read: u32, write: u32) -> TaskTag {
        let mut whole = [0; 16];
        whole[..cdb.len()].copy_from_slice(cdb);
        self.tag += 1;
        self.cmd_sn += 1;
        let tag = TaskTag(self.tag);
        self.send(ScsiCommand {
            immediate: false,
            is_final: true,
            read: read > 0,
            write: write > 0,
            attribute: TaskAttribute::SIMPLE,
            lun: 0,
            tag,
            expected_bytes: read.max(write),
            cmd_sn: CmdSn(self.cmd_sn - 1),
            exp_stat_sn: StatSn(0),
            cdb: whole,
            ahs: Bytes::new(),
            data: Bytes::new(),
        })
        .await;
        tag
    }

    /// Sends TEST UNIT READY until no unit attention is left; each command gets an answer.
    pub async fn make_ready(&mut self) {
        for _ in 0..8 {
            self.command(&[0; 6], 0, 0).await;
            if self.status().await.status == 0 {
                return;
            }
        }
        panic!("the unit does not become ready");
    }

    pub async fn status(&mut self) -> ScsiResponse {
        match self.receive().await {
            Some(TargetPdu::ScsiResponse(response)) => response,
            other => panic!("a status expected, not {other:?}"),
        }
    }

    /// Writes one block with solicited data.
    pub async fn write_block(&mut self, lba: u8, data: &[u8; 512]) {
        let tag = self.command(&[0x2a, 0, 0, 0, 0, lba, 0, 0, 1], 0, 512).await;
        let Some(TargetPdu::R2t(r2t)) = self.receive().await else { panic!("an R2T expected") };
        assert_eq!((r2t.tag, r2t.buffer_offset, r2t.desired_bytes), (tag, 0, 512));
        self.send(DataOut {
            is_final: true,
            lun: 0,
            tag,
            transfer_tag: r2t.transfer_tag,
            exp_stat_sn: StatSn(0),
            data_sn: 0,
            buffer_offset: 0,
            data: Bytes::copy_from_slice(data),
        })
        .await;
        assert_eq!(self.status().await.status, 0);
    }

    pub async fn read_block(&mut self, lba: u8) -> DataIn {
        self.command(&[0x28, 0, 0, 0, 0, lba, 0, 0, 1], 512, 0).await;
        match self.receive().await {
            Some(TargetPdu::DataIn(data)) => data,
            other => panic!("data expected, not {other:?}"),
        }
    }

    /// What SendTargets answers, with `;` for the separators.
    pub async fn discover(address: SocketAddr) -> String {
        let mut hand = Self::connect(address).await;
        hand.ask_log_in("SessionType=Discovery\0", 1).await;
        assert!(matches!(hand.receive().await, Some(TargetPdu::LoginResponse(_))));
        hand.send(TextRequest {
            immediate: true,
            is_final: true,
            more_text: false,
            lun: 0,
            tag: TaskTag(2),
            transfer_tag: TransferTag::RESERVED,
            cmd_sn: CmdSn(1),
            exp_stat_sn: StatSn(0),
            text: Bytes::from_static(b"SendTargets=All\0"),
        })
        .await;
        match hand.receive().await {
            Some(TargetPdu::TextResponse(response)) => String::from_utf8_lossy(&response.text).replace('\0', ";"),
            other => panic!("a text expected, not {other:?}"),
        }
    }
}

/// A login request straight from the operational stage to full feature phase.
pub fn login(text: &str, isid: u8) -> LoginRequest {
    LoginRequest {
        transit: true,
        more_text: false,
        stage: Stage::Operational,
        next_stage: Stage::FullFeature,
        version_max: 0,
        version_min: 0,
        isid: Isid([0x80, 0, 0, 0, 0, isid]),
        tsih: Tsih(0),
        tag: TaskTag(1),
        cid: Cid(1),
        cmd_sn: CmdSn(1),
        exp_stat_sn: StatSn(0),
        text: Bytes::copy_from_slice(text.as_bytes()),
    }
}
