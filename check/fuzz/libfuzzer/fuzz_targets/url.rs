//! libFuzzer on `url`.
#![no_main]
understudy_fuzz::program!(url);
