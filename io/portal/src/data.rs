//! Data of commands that does not come and go by the connection: the initiator's data region, and whoever moves data to and from it.
//!
//! Not here: how it is moved (`understudy-forward`), and what the two ends say about it (`understudy-session`).

use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use understudy_iscsi::Advertised;

/// Moves data to and from one data region.
pub trait DataMover {
    /// Puts data there; no more than there is room for. `false`: that failed, and the data may arrive yet.
    fn put(&self, to: Advertised, data: Bytes) -> LocalBoxFuture<'static, bool>;

    /// All data from there; `None` if it cannot be had.
    fn fetch(&self, from: Advertised) -> LocalBoxFuture<'static, Option<Bytes>>;
}

/// Reaches data regions by what an initiator calls them.
#[derive(Clone)]
pub struct DataReach(Rc<Reach>);

type Reach = dyn Fn(&str) -> Option<Rc<dyn DataMover>>;

impl DataReach {
    /// `None` is for regions that cannot be reached.
    #[must_use]
    pub fn new(reach: impl Fn(&str) -> Option<Rc<dyn DataMover>> + 'static) -> Self {
        Self(Rc::new(reach))
    }

    /// Whoever moves data to and from this region.
    pub(crate) fn mover(&self, region: &str) -> Option<Rc<dyn DataMover>> {
        (self.0)(region)
    }
}

impl fmt::Debug for DataReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataReach")
    }
}
