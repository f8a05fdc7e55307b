//! libFuzzer on `pdu`.
#![no_main]
understudy_fuzz::program!(pdu);
