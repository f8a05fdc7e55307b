//! One cell of the table: a step, a fault, a node; how it is played and what must hold afterwards.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context;
use understudy::admin::{Request, SoftVetoes, TakeoverKind};
use understudy::config::NodeName;

use crate::fault::{Fault, Hits};
use crate::ground::{Ground, Manner};
use crate::stage::Fault as Hit;
use crate::step::{Role, Step, Story, steps};

/// A step, a fault, and whom it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// What the pair is doing.
    pub step: Step,
    /// What happens then.
    pub fault: Fault,
    /// To whom; for faults of the pair whoever is in the step.
    pub victim: Role,
}

/// What came out of a cell that was played to its end.
#[derive(Debug, Clone)]
pub struct Played {
    /// From the fault until the pair was whole again, and what was checked after that.
    pub took: Duration,
    /// The longest pause of each client from the story's begin to the whole pair, by the volume's name.
    pub pauses: Vec<(String, Duration)>,
    /// Commands answered with an error.
    pub failed_commands: u64,
    /// The last of them in words.
    pub last_failure: Option<String>,
    /// Disks that are recorded as dropped since.
    pub dropped: Vec<String>,
    /// How late, at the most, the drill's own network led clients to a new listener.
    pub network_late: Duration,
}

impl fmt::Display for Cell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.step, self.fault.name())?;
        match self.fault.hits() {
            Hits::ANode => write!(out, "/{}", self.victim.name()),
            Hits::ThePair => Ok(()),
        }
    }
}

/// Every cell, grouped by step.
#[must_use]
pub fn cells() -> Vec<Cell> {
    let mut all = Vec::new();
    for step in steps() {
        for fault in Fault::ALL {
            all.extend(victims(step, fault).into_iter().map(|victim| Cell { step, fault, victim }));
        }
    }
    all
}

/// Whom a fault can hit in a step: a node that is dead already is not hit again.
fn victims(step: Step, fault: Fault) -> Vec<Role> {
    match (fault.hits(), fault, step.story) {
        // Every story once as it should be, and not at each of its steps.
        (_, Fault::Nothing, _) => Vec::new(),
        (Hits::ThePair, _, _) => vec![step.role],
        (Hits::ANode, Fault::DiskPathCut | Fault::InterconnectMuted, Story::Takeover) => vec![Role::Survivor],
        (Hits::ANode, _, Story::Takeover) => vec![Role::Survivor],
        (Hits::ANode, _, _) => Role::BOTH.to_vec(),
    }
}

impl Cell {
    /// Plays it on sound ground, with `home` as the node whose pools move, and demands everything of it afterwards.
    ///
    /// # Errors
    /// Something does not hold; the ground is not sound any more.
    pub fn play(&self, ground: &mut Ground, home: NodeName, seed: u64) -> anyhow::Result<Played> {
        let began = Instant::now();
        ground.stage.tell(&format!("== {self}, home is {home}"));
        ground.start_clients(seed)?;
        let marks = ground.stage.mark();
        ground.network_late();
        self.disturb(ground, home)?;
        ground.wait_until_sound()?;
        let (pauses, network_late) = (ground.stage.pauses(&marks), ground.network_late());
        let verdicts = ground.judge()?;
        let failed_commands = verdicts.iter().map(|verdict| verdict.failed_commands).sum();
        let last_failure = verdicts
            .iter()
            .filter(|verdict| verdict.failed_commands > 0)
            .find_map(|verdict| verdict.last_failure.clone());
        let dropped = ground.dropped_legs()?;
        Ok(Played { took: began.elapsed(), pauses, failed_commands, last_failure, dropped, network_late })
    }

