//! Tests of the logical unit.
