//! Running the event log of a node again, to understand an incident.
//!
//! Not here: the log's bytes and the comparison (`understudy-eventlog`), the machine (`understudy-failover`). The one idea: what is
//! shown comes from running the very code that ran then, so what the machine knew and why it acted is there to be seen; and should
//! this code act otherwise than the one that ran, the first step at which it does is named.

mod json;
mod range;
mod source;
mod text;
mod transcript;
pub mod words;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use understudy_eventlog::frame::Cut;
use understudy_eventlog::read::{Entry, Segment, Stop};
use understudy_eventlog::replay::{Began, Replay, Replayed};
use understudy_eventlog::segment::{Build, Header, RELEASE_AND_BUILD};
use understudy_eventlog::start::{Occasion, Start};
use understudy_failover::input::Input;

pub use json::Json;
pub use range::{Place, Range, Uneventfully};
pub use source::{Source, Sources, Unusable, read};
pub use text::Text;
pub use transcript::Transcript;

use crate::timeline::Style;

/// A run of a node, or the part of it that the log holds.
#[derive(Debug)]
pub struct Run<'a> {
    /// Whose.
    pub header: &'a Header,
    /// Where it begins.
    pub start: &'a Start,
}

/// A step, with its number among all steps of this replay.
#[derive(Debug)]
pub struct Shown<'a> {
    /// From 1, over all runs.
    pub number: u64,
    /// Whose.
    pub header: &'a Header,
    /// What came of it.
    pub step: &'a Replayed,
}

impl Shown<'_> {
    /// Whether nothing followed from a fact that comes all the time.
    #[must_use]
    pub fn is_uneventful(&self) -> bool {
        let step = self.step;
        let is_routine = matches!(
            step.fact,
            Input::PartnerPageRead(_) | Input::PartnerPageUnreadable(_) | Input::Surveyed { .. } | Input::TimerExpired
        );
        is_routine && step.orders.is_empty() && step.recorded.is_empty() && step.before == step.after
    }
}

/// Shows a replay while it goes on.
pub trait Show {
    /// A run begins, or is joined in its middle.
    fn run(&mut self, run: &Run<'_>);

    /// Something about the log rather than the machine.
    fn note(&mut self, text: &str);

    /// A step was run.
    fn step(&mut self, shown: &Shown<'_>);

    /// All is run.
    fn end(&mut self, verdict: &Verdict);
}

/// The first thing that differs in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstDifference {
    /// Step among all steps of this replay.
    pub number: u64,
    /// Microseconds since 1970.
    pub wall_micros: u64,
    /// Incarnation of the run.
    pub run: String,
    /// Whose machine ran.
    pub writer: Writer,
    /// What differs, as lines.
    pub words: Vec<String>,
}

/// What is known of the program that wrote a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writer {
    /// Its machine was built from the very sources of this one.
    ThisBuild,
    /// It was not.
    Another {
        /// Its release.
        release: String,
        /// Its build.
        build: Build,
    },
    /// It had this release, and wrote before builds were told apart.
    Unknown,
}

impl Writer {
    fn of(header: &Header) -> Self {
        if header.is_of_this_build() {
            Self::ThisBuild
        } else if header.build == Build::NOT_SAID && header.release == env!("CARGO_PKG_VERSION") {
            Self::Unknown
        } else {
            Self::Another { release: header.release.clone(), build: header.build }
        }
    }

    /// What a difference in its log means, and what to do.
    fn advice(&self) -> String {
        match self {
            Self::ThisBuild => {
                "written by this very build: this is a bug or a damaged memory; report it with the log".to_owned()
            }
            Self::Another { release, build } => format!(
                "written by release {release}, build {build}; this is release {RELEASE_AND_BUILD}: what was changed between the two may be \
                 the reason; the program that wrote it gives no difference, if this is so"
            ),
            Self::Unknown => {
                "written before logs named the build: another build of this release may have written it".to_owned()
            }
        }
    }
}

/// What a replay came to.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Runs, or parts of runs.
    pub runs: u64,
    /// Steps run.
    pub steps: u64,
    /// Steps that are not in the log.
    pub left_out: u64,
    /// Snapshots that could be compared and were the same.
    pub snapshots_same: u64,
    /// The first difference of each run that has one.
    pub differences: Vec<FirstDifference>,
    /// Steps that order something else.
    pub differing_steps: u64,
    /// What could not be used, in words.
    pub unusable: Vec<String>,
    /// First and last moment, microseconds since 1970.
    pub span: Option<(u64, u64)>,
    /// Bytes read.
    pub bytes: u64,
}

