//! What known clients ask a disk when they find it, in their order, and what they read out of the answers.
//!
//! One file a client: a list of [`Step`]s, each with the CDB as the client builds it and a demand on the answer. Facts about the
//! clients come from their public sources, named at the head of each file; where one asks for a page only because another
//! one names it, the list has it too. Every list is played on a volume of a pair (fully provisioned, reservations always
//! kept) and on a disk of a shelf (thin). No client's code runs here; what was tried with the clients themselves is told in
//! `docs/sessions.md`.
#[path = "../support/late.rs"]
mod late;

mod esxi;
mod libiscsi;
mod linux;
mod pages;
mod windows;

use std::rc::Rc;

use bytes::Bytes;
use late::{LateMedium, options, run};
use understudy_device::{Completion, Medium, NexusHandle, NexusName, Outcome, Target, TaskAttribute, UnitOnMedium};
use understudy_scsi::inquiry::Provisioning;
use understudy_scsi::sense::{Asc, FieldPlace, FieldPointer, Sense, SenseKey};
use understudy_scsi::{Status, luns};
use understudy_unit::unit::{Keep, UnitOptions};

/// One command and what has to come of it.
struct Step {
    what: &'static str,
    cdb: &'static [u8],
    data_out: &'static [u8],
    answer: Answer,
}

/// What a client needs for an answer.
enum Answer {
    /// GOOD, with data in which the client finds what it looks for.
    Good(fn(&Seen)),
    /// CHECK CONDITION with exactly this.
    Refused(Sense),
}

/// Parameter data as the client got it.
struct Seen {
    bytes: Bytes,
    provisioning: Provisioning,
}

impl Seen {
    fn is_thin(&self) -> bool {
        self.provisioning == Provisioning::Thin
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        (u32::from(self.u16(at)) << 16) | u32::from(self.u16(at + 2))
    }

    fn u64(&self, at: usize) -> u64 {
        (u64::from(self.u32(at)) << 32) | u64::from(self.u32(at + 4))
    }
}

const fn asks(what: &'static str, cdb: &'static [u8], demand: fn(&Seen)) -> Step {
    Step { what, cdb, data_out: &[], answer: Answer::Good(demand) }
}

const fn sends(what: &'static str, cdb: &'static [u8], data_out: &'static [u8]) -> Step {
    Step { what, cdb, data_out, answer: Answer::Good(no_data) }
}

const fn is_refused(what: &'static str, cdb: &'static [u8], sense: Sense) -> Step {
    Step { what, cdb, data_out: &[], answer: Answer::Refused(sense) }
}

fn no_data(seen: &Seen) {
    assert!(seen.bytes.is_empty());
}

/// The unit attention of a first visit, which every client has to swallow.
const POWER_ON: Sense = Sense::attention(Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET);
/// What a command that is not there is answered with.
const UNKNOWN_COMMAND: Sense = Sense::illegal(Asc::INVALID_COMMAND_OPERATION_CODE);

/// INVALID FIELD IN CDB, pointing at a byte and, where it is known, a bit.
const fn invalid(byte: u16, bit: Option<u8>) -> Sense {
    let mut sense = Sense::illegal(Asc::INVALID_FIELD_IN_CDB);
    sense.field = Some(FieldPointer { place: FieldPlace::Cdb, byte, bit });
    sense
}

/// The two units every client is tried on.
fn kinds() -> [UnitOptions; 2] {
    let volume = UnitOptions { keep: Keep::Always, provisioning: Provisioning::Full, ..options() };
    [volume, options()]
}

fn logged_in(options: UnitOptions, name: &str) -> (Rc<LateMedium>, NexusHandle) {
    let medium = LateMedium::new();
    let target = Target::new("iqn.2026-01.test:target");
    target.add(0, UnitOnMedium::new(options, Rc::clone(&medium) as Rc<dyn Medium>, None).unwrap()).unwrap();
    let initiator_name = name.to_owned();
    let nexus = NexusName { initiator_name, isid: [0x40, 0, 1, 0x37, 0, 0], target_portal_group: 1 };
    (medium, target.attach(nexus))
}

