//! Which peer to ask for whose frames.
//!
//! While all is well each origin has one upstream: the one of the [`RelayPlan`], which in a small
//! cluster is the origin itself. When that one falls silent, or nothing comes from it although
//! somebody else has more, a second upstream is asked as well; what arrives twice is dropped by the
//! inbox. The first is never given up while its session lasts, so a wrong suspicion costs a few
//! duplicates and nothing else. Once the first has shown for a while that it has what is here, the
//! second is let go.
//!
//! Why everything arrives: a region that lacks something next to one that has it asks that one, at
//! the latest after [`STUCK_AFTER_MS`]; so what is somewhere moves at least one link at a time,
//! whatever the plan says and wherever links are cut.

use std::collections::{BTreeMap, BTreeSet};

use meridian_clock::{Origin, Time, VersionVector};

use crate::{
    limits::{RETURN_AFTER_MS, SILENT_AFTER_MS, STUCK_AFTER_MS},
    relay::RelayPlan,
};

/// For each peer, the origins that it is asked for.
pub type Upstreams = BTreeMap<Origin, BTreeSet<Origin>>;

/// What is known of a peer that has a session.
#[derive(Clone, Debug, Default)]
pub struct PeerView {
    /// How long nothing was heard of it, in milliseconds of a clock that stands still while this
    /// node does: its own pause is nobody's silence.
    pub silent_ms: u64,
    /// The way to it and back, in milliseconds.
    pub round_trip_ms: u64,
    /// What it has, by its last word; empty before the first.
    pub vectors: Vec<VersionVector>,
}

impl PeerView {
    fn is_silent(&self) -> bool {
        self.silent_ms >= SILENT_AFTER_MS + self.round_trip_ms
    }

    fn is_ahead(&self, mine: &[VersionVector], origin: Origin) -> bool {
        self.vectors.iter().zip(mine).any(|(t, m)| t.get(origin) > m.get(origin))
    }

    fn newest(&self, origin: Origin) -> Time {
        self.vectors.iter().map(|v| v.get(origin)).max().unwrap_or_default()
    }
}

/// What is known of the way of one origin's frames.
#[derive(Clone, Debug, Default)]
struct Route {
    /// Asked beside the plan's upstream, or instead of it while that has no session.
    second: Option<Origin>,
    /// What is here of the origin, by partition.
    have: Vec<Time>,
    /// When that grew last, or the second upstream changed.
    moved_ms: u64,
    /// Since when somebody has had more, without a break.
    wanted_ms: Option<u64>,
    /// What was here at a time since which the plan's upstream has not been silent.
    probe: Option<(u64, Vec<Time>)>,
}

/// Chooses upstreams. Time is a clock in milliseconds that stands still while the node does.
#[derive(Clone, Debug, Default)]
pub struct Router {
    plan: RelayPlan,
    routes: BTreeMap<Origin, Route>,
    /// How often a second upstream was asked while the first had a session.
    pub detours: u64,
}

impl Router {
    /// A router that follows this plan.
    #[must_use]
    pub fn new(plan: RelayPlan) -> Router {
        Router { plan, ..Router::default() }
    }

    /// The plan has changed, say because a region has joined.
    pub fn set_plan(&mut self, plan: RelayPlan) {
        self.plan = plan;
    }

    /// Chooses upstreams for every origin but `me`. `mine` is what is here; `peers` are those with
    /// a session. Call it often: it notices by being called.
    pub fn route(
        &mut self,
        now_ms: u64,
        me: Origin,
        origins: &BTreeSet<Origin>,
        mine: &[VersionVector],
        peers: &BTreeMap<Origin, PeerView>,
    ) -> Upstreams {
        let mut upstreams: Upstreams = peers.keys().map(|p| (*p, BTreeSet::new())).collect();
        self.routes.retain(|origin, _| origins.contains(origin));
        for origin in origins.iter().copied().filter(|o| *o != me) {
            let first = Some(self.plan.upstream(origin)).filter(|p| peers.contains_key(p));
            let route = self.routes.entry(origin).or_default();
            let around = Around { now_ms, origin, mine, peers };
            self.detours += u64::from(route.decide(first, &around));
            for peer in [first, route.second].into_iter().flatten() {
                upstreams.entry(peer).or_default().insert(origin);
            }
        }
        upstreams
    }

    /// Origins that come by another way than the plan's at the moment.
    pub fn detoured(&self) -> impl Iterator<Item = Origin> {
        self.routes.iter().filter(|(_, route)| route.second.is_some()).map(|(origin, _)| *origin)
    }
}

