//! A whole logical unit: any commands with any data from several nexuses, in any order, with aborts, resets, restarts.
//!
//! The fuzzer plays the initiators, the medium (which ends commands when it likes) and the driver that keeps state.
//!
//! Properties: no answer is longer than the CDB allows; sense data reads back; work for the medium lies on the unit and
//! never exceeds what one command may move; a nexus that the reservation bars gets no such work, judged by a table
//! of its own; a holder is always registered; PRGENERATION only grows; what PERSISTENT RESERVE IN shows is what
//! stands; bytes kept for a change open the unit again with the same reservations; an abort ends every task it names.

use bytes::Bytes;
use understudy_scsi::Status;
use understudy_scsi::cdb::{Command, Compare, Pattern, Span};
use understudy_scsi::inquiry::Provisioning;
use understudy_scsi::provisioning::encode_unmap;
use understudy_scsi::reservation::{
    AllTargetPorts, KeyList, MoveList, OutList, OwnRegistration, Persistence, ReservationReport, ReservationType,
    parse_full_status,
};
use understudy_scsi::sense::{Asc, Sense, SenseKey};
use understudy_scsi::transport::{InitiatorPort, TransportId};
use understudy_unit::reservations::Reservations;
use understudy_unit::unit::{Access, Change, Keep, LogicalUnit, Plan, Reset, UnitOptions, Work};
use understudy_unit::{Admission, Completion, Geometry, Identity, Nexus, NexusId, TaskAttribute, TaskId};

use crate::cdb::plausible;
use crate::choices::{Choices, Script};

const MOST_STEPS: usize = 200;
/// Most data of one command: what the unit's Block Limits page says.
const MOST_BYTES: u64 = 32 << 20;
const TARGET: &str = "iqn.2026-01.test:t";

/// A command in the task set.
#[derive(Debug)]
struct Listed {
    task: TaskId,
    nexus: usize,
    cdb: [u8; 16],
    plan: Plan,
    data_out: Bytes,
    at_medium: bool,
}

struct Bench<'a> {
    choices: Choices<'a>,
    options: UnitOptions,
    unit: LogicalUnit,
    kept: Option<Vec<u8>>,
    names: Vec<Nexus>,
    attached: Vec<Option<NexusId>>,
    listed: Vec<Listed>,
    /// A change between planning and commit, and whose.
    changing: Option<(usize, TaskId, Change)>,
    generation: u32,
}

fn nexus(number: u8) -> Nexus {
    let port = InitiatorPort { name: format!("iqn.2026-01.test:c{}", number / 2), isid: [0x80, 0, 0, 0, 0, number] };
    Nexus { initiator: port, target_port: 1 + u16::from(number == 3) }
}

/// Plays the script.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut options = UnitOptions::new(Identity { uuid: *b"0123456789abcdef", product: "FUZZED".into() });
    let way = choices.byte();
    options.keep = if way & 1 == 0 { Keep::Always } else { Keep::AsAskedByAptpl };
    options.provisioning = if way & 2 == 0 { Provisioning::Thin } else { Provisioning::Full };
    options.access = if way & 12 == 12 { Access::WriteProtected } else { Access::ReadWrite };
    let geometry = *choices.pick(&[
        Geometry { block_bytes: 512, blocks: 4096 },
        Geometry { block_bytes: 4096, blocks: 1 << 40 },
        Geometry { block_bytes: 512, blocks: u64::MAX },
        Geometry { block_bytes: 512, blocks: 1 },
    ]);
    let unit = LogicalUnit::new(options.clone(), geometry, None).expect("a fresh unit opens");
    let names: Vec<Nexus> = (0..4).map(nexus).collect();
    let attached = vec![None; names.len()];
    let listed = Vec::new();
    let mut bench =
        Bench { choices, options, unit, kept: None, names, attached, listed, changing: None, generation: 0 };
    for _ in 0..MOST_STEPS {
        if bench.choices.is_over() {
            break;
        }
        bench.step();
        bench.judge_reservations();
    }
}

