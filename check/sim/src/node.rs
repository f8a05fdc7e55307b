//! A simulated machine that runs a node: the product's driver in a world of ours, started again whenever it asks for it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::hash::{Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{self, LocalBoxStream, StreamExt as _};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use understudy::admin::{AdminRequest, Request, Response};
use understudy::config::{Config, NodeName};
use understudy::driver::run_in;
use understudy::driver::world::{DataWay, Interconnect, Witness, World};
use understudy::timeline::Recorder;
use understudy_device::{Elsewhere, NexusName};
use understudy_disk::disk::Disk;
use understudy_disk::lun::IscsiLun;
use understudy_disk::session::{Nexus, Options, Place, Session};
use understudy_disk::url::LunUrl;
use understudy_failover::effect::{Effect, Effects};
use understudy_failover::input::Input;
use understudy_failover::invariants::Service;
use understudy_failover::machine::Machine;
use understudy_failover::words::{Incarnation, Micros, PoolId};
use understudy_portal::{Portal, PortalError, PortalOptions};

use crate::clock;
use crate::network::{Host, Uplink};
use crate::plan::configuration_of;
use crate::process::{End, Process};
use crate::stage::Stage;

/// Requests of operators that wait.
const REQUESTS: usize = 64;

/// How long an operator waits for an answer.
const OPERATOR_WAITS: Duration = Duration::from_secs(60);

/// What is known of a node from outside of it.
#[derive(Default)]
pub struct Seen {
    /// Its machine after the last step, while its process exists.
    pub machine: RefCell<Option<Machine>>,
    /// What its driver was told to do with each pool.
    pub services: RefCell<BTreeMap<PoolId, Service>>,
}

/// One machine.
pub struct Node {
    /// Which node runs here.
    pub name: NodeName,
    stage: std::rc::Weak<Stage>,
    process: RefCell<Process>,
    wanted: Cell<bool>,
    wanted_again: Notify,
    operators: RefCell<Option<mpsc::Sender<AdminRequest>>>,
    halts: RefCell<Option<mpsc::UnboundedSender<()>>>,
    /// See there.
    pub seen: Seen,
    /// Times its process was started.
    pub starts: Cell<u64>,
}

impl Node {
    /// A machine that is off.
    #[must_use]
    pub fn new(name: NodeName, stage: &std::rc::Weak<Stage>) -> Rc<Self> {
        Rc::new(Self {
            name,
            stage: stage.clone(),
            process: RefCell::default(),
            wanted: Cell::new(false),
            wanted_again: Notify::new(),
            operators: RefCell::default(),
            halts: RefCell::default(),
            seen: Seen::default(),
            starts: Cell::new(0),
        })
    }

    /// Its process, the current or the last one.
    #[must_use]
    pub fn process(&self) -> Process {
        self.process.borrow().clone()
    }

    /// Whether its process exists.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.seen.machine.borrow().is_some()
    }

    /// Runs for the whole simulation: starts the process when wanted, and again when it asks for it.
    pub async fn supervise(self: Rc<Self>) {
        loop {
            while !self.wanted.get() {
                self.wanted_again.notified().await;
            }
            let Some(stage) = self.stage.upgrade() else { return };
            let process = Process::new();
            *self.process.borrow_mut() = process.clone();
            self.starts.set(self.starts.get() + 1);
            stage.net.host_is_up(Host::Node(self.name.index()));
            stage.memory.host_is_up(self.name);
            let work = run_one(Rc::clone(&self), Rc::clone(&stage), process.clone());
            process.run(work).await;
            self.after(&stage, &process);
            // What a process needs to begin.
            sleep(stage.chance.millis(2, 30)).await;
        }
    }

    fn after(&self, stage: &Stage, process: &Process) {
        self.seen.machine.take();
        self.seen.services.take();
        self.operators.take();
        self.halts.take();
        stage.memory.gone(self.name, process.ended().unwrap_or(End::Killed));
        stage.log(format_args!("{} ended {:?}", self.name, process.ended()));
    }

    /// Its process is to run.
    pub fn start(&self) {
        self.wanted.set(true);
        self.wanted_again.notify_one();
    }

    /// Its process ends now and stays away until [`Node::start`].
    pub fn kill(&self, how: End) {
        self.wanted.set(false);
        self.process().end(how);
    }

    /// Tells it to halt in order.
    pub fn halt(&self) {
        self.wanted.set(false);
        if let Some(halts) = self.halts.borrow().as_ref() {
            let _ = halts.send(());
        }
    }

    /// An operator asks; the answer, if there is one.
    pub async fn ask(&self, request: Request) -> Option<Response> {
        let operators = self.operators.borrow().clone()?;
        let (reply, answer) = oneshot::channel();
        operators.try_send(AdminRequest { request, reply }).ok()?;
        timeout(OPERATOR_WAITS, answer).await.ok()?.ok()
    }
}

async fn run_one(node: Rc<Node>, stage: Rc<Stage>, process: Process) {
    let config = Rc::new(configuration_of(&stage.plan, node.name.index()));
    let world = SimWorld { node: Rc::clone(&node), stage: Rc::clone(&stage), process };
    match run_in(Rc::new(world), config, node.name).await {
        Ok(how) => {
            stage.log(format_args!("{} wants {how:?}", node.name));
        }
        Err(error) => stage.fail(format!("node {} could not run: {error:#}", node.name)),
    }
}

