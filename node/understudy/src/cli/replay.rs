//! `replay`: runs the event log of a node again.

use std::process::ExitCode;

use super::put::put;
use super::{Failure, ReplayArgs};
use crate::replay::{self, Ending, Json, Place, Quiet, Range, Show, Sources, Text, Transcript, Uneventfully};
use crate::timeline::Style;

/// Exit status of a replay that came to something else than what was recorded.
const DIFFERS: u8 = 1;

/// Exit status when a file could not be used.
const UNUSABLE: u8 = 2;

pub(super) fn run(args: &ReplayArgs) -> Result<ExitCode, Failure> {
    say_where_the_machine_stops();
    let sources = replay::read(&args.files);
    let range = range_of(args, &sources);
    let style = Style::of_stdout();
    let mut transcript = Transcript::default();
    let mut shown: Box<dyn Show> = match args {
        ReplayArgs { export_transcript: true, .. } => Box::new(&mut transcript),
        ReplayArgs { json: true, .. } => Box::new(Json::new(put, range)),
        ReplayArgs { quiet: true, .. } => Box::new(Quiet),
        _ => Box::new(Text::new(put, style, range)),
    };
    let verdict = replay::run(&sources, &mut *shown);
    drop(shown);
    if args.export_transcript {
        put(&transcript.render());
        eprint!("{}", replay::render_verdict(&verdict, Style::of_stderr()));
    } else if args.quiet && !args.json {
        put(&replay::render_verdict(&verdict, style));
    }
    Ok(match verdict.ending() {
        Ending::Same => ExitCode::SUCCESS,
        Ending::Differs => ExitCode::from(DIFFERS),
        Ending::Unusable => ExitCode::from(UNUSABLE),
    })
}

fn range_of(args: &ReplayArgs, sources: &Sources) -> Range {
    let all = if args.all { Uneventfully::Shown } else { Uneventfully::Counted };
    // A time of day is one of the last day in the log, which only its end tells.
    let is_of_day = |place: Option<Place>| matches!(place, Some(Place::OfDay(_)));
    let span = if is_of_day(args.from) || is_of_day(args.until) { replay::span(sources) } else { None };
    let mut range = Range::between(args.from, args.until, span, all);
    range.only = args.only.iter().map(|text| text.to_lowercase()).collect();
    range
}

/// The machine asserts what it takes for granted and ends the process when it is wrong. Run again, it does so again, and that is the
/// answer that was looked for.
fn say_where_the_machine_stops() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let Some(step) = replay::under_way() else { return before(info) };
        let place = info.location().map_or(String::new(), |place| format!(" at {}:{}", place.file(), place.line()));
        let text = info.payload().downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| info.payload().downcast_ref::<String>().cloned()).unwrap_or_default();
        eprintln!("understudy: the machine stops itself in step {}{place}: {text}", step.number);
        eprintln!("  it was told: {}", step.fact);
        if step.is_last {
            eprintln!("  the log of the run ends with this step: this is what ended it");
            std::process::exit(0);
        }
        eprintln!("  it did not when this was recorded: the log goes on");
        std::process::exit(i32::from(DIFFERS));
    }));
}
