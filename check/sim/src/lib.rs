//! Two complete nodes, their disks, their network and their clients in one process on one simulated clock.
//!
//! **What is real**: the failover machine, the driver that carries out its orders, pools, logical units, targets, portals, both ends of
//! iSCSI with every PDU, `pair init`, and on the shelves the same logical units with their reservations, unit attentions and task sets.
//! **What is simulated**: the bytes' way between hosts (module `network`), the interconnect (`memory`), the media under the shelves' logical
//! units (`medium`), processes and power (`process`), the wall clock, chance. A seed decides everything: the same seed gives the same
//! digest of everything that happened.
//!
//! **Fault model** (modules `plan`, `weather`, `faults`). Processes of either node and of both: killed, power lost (nobody hears of it),
//! stopped and woken, halted in order. Interconnect: lost by either reader or both, late, torn; the end of a connection reported twice, or
//! without one. Paths: cut in one direction or both, slow; what was under way on a cut path arrives when it is mended, also after its sender
//! has closed. The way of forwarded commands between the nodes: cut in one direction or both, slow, its connections broken off. Connections broken off with what was under way. New connections that reach an older owner of an address. Shelves: killed,
//! stopped, power lost with the volatile cache in part, in the middle of updates of several blocks and, in records and metadata, in the
//! middle of a block; slow, failing reads and writes after half of them was done, sessions dropped, small command windows, full task sets
//! (TASK SET FULL), no commands taken at all (BUSY), answers given twice, at once or later. A leg that is lost for good. Lock disks: flipped
//! bits, misdirected records. Pool metadata: unreadable, flipped bits, misdirected. Clocks: those of the nodes run up to a quarter fast or a
//! fifth slow; the wall clock jumps; a stopped node's own clock jumps forward. Operators ask for takeovers, givebacks, volumes made and
//! deleted at any moment.
//!
//! **Not simulated**: clocks that drift against each other otherwise than by a constant rate, and the drift of waits that are constants of the
//! program; silent corruption of volume data (disks that lie about a block's content; there is no checksum above them), a block of volume data
//! torn within itself, more than one leg lost for good, records and metadata damaged on more than one lock disk or leg of a mirror, more than
//! three lock disks or more than one mirror a pool, libfabric, TCP and the kernel.
//!
//! **What is judged** (modules `stage`, `history`, `run`). At every step of either machine: the invariants of the failover core over the true state of disks
//! and pages. Of every block: its history is linearizable, and what was forced or flushed outlives any cache. In the end, when all is mended: both nodes are up, every pool is at home and served
//! within a bounded time, and every block can be read.

pub mod campaign;
pub mod chance;
pub mod client;
pub mod clock;
pub mod digest;
pub mod faults;
pub mod history;
pub mod medium;
pub mod memory;
#[cfg(feature = "mistakes")]
pub mod mistakes;
pub mod network;
pub mod node;
pub mod panics;
pub mod plan;
pub mod process;
pub mod repeat;
pub mod run;
pub mod shelf;
pub mod shrink;
pub mod stage;
pub mod weather;
