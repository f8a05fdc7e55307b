//! libFuzzer on `machine`.
#![no_main]
understudy_fuzz::program!(machine);