    /// From a whole pair to one that has only to come home by itself.
    ///
    /// # Errors
    /// The story does not get to the step, or what the fault leaves does not go on as it must.
    pub fn disturb(&self, ground: &mut Ground, home: NodeName) -> anyhow::Result<()> {
        let at = self.step.role.played(home);
        let victim = self.victim.played(home);
        self.step.story.begin(ground, home, |ground| self.arm(ground, home))?;
        ground.stage.wait_until_hanging(at).with_context(|| format!("{at} never came to {}", self.step.place))?;
        if self.step.home_waits_at.is_some() {
            ground.stage.wait_until_hanging(home)?;
        }
        self.fault
            .begin(ground, self.step.story, home, victim)
            .with_context(|| format!("cannot begin {}", self.fault.name()))?;
        ground.stage.tell(&format!("== {} begins at {victim}", self.fault.name()));
        for node in NodeName::BOTH {
            // Whoever does not hang has no such file.
            let _ = std::fs::remove_file(ground.stage.hanging(node));
        }
        self.fault.last(ground, victim)?;
        self.fault.end(ground, victim).with_context(|| format!("cannot end {}", self.fault.name()))?;
        ground.stage.tell(&format!("== {} is over", self.fault.name()));
        self.step.story.end(ground, home)
    }

    fn arm(&self, ground: &Ground, home: NodeName) -> anyhow::Result<()> {
        if let Some(place) = self.step.home_waits_at {
            ground.stage.arm(home, place, Hit::Hung)?;
        }
        ground.stage.arm(self.step.role.played(home), self.step.place, Hit::Hung)
    }
}

impl Story {
    /// Begins it; `arm` is called when everything before the first step is over.
    fn begin(
        self,
        ground: &mut Ground,
        home: NodeName,
        arm: impl Fn(&Ground) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let survivor = home.partner();
        match self {
            Self::Takeover => {
                arm(ground)?;
                ground.stage.pair.kill(home)
            }
            Self::PlannedTakeover => {
                arm(ground)?;
                ground.ask_aside(survivor, Request::Takeover { kind: TakeoverKind::Planned }, Manner::UntilItMay);
                Ok(())
            }
            Self::BringUp => {
                ground.lose(home)?;
                arm(ground)?;
                ground.stage.pair.start(home)
            }
            Self::Giveback => {
                ground.take_over(survivor)?;
                arm(ground)?;
                ground.ask_aside(survivor, Request::Giveback { soft_vetoes: SoftVetoes::Respect }, Manner::UntilItMay);
                Ok(())
            }
        }
    }

    /// Ends what the story itself did to the pair.
    fn end(self, ground: &mut Ground, home: NodeName) -> anyhow::Result<()> {
        match self {
            Self::Takeover if !ground.stage.pair.runs(home) => ground.stage.pair.start(home),
            Self::Takeover | Self::PlannedTakeover | Self::BringUp | Self::Giveback => Ok(()),
        }
    }

    /// Plays it as it should be; gives the pauses of the takeover and of what came after. `between` is called when clients are served by
    /// the survivor.
    ///
    /// # Errors
    /// It does not go as it should.
    pub fn play_undisturbed(
        self,
        ground: &mut Ground,
        home: NodeName,
        between: impl FnOnce(&mut Ground) -> anyhow::Result<()>,
    ) -> anyhow::Result<[Duration; 2]> {
        let survivor = home.partner();
        let marks = ground.stage.mark();
        match self {
            Self::Takeover | Self::BringUp => ground.lose(home)?,
            Self::PlannedTakeover | Self::Giveback => ground.take_over(survivor)?,
        }
        ground.stage.wait_until_clients_go_on("after the takeover")?;
        let taken = longest(&ground.stage.pauses(&marks));
        between(ground)?;
        let marks = ground.stage.mark();
        match self {
            Self::Takeover | Self::BringUp => ground.stage.pair.start(home)?,
            Self::PlannedTakeover | Self::Giveback => ground.give_back(survivor)?,
        }
        ground.wait_until_sound()?;
        Ok([taken, longest(&ground.stage.pauses(&marks))])
    }
}

/// The longest of the clients' pauses.
#[must_use]
pub fn longest(pauses: &[(String, Duration)]) -> Duration {
    pauses.iter().map(|(_, pause)| *pause).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_cell_has_a_name_of_its_own() {
        let names: BTreeSet<String> = cells().iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), cells().len());
        assert!(names.contains("bring-up/survivor/held/stopped-long/survivor"), "{names:?}");
    }
}
