//! The failover machine of one node, whose partner publishes and records anything that a checksum can be right for.
//!
//! Not the model checker (two sound nodes, every schedule): here the partner is not sound at all. Its page, its area of the
//! lock disks and the keys on them hold any values that decode. The fuzzer also carries out the machine's orders, well or
//! badly, late or never, and moves the clock.
//!
//! Properties: nothing a partner can write makes this node panic, also not with checks for overflow; every page and
//! record this node makes can be written and decodes to the same; a pool is served only after its fence and its opening
//! were answered well, the fence first; no order carries a number twice.

use std::collections::{BTreeMap, BTreeSet};

use understudy_failover::config::{AutomaticGiveback, Config, PoolConfig, Timing};
use understudy_failover::effect::{Effect, FenceKind, LegsAre};
use understudy_failover::input::{
    Earnest, FenceOutcome, HandOffFindings, Health, Input, JoinOutcome, NotHeld, OpenOutcome, Request, SoftVetoes,
    TakeoverKind, Unreadable, WriteOutcome,
};
use understudy_failover::key::ReservationKey;
use understudy_failover::machine::Machine;
use understudy_failover::page::{
    Acknowledgement, Announcement, Judged, LAYOUT_VERSION, LiveWords, Page, PageContent, PagePool, PoolState, Stage,
    StateWord, Want, WantAnswer, WantHow,
};
use understudy_failover::record::{Heartbeat, PoolEntry, Record, Verdict};
use understudy_failover::survey::{LockDiskView, Survey};
use understudy_failover::words::{
    Generation, Incarnation, LegIndex, LegSet, MetadataVersion, Micros, MirrorIndex, NodeId, Op, PairId, PoolId,
    RequestId,
};

use crate::choices::{Choices, Script};

const PAIR: PairId = PairId(0x1234);
const OWN: Incarnation = Incarnation(0xa1);
const PARTNERS: [Incarnation; 2] = [Incarnation(0xb1), Incarnation(0xb2)];
const POOLS: [PoolId; 2] = [PoolId(1), PoolId(2)];
const MOST_STEPS: usize = 300;

struct Bench<'a> {
    choices: Choices<'a>,
    machine: Machine,
    now: u64,
    node: NodeId,
    /// Orders that wait for their answer.
    orders: Vec<Effect>,
    numbers: BTreeSet<Op>,
    disks: Vec<LockDiskView>,
    /// Pools whose last fence, and then opening, was answered well.
    fenced: BTreeSet<PoolId>,
    opened: BTreeSet<PoolId>,
    partner_heartbeat: u64,
    requests: u64,
}

/// Plays the script.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let way = choices.byte();
    let node = if way & 1 == 0 { NodeId::A } else { NodeId::B };
    let lock_disks = if way & 2 == 0 { 3 } else { 1 };
    let pools = BTreeMap::from([(POOLS[0], PoolConfig { home: NodeId::A }), (POOLS[1], PoolConfig { home: NodeId::B })]);
    let config = Config {
        pair: PAIR,
        node,
        preferred: NodeId::A,
        lock_disks,
        pools,
        may_split: true,
        policy: AutomaticGiveback::Within { limit: 3, window: Micros::from_millis(1_000_000) }.into(),
        timing: Timing::default(),
    };
    let homes = [(POOLS[0], NodeId::A), (POOLS[1], NodeId::B)];
    let initial = Record::initial(PAIR, homes.map(|(pool, home)| (pool, home, MetadataVersion(1), vec![LegSet(3)])));
    let mut disk = LockDiskView::default();
    if way & 4 == 0 {
        let slot = initial.slot();
        disk.records[0][slot] = Some(initial);
    }
    let mut bench = Bench {
        choices,
        machine: Machine::new(config, OWN),
        now: 1_000_000,
        node,
        orders: Vec::new(),
        numbers: BTreeSet::new(),
        disks: vec![disk; lock_disks],
        fenced: BTreeSet::new(),
        opened: BTreeSet::new(),
        partner_heartbeat: 0,
        requests: 0,
    };
    bench.tell(Input::Started);
    for _ in 0..MOST_STEPS {
        if bench.choices.is_over() {
            break;
        }
        bench.step();
    }
}

