//! libFuzzer on `label`.
#![no_main]
understudy_fuzz::program!(label);
