//! Our iSCSI target on a LUN in memory, or in a file, for `cargo xtask bench target` and for trying clients.
//!
//! Prints one line, `ADDRESS TARGET LUN`, and serves until its input closes, so that it never outlives who started it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use understudy_device::medium::{Geometry, Medium};
use understudy_device::memory::MemoryMedium;
use understudy_device::{Target, UnitIdentity, UnitOnMedium, UnitOptions};
use understudy_portal::{LoginGate, Portal, PortalOptions};
use understudy_shelf::FileMedium;

const TARGET: &str = "iqn.2026-01.io.understudy:memory";

/// Bytes of a logical block; 512 is what most clients expect.
const BLOCK_BYTES: u32 = 512;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mebibytes, file): (u64, _) = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => (64, None),
        ["--mebibytes", number] => (number.parse().context("--mebibytes")?, None),
        ["--mebibytes", number, "--file", file] => (number.parse().context("--mebibytes")?, Some(PathBuf::from(file))),
        _ => bail!("usage: memory_target [--mebibytes N [--file FILE]]"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(serve(mebibytes << 20, file)))
}

fn medium(bytes: u64, file: Option<PathBuf>) -> Result<Rc<dyn Medium>> {
    let geometry = Geometry { block_bytes: BLOCK_BYTES, blocks: bytes / u64::from(BLOCK_BYTES) };
    let Some(file) = file else { return Ok(MemoryMedium::new(geometry.block_bytes, geometry.blocks)) };
    Ok(Rc::new(FileMedium::open("file", &file, &file.with_extension("state"), geometry)?))
}

async fn serve(bytes: u64, file: Option<PathBuf>) -> Result<()> {
    let identity = UnitIdentity { uuid: [7; 16], product: "MEMORY".to_owned() };
    let unit = UnitOnMedium::new(UnitOptions::new(identity), medium(bytes, file)?, None);
    let unit = unit.context("cannot make the logical unit")?;
    let target = Target::new(TARGET);
    target.add(0, unit).context("cannot add the logical unit")?;
    let portal = Portal::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), PortalOptions::default())?;
    portal.add_target(target, LoginGate::opened());
    println!("{} {TARGET} 0", portal.address());
    input_closed().await;
    portal.close().await;
    Ok(())
}

/// Waits on a thread of its own, because reading a terminal or a pipe blocks.
async fn input_closed() {
    let (tell, closed) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _whatever_it_was = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(tell);
    });
    let _dropped = closed.await;
}
