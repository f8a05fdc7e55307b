#![forbid(unsafe_code)]
//! Model checking of a pair: the production failover machine, twice, in every schedule within stated bounds.
//!
//! What it is: a world around two [`understudy_failover::machine::Machine`]s, small enough to be explored completely: lock disks
//! with keys and record slots, pool disks with registrations, reservations and writes that land late, pages that are read late or
//! never, faults that are counted. What it is not: a model *of* the machine; the machine in it is the product's. The one idea: time
//! is left out. A deadline that is set may pass at any moment, silence may be noticed at any moment, so whatever holds here holds
//! whatever the clocks do; only faults, and silences of a partner that lives, are counted.
//!
//! Reading order: [`pair`] what a state is, [`orders`] and [`work`] how the simulated driver carries orders out, [`moves`] what can
//! happen, [`laws`] what must hold, [`fair`] what must come about, [`explore`] the search, [`scenes`] the bounds.

pub mod clients;
pub mod explore;
pub mod fair;
pub mod laws;
pub mod moves;
pub mod orders;
pub mod pair;
pub mod scenes;
pub mod tale;
pub mod work;
