//! libFuzzer on `cdb`.
#![no_main]
understudy_fuzz::program!(cdb);
