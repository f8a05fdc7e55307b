//! `understudy-sim`: runs seeds, prints those that go wrong, makes them smaller.

use std::path::PathBuf;
use std::process::ExitCode;

use understudy_sim::campaign::Campaign;
use understudy_sim::plan::Plan;
use understudy_sim::run::{Outcome, run};
use understudy_sim::shrink::shrink;
use understudy_sim::weather::Kind;

const USAGE: &str =
    "understudy-sim [--seed N] [--runs M] [--kinds KIND,...] [--json FILE] [--plan FILE] [--verbose 1] [--shrink 0]
understudy-sim --mistakes 1                                         every deliberate mistake that has to be found
understudy-sim --mistake NAME [--seed N] [--runs M] [--kinds KIND,...] one of them";

struct Wish {
    seed: u64,
    runs: u64,
    json: Option<String>,
    plan: Option<String>,
    verbose: bool,
    shrink: bool,
    kinds: Option<Vec<Kind>>,
    mistakes: bool,
    mistake: Option<String>,
}

fn main() -> ExitCode {
    let wish = match parse(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(wish) => wish,
        Err(text) => {
            eprintln!("error: {text}\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    }
    let done = if wish.mistakes || wish.mistake.is_some() { find_mistakes(&wish) } else { work(&wish) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[String]) -> Result<Wish, String> {
    let mut wish = Wish {
        seed: 1,
        runs: 1,
        json: None,
        plan: None,
        verbose: false,
        shrink: true,
        kinds: None,
        mistakes: false,
        mistake: None,
    };
    for pair in words.chunks(2) {
        let [name, value] = pair else { return Err(format!("{}: expected a value", pair[0])) };
        let number = || value.parse::<u64>().map_err(|_| format!("{name} {value}: expected a number"));
        match name.as_str() {
            "--seed" => wish.seed = number()?,
            "--runs" => wish.runs = number()?,
            "--json" => wish.json = Some(value.clone()),
            "--plan" => wish.plan = Some(value.clone()),
            "--verbose" => wish.verbose = number()? > 0,
            "--shrink" => wish.shrink = number()? > 0,
            "--kinds" => wish.kinds = Some(value.split(',').map(kind_of).collect::<Result<_, _>>()?),
            "--mistakes" => wish.mistakes = number()? > 0,
            "--mistake" => wish.mistake = Some(value.clone()),
            _unknown => return Err(format!("{name}: unknown")),
        }
    }
    Ok(wish)
}

fn kind_of(name: &str) -> Result<Kind, String> {
    let found = Kind::ALL.into_iter().find(|kind| format!("{kind:?}") == name);
    found.ok_or_else(|| format!("{name}: no such kind of fault; there are {:?}", Kind::ALL))
}

fn plans(wish: &Wish) -> anyhow::Result<Vec<Plan>> {
    let mut plans = match &wish.plan {
        Some(file) => vec![serde_json::from_str(&std::fs::read_to_string(file)?)?],
        None => {
            let seeds = wish.seed..wish.seed.saturating_add(wish.runs);
            let plan = |seed| match &wish.kinds {
                Some(kinds) => Plan::in_weather(seed, kinds),
                None => Plan::from_seed(seed),
            };
            seeds.map(plan).collect::<Vec<_>>()
        }
    };
    plans.iter_mut().for_each(|plan| plan.verbose = wish.verbose);
    Ok(plans)
}

#[cfg(not(feature = "mistakes"))]
fn find_mistakes(_: &Wish) -> anyhow::Result<bool> {
    anyhow::bail!("built without the feature `mistakes`")
}

/// Whether all were found. The panics of a mistake that the product's own assertions find would end an optimised program, so they are
/// not among those that have to be found.
#[cfg(feature = "mistakes")]
fn find_mistakes(wish: &Wish) -> anyhow::Result<bool> {
    use understudy_sim::mistakes::{Case, Deliberate, KNOWN};
    let cases = match &wish.mistake {
        None => KNOWN.to_vec(),
        Some(name) => {
            let mistake = Deliberate::named(name);
            let mistake = mistake.ok_or_else(|| anyhow::anyhow!("{name}: there are {:?}", Deliberate::all()))?;
            let kinds = wish.kinds.clone().unwrap_or_else(|| Kind::ALL.to_vec());
            vec![Case { mistake, kinds: kinds.leak(), first: wish.seed, seeds: wish.runs }]
        }
    };
    let mut all = true;
    for case in cases {
        let found = case.find();
        let name = case.mistake.name();
        match &found {
            Some(outcome) => println!(
                "{name}: seed {} ({} tried): {}",
                outcome.seed,
                outcome.seed - case.first + 1,
                outcome.failure.as_deref().unwrap_or_default(),
            ),
            None => println!("{name}: NOT FOUND in seeds {} to {}", case.first, case.first + case.seeds - 1),
        }
        all &= found.is_some();
    }
    Ok(all)
}

fn work(wish: &Wish) -> anyhow::Result<bool> {
    let campaign = Campaign::begin(wish.json.as_ref().map(PathBuf::from));
    campaign.watch()?;
    for plan in plans(wish)? {
        let outcome = run(&plan);
        tell(&outcome);
        if outcome.failure.is_some() && wish.shrink && !wish.verbose {
            let (smaller, again) = shrink(&plan, outcome.clone());
            println!(
                "  smaller: {} of {} faults, {}",
                smaller.faults.len(),
                plan.faults.len(),
                again.failure.unwrap_or_default()
            );
            println!("  plan: {}", serde_json::to_string(&smaller)?);
        }
        campaign.add(outcome);
    }
    Ok(campaign.conclude(None)?.failed.is_empty())
}

fn tell(outcome: &Outcome) {
    let Some(failure) = &outcome.failure else {
        let (simulated, home) = (outcome.simulated.as_secs_f64(), outcome.home_after.unwrap_or_default().as_secs_f64());
        println!("seed {}: holds; {simulated:.0} s, {} faults, home after {home:.1} s", outcome.seed, outcome.faults);
        return;
    };
    for line in &outcome.last_lines {
        println!("  {line}");
    }
    println!("seed {}: {failure}", outcome.seed);
}
