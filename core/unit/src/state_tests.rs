//! Tests of the kept state: round trip, damage, older and newer formats, bounds.

use understudy_scsi::Asc;

use super::*;

fn nexus(last: u8) -> Nexus {
    Nexus { initiator: InitiatorPort { name: format!("iqn.host{last}"), isid: [0, 1, 2, 3, 4, last] }, target_port: 1 }
}

fn sample() -> Reservations {
    Reservations {
        generation: 77,
        registrations: BTreeMap::from([(nexus(1), 0xa), (nexus(2), 0xb)]),
        held: Some(Held { kind: ReservationType::ExclusiveAccessRegistrantsOnly, holder: Some(nexus(2)) }),
        persistence: Persistence::ThroughPowerLoss,
    }
}

fn untold() -> Untold {
    let mut untold = Untold::default();
    untold.add(&nexus(9), Conditions::of([Asc::REGISTRATIONS_PREEMPTED]));
    untold.add(&nexus(1), Conditions::of([Asc::RESERVATIONS_RELEASED, Asc::RESERVATIONS_PREEMPTED]));
    untold
}

fn kept(untold: Untold) -> Kept {
    Kept { reservations: sample(), pages: ModePages::default(), untold }
}

fn bytes_of(untold: Untold) -> Vec<u8> {
    encode(&sample(), &ModePages::default(), untold)
}

/// The bytes without their checksum, changed and sealed again.
fn changed(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = bytes[..bytes.len() - 4].to_vec();
    change(&mut body);
    sealed(body)
}

#[test]
fn state_is_read_back_as_written() {
    for untold in [Untold::default(), untold()] {
        assert_eq!(decode(&bytes_of(untold.clone())), Ok(kept(untold)));
    }
}

#[test]
fn any_damaged_byte_and_any_cut_is_noticed() {
    for bytes in [bytes_of(Untold::default()), bytes_of(untold())] {
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(decode(&damaged), Err(StateFault::Damaged), "byte {at}");
            assert_eq!(decode(&bytes[..at]), Err(StateFault::Damaged), "cut at {at}");
        }
    }
}

/// A medium writes whole sectors; of two states that follow each other any mixture is refused.
#[test]
fn a_state_torn_at_any_sector_is_noticed() {
    let many = |generation| {
        let registrations = (0..60).map(|last| (nexus(last), u64::from(last) + generation)).collect();
        let held = Some(Held { kind: ReservationType::WriteExclusive, holder: Some(nexus(7)) });
        let generation = u32::try_from(generation).expect("small");
        encode(&Reservations { generation, registrations, held, ..sample() }, &ModePages::default(), Untold::default())
    };
    let (old, new) = (many(1), many(2));
    assert_eq!(old.len(), new.len());
    assert!(new.len() > 3 * 512);
    for cut in (512..new.len()).step_by(512) {
        assert_eq!(decode(&[&new[..cut], &old[cut..]].concat()), Err(StateFault::Damaged), "cut at {cut}");
    }
}

/// What the first release wrote, byte by byte: it has to open for ever.
#[test]
fn bytes_of_the_first_format_open_and_are_written_the_same_while_nobody_has_to_be_told() {
    let bytes = bytes_of(Untold::default());
    assert_eq!(bytes[..18], *b"UNDU\x01\0\0\0\x4d\0\0\0\x01\x06\x01\0\x02\0");
    assert_eq!(bytes[18..36], *b"\x0a\0\0\0\0\0\0\0\x01\0\0\x01\x02\x03\x04\x01\x09i");
    assert_eq!(bytes_of(untold())[4], 2);
}

#[test]
fn a_newer_format_and_a_foreign_holder_are_refused() {
    let bytes = bytes_of(Untold::default());
    assert_eq!(decode(&changed(&bytes, |body| body[4] = 9)), Err(StateFault::Newer(9)));
    let orphan = decode(&changed(&bytes, |body| body[14] = 40));
    assert!(matches!(orphan, Err(StateFault::Contradiction(_))));
}

#[test]
fn one_port_registered_twice_is_refused() {
    let bytes = bytes_of(Untold::default());
    let entry = 18..18 + 17 + 9;
    let twice = changed(&bytes, |body| body.copy_within(entry.clone(), entry.end));
    assert_eq!(decode(&twice), Err(StateFault::Contradiction("one port registered twice")));
}

#[test]
fn an_optional_section_of_a_later_release_is_left_out_and_another_is_refused() {
    let add = |number: u8| {
        changed(&bytes_of(Untold::default()), |body| {
            body[4] = 2;
            body.extend_from_slice(&[1, number, 3, 0, 0, 0, 1, 2, 3]);
        })
    };
    assert_eq!(decode(&add(200)), Ok(kept(Untold::default())));
    assert_eq!(decode(&add(3)), Err(StateFault::UnknownSection(3)));
    assert_eq!(decode(&changed(&add(200), |body| body.push(0))), Err(StateFault::Contradiction("bytes left over")));
}

#[test]
fn ports_to_be_told_give_way_where_registrations_need_the_room() {
    let long = |number: u16| Nexus {
        initiator: InitiatorPort { name: format!("{number:0223}"), isid: [0; 6] },
        target_port: 1,
    };
    let mut reservations = Reservations::default();
    let mut untold = Untold::default();
    // 240 bytes each; the rest of the block is 65 bytes and the section's head.
    for number in 0..270 {
        reservations.registrations.insert(long(number), 1);
    }
    for number in 0..100 {
        untold.add(&long(number), Conditions::of([Asc::RESERVATIONS_RELEASED]));
    }
    let bytes = encode(&reservations, &ModePages::default(), untold.clone());
    assert!(bytes.len() <= MOST_BYTES && bytes.len() > MOST_BYTES - 240);
    let read = decode(&bytes).expect("sound");
    assert_eq!(read.reservations, reservations);
    let told: Vec<&Nexus> = read.untold.iter().map(|(nexus, _)| nexus).collect();
    let newest: Vec<&Nexus> = untold.iter().map(|(nexus, _)| nexus).skip(100 - told.len()).collect();
    assert!(!told.is_empty());
    assert_eq!(told, newest);
}
