//! Clients: the product's own initiator, over the simulated network, against the portals of a volume's home.
//!
//! Each client has one volume, some commands under way at a time, and few blocks, so that they meet; a volume reached by both ways has two
//! clients. A write is never issued again: each carries a value nobody wrote before.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::sleep;
use understudy_disk::disk::{Disk, DiskError, Durability, Extent, Link};
use understudy_disk::lun::IscsiLun;
use understudy_disk::session::{Nexus, Options, Place};
use understudy_disk::url::LunUrl;
use understudy_iscsi::serial::Isid;
use understudy_load::stamp::{Found, Run, Sequence, read_stamp, write_stamp};

use crate::chance::Chance;
use crate::history::Written;
use crate::network::{Host, Uplink};
use crate::plan::{VOLUMES, portal_of, target_of};
use crate::process::Process;
use crate::stage::Stage;

/// Bytes of a volume's block.
const BLOCK_BYTES: usize = 512;

/// Blocks each client works on: eight in each of three neighbourhoods, which lie in different chunks.
const NEIGHBOURHOOD: u64 = 8;
const NEIGHBOURHOODS: [u64; 3] = [0, 4_000, 12_000];

/// How long a command may take.
const DEADLINE: Duration = Duration::from_secs(3);

/// A client that is refused or not connected waits at most so long before its next command.
const AFTER_TROUBLE_MS: u64 = 60;

/// Who comes, for which volume, by whose portals.
#[derive(Debug, Clone, Copy)]
pub struct Visitor {
    /// The client's own number.
    pub number: usize,
    /// Place in [`VOLUMES`].
    pub volume: usize,
    /// The node whose portals it uses.
    pub comes_by: usize,
}

impl Visitor {
    /// All of a run: one for each volume by its own portals. Where the other way is used, every second of them comes by it, and one more for the same
    /// volume by its own portals, who sees if something that came by the other is carried out twice.
    #[must_use]
    pub fn all(other_way: bool) -> Vec<Self> {
        let home = |volume: usize| VOLUMES[volume].1;
        let by_other = |volume: usize| other_way && volume % 2 == 1;
        let comes_by = |volume| if by_other(volume) { 1 - home(volume) } else { home(volume) };
        let first = (0..VOLUMES.len()).map(|volume| (volume, comes_by(volume)));
        let more = (0..VOLUMES.len()).filter(|volume| by_other(*volume)).map(|volume| (volume, home(volume)));
        let numbered = first.chain(more).enumerate();
        numbered.map(|(number, (volume, comes_by))| Self { number, volume, comes_by }).collect()
    }
}

/// A client of one volume.
pub struct Client {
    volume: usize,
    stage: Rc<Stage>,
    chance: Chance,
    disk: Rc<IscsiLun>,
    next_value: Rc<Cell<u64>>,
    /// Commands under way.
    pub under_way: Cell<u64>,
    /// No new ones.
    pub paused: Cell<bool>,
    /// Commands answered GOOD since this was last set to zero.
    pub answered: Cell<u64>,
}

impl Client {
    /// Begins to log in and to work.
    pub fn start(stage: &Rc<Stage>, visitor: Visitor, next_value: &Rc<Cell<u64>>) -> Rc<Self> {
        let Visitor { number, volume, comes_by } = visitor;
        let node = VOLUMES[volume].1;
        let lun = VOLUMES[..volume].iter().filter(|(_, home)| *home == node).count() as u16;
        let place = Place { portal: portal_of(comes_by), target: target_of(node) };
        let nexus = Nexus { initiator_name: format!("iqn.2026-01.sim:client{number}"), isid: Isid::random(7, 1) };
        let uplink = Uplink { net: Rc::clone(&stage.net), host: Host::Client(number), process: Process::new() };
        let options = Options { command_deadline: DEADLINE, login_deadline: DEADLINE, ..Options::default() };
        let disk = IscsiLun::open_over(uplink, &LunUrl { place, lun }, nexus, options);
        let client = Rc::new(Self {
            volume,
            stage: Rc::clone(stage),
            chance: Chance::new(stage.plan.seed).apart(1000 + number as u64),
            disk,
            next_value: Rc::clone(next_value),
            under_way: Cell::new(0),
            paused: Cell::new(false),
            answered: Cell::new(0),
        });
        for _ in 0..stage.plan.depth {
            spawn_local(Rc::clone(&client).work());
        }
        client
    }

    fn run(&self) -> Run {
        Run(self.volume as u64 + 1)
    }

