//! Asking a portal which targets it has (RFC 7143 §4.3, Appendix C).
//!
//! Not here: sessions that last. The one idea: connect, log in to a discovery session, ask, log out, all within one
//! deadline.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use understudy_session::Micros;
pub use understudy_session::initiator::DiscoveredTarget;
use understudy_session::initiator::{Event, Initiator, Purpose};

use crate::chance;
use crate::disk::DiskError;
use crate::session::{Nexus, Options, config};

/// Asks the portal at `host:port` for all its targets.
///
/// # Errors
/// [`DiskError::Unreachable`] with the reason; never anything of unknown outcome, as nothing is changed.
pub async fn discover(portal: &str, nexus: Nexus, options: &Options) -> Result<Vec<DiscoveredTarget>, DiskError> {
    let config = config(nexus, Purpose::Discovery, options);
    let chance = chance::for_one(&config);
    let machine = Initiator::<()>::with_chance(config, chance, Micros(0));
    let asking = Box::pin(ask(portal, machine));
    let answer = match timeout(options.login_deadline, asking).await {
        Ok(Ok(targets)) => return Ok(targets),
        Ok(Err(trouble)) => trouble,
        Err(_) => "no answer in time".to_owned(),
    };
    Err(DiskError::Unreachable(format!("discovery at {portal}: {answer}")))
}

async fn ask(portal: &str, mut machine: Initiator<()>) -> Result<Vec<DiscoveredTarget>, String> {
    let mut stream = TcpStream::connect(portal).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut buffer = BytesMut::new();
    let mut found = None;
    // BOUND: the caller's deadline.
    loop {
        while !machine.outgoing().is_empty() {
            stream.write_buf(machine.outgoing()).await.map_err(|error| error.to_string())?;
        }
        let count = stream.read_buf(&mut buffer).await.map_err(|error| error.to_string())?;
        if count == 0 {
            return found.ok_or_else(|| "the target closed the connection".to_owned());
        }
        machine.receive(Micros(0), &mut buffer).map_err(|lost| lost.to_string())?;
        while let Some(event) = machine.poll_event() {
            match event {
                Event::LoggedIn(_) => machine.send_targets(),
                Event::Targets(targets) => {
                    found = Some(targets);
                    machine.log_out();
                }
                Event::LoggedOut | Event::LogoutRequested => {
                    return found.ok_or_else(|| "the target logged out".to_owned());
                }
                // Discovery sessions carry no commands.
                Event::Completed { .. } | Event::Ended { .. } | Event::Managed { .. } | Event::SenseReported { .. } => {
                }
            }
        }
    }
}