impl Bench<'_> {
    fn step(&mut self) {
        match self.choices.below(16) {
            0..=6 => self.begin(),
            7..=11 => self.work(),
            12 => self.end_one(),
            13 => self.commit(),
            14 => self.disturb(),
            _ => self.restart(),
        }
    }

    /// The number and the name of a nexus, attached if it was not.
    fn nexus(&mut self) -> (usize, NexusId) {
        let number = self.choices.below(self.names.len());
        let id = match self.attached[number] {
            Some(id) => id,
            None => self.unit.attach(self.names[number].clone()),
        };
        self.attached[number] = Some(id);
        (number, id)
    }

    fn cdb(&mut self) -> [u8; 16] {
        if self.choices.byte() == 255 {
            return self.choices.exactly();
        }
        let mut cdb = plausible(&mut self.choices);
        // Most addresses near the start, most counts small: anything else ends at the first check.
        if self.choices.byte() & 3 != 0 {
            match cdb[0] >> 5 {
                1 | 2 if !matches!(cdb[0], 0x42 | 0x55 | 0x5a | 0x5e | 0x5f) => {
                    cdb[2..5].fill(0);
                    cdb[7] = 0;
                }
                4 => {
                    cdb[2..9].fill(0);
                    cdb[10..13].fill(0);
                }
                _ => {}
            }
        }
        cdb
    }

    fn begin(&mut self) {
        let (number, id) = self.nexus();
        let mut cdb = self.cdb();
        let data_out = self.data_out(&mut cdb);
        let attribute =
            *self.choices.pick(&[TaskAttribute::Simple, TaskAttribute::Ordered, TaskAttribute::HeadOfQueue]);
        let tag = self.choices.below(8) as u32;
        let begun = self.unit.begin(id, tag, attribute, &cdb);
        assert!(u64::from(begun.data_out_bytes) <= MOST_BYTES);
        match &begun.plan {
            Plan::Refused(completion) => {
                assert_eq!(begun.data_out_bytes, 0);
                judge_completion(completion, 0);
            }
            Plan::Command(command) => assert_eq!(Command::parse(&cdb), Ok(*command)),
        }
        // The transport delivers no more than the CDB asks for, often less.
        let delivered = data_out.slice(..data_out.len().min(begun.data_out_bytes as usize));
        let (task, plan) = (begun.task, begun.plan);
        self.listed.push(Listed { task, nexus: number, cdb, plan, data_out: delivered, at_medium: false });
    }

    /// Data-out for a CDB; sets the lengths in those that carry a parameter list.
    fn data_out(&mut self, cdb: &mut [u8; 16]) -> Bytes {
        let list = match cdb[0] {
            0x5f => self.reserve_list(cdb[1]),
            0x42 => self.unmap_list(),
            0x15 | 0x55 => self.mode_list(cdb[0] == 0x55),
            _ => return Bytes::from(vec![3; *self.choices.pick(&[512, 1024, 4096, 8192, 0, 511])]),
        };
        if self.choices.byte() & 15 != 15 {
            match cdb[0] {
                0x5f => cdb[5..9].copy_from_slice(&(list.len() as u32).to_be_bytes()),
                0x15 => cdb[4] = list.len() as u8,
                _ => cdb[7..9].copy_from_slice(&(list.len() as u16).to_be_bytes()),
            }
        }
        list.into()
    }

    fn key(&mut self) -> u64 {
        *self.choices.pick(&[1, 2, 0, 3, u64::MAX])
    }

    fn port(&mut self) -> TransportId {
        let named = self.choices.below(5);
        match self.names.get(named) {
            Some(nexus) => TransportId::Port(nexus.initiator.clone()),
            None => TransportId::Device("iqn.2026-01.test:c0".into()),
        }
    }

    fn reserve_list(&mut self, action: u8) -> Vec<u8> {
        let flags = self.choices.byte();
        let (key, action_key) = (self.key(), self.key());
        let persistence = if flags & 1 == 0 { Persistence::ThroughPowerLoss } else { Persistence::Volatile };
        match flags >> 5 {
            7 => self.choices.chunk().to_vec(),
            _ if action & 0x1f == 7 => {
                let own_registration = if flags & 2 == 0 { OwnRegistration::Kept } else { OwnRegistration::Removed };
                let (target_port, port) = (1 + u16::from(flags & 4 != 0), self.port());
                MoveList { key, action_key, own_registration, persistence, target_port, port }.encode()
            }
            _ => {
                let count = self.choices.below(3);
                let ports = (flags & 0x18 == 0x18).then(|| (0..count).map(|_| self.port()).collect());
                let all_target_ports = if flags & 6 == 6 { AllTargetPorts::Yes } else { AllTargetPorts::No };
                OutList { key, action_key, ports, all_target_ports, persistence }.encode()
            }
        }
    }

    fn unmap_list(&mut self) -> Vec<u8> {
        let count = self.choices.below(6);
        if count == 5 {
            return self.choices.chunk().to_vec();
        }
        let span = |choices: &mut Choices<'_>| Span {
            lba: *choices.pick(&[0, 8, 4095, 4096, u64::MAX]),
            blocks: *choices.pick(&[0, 1, 8, 4096, u64::from(u32::MAX)]),
        };
        encode_unmap(&(0..count).map(|_| span(&mut self.choices)).collect::<Vec<_>>())
    }

    fn mode_list(&mut self, ten: bool) -> Vec<u8> {
        let mut list = vec![0; if ten { 8 } else { 4 }];
        match self.choices.below(4) {
            0 => list.extend([0x08, 0x12, 0].into_iter().chain([0; 17])),
            1 => {
                let (format, protect, aborted) = (self.choices.byte(), self.choices.byte(), self.choices.byte());
                list.extend([0x0a, 0x0a, 0x20 | format & 4, 0x10, protect & 8, aborted & 0x40, 0, 0, 0xff, 0xff, 0, 0]);
            }
            _ => list.extend(self.choices.chunk()),
        }
        list
    }

    /// A command that may start does.
    fn work(&mut self) {
        let index = self.choices.below(self.listed.len());
        let Some(listed) = self.listed.get(index) else { return };
        match self.unit.admission(listed.task) {
            Admission::Wait => return,
            Admission::Aborted => {
                if let Some(answer) = self.unit.answer_of_aborted(listed.task) {
                    judge_completion(&answer, 0);
                }
                if !listed.at_medium {
                    self.end(index);
                }
                return;
            }
            Admission::Go if listed.at_medium => return,
            Admission::Go => {}
        }
        let Plan::Command(command) = listed.plan else { return self.end(index) };
        let Some(id) = self.attached[listed.nexus] else { return self.end(index) };
        let (task, cdb, number, data_out) = (listed.task, listed.cdb, listed.nexus, listed.data_out.clone());
        let before = self.unit.reservations().clone();
        let work = self.unit.work(id, &command, &data_out, TARGET);
        match work {
            Work::Done(completion) => {
                judge_completion(&completion, allocation(&cdb));
                if completion.status == Status::Good {
                    judge_report(&cdb, &completion, &before);
                }
                self.end(index);
            }
            Work::Change(request) => {
                if self.changing.is_some() {
                    return;
                }
                match self.unit.plan_change(id, task, &request) {
                    Ok(change) => {
                        self.unit.start(task);
                        self.listed[index].at_medium = true;
                        self.changing = Some((number, task, change));
                    }
                    Err(completion) => {
                        judge_completion(&completion, 0);
                        self.end(index);
                    }
                }
            }
            work => {
                self.judge_work(&work, number, &data_out);
                assert_eq!(self.unit.admit_again(id, &command), Ok(()));
                self.unit.start(task);
                self.listed[index].at_medium = true;
                assert!(self.unit.is_at_medium(task));
            }
        }
    }

    /// Work for the medium is possible, and this nexus may have it.
    fn judge_work(&self, work: &Work, nexus: usize, data_out: &Bytes) {
        let block = u64::from(self.unit.geometry().block_bytes);
        let have = data_out.len() as u64;
        let (spans, writes, needed) = match work {
            Work::Read(span) => {
                assert!(span.blocks * block <= MOST_BYTES);
                (vec![*span], false, 0)
            }
            Work::Verify(span, Compare::EveryBlock) => (vec![*span], false, span.blocks * block),
            Work::Verify(span, Compare::OneBlock) => (vec![*span], false, block),
            Work::Verify(span, Compare::Nothing) => (vec![*span], false, 0),
            Work::Write(span, _) | Work::WriteAndVerify(span, _) | Work::OrWrite(span, _) => (vec![*span], true, span.blocks * block),
            Work::WriteSame(span, Pattern::DataOut, _) => (vec![*span], true, block),
            Work::WriteSame(span, Pattern::Zeroes, _) => (vec![*span], true, 0),
            Work::CompareAndWrite(span, _) => (vec![*span], true, span.blocks * block * 2),
            Work::Unmap(spans) => {
                assert!(spans.len() <= 256);
                (spans.clone(), true, 0)
            }
            Work::Flush => (Vec::new(), true, 0),
            Work::LbaStatus { lba, most, .. } => {
                assert!((1..=256).contains(most));
                (vec![Span { lba: *lba, blocks: 1 }], false, 0)
            }
            Work::Done(_) | Work::Change(_) => unreachable!("answered elsewhere"),
        };
        assert!(needed <= have, "{work:?} with {have} bytes of data");
        for span in spans {
            assert!(span.blocks > 0, "{work:?}");
            let end = span.lba.checked_add(span.blocks);
            assert!(end.is_some_and(|end| end <= self.unit.geometry().blocks), "{work:?} lies beyond the unit");
        }
        assert!(may(self.unit.reservations(), &self.names[nexus], writes), "{work:?} for a barred nexus");
        assert!(!writes || matches!(work, Work::Flush) || self.options.access == Access::ReadWrite);
    }

    fn end(&mut self, index: usize) {
        let listed = self.listed.swap_remove(index);
        self.unit.end(listed.task);
        assert!(!self.unit.is_at_medium(listed.task));
    }

    /// The medium is done with a command.
    fn end_one(&mut self) {
        let index = self.choices.below(self.listed.len());
        let Some(listed) = self.listed.get(index) else { return };
        let is_change = self.changing.as_ref().is_some_and(|(_, task, _)| *task == listed.task);
        if listed.at_medium && !is_change {
            if self.choices.flag() {
                let error = self.unit.medium_error(SenseKey::MediumError, Asc::NONE, Some(self.choices.u64()));
                judge_completion(&error, 0);
            }
            self.end(index);
        }
    }

    /// The change that was planned is kept and takes effect, or could not be kept.
    fn commit(&mut self) {
        let Some((_, task, change)) = self.changing.take() else { return };
        let index = self.listed.iter().position(|listed| listed.task == task).expect("a change has its task");
        let bytes = self.unit.bytes_to_keep(&change);
        if self.choices.byte() & 7 == 7 {
            return self.end(index);
        }
        if let Some(bytes) = &bytes {
            self.kept = Some(bytes.clone());
        }
        for aborted in self.unit.commit(change, bytes) {
            assert!(self.unit.is_aborted(aborted) && self.unit.is_at_medium(aborted) && aborted != task);
        }
        assert!(self.unit.generation_at_least(self.generation));
        self.generation = self.unit.reservations().generation();
        self.end(index);
    }

    fn disturb(&mut self) {
        let number = self.choices.below(self.names.len());
        match (self.choices.below(6), self.attached[number]) {
            (0, Some(id)) => {
                if let Some(task) = self.unit.abort_task(id, self.choices.below(8) as u32) {
                    assert!(self.unit.is_aborted(task));
                }
            }
            (1, Some(id)) => {
                for task in self.unit.abort_task_set(id) {
                    assert!(self.unit.is_aborted(task) && self.unit.is_at_medium(task));
                }
            }
            (2, Some(id)) => {
                self.unit.detach(id);
                self.attached[number] = None;
                let mut gone = self.listed.iter().filter(|listed| listed.nexus == number);
                assert!(gone.all(|listed| self.unit.is_aborted(listed.task)));
                // Its driver ends what is not at the medium; a change already being kept goes on to its end.
                let over = |listed: &Listed| listed.nexus == number && !listed.at_medium;
                while let Some(index) = self.listed.iter().position(over) {
                    self.end(index);
                }
            }
            (3, _) => {
                let kind = if self.choices.flag() { Reset::Unit } else { Reset::Cold };
                self.unit.reset(kind);
                assert!(self.listed.iter().all(|listed| self.unit.is_aborted(listed.task)));
            }
            (4, Some(id)) => {
                self.unit.luns_changed(id);
                self.unit.luns_reported(id);
            }
            _ => {
                let Geometry { block_bytes, blocks } = self.unit.geometry();
                self.unit.resize(Geometry { block_bytes, blocks: blocks.saturating_add(8) });
            }
        }
    }

    /// The process ends and the unit is opened from what was kept.
    fn restart(&mut self) {
        let kept = self.kept.clone();
        let unit = LogicalUnit::new(self.options.clone(), self.unit.geometry(), kept.as_deref());
        let unit = unit.expect("what was kept opens the unit");
        let (old, new) = (self.unit.reservations(), unit.reservations());
        let survives = self.options.keep == Keep::Always || old.persistence() == Persistence::ThroughPowerLoss;
        if survives {
            assert_eq!(old, new, "kept is what stood");
        } else {
            assert!(new.is_unused() && new.held().is_none());
        }
        self.generation = new.generation();
        self.unit = unit;
        self.listed.clear();
        self.changing = None;
        self.attached.fill(None);
    }

    fn judge_reservations(&self) {
        let reservations = self.unit.reservations();
        assert_eq!(reservations.invariant_holder_is_registered(), Ok(()));
        assert!(reservations.keys().all(|key| key != 0), "key zero is no registration");
    }
}

