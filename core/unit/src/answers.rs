//! What the unit says about itself: INQUIRY, vital product data, supported commands and task management functions.
//!
//! Everything here follows from the identity, the geometry and the tables; nothing depends on the node that serves the
//! unit, so that a client finds the same unit after a takeover.

use understudy_scsi::capacity::{Capacity, ProvisionedOnDemand};
use understudy_scsi::cdb::{DefectForm, DefectLists, OperationQuery, TaskManagementReport, Timeouts};
use understudy_scsi::inquiry::{
    self, Association, BlockLimits, Designator, DesignatorName, Peripheral, Provisioning, page,
};
use understudy_scsi::log;
use understudy_scsi::operations::{self, OPERATIONS, Operation, opcode};
use understudy_scsi::provisioning::MOST_UNMAP_DESCRIPTORS;
use understudy_scsi::sense::Sense;

use crate::nexus::Geometry;

/// Most bytes one READ or WRITE may move: bounds the memory a command can ask for. Clients that do not look at the Block
/// Limits page send up to 65,536 blocks of 512 bytes in one command, so no less than that.
pub(crate) const MOST_TRANSFER_BYTES: u64 = 32 << 20;
/// Most blocks of COMPARE AND WRITE, all the field can say.
pub(crate) const MOST_COMPARED_BLOCKS: u64 = 255;

/// Who the unit is, on whatever node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Stable, unique for the unit: becomes serial number and designators.
    pub uuid: [u8; 16],
    /// Product identification, at most 16 ASCII bytes.
    pub product: String,
}

const VENDOR: &str = "UNDRSTDY";
const REVISION: &str = "0001";

impl Identity {
    /// The serial number of VPD page 80h: the uuid in hexadecimal.
    #[must_use]
    pub fn serial(&self) -> String {
        self.uuid.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// NAA 3h, locally assigned: four bits of format, sixty of the uuid (SPC-4 r37 §7.8.6.6.4).
    fn naa(&self) -> Vec<u8> {
        let mut bytes = self.uuid[..8].to_vec();
        bytes[0] = 0x30 | (bytes[0] & 0x0f);
        bytes
    }

    /// Standard INQUIRY data.
    #[must_use]
    pub fn standard_inquiry(&self, peripheral: Peripheral) -> Vec<u8> {
        let identity = inquiry::Identity {
            vendor: VENDOR.to_owned(),
            product: self.product.clone(),
            revision: REVISION.to_owned(),
        };
        inquiry::encode_standard(peripheral, &identity)
    }

    fn designators(&self, target_name: &str, target_port: u16, port_group: u16) -> Vec<Designator> {
        let unit = |name| Designator { association: Association::LogicalUnit, name };
        let port = |name| Designator { association: Association::TargetPort, name };
        vec![
            unit(DesignatorName::Naa(self.naa())),
            unit(DesignatorName::T10(format!("{VENDOR}{}", self.serial()))),
            port(DesignatorName::RelativeTargetPort(target_port)),
            port(DesignatorName::TargetPortGroup(port_group)),
            port(DesignatorName::ScsiName(format!("{target_name},t,0x{target_port:04x}"))),
            Designator {
                association: Association::TargetDevice,
                name: DesignatorName::ScsiName(target_name.to_owned()),
            },
        ]
    }
}

/// What a vital product data page depends on.
pub(crate) struct PageContext<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) geometry: Geometry,
    pub(crate) provisioning: Provisioning,
    pub(crate) unmap_granularity_bytes: u32,
    pub(crate) target_name: &'a str,
    pub(crate) target_port: u16,
    pub(crate) port_group: u16,
}

const PAGES: [u8; 8] = [
    page::SUPPORTED_PAGES,
    page::UNIT_SERIAL_NUMBER,
    page::DEVICE_IDENTIFICATION,
    page::EXTENDED_INQUIRY,
    page::MODE_PAGE_POLICY,
    page::BLOCK_LIMITS,
    page::BLOCK_DEVICE_CHARACTERISTICS,
    page::LOGICAL_BLOCK_PROVISIONING,
];

