//! libFuzzer on `initiator_session`.
#![no_main]
understudy_fuzz::program!(initiator_session);
