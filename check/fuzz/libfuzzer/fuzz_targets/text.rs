//! libFuzzer on `text`.
#![no_main]
understudy_fuzz::program!(text);
