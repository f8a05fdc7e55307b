//! What the tests of the log share: logs in memory, made of the facts of simulated pairs.

// Each file of tests uses its part of it.
#![allow(dead_code)]

use understudy_eventlog::read::{Entry, Segment, Stop};
use understudy_eventlog::record::{Piece, Place, Recorder, Sink, Taken};
use understudy_eventlog::replay::{Began, Replay, Replayed};
use understudy_failover::config::Config;
use understudy_failover::effect::Effects;
use understudy_failover::machine::Machine;
use understudy_failover::sim::faults::{Mix, pair_of, replay};
use understudy_failover::sim::{Chaos, Told, World};
use understudy_failover::words::{Micros, NodeId};

/// Segments in memory.
#[derive(Debug, Default)]
pub struct Memory {
    /// Number and bytes, oldest first.
    pub segments: Vec<(u64, Vec<u8>)>,
    /// Refuses everything while more than none; counts down.
    pub refuses: u32,
}

impl Sink for &mut Memory {
    fn put(&mut self, piece: Piece) -> Taken {
        if self.refuses > 0 {
            self.refuses -= 1;
            return Taken::No;
        }
        match piece {
            Piece::Append(bytes) | Piece::Start(bytes) => {
                self.segments.last_mut().expect("a segment in use").1.extend(bytes)
            }
            Piece::Segment { number, bytes } => self.segments.push((number, bytes)),
        }
        Taken::Yes
    }

    fn wall_micros(&self) -> u64 {
        1_800_000_000_000_000
    }
}

impl Memory {
    pub fn place(&self) -> Place {
        let last = self.segments.last();
        last.map_or(Place { number: 0, length: None }, |(number, bytes)| Place {
            number: *number,
            length: Some(bytes.len() as u64),
        })
    }
}

/// The facts a random schedule tells a node, run by run.
pub fn facts_of(seed: u64, length: Micros, node: NodeId) -> (Config, Vec<Told>) {
    let configs = pair_of(seed);
    let config = configs[node.index()].clone();
    let mut world = World::new(configs, seed, Chaos::WILD);
    world.told = Some(Vec::new());
    replay(&mut world, Mix::ALL, length).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    let mut told = world.told.unwrap_or_default();
    told.retain(|told| told.node == node);
    (config, told)
}

/// Logs these facts, each run as a process of its own would.
pub fn log(config: &Config, told: &[Told], segment_bytes: u64, memory: &mut Memory) {
    for run in told.chunk_by(|one, next| one.incarnation == next.incarnation) {
        let mut machine = Machine::new(config.clone(), run[0].incarnation);
        let place = memory.place();
        let mut recorder = Recorder::begin(&mut *memory, &machine, place, segment_bytes);
        for told in run {
            let mut orders = Effects::new();
            recorder.told(told.now, &told.input, &machine);
            machine.step(told.now, told.input.clone(), &mut orders);
            recorder.ordered(&orders);
        }
        recorder.hand_over();
    }
}

/// What a replay of segments came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub began: Vec<Began>,
    pub steps: Vec<Replayed>,
    pub stops: Vec<Stop>,
}

impl Outcome {
    pub fn first_difference(&self) -> Option<&Replayed> {
        self.steps.iter().find(|step| step.difference.is_some())
    }
}

pub fn run_again<'b>(segments: impl IntoIterator<Item = &'b [u8]>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut again = Replay::new();
    for bytes in segments {
        for entry in Segment::open(bytes).expect("a segment") {
            match entry {
                Ok(Entry::Start(start)) => outcome.began.push(again.start(&start).expect("a machine")),
                Ok(Entry::Step(step)) => outcome.steps.push(again.step(*step).expect("after a start")),
                Err(stop) => outcome.stops.push(stop),
            }
        }
    }
    outcome
}
