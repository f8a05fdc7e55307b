//! Parameter lists an initiator sends: PERSISTENT RESERVE OUT in both forms with TransportIDs, MODE SELECT, UNMAP.
//!
//! Properties: what is read is written back to a list that reads the same; a TransportID never claims more bytes than
//! there are; a page selected lies within the list and is as long as its layout; no more extents than were announced
//! to be possible; every refusal is sense data that reads back.

use understudy_scsi::cdb::{ModeForm, Span};
use understudy_scsi::mode::{self, Header, PAGES};
use understudy_scsi::provisioning::{self, MOST_UNMAP_DESCRIPTORS};
use understudy_scsi::reservation::{AllTargetPorts, MoveList, OutList, OwnRegistration, Persistence};
use understudy_scsi::sense::{Sense, SenseFormat};
use understudy_scsi::transport::{InitiatorPort, LONGEST_NAME, TransportId};

use crate::choices::{Choices, Script};

const HEADER: Header = Header { write_protected: false, blocks: 4096, block_bytes: 512 };

/// Reads the bytes as each of the lists.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.below(6) {
        0 => plain(choices.remainder()),
        1 => moving(choices.remainder()),
        2 => transport(choices.remainder()),
        3 => select(ModeForm::Six, choices.remainder()),
        4 => select(ModeForm::Ten, choices.remainder()),
        _ => unmap(choices.remainder()),
    }
}

fn refused(sense: Sense) {
    for format in [SenseFormat::Fixed, SenseFormat::Descriptor] {
        assert_eq!(Sense::parse(&sense.encode(format)), Some(sense));
    }
}

fn plain(list: &[u8]) {
    match OutList::parse(list) {
        Ok(read) => {
            assert!(read.ports.as_ref().is_none_or(|ports| ports.len() * 24 <= list.len()));
            assert_eq!(OutList::parse(&read.encode()), Ok(read));
        }
        Err(sense) => refused(sense),
    }
}

/// The length field is made right first: it has to agree with the list exactly.
fn moving(list: &[u8]) {
    let mut list = list.to_vec();
    if list.len() > 24 && list[16] & 0x80 == 0 {
        let length = (list.len() - 24) as u32;
        list[20..24].copy_from_slice(&length.to_be_bytes());
    }
    match MoveList::parse(&list) {
        Ok(read) => assert_eq!(MoveList::parse(&read.encode()), Ok(read)),
        Err(sense) => refused(sense),
    }
}

fn transport(bytes: &[u8]) {
    let Some((id, taken)) = TransportId::parse(bytes) else { return };
    assert!(taken <= bytes.len() && taken.is_multiple_of(4));
    let (TransportId::Port(InitiatorPort { name, .. }) | TransportId::Device(name)) = &id;
    assert!(!name.is_empty() && name.len() <= LONGEST_NAME && !name.contains('\0'));
    let again = id.encode();
    let length = again.len();
    assert_eq!(TransportId::parse(&again), Some((id, length)));
}

fn select(form: ModeForm, list: &[u8]) {
    match mode::parse_select(form, list, HEADER) {
        Ok(pages) => {
            for page in pages {
                assert_eq!(page.body.len(), PAGES[page.layout].default.len());
                assert_eq!(&list[page.at..page.at + page.body.len()], page.body);
            }
        }
        Err(sense) => refused(sense),
    }
}

fn unmap(list: &[u8]) {
    match provisioning::parse_unmap(list) {
        Ok(spans) => {
            assert!(spans.len() <= MOST_UNMAP_DESCRIPTORS as usize && spans.len() * 16 <= list.len());
            assert_eq!(provisioning::parse_unmap(&provisioning::encode_unmap(&spans)), Ok(spans));
        }
        Err(sense) => refused(sense),
    }
}

/// One list of each kind.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let port = TransportId::Port(InitiatorPort { name: "iqn.2026-01.test:c".into(), isid: [0x80, 0, 0, 0, 0, 1] });
    let device = TransportId::Device("iqn.2026-01.test:d".into());
    let out = OutList {
        key: 1,
        action_key: 2,
        ports: Some(vec![port.clone(), device.clone()]),
        all_target_ports: AllTargetPorts::Yes,
        persistence: Persistence::ThroughPowerLoss,
    };
    let moved = MoveList {
        key: 1,
        action_key: 2,
        own_registration: OwnRegistration::Removed,
        persistence: Persistence::Volatile,
        target_port: 1,
        port: port.clone(),
    };
    let six = [0, 0, 0, 8, 0, 0, 0x10, 0, 0, 0, 2, 0, 0x0a, 0x0a, 0x24, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0];
    let ten = [0, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x12, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let unmap = provisioning::encode_unmap(&[Span { lba: 0, blocks: 8 }, Span { lba: 64, blocks: 1 }]);
    let seed = |kind: u8, list: &[u8]| Script::new().bytes(&[kind]).bytes(list).done();
    vec![
        seed(0, &out.encode()),
        seed(0, &OutList { ports: None, ..out }.encode()),
        seed(1, &moved.encode()),
        seed(2, &device.encode()),
        seed(3, &six),
        seed(4, &ten),
        seed(5, &unmap),
    ]
}
