//! libFuzzer on `record`.
#![no_main]
understudy_fuzz::program!(record);
