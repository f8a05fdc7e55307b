//! libFuzzer on `unit`.
#![no_main]
understudy_fuzz::program!(unit);
