//! One region as a running process: the state machines of `meridian-node` on their threads.
//!
//! ```text
//! executor thread   sockets, commands, merges, commits          (executor.rs, clients.rs)
//! sync thread       makes the log durable                        (sync.rs)
//! checkpoint thread writes what changed to RocksDB               (checkpointer.rs)
//! backup thread     takes backups, on order and by schedule      (backups.rs)
//! clock thread      reserves time on disk ahead of its use          (clock_floor.rs)
//! disk check thread looks for rot                                (disk_check.rs)
//! tokio             mesh, shipper, control plane, DNS, Postgres, admin port
//! ```
//! Each of them ends the process when its storage fails: what has not left is recovered from
//! disk, and nothing else may be trusted after a failed write.

mod admin;
mod alarms;
mod backups;
mod capture;
mod checkpointer;
mod clients;
mod clock_floor;
mod control_log;
mod damage;
mod disk_check;
mod executor;
mod inbound;
mod limits;
mod members;
mod network;
mod plane;
mod shared;
mod snapshot;
mod sync;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};
use meridian_clock::Origin;
use meridian_disk::{DataDir, DiskStorage, LogSyncer, Opened, Scrub};
use meridian_dns::DnsServer;
use meridian_failover::{ControlState, DnsTable};
use meridian_keyspace::{Ablations, Engine, EngineConfig, StageConfig};
use meridian_mesh::Mesh;
use meridian_node::{Control, ControlConfig, DataConfig, DataNode, Recovered, Shipper, recover};
use mio::{Interest, Poll, Waker};
use tokio::sync::{mpsc, watch};

use crate::config::NodeConfig;
use executor::{Executor, LISTENER, Parts, WAKER};
use network::{Dispatcher, ExecutorHandle, ShipperTask};
use shared::Shared;

pub use backups::Schedule;
pub use damage::Damaged;
pub use executor::unix_us;

/// The largest agreed state that a joined region's directory may hold, in bytes.
const JOINED_STATE_BYTES_MAX: u64 = meridian_failover::MAX_STATE_BYTES as u64;

/// The control group's log within a region's data directory.
const CONTROL_LOG: &str = "control.log";

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or when something that it cannot do without has failed.
pub fn run(config: NodeConfig) -> Result<()> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("meridian-io")
        .enable_all()
        .build()
        .context("starting the I/O threads")?;
    let directory = config.data_dir();
    let (parts, recovered) = open(&config).map_err(|error| damage::explain(error, &directory))?;
    tracing::info!(
        region = config.region.name,
        elements = recovered.elements,
        log_entries = recovered.entries,
        took = ?started.elapsed(),
        "recovered"
    );
    let node = Node::build(&config, parts, recovered, &runtime, started)
        .map_err(|error| damage::explain(error, &directory))?;
    node.run(&runtime)
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    unix_us() / 1000
}

/// Opens the directory and rebuilds the data.
fn open(config: &NodeConfig) -> Result<(Opened, Recovered)> {
    let directory = config.data_dir();
    let identity = config.identity();
    let opened = DataDir::open(&directory, &identity, config.disk_options())
        .with_context(|| format!("opening {}", directory.display()))?;
    let stage = StageConfig {
        me: Origin(config.region.ordinal),
        partitions: config.cluster.partitions,
        seed: seed(),
        ablations: Ablations::default(),
    };
    let storage = DiskStorage::from(opened);
    let recovered = recover(&storage, stage, &identity)
        .with_context(|| format!("recovering from {}", directory.display()))?;
    Ok((storage.into_parts(), recovered))
}

/// Unpredictable, so that no client can choose keys that collide.
pub fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

type Thread = Box<dyn FnOnce() -> Result<()> + Send>;

