//! For drills only (cargo feature `drill`, never in the product): a disk that is slow, fails or hangs when it is told to.
//!
//! For a disk `NAME` the file `NAME.drill` in the shelf's folder says what is wrong with it: `delay MS` answers everything so
//! much later, `error` fails whatever touches the blocks, `hang` answers nothing until the file says something else. No file:
//! nothing is wrong. Reservations are kept on a failing disk (its electronics work, its medium does not) and wait on a slow one.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use understudy_device::medium::{Durability, Geometry, Medium, MediumError};

/// End of the name of the file that tells a disk what is wrong with it.
pub const SUFFIX: &str = "drill";

/// Between two looks of a disk that hangs.
const LOOK: Duration = Duration::from_millis(2);

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Delay(Duration),
    Error,
    Hang,
}

/// A medium with a file that says what is wrong with it.
pub struct DrilledMedium {
    inner: Rc<dyn Medium>,
    file: PathBuf,
}

impl DrilledMedium {
    /// Puts the switch `file` in front of `inner`.
    #[must_use]
    pub fn new(inner: Rc<dyn Medium>, file: PathBuf) -> Self {
        Self { inner, file }
    }

    /// Every command looks, so that the very next one after the file was written is hit.
    fn trouble(&self) -> Trouble {
        std::fs::read_to_string(&self.file).map_or(Trouble::None, |text| parse(&text))
    }

    /// Waits as long as the disk is told to; gives whether the medium works.
    async fn pass(&self) -> bool {
        // BOUND: a hanging disk hangs until it is told otherwise; that is what it is for.
        loop {
            match self.trouble() {
                Trouble::None => return true,
                Trouble::Error => return false,
                Trouble::Delay(delay) => {
                    tokio::time::sleep(delay).await;
                    return true;
                }
                Trouble::Hang => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

fn parse(text: &str) -> Trouble {
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        ["delay", ms] => ms.parse().map_or(Trouble::None, |ms| Trouble::Delay(Duration::from_millis(ms))),
        ["error"] => Trouble::Error,
        ["hang"] => Trouble::Hang,
        [..] => {
            tracing::error!("a drill tells a disk `{text}`, which is not known");
            Trouble::None
        }
    }
}

impl Medium for DrilledMedium {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read(&self, lba: u64, blocks: u32) -> LocalBoxFuture<'_, Result<Bytes, MediumError>> {
        async move {
            if !self.pass().await {
                return Err(MediumError::Read { lba });
            }
            self.inner.read(lba, blocks).await
        }
        .boxed_local()
    }

    fn write(&self, lba: u64, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        async move {
            if !self.pass().await {
                return Err(MediumError::Write { lba });
            }
            self.inner.write(lba, bytes, durability).await
        }
        .boxed_local()
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        async move {
            if !self.pass().await {
                return Err(MediumError::Write { lba: 0 });
            }
            self.inner.flush().await
        }
        .boxed_local()
    }

    fn zero(&self, lba: u64, blocks: u64) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        async move {
            if !self.pass().await {
                return Err(MediumError::Write { lba });
            }
            self.inner.zero(lba, blocks).await
        }
        .boxed_local()
    }

    fn keep_state(&self, state: Vec<u8>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        async move {
            self.pass().await;
            self.inner.keep_state(state).await
        }
        .boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_knows_what_it_is_told() {
        assert_eq!(parse("delay 20\n"), Trouble::Delay(Duration::from_millis(20)));
        assert_eq!((parse("error"), parse("hang"), parse("nonsense")), (Trouble::Error, Trouble::Hang, Trouble::None));
    }
}