trait Generations {
    fn generation_at_least(&self, before: u32) -> bool;
}

impl Generations for LogicalUnit {
    fn generation_at_least(&self, before: u32) -> bool {
        self.reservations().generation().wrapping_sub(before) < 1 << 31
    }
}

/// Who may do what while a reservation stands (SPC-4 r37 §5.13.1, table of reservation types), written down once more.
fn may(reservations: &Reservations, nexus: &Nexus, writes: bool) -> bool {
    use ReservationType as T;
    let Some(held) = reservations.held() else { return true };
    let registered = reservations.key_of(nexus).is_some();
    let holder = held.holder.as_ref() == Some(nexus);
    match held.kind {
        T::WriteExclusive => !writes || holder,
        T::ExclusiveAccess => holder,
        T::WriteExclusiveRegistrantsOnly | T::WriteExclusiveAllRegistrants => !writes || registered,
        T::ExclusiveAccessRegistrantsOnly | T::ExclusiveAccessAllRegistrants => registered,
    }
}

/// The allocation length of a CDB, by the standards' tables and not by our parser.
fn allocation(cdb: &[u8; 16]) -> u32 {
    let long = |at: usize| u32::from_be_bytes(cdb[at..at + 4].try_into().expect("four bytes"));
    let short = |at: usize| u32::from(u16::from_be_bytes([cdb[at], cdb[at + 1]]));
    match cdb[0] {
        0x03 | 0x1a => u32::from(cdb[4]),
        0x12 => short(3),
        0x25 => 8,
        0x37 | 0x4d | 0x5a | 0x5e => short(7),
        0x9e => long(10),
        0xa0 | 0xa3 | 0xb7 => long(6),
        _ => 0,
    }
}

