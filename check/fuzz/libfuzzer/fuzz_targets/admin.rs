//! libFuzzer on `admin`.
#![no_main]
understudy_fuzz::program!(admin);
