//! libFuzzer on `gpt`.
#![no_main]
understudy_fuzz::program!(gpt);
