//! Every decoder of this crate against bytes nobody meant for it: random, and valid ones damaged with their checksums
//! made right again, so that the damage gets past the checksum.

use proptest::prelude::*;

use crate::allocate::{NewVolume, tests::pool};
use crate::gpt::{self, DiskKind, INSPECTED_BYTES};
use crate::label::{Label, PoolAreas, Role};
use crate::metadata::{Header, Metadata, Protection, Provisioning};
use crate::{DiskShape, PAGE_BYTES, Uuid, crc32c};

const SHAPE: DiskShape = DiskShape { block_bytes: 512, blocks: 1 << 17 };

fn seal_page(page: &mut [u8]) {
    let crc = crc32c(&page[..PAGE_BYTES - 4]).to_le_bytes();
    page[PAGE_BYTES - 4..PAGE_BYTES].copy_from_slice(&crc);
}

fn label_page() -> Vec<u8> {
    let areas = PoolAreas::for_disk(SHAPE).expect("large enough");
    let role = Role::PoolLeg { pool: Uuid([3; 16]), pool_name: "p".into(), mirror: 0, leg: 0, areas };
    Label { pair: 1, disk: Uuid([4; 16]), shape: SHAPE, role }.encode()
}

fn metadata_image() -> Vec<u8> {
    let new = |number: u8, provisioning| NewVolume {
        uuid: Uuid([number; 16]),
        name: format!("v{number}"),
        lun: u16::from(number),
        block_bytes: 512,
        blocks: 2048 * 9,
        provisioning,
    };
    let thin = Uuid([2; 16]);
    let metadata = pool(2, 8).with_volume(new(1, Provisioning::Thick)).expect("fits");
    let metadata = metadata.with_volume(new(2, Provisioning::Thin)).expect("fits");
    let chosen = metadata.plan_chunks(thin, &[0..1, 3..6], &mut metadata.free(&[])).expect("fits");
    let metadata = metadata.with_chunks(thin, &chosen).expect("free");
    let metadata = metadata.with_protection(thin, Protection::WriteProtected).expect("there");
    metadata.encode(1 << 20).expect("fits")
}

proptest! {
    #[test]
    fn random_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(Label::decode(SHAPE, [&bytes, &bytes]).is_err());
        prop_assert!(Header::decode(&bytes).is_err());
        prop_assert!(Metadata::decode(&bytes).is_err());
        let _ = gpt::inspect(SHAPE, &bytes, &bytes);
    }

    #[test]
    fn damaged_label_with_right_checksum_never_panics(at in 8usize..200, value: u8, shrink in 0u64..9) {
        let mut page = label_page();
        page[at] = value;
        seal_page(&mut page);
        if let Ok(label) = Label::decode(DiskShape { blocks: SHAPE.blocks - shrink, ..SHAPE }, [&page, &page])
            && let Role::PoolLeg { areas, .. } = label.role {
            prop_assert!(areas.data_offset + areas.data_bytes <= SHAPE.bytes());
        }
    }

    #[test]
    fn damaged_metadata_with_right_checksums_is_sound_or_refused(changes in proptest::collection::vec((0usize..260, any::<u8>()), 1..4), header_at in 8usize..60, header_value: Option<u8>) {
        let mut image = metadata_image();
        let length = Header::decode(&image).expect("valid").body_bytes as usize;
        for (at, value) in changes {
            image[PAGE_BYTES + at % length] = value;
        }
        let body_crc = crc32c(&image[PAGE_BYTES..PAGE_BYTES + length]).to_le_bytes();
        image[56..60].copy_from_slice(&body_crc);
        if let Some(value) = header_value {
            image[header_at] = value;
        }
        seal_page(&mut image);
        if let Ok(metadata) = Metadata::decode(&image) {
            prop_assert_eq!(metadata.unsound(), None);
        }
    }

    #[test]
    fn damaged_partition_table_with_right_checksums_never_panics(header in proptest::collection::vec((24usize..92, any::<u8>()), 0..6), entry in proptest::collection::vec((0usize..256, any::<u8>()), 0..6)) {
        let image = gpt::table(SHAPE, DiskKind::Pool, Uuid([1; 16]), Uuid([2; 16])).expect("large enough");
        let mut head = image.head;
        for (at, value) in entry {
            head[1024 + at] = value;
        }
        let entries = crc_fast::crc32_iso_hdlc(&head[1024..1024 + 128 * 128]).to_le_bytes();
        head[512 + 88..512 + 92].copy_from_slice(&entries);
        for (at, value) in header {
            head[512 + at] = value;
        }
        head[512 + 16..512 + 20].fill(0);
        let crc = crc_fast::crc32_iso_hdlc(&head[512..512 + 92]).to_le_bytes();
        head[512 + 16..512 + 20].copy_from_slice(&crc);
        head.resize(INSPECTED_BYTES, 0);
        let _ = gpt::inspect(SHAPE, &head, &[0; 4096]);
    }
}
