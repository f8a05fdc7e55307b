//! libFuzzer on `chap`.
#![no_main]
understudy_fuzz::program!(chap);
