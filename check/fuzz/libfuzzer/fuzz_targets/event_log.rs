//! libFuzzer on `event_log`.
#![no_main]
understudy_fuzz::program!(event_log);