impl Bench<'_> {
    fn step(&mut self) {
        match self.choices.below(12) {
            0..=4 => self.answer(),
            5 | 6 => {
                let page = self.partner_page();
                self.tell(Input::PartnerPageRead(Box::new(page)));
            }
            7 => {
                let whys = [Unreadable::Refused, Unreadable::Closed, Unreadable::TimedOut, Unreadable::Torn, Unreadable::Rejected];
                let why = *self.choices.pick(&whys);
                self.tell(Input::PartnerPageUnreadable(why));
            }
            8 => {
                let due = self.machine.poll_timeout().map_or(self.now, |at| at.0.max(self.now));
                self.now = if self.choices.flag() { due } else { self.now + 50_000 };
                self.tell(Input::TimerExpired);
            }
            9 => self.partner_writes(),
            10 => self.survey(None),
            _ => self.happen(),
        }
    }

    fn tell(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.machine.step(Micros(self.now), input, &mut effects);
        for effect in effects {
            self.take(effect);
        }
    }

    fn take(&mut self, effect: Effect) {
        match &effect {
            Effect::PublishPage(content) => {
                let page = Page {
                    pair: PAIR,
                    node: self.node,
                    incarnation: OWN,
                    sequence: 2,
                    layout_version: LAYOUT_VERSION,
                    content: (**content).clone(),
                    live: LiveWords::default(),
                };
                assert_eq!(Page::decode(&page.encode(), PAIR, self.node), Ok(page), "a page of our own");
                return;
            }
            Effect::WriteRecord { record, .. } => {
                let bytes = record.encode();
                assert_eq!(Record::decode(&bytes, PAIR, self.node).as_ref(), Ok(&**record), "a record of our own");
            }
            // A look changes nothing on the disks, so what was fenced stays so.
            Effect::FencePool { pool, kind: FenceKind::Exclusive | FenceKind::WriteGuard, .. } => {
                self.fenced.remove(pool);
            }
            Effect::OpenPool { pool, .. } => {
                self.opened.remove(pool);
            }
            Effect::ServePool { pool } => {
                assert!(self.fenced.contains(pool) && self.opened.contains(pool), "{pool} is served unfenced or unopened");
            }
            _order_or_notice => {}
        }
        if let Some(op) = number_of(&effect) {
            assert!(self.numbers.insert(op), "{op:?} was given before");
            self.orders.push(effect);
        }
    }

    /// One order is carried out and answered.
    fn answer(&mut self) {
        let index = self.choices.below(self.orders.len());
        if index >= self.orders.len() {
            return;
        }
        let order = self.orders.remove(index);
        let well = self.choices.byte() & 3 != 3;
        if let Some(input) = self.carry_out(order, well) {
            self.tell(input);
        }
    }

    fn carry_out(&mut self, order: Effect, well: bool) -> Option<Input> {
        Some(match order {
            Effect::Survey { op } => {
                self.survey(Some(op));
                return None;
            }
            Effect::JoinLockDisks { op, which, key } => {
                let reached: Vec<bool> = (0..self.disks.len()).map(|at| which.contains(&at) && (well || self.choices.flag())).collect();
                for (disk, _) in self.disks.iter_mut().zip(&reached).filter(|(_, reached)| **reached) {
                    disk.keys.retain(|old| !old.is_of(PAIR, self.node));
                    disk.keys.push(key);
                }
                let outcome = |reached| if reached { JoinOutcome::Joined } else { JoinOutcome::Unreachable };
                Input::LockDisksJoined { op, disks: reached.into_iter().map(outcome).collect() }
            }
            Effect::ContestLockDisks { op, key, victim, .. } => {
                for disk in &mut self.disks {
                    if well {
                        disk.keys.retain(|other| Some(*other) != victim && *other != key);
                        disk.keys.push(key);
                    }
                }
                let answers = self.choices.byte();
                let keys = self.disks.iter().enumerate().map(|(at, disk)| (answers >> at & 1 == 0).then(|| disk.keys.clone()));
                Input::LockDisksContested { op, disks: keys.collect() }
            }
            Effect::WriteRecord { op, record } => {
                let fate = self.choices.byte();
                let mut outcomes = Vec::new();
                for (at, disk) in self.disks.iter_mut().enumerate() {
                    let written = well || fate >> at & 1 == 0;
                    if written {
                        disk.records[self.node.index()][record.slot()] = Some((*record).clone());
                    }
                    outcomes.push(match (written, fate >> (at + 3) & 1) {
                        (true, 0) => WriteOutcome::Written,
                        (false, 0) => WriteOutcome::Failed,
                        _ => WriteOutcome::Unknown,
                    });
                }
                Input::RecordWritten { op, disks: outcomes }
            }
            of_a_pool => self.carry_out_on_pools(of_a_pool, well),
        })
    }

    fn carry_out_on_pools(&mut self, order: Effect, well: bool) -> Input {
        match order {
            Effect::FencePool { op, pool, .. } => {
                let outcomes = [
                    FenceOutcome::Incomplete { fenced: 1, of: 2, unreached: Vec::new() },
                    FenceOutcome::Lost,
                    FenceOutcome::NewerKey { generation: generation(&mut self.choices) },
                    FenceOutcome::Incomplete { fenced: 1, of: 2, unreached: vec![LegSet(2)] },
                ];
                let outcome = if well { FenceOutcome::Fenced } else { self.choices.pick(&outcomes).clone() };
                if well {
                    self.fenced.insert(pool);
                }
                Input::PoolFenced { op, pool, outcome }
            }
            Effect::ReleaseReservations { op, .. } => Input::ReservationsReleased { op, released: 1 + u32::from(well), of: 2 },
            Effect::RestoreReservations { op, .. } => Input::ReservationsRestored { op, restored: 1 + u32::from(well), of: 2 },
            Effect::CheckRelease { op, .. } => Input::ReleaseChecked { op, open: 1 + u32::from(well), of: 2 },
            Effect::InitialiseDisks { op, .. } if !well => Input::DiskInitConflicted { op },
            Effect::InitialiseDisks { op, .. } => Input::DisksInitialised { op, inventory: 7, found: 2, of: 2 },
            Effect::OpenPortals { op, .. } => Input::PortalsOpened { op },
            Effect::OpenPool { op, pool, metadata_version, .. } => {
                let bad = [OpenOutcome::Failed, OpenOutcome::NewerGeneration { generation: generation(&mut self.choices) }];
                let outcome = if well { OpenOutcome::Opened { metadata_version } } else { *self.choices.pick(&bad) };
                if well {
                    self.opened.insert(pool);
                }
                Input::PoolOpened { op, pool, outcome }
            }
            Effect::HoldPool { op, pool } if well => {
                let metadata_version = MetadataVersion(*self.choices.pick(&[2, 1, u64::MAX]));
                Input::PoolHeld { op, pool, metadata_version, legs_are: LegsAre::Equal }
            }
            Effect::HoldPool { op, pool } => {
                let reason = *self.choices.pick(&[NotHeld::DrainTimedOut, NotHeld::FlushFailed, NotHeld::OutcomeUnknown]);
                Input::PoolNotHeld { op, pool, reason }
            }
            Effect::PrepareHandOff { op, .. } => {
                let findings = HandOffFindings { inventory: 7, vetoes: BTreeSet::new(), of_pools: BTreeMap::new(), predicted_pause: Micros(1) };
                Input::HandOffPrepared { op, findings }
            }
            other => unreachable!("{other:?} has no number"),
        }
    }

    fn survey(&mut self, op: Option<Op>) {
        let silent = if self.choices.byte() & 3 == 3 { self.choices.byte() } else { 0 };
        let view = |(at, disk): (usize, &LockDiskView)| (silent >> at & 1 == 0).then(|| disk.clone());
        let survey = Survey { disks: self.disks.iter().enumerate().map(view).collect() };
        self.tell(Input::Surveyed { op, survey: Box::new(survey) });
    }

    /// The partner writes to its area of some lock disks, or registers there.
    fn partner_writes(&mut self) {
        let partner = self.node.partner();
        let (what, which) = (self.choices.below(5), self.choices.byte());
        let record = self.record(partner);
        let key = match self.choices.below(3) {
            2 => ReservationKey(self.choices.u64()),
            at => ReservationKey::on_lock_disk(PAIR, partner, PARTNERS[at]),
        };
        self.partner_heartbeat += 1;
        let beat = Heartbeat { incarnation: *self.choices.pick(&PARTNERS), counter: self.partner_heartbeat };
        for (at, disk) in self.disks.iter_mut().enumerate() {
            if which >> at & 1 != 0 {
                continue;
            }
            match what {
                0 | 1 => disk.records[partner.index()][record.slot()] = Some(record.clone()),
                2 => disk.heartbeats[partner.index()] = Some(beat),
                3 if which & 0x80 != 0 => disk.keys.clear(),
                3 => disk.keys.retain(|key| !key.is_of(PAIR, partner)),
                _ => disk.keys.push(key),
            }
        }
    }

    /// A record as it may be decoded: any values, entries ascending.
    fn record(&mut self, node: NodeId) -> Record {
        let flags = self.choices.byte();
        let mut pools = Vec::new();
        for (bit, pool) in [(1, POOLS[0]), (2, POOLS[1]), (4, PoolId(u32::MAX))] {
            if flags & bit == 0 {
                pools.push(self.entry(pool));
            }
        }
        let sequence = match self.choices.byte() {
            255 => u64::MAX,
            254 => u64::MAX - 1,
            small => u64::from(small),
        };
        Record { pair: PAIR, node, incarnation: *self.choices.pick(&PARTNERS), sequence, pools }
    }

    fn entry(&mut self, pool: PoolId) -> PoolEntry {
        let flags = self.choices.byte();
        PoolEntry {
            pool,
            owner: if flags & 1 == 0 { self.node.partner() } else { self.node },
            generation: generation(&mut self.choices),
            metadata_version: MetadataVersion(*self.choices.pick(&[1, 2, 0, u64::MAX])),
            verdict: *self.choices.pick(&[Verdict::Owned, Verdict::Commit, Verdict::Abort]),
            legs_are: if flags & 2 == 0 { LegsAre::Equal } else { LegsAre::PerhapsDifferent },
            legs: vec![LegSet(*self.choices.pick(&[3, 1, 0, 255])); *self.choices.pick(&[1, 0, 2, 200])],
        }
    }

    /// A page as it may be decoded.
    fn partner_page(&mut self) -> Page {
        let flags = self.choices.byte();
        let choices = &mut self.choices;
        let own_or_other = |flag: bool| if flag { OWN } else { Incarnation(0xdead) };
        let state = *choices.pick(&StateWord::ALL);
        let mut pools = Vec::new();
        for pool in [POOLS[0], POOLS[1], POOLS[0], PoolId(9)].into_iter().take(choices.below(5)) {
            pools.push(PagePool {
                id: pool,
                owner: *choices.pick(&[Some(NodeId::A), Some(NodeId::B), None]),
                state: *choices.pick(&[PoolState::Serving, PoolState::Away, PoolState::Warm, PoolState::Held, PoolState::Refused]),
                wanted: choices.flag(),
                generation: generation(choices),
                metadata_version: MetadataVersion(*choices.pick(&[1, 2, 0, u64::MAX])),
            });
        }
        let seen = *choices.pick(&StateWord::ALL);
        let hows = [WantHow::VetoesCount, WantHow::VetoesOverridden, WantHow::DryRun];
        let how = hows[usize::from(flags & 0x40 != 0) + usize::from(flags & 0x60 == 0x60)];
        let judged = Judged { number: 1, vetoes: u32::from(flags), pause: Micros(u64::MAX) };
        let answers = [WantAnswer::Nothing, WantAnswer::Nothing, WantAnswer::Judged(judged), WantAnswer::Refused(1)];
        let content = PageContent {
            state,
            stage: Stage::Unknown,
            health: *choices.pick(&[Health::Good, Health::Degraded, Health::Unfit]),
            generation: generation(choices),
            acknowledgement: (flags & 1 == 0).then(|| Acknowledgement { incarnation: own_or_other(flags & 2 == 0), state: seen }),
            portals_listening: [flags & 4 == 0, flags & 8 == 0],
            released_to: (flags & 16 == 0).then(|| own_or_other(flags & 2 == 0)),
            inventory: Some(*choices.pick(&[7, 8])),
            vetoes: u32::from(flags),
            announcement: (flags & 32 == 0).then_some(Announcement { generation: generation(choices), to: own_or_other(flags & 2 == 0) }),
            want: (choices.byte() & 3 == 3).then(|| Want { number: *choices.pick(&[1, 2, u64::MAX]), how }),
            want_answer: answers[usize::from(choices.byte() & 3)],
            may_split: choices.byte() & 1 != 0,
            pools,
        };
        self.partner_heartbeat += 1;
        Page {
            pair: PAIR,
            node: self.node.partner(),
            incarnation: PARTNERS[usize::from(flags >> 7)],
            sequence: self.partner_heartbeat * 2,
            layout_version: LAYOUT_VERSION,
            content,
            live: LiveWords { progress: 1, heartbeat: self.partner_heartbeat, last_completion: u64::MAX },
        }
    }

    fn happen(&mut self) {
        let pool = *self.choices.pick(&[POOLS[0], POOLS[1], PoolId(9)]);
        let (mirror, leg) = (MirrorIndex(self.choices.below(3) as u16), LegIndex(self.choices.below(9) as u8));
        let vetoes = if self.choices.flag() { SoftVetoes::Overridden } else { SoftVetoes::Count };
        let earnest = if self.choices.flag() { Earnest::DryRun } else { Earnest::Do };
        self.requests += 1;
        let request = RequestId(self.requests);
        let asked = |what| Input::OperatorAsked { request, what };
        let input = match self.choices.below(8) {
            0 => asked(Request::Takeover { kind: TakeoverKind::Planned, vetoes, earnest }),
            1 => asked(Request::Takeover { kind: TakeoverKind::Forced, vetoes, earnest }),
            2 => asked(Request::Giveback { vetoes, earnest }),
            3 => Input::LegFailed { pool, mirror, leg },
            4 => Input::LegResynced { pool, mirror, leg },
            5 => Input::FenceDoubted { pool },
            6 => Input::ServiceHealthChanged(Health::Degraded),
            _ if earnest == Earnest::DryRun => asked(Request::Halt),
            _ if vetoes == SoftVetoes::Overridden => asked(Request::PartnerLost),
            _ => Input::PartnerLinkClosed,
        };
        self.tell(input);
    }
}

