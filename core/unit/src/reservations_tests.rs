//! Tests of persistent reservations.