impl PageContext<'_> {
    /// The page, or `None` if there is no such page.
    pub(crate) fn page(&self, code: u8) -> Option<Vec<u8>> {
        let body = match code {
            page::SUPPORTED_PAGES => PAGES.to_vec(),
            page::UNIT_SERIAL_NUMBER => self.identity.serial().into_bytes(),
            page::DEVICE_IDENTIFICATION => {
                let designators = self.identity.designators(self.target_name, self.target_port, self.port_group);
                inquiry::encode_designators(&designators)
            }
            page::EXTENDED_INQUIRY => inquiry::encode_extended(),
            page::MODE_PAGE_POLICY => inquiry::encode_mode_page_policy(),
            page::BLOCK_LIMITS => self.limits().encode(),
            page::BLOCK_DEVICE_CHARACTERISTICS => inquiry::encode_characteristics(),
            page::LOGICAL_BLOCK_PROVISIONING => self.provisioning.encode(),
            _ => return None,
        };
        Some(inquiry::encode_page(code, &body))
    }

    fn limits(&self) -> BlockLimits {
        let block_bytes = u64::from(self.geometry.block_bytes);
        let transfer = (MOST_TRANSFER_BYTES / block_bytes) as u32;
        let thin = self.provisioning == Provisioning::Thin;
        BlockLimits {
            compare_and_write: MOST_COMPARED_BLOCKS as u8,
            granularity: (4096 / block_bytes).max(1) as u16,
            transfer,
            optimal_transfer: transfer / 32,
            prefetch: 0,
            unmap_blocks: if thin { u32::MAX } else { 0 },
            unmap_descriptors: if thin { MOST_UNMAP_DESCRIPTORS } else { 0 },
            unmap_granularity: if thin { (self.unmap_granularity_bytes / self.geometry.block_bytes).max(1) } else { 0 },
            write_same: 0,
        }
    }
}

/// READ CAPACITY's answer.
pub(crate) fn capacity(geometry: Geometry, provisioning: Provisioning) -> Capacity {
    Capacity {
        blocks: geometry.blocks,
        block_bytes: geometry.block_bytes,
        // A block can be written and unmapped by itself; that 4 KiB work better is said by the Block Limits page.
        physical_exponent: 0,
        provisioned_on_demand: match provisioning {
            Provisioning::Full => ProvisionedOnDemand::No,
            Provisioning::Thin => ProvisionedOnDemand::ReadsZeroes,
        },
    }
}

/// LOG SENSE (SPC-4 r37 §6.8). The one parameter there is has the number zero, so no other first parameter exists.
pub(crate) fn log_page(page: u8, subpage: u8, pointer: u16) -> Result<Vec<u8>, Sense> {
    if !log::PAGES.iter().any(|(code, _)| *code == page) {
        return Err(Sense::cdb_field(2, Some(5)));
    }
    let bytes = match (page, subpage) {
        (log::page::SUPPORTED_PAGES, 0) => log::encode_supported_pages(),
        (log::page::SUPPORTED_PAGES, log::page::ALL_SUBPAGES) => log::encode_supported_subpages(),
        (log::page::INFORMATIONAL_EXCEPTIONS, 0) => log::encode_informational_exceptions(),
        _ => return Err(Sense::cdb_field(3, None)),
    };
    if pointer == 0 { Ok(bytes) } else { Err(Sense::cdb_field(5, None)) }
}

/// READ DEFECT DATA (SBC-3 r36 §5.16, §5.17): the lists asked for are there, and empty.
pub(crate) fn no_defects(form: DefectForm, lists: DefectLists) -> Vec<u8> {
    match form {
        DefectForm::Ten => vec![0, lists.0, 0, 0],
        DefectForm::Twelve => vec![0, lists.0, 0, 0, 0, 0, 0, 0],
    }
}

fn is_offered(operation: &Operation, provisioning: Provisioning) -> bool {
    provisioning == Provisioning::Thin || operation.code != opcode::UNMAP
}

fn timeout_descriptor(operation: &Operation) -> [u8; 12] {
    let mut out = [0; 12];
    out[1] = 0x0a;
    out[8..12].copy_from_slice(&operation.timeout_s.to_be_bytes());
    out
}

/// REPORT SUPPORTED OPERATION CODES (SPC-4 r37 §6.35).
pub(crate) fn supported_operations(
    query: OperationQuery,
    timeouts: Timeouts,
    provisioning: Provisioning,
) -> Result<Vec<u8>, Sense> {
    let (code, action) = match query {
        OperationQuery::All => return Ok(every_operation(timeouts, provisioning)),
        OperationQuery::Code(code) => (code, None),
        OperationQuery::CodeAndAction(code, action) | OperationQuery::CodeWithActionIfAny(code, action) => {
            (code, Some(action))
        }
    };
    let rows = operations::rows(code);
    let has_actions = rows.first().is_some_and(|row| row.action.is_some());
    let known = !rows.is_empty();
    match query {
        OperationQuery::Code(_) if has_actions => return Err(Sense::cdb_field(2, Some(2))),
        OperationQuery::CodeAndAction(..) if known && !has_actions => return Err(Sense::cdb_field(2, Some(2))),
        OperationQuery::All
        | OperationQuery::Code(_)
        | OperationQuery::CodeAndAction(..)
        | OperationQuery::CodeWithActionIfAny(..) => (),
    }
    let found = rows.iter().filter(|row| is_offered(row, provisioning)).find(|row| match row.action {
        Some(own) => action == Some(u16::from(own)),
        None => action.unwrap_or(0) == 0,
    });
    Ok(found.map_or_else(|| vec![0, 0x01, 0, 0], |row| one_operation(row, timeouts)))
}