    async fn work(self: Rc<Self>) {
        loop {
            sleep(self.chance.millis(0, self.stage.plan.pace_ms)).await;
            if self.paused.get() || matches!(self.disk.link(), Link::Down) {
                sleep(self.chance.millis(1, AFTER_TROUBLE_MS)).await;
                continue;
            }
            let first = self.chance.pick(&NEIGHBOURHOODS) + self.chance.below(NEIGHBOURHOOD);
            let blocks = if self.chance.one_in(3) { self.chance.between(1, 4) as u32 } else { 1 };
            self.under_way.set(self.under_way.get() + 1);
            let done = match self.chance.below(20) {
                0 => self.flush().await,
                1..=9 => self.read(first, blocks).await,
                _more => self.write(first, blocks).await,
            };
            self.under_way.set(self.under_way.get() - 1);
            if done {
                self.answered.set(self.answered.get() + 1);
            } else {
                sleep(self.chance.millis(0, AFTER_TROUBLE_MS)).await;
            }
        }
    }

    fn extent(&self, first: u64, blocks: u32) -> Option<Extent> {
        Extent::within(self.disk.geometry().ok()?, first, blocks)
    }

    async fn write(&self, first: u64, blocks: u32) -> bool {
        let Some(extent) = self.extent(first, blocks) else { return false };
        let value = self.next_value.get() + 1;
        self.next_value.set(value);
        let mut bytes = vec![0; blocks as usize * BLOCK_BYTES];
        for (lba, block) in (first..).zip(bytes.chunks_mut(BLOCK_BYTES)) {
            write_stamp(block, self.run(), lba, Sequence(value));
            self.stage.history.borrow_mut().write_begins((self.volume, lba), value);
        }
        let durability = if self.stage.plan.durable { Durability::ForceUnitAccess } else { Durability::Cached };
        let answer = self.disk.write(extent, Bytes::from(bytes), durability).await;
        let how = match &answer {
            Ok(()) if durability == Durability::ForceUnitAccess => Written::Durable,
            Ok(()) => Written::Acknowledged,
            Err(DiskError::Unreachable(_)) => Written::Never,
            Err(_) => Written::Unknown,
        };
        for lba in first..first + u64::from(blocks) {
            self.stage.history.borrow_mut().write_ends((self.volume, lba), value, how);
        }
        self.note("write", first, answer.as_ref().err());
        answer.is_ok()
    }

    async fn flush(&self) -> bool {
        let began = self.stage.history.borrow_mut().moment();
        let answer = self.disk.flush().await;
        self.note("flush", 0, answer.as_ref().err());
        if answer.is_ok() {
            self.stage.history.borrow_mut().flush_ends(self.volume, began);
        }
        answer.is_ok()
    }

    async fn read(&self, first: u64, blocks: u32) -> bool {
        let Some(extent) = self.extent(first, blocks) else { return false };
        let began = self.stage.history.borrow_mut().moment();
        let answer = self.disk.read(extent).await;
        self.note("read", first, answer.as_ref().err());
        let Ok(bytes) = answer else { return false };
        for (lba, block) in (first..).zip(bytes.chunks(BLOCK_BYTES)) {
            self.judge(lba, block, began);
        }
        true
    }

    fn judge(&self, lba: u64, block: &[u8], began: u64) {
        let place = (self.volume, lba);
        let value = match read_stamp(block, self.run(), lba) {
            Found::Stamped(Sequence(value)) => value,
            Found::Foreign if block.iter().all(|byte| *byte == 0) => 0,
            other => return self.stage.fail(format!("volume {} block {lba}: {other:?}", self.volume)),
        };
        let judged = self.stage.history.borrow_mut().read_ends(place, value, began);
        if let Err(violation) = judged {
            self.stage.fail(format!("volume {} block {lba}: {}", self.volume, violation.text));
        }
    }

    fn note(&self, what: &str, lba: u64, error: Option<&DiskError>) {
        let mut digest = self.stage.digest();
        digest.add(&lba.to_le_bytes());
        digest.add(what.as_bytes());
        digest.add(&[u8::from(error.is_some())]);
        self.stage.set_digest(digest.value());
        if let Some(error) = error
            && self.stage.is_verbose()
        {
            self.stage.log(format_args!("client of volume {}: {what} at {lba}: {error}", self.volume));
        }
    }

    /// Reads every block once more; whether all were answered.
    pub async fn read_everything(&self) -> bool {
        for first in NEIGHBOURHOODS {
            // The last write of a neighbourhood may reach three blocks over its end.
            for lba in first..first + NEIGHBOURHOOD + 3 {
                if !self.read(lba, 1).await {
                    return false;
                }
            }
        }
        true
    }
}
