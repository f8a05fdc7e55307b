//! The device server: SCSI targets made of logical units ([`understudy_unit`]) on media ([`medium::Medium`]).
pub mod medium;
