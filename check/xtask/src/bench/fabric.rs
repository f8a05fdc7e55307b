//! Latency of reading the partner's page, measured by a program of its own (this one stays free of libfabric).

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{machine, write_json};
use crate::programs::{build_release, succeed};

/// Providers that run without special hardware.
const PROVIDERS: [&str; 2] = ["tcp", "shm"];

/// Measures every provider that works here.
pub(crate) fn run(json: Option<PathBuf>) -> Result<()> {
    let programs = build_release(&["--package", "understudy-load", "--example", "page_latency"])?;
    let machine = machine();
    let mut results = Vec::new();
    for provider in PROVIDERS {
        match measure(&programs.join("examples/page_latency"), provider) {
            Ok(result) => {
                println!("{provider}: {result}");
                results.push(result);
            }
            Err(error) => println!("{provider}: not measured: {error:#}"),
        }
    }
    write_json(json.as_deref(), &json!({ "machine": machine, "page_read": results }))
}

fn measure(program: &std::path::Path, provider: &str) -> Result<Value> {
    let output = succeed(Command::new(program).arg(provider))?;
    serde_json::from_slice(&output.stdout).context("page_latency wrote no JSON")
}