/// What a decision depends on beside the route's own past.
struct Around<'a> {
    now_ms: u64,
    origin: Origin,
    mine: &'a [VersionVector],
    peers: &'a BTreeMap<Origin, PeerView>,
}

impl Around<'_> {
    /// The peer from which the origin's frames come soonest, among those that have some that are
    /// not here: what it lacks of the newest counts as well as the way to it.
    fn best(&self, but: [Option<Origin>; 2]) -> Option<Origin> {
        let able: Vec<(Origin, &PeerView)> = self
            .peers
            .iter()
            .filter(|(peer, view)| !but.contains(&Some(**peer)) && !view.is_silent())
            .filter(|(_, view)| view.is_ahead(self.mine, self.origin))
            .map(|(peer, view)| (*peer, view))
            .collect();
        let newest = able.iter().map(|(_, view)| view.newest(self.origin)).max()?;
        let cost = |(peer, view): &(Origin, &PeerView)| {
            let behind_ms = newest.as_ms() - view.newest(self.origin).as_ms();
            (behind_ms + view.round_trip_ms / 2, *peer)
        };
        able.iter().min_by_key(|peer| cost(peer)).map(|(peer, _)| *peer)
    }

    fn have(&self) -> Vec<Time> {
        self.mine.iter().map(|vector| vector.get(self.origin)).collect()
    }

    fn is_usable(&self, peer: Origin) -> bool {
        self.peers.get(&peer).is_some_and(|view| !view.is_silent())
    }
}

impl Route {
    /// Chooses the second upstream; true when one is asked anew beside a first.
    fn decide(&mut self, first: Option<Origin>, around: &Around<'_>) -> bool {
        let now_ms = around.now_ms;
        let have = around.have();
        if have != self.have {
            self.have = have;
            self.moved_ms = now_ms;
        }
        let wanted = around.best([first, None]).is_some();
        self.wanted_ms = wanted.then(|| self.wanted_ms.unwrap_or(now_ms));
        let is_stuck = self
            .wanted_ms
            .is_some_and(|since| now_ms.saturating_sub(since.max(self.moved_ms)) >= STUCK_AFTER_MS);
        let before = self.second.filter(|second| Some(*second) != first);
        self.second = before;
        match first {
            Some(first) => self.beside(first, is_stuck, around),
            None => self.instead(is_stuck, around),
        }
        if self.second == before {
            return false;
        }
        self.moved_ms = now_ms;
        self.probe = None;
        first.is_some() && self.second.is_some()
    }

    /// The first has a session: is a second needed, or needed no longer?
    fn beside(&mut self, first: Origin, is_stuck: bool, around: &Around<'_>) {
        let is_heard = around.is_usable(first);
        let Some(second) = self.second else {
            if !is_heard || is_stuck {
                self.second = around.best([Some(first), None]);
            }
            return;
        };
        if self.is_proven(first, is_heard, around) {
            self.second = None;
        } else if is_stuck || !around.is_usable(second) {
            let other = around.best([Some(first), Some(second)]);
            self.second = other.or(Some(second).filter(|s| around.peers.contains_key(s)));
        }
    }

    /// The first has no session: somebody else, if anybody has more.
    fn instead(&mut self, is_stuck: bool, around: &Around<'_>) {
        self.probe = None;
        let kept = self.second.filter(|second| around.is_usable(*second) && !is_stuck);
        if kept.is_none() {
            let left = self.second.filter(|second| around.peers.contains_key(second));
            self.second = around.best([left, None]).or(left);
        }
    }

