//! The control plane's task: heartbeats, Raft, checks, and what follows from a decision.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Instant,
};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use meridian_clock::Origin;
use meridian_dns::DnsHandle;
use meridian_failover::{
    CheckReport, ControlState, DnsTable, Health, RegionView, StepOutcome, Topology,
};
use meridian_mesh::{Lane, MeshHandle};
use meridian_node::{Control, ControlEffect, wire::PeerMessage};
use tokio::sync::{mpsc, oneshot};

use super::{
    control_log::ControlLog,
    inbound::{Info, ToExecutor},
    limits::{CHECK_EVERY, CHECK_TIMEOUT, CONTROL_TICK, INFO_EVERY},
    network::{ExecutorHandle, ToControl},
    shared::Shared,
};

/// What the control plane shows to others.
#[derive(Clone, Debug)]
pub struct View {
    /// The agreed state.
    pub state: ControlState,
    /// This region's health.
    pub health: Health,
    /// What is known of every region.
    pub regions: Vec<RegionView>,
    /// The control group's leader.
    pub leader: Option<u16>,
    /// Its term.
    pub term: u64,
    /// Who votes in it.
    pub voters: BTreeSet<u16>,
    /// Whether this region may act as primary.
    pub is_primary: bool,
}

/// Where the newest view is.
pub type SharedView = Arc<Mutex<Option<View>>>;

/// The control plane's parts.
pub struct Plane {
    /// The machine.
    pub control: Control,
    /// Its log.
    pub log: ControlLog,
    /// What arrives.
    pub inbox: mpsc::Receiver<ToControl>,
    /// The peers.
    pub mesh: MeshHandle,
    /// For checks.
    pub executor: ExecutorHandle,
    /// What the others see.
    pub shared: Arc<Shared>,
    /// Published here.
    pub view: SharedView,
    /// Where DNS answers come from.
    pub dns: DnsHandle,
    /// Regions, networks, orders.
    pub topology: Topology,
    /// The other regions.
    pub peers: Vec<u16>,
    /// Zero of the control plane's clock.
    pub started: Instant,
}

