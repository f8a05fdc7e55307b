//! libFuzzer on `scsi_lists`.
#![no_main]
understudy_fuzz::program!(scsi_lists);
