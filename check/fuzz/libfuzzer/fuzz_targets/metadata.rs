//! libFuzzer on `metadata`.
#![no_main]
understudy_fuzz::program!(metadata);
