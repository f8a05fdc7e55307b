//! libFuzzer on `config`.
#![no_main]
understudy_fuzz::program!(config);
