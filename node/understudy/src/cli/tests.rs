//! What the operator types and reads.
