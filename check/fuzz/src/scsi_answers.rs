//! What a disk answers, as the initiator reads it: sense, INQUIRY and its pages, capacity, units, reservations.
//!
//! Properties: nothing read is larger than what it was read from, however long it says it is; what is read is written
//! back to bytes that read the same.

use understudy_scsi::alua::{self, AccessCause, AccessState, PortGroup, ReportFormat};
use understudy_scsi::capacity::Capacity;
use understudy_scsi::inquiry::{self, BlockLimits, Designator, DesignatorName, page};
use understudy_scsi::luns;
use understudy_scsi::reservation::{self, Capabilities, FullStatus, HeldReservation, KeyList, ReservationReport, ReservationType};
use understudy_scsi::sense::{Asc, Sense, SenseFormat};
use understudy_scsi::transport::InitiatorPort;

use crate::choices::{Choices, Script};

/// Reads the bytes as each of the answers.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.below(9) {
        0 => sense(choices.remainder()),
        1 => standard(choices.remainder()),
        2 => pages(choices.remainder()),
        3 => capacity(choices.remainder()),
        4 => units(choices.remainder()),
        5 => keys(choices.remainder()),
        6 => report(choices.remainder()),
        7 => full_status(choices.remainder()),
        _ => groups(choices.remainder()),
    }
}

fn groups(bytes: &[u8]) {
    let read = alua::parse_groups(bytes);
    assert!(read.len() * 8 <= bytes.len());
    for format in [ReportFormat::LengthOnly, ReportFormat::Extended] {
        assert_eq!(alua::parse_groups(&alua::encode_groups(&read, format, 0)), read);
    }
}

fn sense(bytes: &[u8]) {
    let Some(read) = Sense::parse(bytes) else { return };
    assert_eq!(Sense::parse(&read.encode(SenseFormat::Descriptor)), Some(read));
    let narrow = read.information.is_none_or(|wide| u32::try_from(wide).is_ok());
    if narrow {
        assert_eq!(Sense::parse(&read.encode(SenseFormat::Fixed)), Some(read));
    }
    assert!(!format!("{read:?}").is_empty());
}

fn standard(bytes: &[u8]) {
    let Some((_, identity)) = inquiry::parse_standard(bytes) else { return };
    // A byte that is no text becomes three.
    assert!(identity.vendor.len() <= 24 && identity.product.len() <= 48 && identity.revision.len() <= 12);
    let again = inquiry::encode_standard(inquiry::Peripheral::Disk, &identity);
    assert_eq!(again.len(), 96);
    assert!(inquiry::parse_standard(&again).is_some());
}

fn pages(bytes: &[u8]) {
    let code = bytes.get(1).copied().unwrap_or(0);
    let Some(body) = inquiry::parse_page(bytes, code) else { return };
    assert!(body.len() + 4 <= bytes.len());
    let limits = BlockLimits::parse(body);
    assert_eq!(BlockLimits::parse(&limits.encode()), limits);
    let found = inquiry::parse_designators(body);
    assert!(found.len() * 4 <= body.len());
    let kept: Vec<Designator> = found.into_iter().filter(is_written_back).collect();
    assert_eq!(inquiry::parse_designators(&inquiry::encode_designators(&kept)), kept);
}

/// A name with bytes that are no text grows when it is read, and may then not fit its length byte any more.
fn is_written_back(designator: &Designator) -> bool {
    match &designator.name {
        DesignatorName::T10(text) | DesignatorName::ScsiName(text) => text.len() <= 248,
        DesignatorName::Naa(_)
        | DesignatorName::RelativeTargetPort(_)
        | DesignatorName::TargetPortGroup(_)
        | DesignatorName::Other { .. } => true,
    }
}

fn capacity(bytes: &[u8]) {
    if let Some(read) = Capacity::parse_16(bytes) {
        assert!(read.blocks > 0);
        assert_eq!(Capacity::parse_16(&read.encode_16()), Some(read));
    }
    if let Some(read) = Capacity::parse_10(bytes) {
        assert_eq!(Capacity::parse_10(&read.encode_10()), Some(read));
    }
}

fn units(bytes: &[u8]) {
    let raw = luns::parse_report(bytes);
    assert!(raw.len() * 8 <= bytes.len());
    for unit in raw.into_iter().filter_map(luns::decode_lun) {
        assert!(unit <= luns::HIGHEST_LUN);
        assert_eq!(luns::decode_lun(luns::encode_lun(unit)), Some(unit));
    }
}

fn keys(bytes: &[u8]) {
    if let Some(read) = KeyList::parse(bytes) {
        assert!(read.keys.len() * 8 + 8 <= bytes.len());
        let again = KeyList { missing: 0, ..read.clone() };
        assert_eq!(KeyList::parse(&KeyList::encode(read.generation, read.keys.into_iter())), Some(again));
    }
    if let Some(read) = Capabilities::parse(bytes) {
        assert_eq!(Capabilities::parse(&read.encode()), Some(read));
    }
}

fn report(bytes: &[u8]) {
    if let Some(read) = ReservationReport::parse(bytes) {
        assert_eq!(ReservationReport::parse(&read.encode()), Some(read));
    }
}

fn full_status(bytes: &[u8]) {
    let Some((generation, found)) = reservation::parse_full_status(bytes) else { return };
    assert!(found.len() * 24 <= bytes.len());
    let again = reservation::encode_full_status(generation, &found);
    assert_eq!(reservation::parse_full_status(&again), Some((generation, found)));
}

/// One answer of each kind.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let port = InitiatorPort { name: "iqn.2026-01.test:c".into(), isid: [0x80, 0, 0, 0, 0, 1] };
    let holds = Some(ReservationType::ExclusiveAccessRegistrantsOnly);
    let full = FullStatus { key: 9, holds, target_port: 1, port };
    let held = Some(HeldReservation { key: 9, kind: ReservationType::WriteExclusiveRegistrantsOnly });
    let field = Sense::parameter_field(20, Some(3)).with_information(77);
    let designator = Designator {
        association: inquiry::Association::TargetPort,
        name: DesignatorName::ScsiName("iqn.2026-01.test:t,t,0x0001".into()),
    };
    let identity = inquiry::Identity { vendor: "V".into(), product: "P".into(), revision: "1".into() };
    let designators = inquiry::encode_designators(&[designator]);
    let group = PortGroup {
        group: 2,
        state: AccessState::Standby,
        cause: AccessCause::Implicit,
        possible: AccessState::ALL.to_vec(),
        ports: vec![2, 4],
    };
    let limits = BlockLimits { transfer: 65_536, ..BlockLimits::default() };
    let answers = [
        (0, Sense::attention(Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET).encode(SenseFormat::Fixed)),
        (0, field.encode(SenseFormat::Descriptor)),
        (1, inquiry::encode_standard(inquiry::Peripheral::Disk, &identity)),
        (2, inquiry::encode_page(page::DEVICE_IDENTIFICATION, &designators)),
        (2, inquiry::encode_page(page::BLOCK_LIMITS, &limits.encode())),
        (4, luns::encode_report(&[0, 300])),
        (5, KeyList::encode(3, [1, 2].into_iter())),
        (6, ReservationReport { generation: 3, held }.encode()),
        (7, reservation::encode_full_status(3, &[full.clone(), full])),
        (8, alua::encode_groups(&[group], ReportFormat::Extended, 30)),
    ];
    answers.iter().map(|(kind, bytes)| Script::new().bytes(&[*kind]).bytes(bytes).done()).collect()
}