/// The exit status of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Everything as recorded.
    Same,
    /// Something differs.
    Differs,
    /// A file could not be used.
    Unusable,
}

impl Verdict {
    /// What it comes to.
    #[must_use]
    pub fn ending(&self) -> Ending {
        if !self.unusable.is_empty() || self.runs == 0 {
            Ending::Unusable
        } else if self.differences.is_empty() {
            Ending::Same
        } else {
            Ending::Differs
        }
    }

    fn saw(&mut self, wall_micros: u64) {
        let (first, last) = self.span.unwrap_or((wall_micros, wall_micros));
        self.span = Some((first.min(wall_micros), last.max(wall_micros)));
    }
}

thread_local! {
    /// The step being run, for the report of a machine that stops itself in it.
    static UNDER_WAY: RefCell<Option<UnderWay>> = const { RefCell::new(None) };
}

/// The step being run.
#[derive(Debug, Clone)]
pub struct UnderWay {
    /// Its number among all steps of this replay.
    pub number: u64,
    /// What the machine is told.
    pub fact: String,
    /// Whether the log of the run ends with it, without an order: what stops the machine here stopped it there.
    pub is_last: bool,
}

/// The step being run, if any. For a panic hook.
#[must_use]
pub fn under_way() -> Option<UnderWay> {
    UNDER_WAY.try_with(|step| step.try_borrow().ok().and_then(|step| step.clone())).ok().flatten()
}

/// Runs everything found, log by log, and shows it.
pub fn run(sources: &Sources, show: &mut dyn Show) -> Verdict {
    let mut walk = Walk { show, verdict: Verdict::default(), again: Replay::new(), run: None };
    let is_anything_good = !sources.logs.is_empty();
    for unusable in &sources.unusable {
        let words = format!("{}: {}", unusable.path.display(), unusable.reason);
        walk.show.note(&words);
        // Next to others, an empty one is what a node leaves that was killed while it began it.
        if !(unusable.is_blank && is_anything_good) {
            walk.verdict.unusable.push(words);
        }
    }
    for log in &sources.logs {
        walk.log(log);
    }
    let verdict = walk.verdict;
    show.end(&verdict);
    verdict
}

/// First and last moment of everything found, microseconds since 1970. Reads all of it and runs nothing.
#[must_use]
pub fn span(sources: &Sources) -> Option<(u64, u64)> {
    let mut verdict = Verdict::default();
    for source in sources.logs.iter().flatten() {
        let mut clocks = None;
        for entry in Segment::open(&source.bytes).into_iter().flatten().map_while(Result::ok) {
            match (entry, clocks) {
                (Entry::Start(start), _) => {
                    clocks = Some((start.now, start.wall_micros));
                    verdict.saw(start.wall_micros);
                }
                (Entry::Step(step), Some((now, wall_micros))) => {
                    verdict.saw(wall_micros.saturating_add(step.now.since(now).0));
                }
                (Entry::Step(_), None) => {}
            }
        }
    }
    verdict.span
}

struct Walk<'s> {
    show: &'s mut dyn Show,
    verdict: Verdict,
    again: Replay,
    /// Incarnation of the run in hand, and whether it has differed.
    run: Option<(String, bool)>,
}

