//! libFuzzer on `scsi_answers`.
#![no_main]
understudy_fuzz::program!(scsi_answers);