fn generation(choices: &mut Choices<'_>) -> Generation {
    match choices.byte() {
        255 => Generation::LAST,
        254 => Generation(Generation::LAST.0 - 1),
        small => Generation(u32::from(small & 15)),
    }
}

/// The number of an order that is answered.
fn number_of(effect: &Effect) -> Option<Op> {
    match effect {
        Effect::Survey { op }
        | Effect::JoinLockDisks { op, .. }
        | Effect::ContestLockDisks { op, .. }
        | Effect::WriteRecord { op, .. }
        | Effect::FencePool { op, .. }
        | Effect::ReleaseReservations { op, .. }
        | Effect::RestoreReservations { op, .. }
        | Effect::CheckRelease { op, .. }
        | Effect::InitialiseDisks { op, .. }
        | Effect::OpenPortals { op, .. }
        | Effect::OpenPool { op, .. }
        | Effect::HoldPool { op, .. }
        | Effect::PrepareHandOff { op, .. } => Some(*op),
        _without_an_answer => None,
    }
}

/// A lone start, a start beside a partner that serves, a takeover, requests.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let answers = [0, 0, 0, 0, 0, 0].repeat(12);
    let time = [8, 1].repeat(6);
    let page = [5, 0, 5, 2, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 6, 0, 1, 0, 0, 0, 0];
    let asked = [11, 0, 0, 0, 0, 0, 1];
    let whole = |way: u8, parts: &[&[u8]]| Script::new().bytes(&[way]).bytes(&parts.concat()).done();
    vec![
        whole(0, &[&answers, &time, &answers, &time, &answers]),
        whole(1, &[&answers, &page, &answers, &page, &time, &answers]),
        whole(2, &[&time, &answers, &asked, &answers, &[9, 0, 0, 0], &answers, &time, &answers]),
    ]
}