impl Walk<'_> {
    fn log(&mut self, log: &[Source]) {
        self.again = Replay::new();
        let mut last = None;
        for source in log {
            let number = source.header.number;
            match last.map(|last: u64| number - last) {
                Some(0) => continue,
                Some(2..) => self.show.note(&format!("the segments before number {number} are missing")),
                Some(1) | None => {}
            }
            last = Some(number);
            self.source(source);
        }
    }

    fn source(&mut self, source: &Source) {
        self.verdict.bytes += source.bytes.len() as u64;
        // It was opened when it was read.
        let Ok(segment) = Segment::open(&source.bytes) else { return };
        let mut entries = segment.peekable();
        while let Some(entry) = entries.next() {
            match entry {
                Ok(Entry::Start(start)) => self.start(source, &start),
                Ok(Entry::Step(step)) => {
                    let ends = step.orders.is_empty() && !matches!(entries.peek(), Some(Ok(Entry::Step(_))));
                    self.step(source, *step, ends);
                }
                Err(stop) => self.stop(source, &stop),
            }
        }
    }

    fn start(&mut self, source: &Source, start: &Start) {
        let began = match self.again.start(start) {
            Ok(began) => began,
            Err(error) => {
                let words = format!("{}: a start that no machine can begin with: {error}", source.path.display());
                self.show.note(&words);
                self.verdict.unusable.push(words);
                return;
            }
        };
        self.verdict.saw(start.wall_micros);
        match began {
            Began::Run => {
                self.verdict.runs += 1;
                self.run = Some((start.incarnation.to_string(), false));
                self.show.run(&Run { header: &source.header, start });
            }
            Began::Same => self.verdict.snapshots_same += 1,
            Began::AfterLeftOut { steps } => {
                self.verdict.left_out += steps;
                self.show.note(&format!(
                    "{steps} steps are not in the log (its disk was too slow, or would not take them); on from a snapshot"
                ));
            }
            Began::Differs { recorded, replayed } => {
                let words = vec![
                    "the machine is not in the state the snapshot recorded here shows".to_owned(),
                    format!("recorded: {recorded}"),
                    format!("here:     {replayed}"),
                ];
                self.differs(source, start.wall_micros, words);
            }
        }
    }

    fn step(&mut self, source: &Source, step: understudy_eventlog::step::Step, is_last: bool) {
        let number = self.verdict.steps + 1;
        let fact = words::fact(&step.fact);
        UNDER_WAY.set(Some(UnderWay { number, fact, is_last }));
        let replayed = self.again.step(step);
        UNDER_WAY.set(None);
        let Some(replayed) = replayed else { return };
        self.verdict.steps = number;
        self.verdict.saw(replayed.wall_micros);
        self.show.step(&Shown { number, header: &source.header, step: &replayed });
        if let Some(difference) = &replayed.difference {
            self.verdict.differing_steps += 1;
            let words = |order: Option<&_>| order.map_or("nothing more".to_owned(), words::effect);
            let lines = vec![
                format!("order {} of step {number} is another", difference.at + 1),
                format!("recorded: {}", words(difference.recorded.as_ref())),
                format!("here:     {}", words(difference.replayed.as_ref())),
            ];
            self.differs(source, replayed.wall_micros, lines);
        }
    }

    /// Only the first of a run is news: from there on the machine here is on another way.
    fn differs(&mut self, source: &Source, wall_micros: u64, words: Vec<String>) {
        let Some((run, has_differed)) = &mut self.run else { return };
        if !std::mem::replace(has_differed, true) {
            let (number, run, writer) = (self.verdict.steps, run.clone(), Writer::of(&source.header));
            self.verdict.differences.push(FirstDifference { number, wall_micros, run, writer, words });
        }
    }

    fn stop(&mut self, source: &Source, stop: &Stop) {
        let words = format!("{}: {stop}", source.path.display());
        match stop {
            Stop::Cut { cut: Cut::Unfinished, .. } => {
                self.show.note(&format!("{words} (the node is writing it, or was killed while it did)"));
            }
            Stop::Cut { cut: Cut::Damaged, .. } => self.show.note(&words),
            Stop::Strange { .. } => {
                let words = match Writer::of(&source.header) {
                    Writer::ThisBuild => format!("{words}; the file is damaged"),
                    Writer::Unknown | Writer::Another { .. } => {
                        let Header { release, build, .. } = &source.header;
                        format!(
                            "{words}; it was written by release {release}, build {build}: replay it with that program"
                        )
                    }
                };
                self.show.note(&words);
                self.verdict.unusable.push(words);
            }
        }
    }
}

impl<S: Show> Show for &mut S {
    fn run(&mut self, run: &Run<'_>) {
        (**self).run(run);
    }

    fn note(&mut self, text: &str) {
        (**self).note(text);
    }

    fn step(&mut self, shown: &Shown<'_>) {
        (**self).step(shown);
    }

    fn end(&mut self, verdict: &Verdict) {
        (**self).end(verdict);
    }
}

