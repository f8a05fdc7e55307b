//! The project's own commands, run as `cargo xtask …`: what CI runs, the checks of layers, sizes and words, and the
//! benchmarks.
//!
//! Not a build system and not part of the product. It is the first thing built in a fresh clone, so it stays small: two
//! libraries, arguments parsed by hand, and everything heavy (load, demo) is another program that it starts.

mod accept;
mod bench;
mod ci;
mod citations;
mod drill;
mod fuzz;
mod layers;
mod model;
mod programs;
mod sim;
mod sizes;
mod source;
mod upgrade;
mod words;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
cargo xtask ci                                       everything CI checks
cargo xtask layers | sizes [--accept] | words        single checks
cargo xtask citations                                which section of a standard is carried out and tested where
cargo xtask model [--long | --deep | --mutants] [--scene NAME] [--tell] [--threads N] [--minutes N] [--json FILE]
                                                     every schedule of the failover machine within bounds
cargo xtask bench failover [--runs N] [--json FILE]  pauses at takeover and giveback, from N demos
cargo xtask bench target [--against tgtd,spdk] [--peer-program FILE] [--on memory|file] [--client awake|asleep]
                                                     [--only TEXT] [--rounds N] [--seconds S]
                         [--json FILE]               the same load on our target and others, in turns; FILE is SPDK's iscsi_tgt
cargo xtask bench handoff [--runs N] [--killed [--announced]] [--ways own|both|other] [--json FILE] [--help]
                                                     pools moved there and back: pauses of clients, step by step
cargo xtask bench pacemaker [--runs N] [--token-ms N] [--address last|first] [--json FILE] [--help]
                                                     planned moves and power cuts: our pair, then Pacemaker, Corosync and tgt
cargo xtask bench path [--program FILE] [--rounds N] [--seconds S] [--json FILE]
                                                     a target on a file, and a volume of a pair on a shelf, in turns
cargo xtask bench fabric [--json FILE]               latency of reading the partner's page
cargo xtask bench growth [--volumes N] [--sessions N] [--json FILE] [--svg FILE] [--markdown FILE] [--help]
                                                     what more volumes, sessions, commands and bytes cost a node
cargo xtask drill [--only CELL] [--list] [--json FILE] [--markdown FILE] [--help]
                                                     every fault at every step of takeover, bring-up and giveback
cargo xtask sim [--seed N] [--runs M] [--json FILE]   two whole nodes in one process, simulated
cargo xtask sim --mistakes                           deliberate mistakes that the simulation must find
cargo xtask soak [--minutes N] [--seed S] [--json FILE] [--svg FILE] [--help]
                                                     random drills with verifying clients for a long time
cargo xtask calm [--minutes N] [--hogs N] [--json FILE] [--help]
                                                     nothing is done to a pair on a busy machine: false alarms
cargo xtask netns [--runs N] [--json FILE] [--help]   portals that move between machines made of network namespaces
cargo xtask upgrade [--from COMMIT] [--json FILE]    both nodes from an older commit's program to this one, under clients
cargo xtask conformance [--peer] [--url URL] [--suite FILE]... [--json FILE] [--markdown FILE] [--help]
                                                     libiscsi's suite against a volume, a disk of the shelf, and a peer
cargo xtask fuzz [--seconds N | --runs N] [--target NAME] [--part core|all] [--json FILE] | --seed-corpora
                                                     every parser and session under libFuzzer (needs a C++ compiler)