fn judge_completion(completion: &Completion, allocation: u32) {
    assert!(completion.data_in.len() <= allocation as usize, "{completion:?} for {allocation} bytes");
    let is_check = completion.status == Status::CheckCondition;
    assert_eq!(is_check, completion.sense.is_some());
    if let Some(bytes) = &completion.sense {
        assert!(bytes.len() <= 252);
        assert!(Sense::parse(bytes).is_some(), "{bytes:02x?}");
    }
    if completion.status != Status::Good {
        assert!(completion.data_in.is_empty());
    }
}

/// PERSISTENT RESERVE IN shows what stands, as far as it fits.
fn judge_report(cdb: &[u8; 16], completion: &Completion, standing: &Reservations) {
    if cdb[0] != 0x5e {
        return;
    }
    let data = &completion.data_in;
    match cdb[1] & 0x1f {
        0 if data.len() >= 8 => {
            let keys = KeyList::parse(data).expect("our own parameter data");
            assert_eq!(keys.generation, standing.generation());
            assert_eq!(keys.keys.len() + keys.missing, standing.keys().len());
            assert!(keys.keys.into_iter().eq(standing.keys().take((data.len() - 8) / 8)));
        }
        1 if data.len() >= 24 || (data.len() >= 8 && standing.held().is_none()) => {
            let report = ReservationReport::parse(data).expect("our own parameter data");
            assert_eq!(report.held, standing.report());
        }
        3 if allocation(cdb) == 0xffff => {
            let (generation, found) = parse_full_status(data).expect("our own parameter data");
            assert_eq!((generation, found), (standing.generation(), standing.full_status()));
        }
        _ => {}
    }
}