impl Plane {
    /// Runs until the node ends.
    ///
    /// # Errors
    /// When the control log fails: the process must end.
    pub async fn run(mut self) -> Result<()> {
        let mut tick = tokio::time::interval(CONTROL_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (checked, mut reports) = mpsc::channel(1);
        tokio::spawn(check_forever(self.executor.clone(), checked));
        let mut published = None;
        let mut informed = Instant::now();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                message = self.inbox.recv() => match message {
                    None => return Ok(()),
                    Some(message) => self.take(message),
                },
                report = reports.recv() => match report {
                    None => return Ok(()),
                    Some(report) => {
                        let now_ms = self.now_ms();
                        self.control.check(now_ms, &report);
                    }
                },
            }
            while let Ok(message) = self.inbox.try_recv() {
                self.take(message);
            }
            self.turn()?;
            self.publish(&mut published);
            if informed.elapsed() >= INFO_EVERY {
                informed = Instant::now();
                // For INFO only: what finds no room will be said again.
                self.executor.offer_now(ToExecutor::Info(self.info()));
                self.executor.offer_now(ToExecutor::RoundTrips(self.round_trips()));
            }
        }
    }

    /// A section for INFO: the regions as the control group sees them.
    fn info(&self) -> Info {
        let now_ms = self.now_ms();
        let state = self.control.state();
        let name = |region: &u16| {
            let known = state.members.get(*region);
            known.map_or_else(|| region.to_string(), |member| member.name.clone())
        };
        let mut lines = vec![
            ("epoch".to_owned(), state.epoch.to_string()),
            ("primary".to_owned(), name(&state.primary)),
            (
                "health".to_owned(),
                format!("{:?}", self.control.health(now_ms).level).to_lowercase(),
            ),
        ];
        for (region, status) in &state.regions {
            lines.push((
                format!("region_{}", name(region)),
                format!("{:?}", status.state).to_lowercase(),
            ));
        }
        Info::from([("Regions".to_owned(), lines)])
    }

    /// As measured, by peer with a session.
    fn round_trips(&self) -> BTreeMap<Origin, u64> {
        let measured = |peer: &u16| {
            let ms = self.mesh.rtt(*peer)?.as_millis() as u64;
            Some((Origin(*peer), ms))
        };
        self.peers.iter().filter_map(measured).collect()
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn take(&mut self, message: ToControl) {
        let now_ms = self.now_ms();
        let taken = match message {
            ToControl::Heartbeat(from, bytes) => self.control.receive(now_ms, from, &bytes),
            ToControl::Raft(from, bytes) => self.control.step(from, &bytes),
        };
        if let Err(error) = taken {
            tracing::warn!(error, "message of the control plane refused");
        }
    }

    /// One turn: decide, make durable, let out.
    fn turn(&mut self) -> Result<()> {
        self.control.set_caught_up(self.shared.caught_up.load(Ordering::Relaxed));
        // More than one round: what is persisted may make the next entries ready.
        loop {
            let turn = self.control.turn(self.now_ms());
            let idle = turn.records.is_empty();
            if !idle {
                let (records, sync) = (&turn.records, turn.must_sync);
                let log = &mut self.log;
                tokio::task::block_in_place(|| log.append(records, sync))?;
            }
            let now_ms = self.now_ms();
            // The role is given up before anybody hears that it may be taken.
            let primary = self.control.is_primary(now_ms);
            self.shared.primary.store(primary, Ordering::Release);
            let persisted = self.control.persisted(now_ms, turn);
            let (effects, records) = persisted.map_err(|e| anyhow!(e)).context("control group")?;
            tokio::task::block_in_place(|| self.log.replace(&records))?;
            for effect in effects {
                self.effect(effect);
            }
            if idle {
                return Ok(());
            }
        }
    }

    fn effect(&self, effect: ControlEffect) {
        match effect {
            ControlEffect::Broadcast(bytes) => {
                let bytes = Bytes::from(bytes);
                for peer in &self.peers {
                    let _ = self.mesh.send_datagram(*peer, bytes.clone());
                }
            }
            ControlEffect::Raft(to, message) => {
                let Some(session) = self.mesh.peer_stats(to).and_then(|s| s.session) else {
                    return;
                };
                let bytes = Bytes::from(PeerMessage::Raft(message).encode());
                let _ = self.mesh.try_send(to, session, Lane::Control, bytes);
            }
            ControlEffect::Changed => {
                let state = self.control.state();
                tracing::info!(
                    epoch = state.epoch,
                    primary = state.primary,
                    "control state changed"
                );
            }
        }
    }

    fn publish(&self, published: &mut Option<DnsTable>) {
        let now_ms = self.now_ms();
        let state = self.control.state();
        let topology = self.topology.of_members(state);
        let table = DnsTable::compute(state, &topology, &self.control.suspects(now_ms));
        if published.as_ref() != Some(&table) {
            self.dns.publish(table.clone());
            *published = Some(table);
        }
        let (leader, term) = self.control.leader();
        let is_primary = self.control.is_primary(now_ms);
        self.shared.primary.store(is_primary, Ordering::Release);
        let view = View {
            state: state.clone(),
            health: self.control.health(now_ms),
            regions: self.control.view(now_ms),
            leader,
            term,
            voters: self.control.voters().0,
            is_primary,
        };
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Some(view);
    }
}

/// Write, sync, read, for ever: what a client needs must work, not just the process be there.
async fn check_forever(executor: ExecutorHandle, reports: mpsc::Sender<CheckReport>) {
    let failed = StepOutcome::Failed;
    loop {
        let (reply, answer) = oneshot::channel();
        let check = async {
            executor.send(ToExecutor::Check(reply)).await.ok()?;
            answer.await.ok()
        };
        let report = match tokio::time::timeout(CHECK_TIMEOUT, check).await {
            Ok(Some(report)) => report,
            Ok(None) => return,
            Err(_) => CheckReport { write: failed, fsync: failed, read: failed },
        };
        if reports.send(report).await.is_err() {
            return;
        }
        tokio::time::sleep(CHECK_EVERY).await;
    }
}