type Task = std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A node that is ready to run.
struct Node {
    executor: Executor,
    handle: ExecutorHandle,
    tasks: Vec<(&'static str, Task)>,
    threads: Vec<(&'static str, Thread)>,
    syncer: Arc<LogSyncer>,
    farewell: watch::Receiver<Option<members::Farewell>>,
    region: String,
    directory: std::path::PathBuf,
    _dns: DnsServer,
}

impl Node {
    #[allow(clippy::too_many_lines, reason = "the one place where everything is put together")]
    fn build(
        config: &NodeConfig,
        opened: Opened,
        recovered: Recovered,
        runtime: &tokio::runtime::Runtime,
        started: Instant,
    ) -> Result<Node> {
        let _inside = runtime.enter();
        let me = Origin(config.region.ordinal);
        let peers: Vec<Origin> = config.peers.iter().map(|p| Origin(p.ordinal)).collect();
        let shared = Arc::new(Shared::new(recovered.end, recovered.meta.position));
        let partitions = config.cluster.partitions;
        let topology = config.cluster.dns_topology()?;

        let poll = Poll::new().context("creating a poll")?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).context("creating a waker")?);
        let address = config.region.redis;
        let mut listener = mio::net::TcpListener::bind(address)
            .with_context(|| format!("listening for Redis clients on {address}"))?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)
            .context("registering the listener")?;

        let (to_executor, inbound) = mpsc::channel(limits::INBOUND_MESSAGES);
        let (to_network, outgoing) = mpsc::channel(limits::OUTGOING_MESSAGES);
        let (to_shipper, shipper_inbox) = mpsc::channel(limits::OUTGOING_MESSAGES);
        let (to_control, control_inbox) = mpsc::channel(limits::OUTGOING_MESSAGES);
        let (mirror_acks, mirror_durable) = watch::channel(0);
        let (mesh_events, events) = mpsc::channel(limits::MESH_EVENTS);
        let handle = ExecutorHandle::new(to_executor, Arc::clone(&waker));

        let mut engine = Engine::new(engine_config(config), recovered.stage, recovered.end);
        engine.environment_mut().started_ms = unix_us() / 1000;
        let data = DataConfig {
            cluster: config.cluster.cluster.clone(),
            peers: peers.clone(),
            scrub_every_ms: config.cluster.storage.scrub_every_ms,
            ablations: Ablations::default(),
        };
        let limits = &config.cluster.limits;
        let (max_clients, max_output) =
            (limits.max_clients as usize, limits.client_output.0 as usize);
        let syncer = Arc::new(opened.syncer);
        let mut node = DataNode::new(engine, data);
        node.set_relay_plan(config.cluster.relay_plan(me.0));
        let clock_floor = opened.clock_floor;
        shared.clock_floor.store(clock_floor.floor().0, Ordering::Release);
        let (floors, floors_wanted) = std::sync::mpsc::sync_channel(limits::CLOCK_FLOORS);
        let executor = Executor::new(Parts {
            node,
            log: opened.writer,
            clients: clients::Clients::new(listener, max_clients, max_output),
            poll,
            inbound,
            outgoing: to_network,
            shared: Arc::clone(&shared),
            mirror_acks,
            floors,
            skew_limit_ms: config.cluster.limits.clock_skew_ms,
            admit_lag_ms: config.cluster.failover.admit_lag_ms,
        });

        let mesh = Mesh::start(config.mesh_config()?, mesh_events).context("starting the mesh")?;
        for peer in &config.peers {
            let bound = config.cluster.replication.bandwidth_to(&peer.name);
            mesh.set_bandwidth(peer.ordinal, bound);
        }
        let backlog = Arc::new(Mutex::new(BTreeMap::new()));
        let shipper = ShipperTask {
            shipper: Shipper::new(partitions, recovered.marks, &peers),
            reader: opened.reader.clone(),
            syncer: Arc::clone(&syncer),
            mesh: mesh.clone(),
            inbox: shipper_inbox,
            outgoing,
            shared: Arc::clone(&shared),
            retention: config.cluster.storage.log_retention.0,
            limit: config.cluster.storage.log_limit.0,
            waiting: BTreeMap::new(),
            waiting_bulk: BTreeMap::new(),
            tellers: BTreeMap::new(),
            backlog: Arc::clone(&backlog),
        };
        let dispatcher = Dispatcher {
            events,
            executor: handle.clone(),
            shipper: to_shipper.clone(),
            control: to_control.clone(),
            mesh: mesh.clone(),
            partitions,
            shared: Arc::clone(&shared),
        };

