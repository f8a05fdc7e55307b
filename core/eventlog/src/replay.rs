//! Running a log again, step by step, through the machine itself, and comparing.
//!
//! Not here: the machine, which is the production one, and words for people. The one idea: what is compared is everything that left
//! the machine, order by order, and wherever a snapshot stands also everything that is in it.

use understudy_failover::effect::{Effect, Effects};
use understudy_failover::input::Input;
use understudy_failover::machine::Machine;
use understudy_failover::page::StateWord;
use understudy_failover::words::{Incarnation, Micros};

use crate::start::{Occasion, Stand, Start, StartError};
use crate::step::Step;

/// Where two lists of orders part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Place of the first order that differs, from 0.
    pub at: usize,
    /// What stands in the log there.
    pub recorded: Option<Effect>,
    /// What is ordered here.
    pub replayed: Option<Effect>,
}

/// A step that was run again.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// Which step of its run, from 1.
    pub number: u64,
    /// When, by the machine's clock.
    pub now: Micros,
    /// When, microseconds since 1970, as far as the start before it tells.
    pub wall_micros: u64,
    /// What the machine was told.
    pub fact: Input,
    /// What it orders here.
    pub orders: Effects,
    /// What it ordered there.
    pub recorded: Effects,
    /// State word before; the machine of a process not yet started has none.
    pub before: StateWord,
    /// State word after.
    pub after: StateWord,
    /// Where the orders part, if they do.
    pub difference: Option<Difference>,
}

/// What a start was to the replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Began {
    /// A run begins, or is joined in its middle.
    Run,
    /// The run goes on; the snapshot is what the machine came to here as well.
    Same,
    /// The run goes on; the snapshot is not what the machine came to here.
    Differs {
        /// The first line of the two descriptions that differs, as it was there and as it is here.
        recorded: String,
        /// Here.
        replayed: String,
    },
    /// The run goes on after steps that were left out; nothing can be compared.
    AfterLeftOut {
        /// How many.
        steps: u64,
    },
}

struct Run {
    incarnation: Incarnation,
    machine: Machine,
    steps: u64,
    /// Moment of the last start by both clocks.
    clocks: (Micros, u64),
}

/// A replay.
#[derive(Default)]
pub struct Replay {
    run: Option<Run>,
}

impl Replay {
    /// Nothing has begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The machine as it is now.
    #[must_use]
    pub fn machine(&self) -> Option<&Machine> {
        self.run.as_ref().map(|run| &run.machine)
    }

    /// Begins, or goes on, at a start.
    ///
    /// # Errors
    /// [`StartError`]: there is no such machine.
    pub fn start(&mut self, start: &Start) -> Result<Began, StartError> {
        let machine = start.machine()?;
        let began = match (&self.run, &start.stand, start.occasion) {
            (Some(run), Stand::Snapshot(_), occasion) if run.incarnation == start.incarnation => match occasion {
                // What was lost behind the recorder's back counts too.
                Occasion::LeftOut { .. } if run.steps <= start.steps => {
                    Began::AfterLeftOut { steps: start.steps - run.steps }
                }
                Occasion::LeftOut { steps } => Began::AfterLeftOut { steps },
                // A segment in between is missing.
                Occasion::Segment | Occasion::Process if run.steps != start.steps => Began::Run,
                Occasion::Segment | Occasion::Process => compare(&machine, &run.machine),
            },
            (Some(_) | None, Stand::Snapshot(_) | Stand::New(_), _) => Began::Run,
        };
        let clocks = (start.now, start.wall_micros);
        self.run = Some(Run { incarnation: start.incarnation, machine, steps: start.steps, clocks });
        Ok(began)
    }

    /// Runs one step; `None` before any start.
    ///
    /// # Panics
    /// If the machine does: its own mistake, which the step recorded may well have met too.
    pub fn step(&mut self, step: Step) -> Option<Replayed> {
        let run = self.run.as_mut()?;
        run.steps += 1;
        let before = run.machine.state_word();
        let mut orders = Effects::new();
        run.machine.step(step.now, step.fact.clone(), &mut orders);
        Some(Replayed {
            number: run.steps,
            now: step.now,
            wall_micros: run.clocks.1.saturating_add(step.now.since(run.clocks.0).0),
            before,
            after: run.machine.state_word(),
            difference: difference(&step.orders, &orders),
            fact: step.fact,
            orders,
            recorded: step.orders,
        })
    }
}

fn difference(recorded: &Effects, replayed: &Effects) -> Option<Difference> {
    let longest = recorded.len().max(replayed.len());
    let at = (0..longest).find(|at| recorded.get(*at) != replayed.get(*at))?;
    Some(Difference { at, recorded: recorded.get(at).cloned(), replayed: replayed.get(at).cloned() })
}

fn compare(recorded: &Machine, replayed: &Machine) -> Began {
    if recorded == replayed {
        return Began::Same;
    }
    let (recorded, replayed) = (format!("{recorded:#?}"), format!("{replayed:#?}"));
    let (mut one, mut other) = (recorded.lines(), replayed.lines());
    // BOUND: the longer of the two.
    loop {
        let (one, other) = (one.next(), other.next());
        if one.is_none() && other.is_none() || one != other {
            let words = |line: Option<&str>| line.unwrap_or_default().trim().to_owned();
            return Began::Differs { recorded: words(one), replayed: words(other) };
        }
    }
}