cargo xtask accept verbs                             RDMA between two emulated machines; minutes, not part of ci";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["ci"] => ci::run(),
        ["layers"] => layers::run(),
        ["model", options @ ..] => model::run(options),
        ["sizes"] => sizes::run(),
        ["sizes", "--accept"] => sizes::accept(),
        ["words"] => words::run(),
        ["citations"] => citations::list(),
        ["bench", "failover", options @ ..] => {
            let options = Options::parse(options, &["--runs", "--json"])?;
            bench::failover::run(options.number("--runs", 20)?, options.file("--json"))
        }
        ["bench", "target", options @ ..] => {
            let known =
                ["--against", "--peer-program", "--on", "--client", "--only", "--rounds", "--seconds", "--json"];
            let options = Options::parse(options, &known)?;
            let peer = options.file("--peer-program");
            let effort = bench::target::Effort {
                rivals: bench::servers::Rival::named(options.text("--against").unwrap_or("tgtd"), peer)?,
                keeping: bench::target::Effort::keeping(options.text("--on").unwrap_or("memory"))?,
                client: bench::target::Waiting::named(options.text("--client").unwrap_or("awake"))?,
                only: options.text("--only").unwrap_or_default().to_owned(),
                rounds: options.number("--rounds", 7)?,
                seconds: options.decimal("--seconds", 1.0)?,
            };
            bench::target::run(&effort, options.file("--json"))
        }
        ["calm", options @ ..] => drill::calm(options),
        ["netns", options @ ..] => drill::netns(options),
        ["upgrade", options @ ..] => {
            let options = Options::parse(options, &["--from", "--json"])?;
            let json = options.text("--json").map_or(Vec::new(), |file| vec!["--json", file]);
            upgrade::run(options.text("--from"), &json)
        }
        ["bench", "handoff", options @ ..] => drill::handoff(options),
        ["bench", "pacemaker", options @ ..] => drill::pacemaker(options),
        ["bench", "path", options @ ..] => {
            let options = Options::parse(options, &["--program", "--rounds", "--seconds", "--json"])?;
            let (rounds, seconds) = (options.number("--rounds", 7)?, options.decimal("--seconds", 1.0)?);
            let effort = bench::path::Effort { rounds, seconds };
            bench::path::run(options.file("--program"), effort, options.file("--json"))
        }
        ["bench", "fabric", options @ ..] => bench::fabric::run(Options::parse(options, &["--json"])?.file("--json")),
        ["bench", "growth", options @ ..] => bench::growth::run(options),
        ["drill", options @ ..] => drill::table(options),
        ["sim", options @ ..] => sim::run(options),
        ["soak", options @ ..] => drill::soak(options),
        ["conformance", options @ ..] => drill::conformance(options),
        ["fuzz", options @ ..] => fuzz::run(options),
        ["accept", "verbs"] => accept::verbs(),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("unknown command; the commands are\n{USAGE}"),
    }
}

/// `--name value` pairs behind a command.
struct Options<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Options<'a> {
    fn parse(words: &[&'a str], known: &[&str]) -> Result<Self> {
        let mut pairs = Vec::new();
        for pair in words.chunks(2) {
            match pair {
                [name, value] if known.contains(name) => pairs.push((*name, *value)),
                [name, ..] => bail!("{name}: expected one of {} and a value\n{USAGE}", known.join(", ")),
                [] => {}
            }
        }
        Ok(Self(pairs))
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(given, _)| *given == name).map(|(_, value)| *value)
    }

    fn number(&self, name: &str, default: u32) -> Result<u32> {
        let parse = |text: &str| text.parse().with_context(|| format!("{name} {text}: expected a number"));
        self.text(name).map_or(Ok(default), parse)
    }

    fn decimal(&self, name: &str, default: f64) -> Result<f64> {
        let parse = |text: &str| text.parse().with_context(|| format!("{name} {text}: expected a number"));
        self.text(name).map_or(Ok(default), parse)
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_pairs_of_known_names() {
        let options = Options::parse(&["--runs", "3", "--json", "x"], &["--runs", "--json"]).unwrap();
        assert_eq!(options.number("--runs", 20).unwrap(), 3);
        assert_eq!(options.file("--json"), Some(PathBuf::from("x")));
        assert!(Options::parse(&["--run", "3"], &["--runs"]).is_err());
        assert!(Options::parse(&["--runs"], &["--runs"]).is_err());
    }

    #[test]
    fn a_number_that_is_none_is_named() {
        let options = Options::parse(&["--runs", "many"], &["--runs"]).unwrap();
        assert!(options.number("--runs", 1).unwrap_err().to_string().contains("--runs many"));
    }
}