fn play(name: &str, steps: &[Step]) {
    for options in kinds() {
        run(|| async {
            let provisioning = options.provisioning;
            let (_medium, client) = logged_in(options, name);
            for step in steps {
                let mut cdb = [0; 16];
                cdb[..step.cdb.len()].copy_from_slice(step.cdb);
                let task = client.begin(0, 1, TaskAttribute::Simple, cdb);
                let Outcome::Completed(completion) = task.execute(Bytes::from_static(step.data_out)).await else {
                    panic!("{}: no answer", step.what)
                };
                judge(step, completion, provisioning);
            }
        });
    }
}

fn judge(step: &Step, completion: Completion, provisioning: Provisioning) {
    let sense = completion.sense.as_deref().and_then(Sense::parse);
    let shown = format!("{} on a {provisioning:?} unit: {:?} {sense:x?}", step.what, completion.status);
    println!("{shown}");
    match &step.answer {
        Answer::Good(demand) => {
            assert_eq!(completion.status, Status::Good, "{shown}");
            demand(&Seen { bytes: completion.data_in, provisioning });
        }
        Answer::Refused(expected) => {
            assert_eq!(completion.status, Status::CheckCondition, "{shown}");
            assert_eq!(sense, Some(*expected), "{shown}");
        }
    }
}

#[test]
fn linux_finds_the_disk_and_all_it_uses() {
    play("iqn.1993-08.org.debian:01:host", linux::SCAN);
    play("iqn.1993-08.org.debian:01:host", linux::LATER_KERNELS);
}

#[test]
fn linux_multipath_and_fencing_agents_get_what_they_ask() {
    play("iqn.1993-08.org.debian:01:host", linux::MULTIPATH);
}

#[test]
fn libiscsi_and_qemu_open_the_disk() {
    play("iqn.2008-11.org.linux-kvm:guest", libiscsi::CONNECT);
    play("iqn.2008-11.org.linux-kvm:guest", libiscsi::QEMU);
}

#[test]
fn windows_finds_the_disk_and_its_cluster_can_reserve_it() {
    play("iqn.1991-05.com.microsoft:host", windows::SCAN);
    play("iqn.1991-05.com.microsoft:host", windows::CLUSTER);
}

#[test]
fn esxi_finds_the_disk_and_the_primitives_it_offloads() {
    play("iqn.1998-01.com.vmware:host", esxi::SCAN);
    play("iqn.1998-01.com.vmware:host", esxi::OFFLOADS);
}

/// All of them ask LUN 0 first, and some look where nothing is.
#[test]
fn a_number_without_a_unit_says_so_to_every_way_of_asking() {
    run(|| async {
        let (_medium, client) = logged_in(options(), "iqn.2026-01.test:host");
        let ask = async |cdb: [u8; 6]| {
            let mut full = [0; 16];
            full[..6].copy_from_slice(&cdb);
            let task = client.begin(luns::encode_lun(5), 1, TaskAttribute::Simple, full);
            match task.execute(Bytes::new()).await {
                Outcome::Completed(completion) => completion,
                other => panic!("{other:?}"),
            }
        };
        let inquiry = ask([0x12, 0, 0, 0, 36, 0]).await;
        assert_eq!((inquiry.status, inquiry.data_in[0], inquiry.data_in.len()), (Status::Good, 0x7f, 36));
        for cdb in [[0; 6], [0x12, 1, 0x83, 0, 255, 0], [0x1a, 0, 0x3f, 0, 255, 0]] {
            let sense = ask(cdb).await.sense.as_deref().and_then(Sense::parse);
            assert_eq!(sense, Some(Sense::new(SenseKey::IllegalRequest, Asc::LOGICAL_UNIT_NOT_SUPPORTED)), "{cdb:x?}");
        }
    });
}
