//! libFuzzer on `target_session`.
#![no_main]
understudy_fuzz::program!(target_session);