        let failover = config.failover_config();
        let joined = joined_state(config)?;
        let mut group_voters = failover.voters.clone();
        let founding = match joined {
            Some(state) => {
                // It has no say in the group until the group says so.
                group_voters.clear();
                state
            }
            None => ControlState::founding(&failover, config.cluster.founders())
                .context("failover configuration")?,
        };
        let (log, records) = control_log::ControlLog::open(&config.data_dir().join(CONTROL_LOG))?;
        let round_trip = config.cluster.largest_round_trip_ms();
        let group = meridian_consensus::GroupConfig::new(me.0, group_voters, round_trip);
        let control = ControlConfig { failover, group };
        let control = Control::with_state(control, founding, records, 0, unix_us())
            .map_err(|e| anyhow!(e))
            .context("control group")?;
        let table = DnsTable::compute(
            control.state(),
            &topology.of_members(control.state()),
            &Default::default(),
        );
        let dns = runtime
            .block_on(DnsServer::start(&config.dns_config(), table))
            .context("starting DNS")?;
        let (farewell, farewells) = watch::channel(None);
        let certificate = Arc::new(config.certificate()?);
        let view: plane::SharedView = Arc::default();
        let plane = plane::Plane {
            control,
            log,
            inbox: control_inbox,
            mesh: mesh.clone(),
            executor: handle.clone(),
            shared: Arc::clone(&shared),
            view: Arc::clone(&view),
            dns: dns.handle().clone(),
            topology,
            replication: config.cluster.replication.clone(),
            answering: None,
            roster: members::Roster { me: me.0, addresses: config.peer_addresses.clone() },
            followed: Default::default(),
            shipper: to_shipper.clone(),
            requests: Vec::new(),
            farewell,
            left_ms: None,
            started: Instant::now(),
        };

        let tailer: capture::SharedStatus = Arc::default();
        let admin_disk: Arc<disk_check::DiskBoard> = Arc::default();
        let schedule = config.backup_schedule();
        let (backup_desk, orders, board) = backups::desk(schedule.as_ref());
        let backups = backups::Backups {
            directory: config.data_dir(),
            identity: config.identity(),
            checkpoint: opened.checkpoint.clone(),
            reader: opened.reader.clone(),
            executor: handle.clone(),
            shared: Arc::clone(&shared),
            schedule,
            orders,
            board,
        };
        let admin = admin::Admin {
            region: config.region.clone(),
            cluster: config.cluster.clone(),
            certificate,
            control: to_control,
            executor: handle.clone(),
            shared: Arc::clone(&shared),
            view,
            tailer: Arc::clone(&tailer),
            mesh,
            dns: dns.handle().clone(),
            backlog,
            reader: opened.reader.clone(),
            checkpoint: opened.checkpoint.clone(),
            backups: backup_desk,
            disk: Arc::clone(&admin_disk),
            started,
        };
        let mut tasks: Vec<(&'static str, Task)> = vec![
            ("network", Box::pin(dispatcher.run())),
            ("shipper", Box::pin(shipper.run())),
            ("control plane", Box::pin(plane.run())),
            ("admin port", Box::pin(admin.run())),
        ];
        if let Some(tailer_config) = config.tailer_config() {
            let capture = capture::Capture {
                config: tailer_config,
                executor: handle.clone(),
                shared: Arc::clone(&shared),
                durable: mirror_durable,
                status: tailer,
            };
            tasks.push(("tailer", Box::pin(capture.run())));
        }