    /// Whether the first has been heard for a while, and has what was here when that began.
    fn is_proven(&mut self, first: Origin, is_heard: bool, around: &Around<'_>) -> bool {
        if !is_heard {
            self.probe = None;
            return false;
        }
        let vectors = around.peers.get(&first).map_or(&[][..], |view| &view.vectors);
        match &self.probe {
            None => self.probe = Some((around.now_ms, self.have.clone())),
            Some((since_ms, had)) if around.now_ms - since_ms >= RETURN_AFTER_MS => {
                let has = vectors.iter().map(|v| v.get(around.origin));
                if vectors.len() == had.len() && has.zip(had).all(|(theirs, had)| theirs >= *had) {
                    return true;
                }
                self.probe = Some((around.now_ms, self.have.clone()));
            }
            Some(_) => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Origin = Origin(0);
    const B: Origin = Origin(1);
    const C: Origin = Origin(2);

    fn has(of: &[(Origin, u64)]) -> Vec<VersionVector> {
        let mut vector = VersionVector::new();
        of.iter().for_each(|(origin, ms)| vector.set(*origin, Time::from_ms(*ms)));
        vec![vector]
    }

    fn view(silent_ms: u64, of: &[(Origin, u64)]) -> PeerView {
        PeerView { silent_ms, round_trip_ms: 0, vectors: has(of) }
    }

    /// C's router; `check` says who is asked for A's frames.
    struct Story(Router);

    impl Story {
        fn new() -> Story {
            Story(Router::new(RelayPlan::direct()))
        }

        #[track_caller]
        fn check(&mut self, now_ms: u64, mine: u64, peers: &[(Origin, PeerView)], ask: &[Origin]) {
            let peers = peers.iter().cloned().collect();
            let origins = [A, B, C].into();
            let routed = self.0.route(now_ms, C, &origins, &has(&[(A, mine)]), &peers);
            let asked: Vec<Origin> =
                routed.iter().filter(|(_, o)| o.contains(&A)).map(|(p, _)| *p).collect();
            assert_eq!(asked, ask, "at {now_ms} ms");
        }
    }

    #[test]
    fn the_origin_itself_when_it_is_up_else_one_that_is_ahead() {
        let b = |ms| (B, view(0, &[(A, ms)]));
        Story::new().check(0, 5, &[(A, view(0, &[(A, 9)])), b(9)], &[A]);
        Story::new().check(0, 5, &[b(9)], &[B]);
        Story::new().check(0, 5, &[b(5)], &[]);
    }

    #[test]
    fn a_silent_origin_gets_company_and_is_trusted_again_after_a_while() {
        let mut story = Story::new();
        let b = (B, view(0, &[(A, 9)]));
        let silent = (A, view(SILENT_AFTER_MS, &[(A, 5)]));
        story.check(0, 5, &[(A, view(SILENT_AFTER_MS - 1, &[(A, 5)])), b.clone()], &[A]);
        story.check(50, 5, &[silent.clone(), (B, view(0, &[(A, 5)]))], &[A]);
        story.check(100, 5, &[silent.clone(), b.clone()], &[A, B]);
        assert_eq!((story.0.detours, story.0.detoured().collect()), (1, vec![A]));
        // It stays while there is nothing more to be had, and while the origin is heard too briefly.
        story.check(200, 9, &[silent, b.clone()], &[A, B]);
        let heard = (A, view(0, &[(A, 12)]));
        story.check(300, 9, &[heard.clone(), b.clone()], &[A, B]);
        story.check(299 + RETURN_AFTER_MS, 12, &[heard.clone(), b.clone()], &[A, B]);
        story.check(300 + RETURN_AFTER_MS, 12, &[heard, b], &[A]);
    }

    #[test]
    fn an_upstream_that_is_heard_but_brings_nothing_gets_company() {
        let mut story = Story::new();
        let peers = [(A, view(0, &[(A, 5)])), (B, view(0, &[(A, 9)]))];
        story.check(0, 5, &peers, &[A]);
        story.check(STUCK_AFTER_MS - 1, 5, &peers, &[A]);
        story.check(STUCK_AFTER_MS, 5, &peers, &[A, B]);
        // While something comes it may take as long as it takes.
        let mut story = Story::new();
        story.check(0, 5, &peers, &[A]);
        story.check(STUCK_AFTER_MS - 1, 6, &peers, &[A]);
        story.check(STUCK_AFTER_MS + 10, 6, &peers, &[A]);
    }

    #[test]
    fn the_way_and_what_is_there_decide_together() {
        let d = Origin(3);
        let far = PeerView { round_trip_ms: 300, ..view(0, &[(A, 1000)]) };
        let near = |newest| PeerView { round_trip_ms: 20, ..view(0, &[(A, newest)]) };
        Story::new().check(0, 5, &[(B, far.clone()), (d, near(900))], &[d]);
        Story::new().check(0, 5, &[(B, far.clone()), (d, near(500))], &[B]);
        Story::new().check(0, 5, &[(B, far), (d, PeerView { silent_ms: 900, ..near(1000) })], &[B]);
    }

    #[test]
    fn who_replaces_a_dead_upstream_is_replaced_when_it_brings_nothing() {
        let (b, d) = ((B, view(0, &[(A, 9)])), (Origin(3), view(0, &[(A, 9)])));
        let mut story = Story::new();
        story.check(0, 5, &[b.clone(), d.clone()], &[B]);
        story.check(STUCK_AFTER_MS - 1, 5, &[b.clone(), d.clone()], &[B]);
        story.check(STUCK_AFTER_MS, 5, &[b, d], &[Origin(3)]);
    }
}
