//! libFuzzer on `unit_state`.
#![no_main]
understudy_fuzz::program!(unit_state);
