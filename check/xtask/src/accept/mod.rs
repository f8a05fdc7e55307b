//! Acceptance on parts that CI has not: RDMA between two machines.
//!
//! Two virtual machines without KVM share nothing but a cable of datagrams; on it runs Soft-RoCE, and on that the
//! interconnect's `verbs` provider. One serves a page, the other reads it, and the server's process is stopped, killed
//! and restarted, and in the end its machine is cut off. Emulated processors are 30 to 70 times slower than real ones, so
//! this proves behaviour, takes minutes, and is not part of CI.

mod guest;
mod image;
mod parts;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::accept::guest::{Guest, Hardware};
use crate::accept::parts::Parts;
use crate::programs::MemoryFolder;

/// For everything; it takes half a minute on an idle machine.
const WHOLE: Duration = Duration::from_secs(300);
/// For a guest to boot.
const BOOT: Duration = Duration::from_secs(150);
/// For anything that happens in a guest afterwards.
const STEP: Duration = Duration::from_secs(45);

/// Where the page is served.
const SERVER: &str = "10.77.0.1:7700";

/// Runs the acceptance of the `verbs` provider; without what it needs, says so in one line.
pub(crate) fn verbs() -> Result<()> {
    let start = Instant::now();
    let Some(parts) = Parts::find()? else { return Ok(()) };
    let folder = MemoryFolder::new()?;
    let initial = folder.path().join("initial.cpio");
    fs::write(&initial, parts.image()?.to_cpio()).context("cannot write the guests' file system")?;
    let hardware =
        Hardware { kernel: &parts.kernel.image, initial: &initial, folder: folder.path(), end: start + WHOLE };
    let mut server = Guest::start(1, &hardware)?;
    let mut reader = Guest::start(2, &hardware)?;
    for (guest, name) in [(&mut server, "guest 1 is ready"), (&mut reader, "guest 2 is ready")] {
        guest.expect(&[name], BOOT)?;
        println!("{:6.1} s  {name}", start.elapsed().as_secs_f64());
    }
    Story { start, server, reader }.play()
}

/// The acceptance as a sequence of deeds in one guest and what the other must see.
struct Story {
    start: Instant,
    server: Guest,
    reader: Guest,
}

impl Story {
    fn play(mut self) -> Result<()> {
        self.serve(101)?;
        self.reader.order(&format!("page_peer read verbs {SERVER} 5000 &"))?;
        self.seen("first read by RDMA", &["word=BOOTING", "incarnation=101", "advances"])?;
        self.deed("echo GIVEWAIT >&3")?;
        self.seen("word published, read by RDMA", &["word=GIVEWAIT"])?;
        self.latency("verbs")?;
        self.deed("kill -STOP $server")?;
        self.seen("server stopped: reads go on, its counter stands still", &["word=GIVEWAIT", "stands still"])?;
        self.deed("kill -CONT $server")?;
        self.seen("server goes on", &["word=GIVEWAIT", "advances"])?;
        self.deed("kill -KILL $server")?;
        self.seen("server killed: its link closed", &["link 1 closed"])?;
        self.seen("then nobody listens", &["read failed: nobody listens"])?;
        self.serve(102)?;
        self.seen("server restarted: a new incarnation", &["word=BOOTING", "incarnation=102"])?;
        let Self { start, server, reader } = self;
        drop(server);
        let mut reader = reader;
        let (line, took) = reader.expect(&["read failed: no answer"], STEP)?;
        report(start, "server's machine gone without a word", &line, took);
        println!("verbs accepted in {:.0} s", start.elapsed().as_secs_f64());
        Ok(())
    }

    fn serve(&mut self, incarnation: u32) -> Result<()> {
        self.deed(&format!("page_peer serve verbs {SERVER} {incarnation} </words & server=$!; exec 3>/words"))?;
        self.server.expect(&["serving"], STEP).map(drop)
    }

    /// Something done in the server's machine.
    fn deed(&mut self, line: &str) -> Result<()> {
        self.server.order(line)
    }

    fn seen(&mut self, what: &str, parts: &[&str]) -> Result<()> {
        let (line, took) = self.reader.expect(parts, STEP).with_context(|| format!("not seen: {what}"))?;
        report(self.start, what, &line, took);
        Ok(())
    }

    fn latency(&mut self, provider: &str) -> Result<()> {
        self.reader.order(&format!("page_peer latency {provider} {SERVER} 500"))?;
        self.seen("reads of 4 KiB, one after the other", &["latency reads="])
    }
}

fn report(start: Instant, what: &str, line: &str, took: Duration) {
    println!(
        "{:6.1} s  {what} ({:.0} ms)\n          reader: {line}",
        start.elapsed().as_secs_f64(),
        took.as_secs_f64() * 1e3
    );
}
