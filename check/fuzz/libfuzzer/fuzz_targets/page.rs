//! libFuzzer on `page`.
#![no_main]
understudy_fuzz::program!(page);
