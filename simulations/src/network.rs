//! The network between regions, as the QUIC mesh shows it to them.
//!
//! A pair of regions has one session at a time. Within a session each lane is ordered and
//! reliable: what a cut holds up arrives when the cut ends in time. When a session breaks, what
//! was under way is lost, and the two ends learn of it at different moments. Datagrams get lost,
//! doubled and overtaken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    plan::{MS, Plan, Weather, direction},
    random::{Random, Stream},
};

/// A lane stands still for up to so many times the delay of its link.
const STALL_DELAYS: u64 = 8;

/// Two regions, the smaller index first.
pub(crate) type Pair = (usize, usize);

/// One of a session's ordered lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Control,
    Live,
}

/// One direction of one lane.
#[derive(Debug, Default)]
struct Pipe {
    queue: VecDeque<Vec<u8>>,
    bytes: usize,
    /// When the last message arrives.
    last_us: u64,
}

/// The connection of a pair.
#[derive(Debug)]
struct Session {
    number: u64,
    /// Nothing arrives any more, whether the ends know it or not.
    broken: bool,
    /// Whether each end, the pair's first and second, has been told that it is up.
    up: [bool; 2],
    /// Whether each end has been told that it is over.
    down: [bool; 2],
    pipes: BTreeMap<(usize, Lane), Pipe>,
}

/// A message that will arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub at_us: u64,
    pub pair: Pair,
    pub number: u64,
    /// The region that it leaves from.
    pub from: usize,
    pub lane: Lane,
}

/// All links and sessions.
#[derive(Debug)]
pub(crate) struct Network {
    weather: Vec<Vec<Weather>>,
    /// By direction: where its delays and losses come from.
    randoms: Vec<Vec<Random>>,
    sessions: BTreeMap<Pair, Session>,
    /// Directions through which nothing passes: from, to.
    cuts: BTreeSet<(usize, usize)>,
    numbers: u64,
}

/// The pair of two regions.
pub(crate) fn pair(a: usize, b: usize) -> Pair {
    (a.min(b), a.max(b))
}

impl Network {
    /// Links of a plan's regions, and of `room` more that may join.
    pub fn new(plan: &Plan, room: usize) -> Network {
        let regions = plan.regions() as usize + room;
        let weather = |from| (0..regions).map(|to| plan.weather(from, to)).collect();
        let random = |from, to| plan.stream(Stream::Network, direction(from, to));
        let randoms = |from| (0..regions).map(|to| random(from, to)).collect();
        let weather = (0..regions).map(weather).collect();
        let randoms = (0..regions).map(randoms).collect();
        Network { weather, randoms, sessions: BTreeMap::new(), cuts: BTreeSet::new(), numbers: 0 }
    }

    /// The longest way there and back, in milliseconds.
    pub fn round_trip_ms(&self) -> u64 {
        let way = |w: &Weather| w.delay_us + w.jitter_us;
        let longest = self.weather.iter().flatten().map(way).max().unwrap_or_default();
        2 * longest / MS
    }

    /// Changes every link.
    pub fn change_weather(&mut self, change: impl Fn(Weather) -> Weather) {
        for weather in self.weather.iter_mut().flatten() {
            *weather = change(*weather);
        }
    }

    /// How long a message takes now.
    pub fn delay_us(&mut self, from: usize, to: usize) -> u64 {
        let weather = &self.weather[from][to];
        weather.delay_us + self.randoms[from][to].range(0, weather.jitter_us)
    }

    /// How long a lane stands still before a message: what was lost on it is sent again, while the
    /// other lanes go on.
    fn stall_us(&mut self, from: usize, to: usize) -> u64 {
        let weather = &self.weather[from][to];
        let random = &mut self.randoms[from][to];
        if weather.stalls == 0 || !random.chance(weather.stalls) {
            return 0;
        }
        random.range(0, STALL_DELAYS * weather.delay_us)
    }

    /// Whether the direction is cut.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Whether the two have a session that works.
    pub fn is_connected(&self, pair: Pair) -> bool {
        self.sessions.get(&pair).is_some_and(|s| !s.broken)
    }

    /// The number of the session that a pair has, whether it still works or not.
    pub fn number(&self, pair: Pair) -> Option<u64> {
        self.sessions.get(&pair).map(|s| s.number)
    }

    /// Whether an end has been told of a session that still works.
    pub fn is_known(&self, pair: Pair, number: u64, end: usize) -> bool {
        let session = self.sessions.get(&pair).filter(|s| s.number == number && !s.broken);
        session.is_some_and(|s| s.up[side(pair, end)])
    }

    /// Opens a new session. Gives its number, and the ends (with the number of the former
    /// session) that still have to be told that the former one is over.
    pub fn open(&mut self, pair: Pair) -> (u64, Vec<(usize, u64)>) {
        self.numbers += 1;
        let number = self.numbers;
        let mut untold = Vec::new();
        if let Some(old) = self.sessions.get(&pair) {
            for (side, end) in [pair.0, pair.1].into_iter().enumerate() {
                if old.up[side] && !old.down[side] {
                    untold.push((end, old.number));
                }
            }
        }
        let session = Session {
            number,
            broken: false,
            up: [false; 2],
            down: [false; 2],
            pipes: BTreeMap::new(),
        };
        self.sessions.insert(pair, session);
        (number, untold)
    }

