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
    CheckReport, ControlState, DnsTable, Health, Member, MemberStatus, Members, RegionView,
    StepOutcome, Topology,
};
use meridian_mesh::{Lane, MeshHandle, Refusal, SessionId};
use meridian_node::{Control, ControlEffect, wire::PeerMessage};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::ReplicationSection;

use super::{
    control_log::ControlLog,
    inbound::{Info, ToExecutor},
    limits::{CHECK_EVERY, CHECK_TIMEOUT, CONTROL_TICK, FAREWELL_MS, INFO_EVERY, MEMBER_REQUESTS},
    members::{Farewell, Request, Roster, Verdict},
    network::{ExecutorHandle, ToControl, ToShipper},
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
    /// Bounds of what is sent to a region.
    pub replication: ReplicationSection,
    /// The same with the members that these answers are for.
    pub answering: Option<(Members, Topology)>,
    /// This region among the members.
    pub roster: Roster,
    /// The members that everybody here has been told of.
    pub followed: Members,
    /// For the members.
    pub shipper: mpsc::Sender<ToShipper>,
    /// Requests of operators.
    pub requests: Vec<Request>,
    /// Told when this node is to end for good.
    pub farewell: watch::Sender<Option<Farewell>>,
    /// When this region has seen that it has left.
    pub left_ms: Option<u64>,
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
            self.follow_members();
            self.answer_requests();
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
        let measured = |(peer, _): (u16, &Member)| {
            let ms = self.mesh.rtt(peer)?.as_millis() as u64;
            Some((Origin(peer), ms))
        };
        self.followed.live().filter_map(measured).collect()
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn take(&mut self, message: ToControl) {
        let now_ms = self.now_ms();
        let taken = match message {
            ToControl::PeerUp(peer, session) => {
                self.tell_members(peer, session);
                Ok(())
            }
            ToControl::Learn(state) => self.control.learn(&state),
            ToControl::Expelled(peer, refusal) => {
                self.expelled(peer, refusal);
                Ok(())
            }
            ToControl::Member(change, reply) => {
                if self.requests.len() < MEMBER_REQUESTS {
                    self.requests.push(Request::new(change, now_ms, reply));
                } else {
                    let _ = reply.send(Err("too many requests wait".to_owned()));
                }
                Ok(())
            }
            ToControl::Heartbeat(from, bytes) => self.control.receive(now_ms, from, &bytes),
            ToControl::Raft(from, bytes) => self.control.step(from, &bytes),
        };
        if let Err(error) = taken {
            tracing::warn!(error, "message of the control plane refused");
        }
    }

    /// Tells everybody here who the members are, when they have changed. What has no room now is
    /// told in the next turn.
    fn follow_members(&mut self) {
        let now_ms = self.now_ms();
        let members = self.control.members();
        match members.status(self.roster.me) {
            Some(MemberStatus::Left) => {
                let since_ms = *self.left_ms.get_or_insert(now_ms);
                if now_ms >= since_ms + FAREWELL_MS {
                    self.farewell.send_replace(Some(Farewell::Left));
                }
                return;
            }
            Some(MemberStatus::Dead) => {
                let by = "the control group".to_owned();
                self.farewell.send_replace(Some(Farewell::Dead(by)));
                return;
            }
            _ => {}
        }
        if *members == self.followed || members.is_empty() {
            return;
        }
        let company = self.roster.company(members);
        let peers = company.peers.clone();
        let told = self.executor.try_now(ToExecutor::Members(company))
            && self.shipper.try_send(ToShipper::Members(peers)).is_ok();
        if !told {
            return;
        }
        let (peers, retired) = (self.roster.peers(members), self.roster.retired(members));
        if let Err(error) = self.mesh.set_peers(peers, retired) {
            tracing::error!(%error, "the mesh refuses the members");
        }
        for (ordinal, member) in members.iter() {
            self.mesh.set_bandwidth(ordinal, self.replication.bandwidth_to(&member.name));
        }
        self.followed = members.clone();
        for (ordinal, member) in self.followed.iter() {
            let status = member.status.as_str();
            tracing::info!(region = member.name, ordinal, status, "member");
        }
        for peer in self.mesh.stats().peers {
            if let Some(session) = peer.session {
                self.tell_members(peer.ordinal, session);
            }
        }
    }

    /// Tells a peer who the members are, once that is more than the topology file says.
    fn tell_members(&self, peer: u16, session: SessionId) {
        let state = self.control.state();
        if state.members.iter().all(|(_, member)| member.since == 0) {
            return;
        }
        let bytes = Bytes::from(PeerMessage::Members(state.encode()).encode());
        // A session that has just ended is followed by another.
        let _ = self.mesh.try_send(peer, session, Lane::Control, bytes);
    }

    /// A peer says that this region is no member any more. The peer has proved to be one, so this
    /// node ends: what it wrote from now on would only have to be salvaged.
    fn expelled(&self, peer: u16, refusal: Refusal) {
        let name = self.control.members().get(peer).map(|member| member.name.clone());
        let by = name.unwrap_or_else(|| peer.to_string());
        self.farewell.send_replace(Some(match refusal {
            Refusal::HasLeft => Farewell::Left,
            _ => Farewell::Dead(by),
        }));
    }

    fn answer_requests(&mut self) {
        let now_ms = self.now_ms();
        for request in std::mem::take(&mut self.requests) {
            match request.judge(self.control.state(), now_ms) {
                Verdict::Answered => {}
                Verdict::Wait(request) => self.requests.push(request),
                Verdict::Propose(request, change) => {
                    if let Err(error) = self.control.propose_member(change) {
                        tracing::debug!(error, "a change of the members is not proposed yet");
                    }
                    self.requests.push(request);
                }
            }
        }
    }

    /// One turn: decide, make durable, let out.
    fn turn(&mut self) -> Result<()> {
        self.control.set_caught_up(self.shared.caught_up.load(Ordering::Relaxed));
        self.control.set_drained(self.shared.drained.load(Ordering::Relaxed));
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
                let live = self.followed.live().map(|(ordinal, _)| ordinal);
                for peer in live.filter(|ordinal| *ordinal != self.roster.me) {
                    let _ = self.mesh.send_datagram(peer, bytes.clone());
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

    fn publish(&mut self, published: &mut Option<DnsTable>) {
        let now_ms = self.now_ms();
        let state = self.control.state();
        if self.answering.as_ref().is_none_or(|(members, _)| *members != state.members) {
            self.answering = Some((state.members.clone(), self.topology.of_members(state)));
        }
        let topology = self.answering.as_ref().map_or(&self.topology, |(_, topology)| topology);
        let table = DnsTable::compute(state, topology, &self.control.suspects(now_ms));
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
