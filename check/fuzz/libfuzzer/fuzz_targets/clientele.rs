//! libFuzzer on `clientele`.
#![no_main]
understudy_fuzz::program!(clientele);