    /// An end is about to be told that a session is up; false if that is not true any more.
    pub fn tell_up(&mut self, pair: Pair, number: u64, end: usize) -> bool {
        let Some(session) = self.current(pair, number) else { return false };
        session.up[side(pair, end)] = true;
        true
    }

    /// An end is about to be told that a session is over; false if it knows, or never knew of it.
    pub fn tell_down(&mut self, pair: Pair, number: u64, end: usize) -> bool {
        let Some(session) = self.current(pair, number) else { return false };
        let side = side(pair, end);
        let news = session.up[side] && !session.down[side];
        session.down[side] = true;
        news
    }

    /// The session of a pair works no longer. Gives its number, if there was one.
    pub fn break_session(&mut self, pair: Pair) -> Option<u64> {
        let session = self.sessions.get_mut(&pair).filter(|s| !s.broken)?;
        session.broken = true;
        session.pipes.clear();
        Some(session.number)
    }

    /// A region's process is gone: it needs not be told anything any more.
    pub fn forget_end(&mut self, region: usize) {
        for (pair, session) in &mut self.sessions {
            if pair.0 == region || pair.1 == region {
                session.down[side(*pair, region)] = true;
            }
        }
    }

    /// How many more bytes a region may put on its live lane.
    pub fn room(&self, from: usize, to: usize, number: u64) -> usize {
        let Some(session) = self.sessions.get(&pair(from, to)).filter(|s| s.number == number)
        else {
            return 0;
        };
        let used = session.pipes.get(&(from, Lane::Live)).map_or(0, |pipe| pipe.bytes);
        self.weather[from][to].window_bytes.saturating_sub(used)
    }

    /// Puts a message on a lane; it arrives after those before it. None if nobody will see it.
    pub fn send(
        &mut self,
        now_us: u64,
        (from, to): (usize, usize),
        number: u64,
        lane: Lane,
        bytes: Vec<u8>,
    ) -> Option<Arrival> {
        let delay_us = self.delay_us(from, to) + self.stall_us(from, to);
        let pair = pair(from, to);
        let session = self.current(pair, number).filter(|s| !s.broken)?;
        let pipe = session.pipes.entry((from, lane)).or_default();
        let at_us = (now_us + delay_us).max(pipe.last_us + 1);
        pipe.last_us = at_us;
        pipe.bytes += bytes.len();
        pipe.queue.push_back(bytes);
        Some(Arrival { at_us, pair, number, from, lane })
    }

    /// The message that arrives now. None while its way is cut, before the receiver knows of the
    /// session, and after the session has broken.
    pub fn arrive(&mut self, arrival: Arrival) -> Option<Vec<u8>> {
        let Arrival { pair, number, from, lane, .. } = arrival;
        let to = pair.0 + pair.1 - from;
        let is_cut = self.is_cut(from, to);
        let session = self.current(pair, number).filter(|s| !s.broken && !is_cut)?;
        if !session.up[side(pair, to)] {
            return None;
        }
        let pipe = session.pipes.get_mut(&(from, lane))?;
        let bytes = pipe.queue.pop_front()?;
        pipe.bytes -= bytes.len();
        Some(bytes)
    }

    /// Cuts a direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    /// Ends all cuts of a pair.
    pub fn heal(&mut self, pair: Pair) {
        self.cuts.remove(&(pair.0, pair.1));
        self.cuts.remove(&(pair.1, pair.0));
    }

    /// What waits on the lanes of a pair since a cut, or since before the receiver knew of the
    /// session: new arrivals for all of it.
    pub fn resume(&mut self, now_us: u64, pair: Pair) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        let ways = [(pair.0, pair.1), (pair.1, pair.0)];
        let delays = ways.map(|(from, to)| (from, self.delay_us(from, to)));
        let Some(session) = self.sessions.get_mut(&pair).filter(|s| !s.broken) else {
            return arrivals;
        };
        let number = session.number;
        for ((from, lane), pipe) in &mut session.pipes {
            let delay_us = delays.iter().find(|(f, _)| f == from).map_or(0, |(_, delay)| *delay);
            let mut at_us = now_us + delay_us;
            for _ in &pipe.queue {
                at_us += 1;
                arrivals.push(Arrival { at_us, pair, number, from: *from, lane: *lane });
            }
            pipe.last_us = pipe.last_us.max(at_us);
        }
        arrivals
    }

    /// When a datagram arrives: never, once or twice.
    pub fn datagram(&mut self, now_us: u64, (from, to): (usize, usize)) -> Vec<u64> {
        if !self.is_connected(pair(from, to)) {
            return Vec::new();
        }
        self.packet(now_us, (from, to), 0)
    }

    /// When a packet of so many bytes arrives: never, once or twice.
    pub fn packet(&mut self, now_us: u64, (from, to): (usize, usize), bytes: usize) -> Vec<u64> {
        let (weather, random) = (&self.weather[from][to], &mut self.randoms[from][to]);
        if bytes > weather.mtu || random.chance(weather.loss) {
            return Vec::new();
        }
        let copies = if random.chance(weather.duplicates) { 2 } else { 1 };
        (0..copies).map(|_| now_us + self.delay_us(from, to)).collect()
    }

    /// The pair's session, if it is still this one.
    fn current(&mut self, pair: Pair, number: u64) -> Option<&mut Session> {
        self.sessions.get_mut(&pair).filter(|s| s.number == number)
    }
}

fn side(pair: Pair, end: usize) -> usize {
    usize::from(end != pair.0)
}