        let durability = config.durability();
        let (sync_shared, last_syncer) = (Arc::clone(&shared), Arc::clone(&syncer));
        let (floor_shared, floor_waker) = (Arc::clone(&shared), Arc::clone(&waker));
        let disk_board: Arc<disk_check::DiskBoard> = Arc::clone(&admin_disk);
        let disk_check = disk_check::DiskCheck {
            scrub: Scrub::new(&config.data_dir(), opened.reader.clone(), opened.checkpoint.clone()),
            shared: Arc::clone(&shared),
            board: Arc::clone(&disk_board),
            rate: config.cluster.storage.disk_check_rate.0,
            every: config.cluster.storage.disk_check_every.duration(),
        };
        let checkpointer = checkpointer::Checkpointer {
            board: disk_board,
            checkpoint: opened.checkpoint,
            reader: opened.reader,
            executor: handle.clone(),
            shared,
            last: recovered.meta,
            trigger: config.cluster.storage.checkpoint_trigger.0,
        };
        let threads: Vec<(&'static str, Thread)> = vec![
            ("sync", Box::new(move || sync::run(&syncer, durability, &sync_shared, &waker))),
            ("checkpoint", Box::new(move || checkpointer.run())),
            ("backup", Box::new(move || backups.run())),
            (
                "clock",
                Box::new(move || {
                    clock_floor::run(clock_floor, &floors_wanted, &floor_shared, &floor_waker)
                }),
            ),
            ("disk check", Box::new(move || disk_check.run())),
        ];
        Ok(Node {
            executor,
            handle,
            tasks,
            threads,
            syncer: last_syncer,
            farewell: farewells,
            region: config.region.name.clone(),
            directory: config.paths.region(&config.region.name),
            _dns: dns,
        })
    }

    /// Runs everything until a signal comes or something fails.
    fn run(self, runtime: &tokio::runtime::Runtime) -> Result<()> {
        let (failed, mut failures) = mpsc::channel::<anyhow::Error>(16);
        for (name, body) in self.threads {
            let failed = failed.clone();
            std::thread::Builder::new()
                .name(name.into())
                .spawn(move || {
                    if let Err(error) = body() {
                        let _ = failed.blocking_send(error.context(format!("{name} thread")));
                    }
                })
                .with_context(|| format!("starting the {name} thread"))?;
        }
        for (name, task) in self.tasks {
            let failed = failed.clone();
            runtime.spawn(async move {
                let error = match task.await {
                    Err(error) => error.context(name),
                    Ok(()) => anyhow!("{name} has ended"),
                };
                let _ = failed.send(error).await;
            });
        }
        let executor = self.executor;
        let thread = std::thread::Builder::new()
            .name("executor".into())
            .spawn(move || {
                let result = executor.run();
                if let Err(error) = &result {
                    let _ = failed.blocking_send(anyhow!("executor: {error:#}"));
                }
                result
            })
            .context("starting the executor thread")?;
        let handle = self.handle;
        let (mut farewell, region, directory) = (self.farewell, self.region, self.directory);
        let mut dead = None;
        runtime.block_on(async {
            let mut terminate =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                    .context("listening for SIGTERM")?;
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
                _ = tokio::signal::ctrl_c() => tracing::info!("SIGINT: stopping"),
                said = farewell.wait_for(Option::is_some) => match said.ok().and_then(|s| s.clone()) {
                    Some(members::Farewell::Dead(by)) => dead = Some(by),
                    _ => tracing::info!("region {region} has left the cluster: stopping"),
                },
                error = failures.recv() => {
                    // What has not left is recovered from disk; nothing here can be trusted.
                    return Err(error.unwrap_or_else(|| anyhow!("a part of the node has ended")));
                }
            }
            handle.send(inbound::ToExecutor::Stop).await
        })?;
        thread.join().map_err(|_| anyhow!("the executor thread panicked"))??;
        self.syncer.sync().context("syncing the log for the last time")?;
        if let Some(by) = dead {
            bail!(
                "region {region} was declared dead, says {by}: it cannot come back under its \
                 ordinal. What only it has is kept: meridian salvage {} --via HOST:PORT. To use \
                 the machine again: meridian join with another data directory",
                directory.display()
            );
        }
        Ok(())
    }
}

/// What a region that joined a running cluster was told when it did.
fn joined_state(config: &NodeConfig) -> Result<Option<ControlState>> {
    let path = config.paths.joined_state(&config.region.name);
    let what = || path.display().to_string();
    let length = match std::fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(what),
    };
    if length > JOINED_STATE_BYTES_MAX {
        bail!("{}: {length} bytes are no agreed state", path.display());
    }
    let bytes = std::fs::read(&path).with_context(what)?;
    let state = ControlState::decode(&bytes).with_context(what)?;
    let me = state.members.get(config.region.ordinal);
    if me.is_none_or(|member| member.name != config.region.name) {
        bail!("{}: region {} is not in it", path.display(), config.region.name);
    }
    Ok(Some(state))
}

fn engine_config(config: &NodeConfig) -> EngineConfig {
    EngineConfig {
        stage: StageConfig {
            me: Origin(config.region.ordinal),
            partitions: config.cluster.partitions,
            seed: seed(),
            ablations: Ablations::default(),
        },
        durability: config.durability(),
        password: config.password.as_ref().map(|p| p.reveal().to_owned()),
        cluster: config.cluster.cluster.clone(),
        region: config.region.name.clone(),
        regions: config
            .cluster
            .names_by_ordinal()
            .into_iter()
            .map(|(ordinal, name)| (Origin(ordinal), name))
            .collect(),
    }
}
