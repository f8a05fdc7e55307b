//! `shelf`: files of a folder as shared disks, until interrupted.

use std::process::ExitCode;
use std::sync::Arc;

use understudy_shelf::{Shelf, ShelfConfig, ShelfDisk, ShelfError};

use super::node::{on_runtime, start_log};
use super::{Failure, ShelfArgs, Size};
use crate::config::shelf_access;

pub(super) fn run(args: &ShelfArgs) -> Result<ExitCode, Failure> {
    let config = config(args)?;
    start_log();
    on_runtime(serve(config))?
}

fn config(args: &ShelfArgs) -> Result<ShelfConfig, Failure> {
    // PANIC: clap accepts nothing but 512 and 4096.
    let block_bytes: u32 = args.block.parse().expect("clap checked the block size");
    let disks = args.disks.iter().map(|text| disk(text, block_bytes)).collect::<Result<_, _>>()?;
    let access = args.access.as_ref().map_or(Ok(Arc::default()), |file| shelf_access(file, &args.target))?;
    Ok(ShelfConfig { folder: args.folder.clone(), listen: args.listen, target: args.target.clone(), disks, access })
}

fn disk(text: &str, block_bytes: u32) -> Result<ShelfDisk, Failure> {
    let wrong = |why: String| Failure::new(format!("--disk {text}: {why}"), "write it as name:size, as in d0:1GiB");
    let (name, size) = text.split_once(':').ok_or_else(|| wrong("there is no size".to_owned()))?;
    let Size(bytes) = size.parse().map_err(wrong)?;
    if bytes % u64::from(block_bytes) != 0 {
        return Err(wrong(format!("{bytes} bytes are no whole number of blocks of {block_bytes}")));
    }
    Ok(ShelfDisk { name: name.to_owned(), bytes, block_bytes })
}

async fn serve(config: ShelfConfig) -> Result<ExitCode, Failure> {
    let target = config.target.clone();
    let names: Vec<String> = config.disks.iter().map(|disk| disk.name.clone()).collect();
    let shelf = start(config).await.map_err(|error| Failure::new(format!("the shelf does not start: {error}"), ""))?;
    // Programs that start a shelf on port 0 read this line.
    println!("shelf serves at {}", shelf.address());
    for (lun, name) in names.iter().enumerate() {
        println!("  {name}  iscsi://{}/{target}/{lun}", shelf.address());
    }
    interrupted().await?;
    shelf.stop().await;
    Ok(ExitCode::SUCCESS)
}

#[cfg(not(feature = "drill"))]
async fn start(config: ShelfConfig) -> Result<Shelf, ShelfError> {
    Shelf::start(config).await
}

/// With disks a drill can hurt.
#[cfg(feature = "drill")]
async fn start(config: ShelfConfig) -> Result<Shelf, ShelfError> {
    use understudy_shelf::drilled::{DrilledMedium, SUFFIX};

    let files: Vec<_> = config.disks.iter().map(|disk| config.folder.join(format!("{}.{SUFFIX}", disk.name))).collect();
    Shelf::start_wrapped(config, |lun, medium| {
        std::rc::Rc::new(DrilledMedium::new(medium, files[usize::from(lun)].clone()))
    })
    .await
}

/// Waits for SIGINT or SIGTERM.
async fn interrupted() -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot wait for signals: {error}"), "");
    let kind = tokio::signal::unix::SignalKind::terminate();
    let mut terminate = tokio::signal::unix::signal(kind).map_err(failed)?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome.map_err(failed),
        _ = terminate.recv() => Ok(()),
    }
}