/// The world of one process of a node.
struct SimWorld {
    node: Rc<Node>,
    stage: Rc<Stage>,
    process: Process,
}

impl World for SimWorld {
    fn incarnation(&self) -> anyhow::Result<Incarnation> {
        Ok(Incarnation(self.stage.chance.draw() | 1))
    }

    fn interconnect(&self, _: &Config, own: NodeName) -> anyhow::Result<Interconnect> {
        Ok(self.stage.memory.interconnect(own, &self.process))
    }

    fn recorder(&self, _: &Config, own: NodeName, incarnation: Incarnation) -> anyhow::Result<Recorder> {
        Ok(Recorder::in_memory(own, incarnation.0, 1, clock::wall_micros))
    }

    fn witness(&self, _: &Config, own: NodeName, machine: &Machine) -> anyhow::Result<Box<dyn Witness>> {
        self.stage.log(format_args!("{own} begins as {}", machine.incarnation()));
        Ok(Box::new(SimWitness { node: Rc::clone(&self.node), stage: Rc::clone(&self.stage), fact: String::new() }))
    }

    fn open_disk(&self, url: &LunUrl, nexus: Nexus, options: Options) -> Rc<dyn Disk> {
        IscsiLun::open_over(self.uplink(), url, nexus, options)
    }

    fn open_forward(&self, partner: Place, client: &NexusName, _: Option<&DataWay>) -> Rc<dyn Elsewhere> {
        let (nexus, options) = (understudy_forward::nexus(client), understudy_forward::options());
        understudy_forward::Line::over(Session::start_over(self.uplink(), partner, nexus, options))
    }

    fn bind_portal(&self, address: SocketAddr, options: PortalOptions) -> Result<Portal, PortalError> {
        let listener = self.stage.net.listen(address, self.host(), &self.process);
        Ok(Portal::on(listener, options))
    }

    fn operators(&self, _: &Config, _: NodeName, _: &Rc<Recorder>) -> anyhow::Result<mpsc::Receiver<AdminRequest>> {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        *self.node.operators.borrow_mut() = Some(requests);
        Ok(inbox)
    }

    fn halts(&self) -> anyhow::Result<LocalBoxStream<'static, ()>> {
        let (halts, told) = mpsc::unbounded_channel();
        *self.node.halts.borrow_mut() = Some(halts);
        let next = async |mut told: mpsc::UnboundedReceiver<()>| told.recv().await.map(|()| ((), told));
        Ok(stream::unfold(told, next).boxed_local())
    }

    fn wall_micros(&self) -> u64 {
        clock::wall_micros()
    }
}

impl SimWorld {
    fn host(&self) -> Host {
        Host::Node(self.node.name.index())
    }

    fn uplink(&self) -> Uplink {
        Uplink { net: Rc::clone(&self.stage.net), host: self.host(), process: self.process.clone() }
    }
}

struct SimWitness {
    node: Rc<Node>,
    stage: Rc<Stage>,
    fact: String,
}

impl Witness for SimWitness {
    fn told(&mut self, _: Micros, fact: &Input, _: &Machine) {
        self.fact.clear();
        if self.stage.is_verbose() {
            self.fact = format!("{fact:?}");
        }
    }

    fn ordered(&mut self, orders: &Effects, machine: &Machine) {
        let mut digest = self.stage.digest();
        machine.hash(&mut digest);
        self.stage.set_digest(digest.finish());
        let seen = &self.node.seen;
        for order in orders {
            self.see(order);
        }
        let before = seen.machine.replace(Some(machine.clone()));
        if before.is_none_or(|before| before.state_word() != machine.state_word()) {
            self.stage.log(format_args!("{} is {}", self.node.name, machine.state_word()));
        }
        self.stage.check_moment();
    }
}

impl SimWitness {
    fn see(&self, order: &Effect) {
        let mut services = self.node.seen.services.borrow_mut();
        if let Effect::ServePool { pool } | Effect::LegDropped { pool, .. } = order {
            let place = self.stage.pools().position(|(other, _, _)| other == *pool);
            place.into_iter().for_each(|place| self.stage.history.borrow_mut().forgotten_shows(place));
            if let (Effect::ServePool { .. }, Some(place)) = (order, place) {
                self.stage.history.borrow_mut().fenced(place);
            }
        }
        match order {
            Effect::ServePool { pool } | Effect::ResumePool { pool } => {
                services.insert(*pool, Service::Answering);
            }
            Effect::HoldPool { pool, .. } | Effect::FreezePool { pool } | Effect::ClosePool { pool } => {
                services.insert(*pool, Service::Silent);
            }
            Effect::Restart(_) | Effect::Halt => services.clear(),
            _ordinary => {}
        }
        if self.stage.is_verbose() && !matches!(order, Effect::PublishPage(_)) {
            self.stage.log(format_args!("{} <- {:.300}\n      -> {order:?}", self.node.name, self.fact));
        }
    }
}

/// Runs `node`'s supervisor beside everything else.
pub fn supervise(node: &Rc<Node>) {
    spawn_local(Rc::clone(node).supervise());
}
