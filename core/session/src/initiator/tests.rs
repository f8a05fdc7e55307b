//! Tests of the initiator against scripted PDUs.