/// Decisions for one command with its data: nexus, no wild CDB, row of the table, bytes, small addresses.
fn command(nexus: u8, row: u8, cdb: [u8; 16], data: &[u8]) -> Script {
    Script::new().bytes(&[0, nexus, 0, row]).bytes(&cdb).bytes(&[1]).bytes(data).bytes(&[0, 0])
}

fn row(code: u8, action: Option<u8>) -> u8 {
    let rows = understudy_scsi::operations::OPERATIONS.iter();
    rows.zip(0u8..).find(|(row, _)| row.code == code && row.action == action).expect("a command of the table").1
}

/// Reservations by several nexuses, writes before and after, unmap, mode select, a restart; every command once for every page.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let work = [7, 0];
    let commit = [13, 0];
    // The unit attention of a fresh nexus is taken by its first command.
    let greet = |nexus| Script::new().bytes(&command(nexus, row(0x00, None), [0; 16], &[0]).done()).bytes(&work).done();
    let reserve = |nexus: u8, action: u8, kind: u8, list: &[u8]| {
        let mut cdb = [0xff; 16];
        cdb[2] = kind;
        let list = [list, &[0]].concat();
        let script = Script::new().bytes(&command(nexus, row(0x5f, Some(action)), cdb, &list).done());
        script.bytes(&work).bytes(&commit).done()
    };
    let ask = |nexus: u8, action: u8| {
        let script = command(nexus, row(0x5e, Some(action)), [0xff; 16], &[0]);
        Script::new().bytes(&script.done()).bytes(&work).done()
    };
    let write = |nexus: u8| {
        let mut cdb = [0; 16];
        cdb[13] = 1;
        Script::new().bytes(&command(nexus, row(0x8a, None), cdb, &[0]).done()).bytes(&work).bytes(&[12, 0, 0]).done()
    };
    // Flags, own key, action key, count of ports: register with key 1 (2 for the second nexus), reserve, preempt.
    let register = |nexus: u8| reserve(nexus, 0, 0, &[0, 2, nexus, 0]);
    let hold = |nexus: u8, kind: u8| reserve(nexus, 1, kind, &[0, nexus, 0, 0]);
    let preempt = |nexus: u8| reserve(nexus, 5, 6, &[0, nexus, 1 - nexus, 0]);
    let unmap = command(0, row(0x42, None), [0xff; 16], &[2, 0, 2, 1, 1, 0]).bytes(&work).done();
    let select = command(0, row(0x15, None), [0x11; 16], &[1, 4, 8, 0x40, 0]).bytes(&[7, 0, 13, 0]).done();
    let whole = |parts: &[Vec<u8>]| [&[0, 0][..], &parts.concat()].concat();
    // Every command that has no list, by a nexus that was just greeted: pages zero and "all pages" (SPC-4 r37 §6.11) in full,
    // addresses at the start. Those that wait at the medium end with the restart.
    let in_full = |row: u8| {
        [0, 0x3f].map(|page| {
            let mut cdb = [0xff; 16];
            cdb[1] = 0;
            cdb[2] = page;
            [greet(0), command(0, row, cdb, &[0]).bytes(&work).done(), vec![15]].concat()
        })
    };
    let lists = [0x15, 0x42, 0x55, 0x5f];
    let table = understudy_scsi::operations::OPERATIONS.iter().zip(0u8..);
    let rows: Vec<u8> = table.filter(|(operation, _)| !lists.contains(&operation.code)).map(|(_, row)| row).collect();
    let everything = rows.chunks(16).map(|rows| {
        let asked: Vec<Vec<u8>> = rows.iter().flat_map(|row| in_full(*row)).collect();
        whole(&asked)
    });
    let stories = [
        whole(&[greet(0), greet(1), register(0), register(1), hold(0, 6), ask(1, 0), ask(1, 1), ask(1, 3)]),
        whole(&[greet(0), greet(1), register(0), hold(0, 5), write(0), write(1), register(1), preempt(1), write(0)]),
        whole(&[greet(0), unmap, select, write(0), vec![15], greet(0), ask(0, 2)]),
    ];
    stories.into_iter().chain(everything).collect()
}