fn every_operation(timeouts: Timeouts, provisioning: Provisioning) -> Vec<u8> {
    let mut out = vec![0; 4];
    for operation in OPERATIONS.iter().filter(|operation| is_offered(operation, provisioning)) {
        let mut flags = u8::from(operation.action.is_some());
        if timeouts == Timeouts::Reported {
            flags |= 0x02;
        }
        let action = operation.action.unwrap_or(0);
        out.extend_from_slice(&[operation.code, 0, 0, action, 0, flags, 0, operation.cdb_bytes]);
        if timeouts == Timeouts::Reported {
            out.extend_from_slice(&timeout_descriptor(operation));
        }
    }
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

fn one_operation(operation: &Operation, timeouts: Timeouts) -> Vec<u8> {
    // SUPPORT 011b: as the standard says.
    let mut out = vec![0, 0x03, 0, operation.cdb_bytes];
    out.extend_from_slice(&operation.usage[..usize::from(operation.cdb_bytes)]);
    if timeouts == Timeouts::Reported {
        out[1] |= 0x80;
        out.extend_from_slice(&timeout_descriptor(operation));
    }
    out
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 r37 §6.36): abort task, abort task set, clear task set, logical
/// unit reset, target reset.
pub(crate) fn supported_task_management(report: TaskManagementReport) -> Vec<u8> {
    match report {
        TaskManagementReport::Basic => vec![0xda, 0, 0, 0],
        TaskManagementReport::Extended => {
            let mut out = vec![0; 16];
            out[0] = 0xda;
            out[3] = 12;
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 1 << 20 };

    fn identity() -> Identity {
        Identity { uuid: *b"0123456789abcdef", product: "VOLUME".into() }
    }

    #[test]
    fn every_listed_page_exists_and_names_itself() {
        let identity = identity();
        let context = PageContext {
            identity: &identity,
            geometry: GEOMETRY,
            provisioning: Provisioning::Thin,
            unmap_granularity_bytes: 1 << 20,
            target_name: "iqn.t",
            target_port: 1,
            port_group: 1,
        };
        for code in PAGES {
            let bytes = context.page(code).unwrap();
            assert_eq!(bytes[1], code);
            assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])) + 4, bytes.len());
        }
        assert!(context.page(0xc0).is_none());
    }

    #[test]
    fn every_listed_operation_is_also_answered_alone() {
        let all = supported_operations(OperationQuery::All, Timeouts::Omitted, Provisioning::Thin).unwrap();
        for row in all[4..].chunks(8) {
            let (code, action) = (row[0], u16::from(row[3]));
            let query =
                if row[5] & 1 == 0 { OperationQuery::Code(code) } else { OperationQuery::CodeAndAction(code, action) };
            let one = supported_operations(query, Timeouts::Reported, Provisioning::Thin).unwrap();
            assert_eq!(one[1], 0x83, "{code:02x}");
            assert_eq!(one[4], code);
            assert_eq!(one.len(), 4 + usize::from(row[7]) + 12);
        }
    }

    #[test]
    fn every_listed_log_page_is_answered_and_others_are_pointed_at() {
        for (page, subpage) in log::PAGES {
            assert_eq!(log_page(page, subpage, 0).unwrap()[0] & 0x3f, page);
        }
        assert_eq!(log_page(0x0d, 0, 0), Err(Sense::cdb_field(2, Some(5))));
        assert_eq!(log_page(0x2f, 1, 0), Err(Sense::cdb_field(3, None)));
        assert_eq!(log_page(0x2f, 0, 1), Err(Sense::cdb_field(5, None)));
    }

    /// SPC-4 r37 §6.35.1.
    #[test]
    fn asking_for_a_service_action_where_there_is_none_is_an_error_and_unknown_is_not() {
        let ask = |query| supported_operations(query, Timeouts::Omitted, Provisioning::Full);
        assert!(ask(OperationQuery::Code(opcode::PERSISTENT_RESERVE_IN)).is_err());
        assert!(ask(OperationQuery::CodeAndAction(opcode::READ_10, 0)).is_err());
        assert_eq!(ask(OperationQuery::Code(0xc3)).unwrap()[1], 0x01);
        assert_eq!(ask(OperationQuery::Code(opcode::UNMAP)).unwrap()[1], 0x01);
    }
}
