//! libFuzzer on `conversation`.
#![no_main]
understudy_fuzz::program!(conversation);