/// What is shown of a replay of which only the verdict is wanted.
#[derive(Debug, Default)]
pub struct Quiet;

impl Show for Quiet {
    fn run(&mut self, _: &Run<'_>) {}
    fn note(&mut self, _: &str) {}
    fn step(&mut self, _: &Shown<'_>) {}
    fn end(&mut self, _: &Verdict) {}
}

/// Runs whose first difference is spelt out. A log of another build may differ in hundreds, all for the same reason.
const DIFFERENCES_SHOWN: usize = 10;

/// The verdict as text.
#[must_use]
pub fn render_verdict(verdict: &Verdict, style: Style) -> String {
    let counted = |count: u64, one: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") };
    let clock = crate::timeline::clock;
    let span = verdict.span.map_or(String::new(), |(first, last)| format!(", {} to {} UTC", clock(first), clock(last)));
    let mut out = format!("{} of {}{span}\n", counted(verdict.steps, "step"), counted(verdict.runs, "run"));
    if verdict.left_out > 0 {
        out.push_str(&style.caution(&format!("{} are not in the log\n", counted(verdict.left_out, "step"))));
    }
    for difference in verdict.differences.iter().take(DIFFERENCES_SHOWN) {
        let place = format!(
            "differs: run {}, step {}, {} UTC",
            difference.run,
            difference.number,
            clock(difference.wall_micros)
        );
        out.push_str(&format!("{}\n", style.bad(&place)));
        difference.words.iter().for_each(|line| out.push_str(&format!("  {line}\n")));
        out.push_str(&format!("  {}\n", difference.writer.advice()));
    }
    let more = verdict.differences.len().saturating_sub(DIFFERENCES_SHOWN) as u64;
    if more > 0 {
        out.push_str(&format!("  and {} that differ; --json names them all\n", counted(more, "more run")));
    }
    for words in &verdict.unusable {
        out.push_str(&format!("{}\n", style.bad(&format!("not usable: {words}"))));
    }
    match verdict.ending() {
        Ending::Same => out.push_str(&format!("{}\n", style.good("every order is the one recorded"))),
        Ending::Differs => {
            let steps = counted(verdict.differing_steps, "step");
            out.push_str(&format!(
                "{steps} in all order something else; what follows a first difference follows from it\n"
            ));
        }
        Ending::Unusable if verdict.runs == 0 => out.push_str("nothing could be run\n"),
        Ending::Unusable => {}
    }
    out
}

/// Uneventful steps counted by what they are.
#[derive(Debug, Default)]
struct Uneventful {
    steps: u64,
    kinds: BTreeMap<&'static str, u64>,
    first: u64,
    last: u64,
}

impl Uneventful {
    fn count(&mut self, step: &Replayed) {
        if self.steps == 0 {
            self.first = step.now.0;
        }
        self.last = step.now.0;
        self.steps += 1;
        let kind = match step.fact {
            Input::PartnerPageRead(_) => "reads of the partner's page",
            Input::PartnerPageUnreadable(_) => "failed reads of the partner's page",
            Input::Surveyed { .. } => "reads of the lock disks",
            _ => "deadlines",
        };
        *self.kinds.entry(kind).or_default() += 1;
    }

    fn words(&self) -> String {
        let kinds: Vec<String> =
            self.kinds.iter().map(|(kind, count)| format!("{count} {}", of_count(*count, kind))).collect();
        let millis = (self.last - self.first) / 1000;
        format!("{} uneventful in {}.{:03} s: {}", self.steps, millis / 1000, millis % 1000, kinds.join(", "))
    }
}

/// The singular, if it is one.
fn of_count(count: u64, kinds: &str) -> String {
    if count == 1 { kinds.replacen("reads", "read", 1).replacen("deadlines", "deadline", 1) } else { kinds.to_owned() }
}

/// Why a run begins where it does, in words.
fn occasion(start: &Start) -> String {
    match start.occasion {
        Occasion::Process => "the process began".to_owned(),
        Occasion::Segment => format!("joined after {} steps, which the log holds no more", start.steps),
        Occasion::LeftOut { steps } => {
            format!("joined after {} steps, the last {steps} of which were left out", start.steps)
        }
    }
}

/// The files a command line names, for messages.
#[must_use]
pub fn named(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
