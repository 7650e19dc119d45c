//! What kind of run a seed is: how many regions, which faults, what clients do.
//!
//! Every fault is on in some runs and off in others (swarm testing: Groce et al., "Swarm
//! Testing", 2012): a run that has everything on at once hides what one fault alone would show.

use meridian_keyspace::Durability;

use crate::random::{Random, Stream};

/// One millisecond in microseconds.
pub(crate) const MS: u64 = 1000;
/// One second in microseconds.
pub(crate) const SECOND: u64 = 1000 * MS;

/// About the most commands of a run: more of them take longer and find no more.
const MAX_COMMANDS: u64 = 700;

/// How often something happens: the mean time between two, or never.
pub(crate) type Every = Option<u64>;

/// A link's weather, one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub delay_us: u64,
    pub jitter_us: u64,
    /// Datagrams lost, in a thousand.
    pub loss: u32,
    /// Datagrams that arrive twice, in a thousand.
    pub duplicates: u32,
    /// Bytes under way on the live lane before the sender has to wait.
    pub window_bytes: usize,
}

/// Which faults strike, and how often each strikes somewhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// A session ends for no reason.
    pub session_break: Every,
    /// A link is cut, in one direction or both.
    pub cut: Every,
    /// A process dies and comes back.
    pub process_crash: Every,
    /// A machine dies and comes back: what was not synced is lost in part.
    pub machine_crash: Every,
    /// How long what died stays away at most.
    pub away_us: u64,
    /// A region is set back to an older copy of itself, under a new ordinal.
    pub restore: bool,
    /// A process stands still for a while.
    pub pause: Every,
    /// The time of day is set to something else.
    pub clock_jump: Every,
    /// By how much at most.
    pub clock_jump_us: u64,
    /// Batches that the receiver drops because it is busy, in a thousand.
    pub inbound_drops: u32,
    /// Control messages that the sender drops because its queue is full, in a thousand.
    pub outbound_drops: u32,
}

/// What a run's clients do.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    /// Clients in each region.
    pub clients: usize,
    /// Mean time between two commands of a client.
    pub think_us: u64,
    /// The families of keys that are in use, each as often as it stands here.
    pub families: Vec<Family>,
    /// Keys of each family.
    pub keys: u64,
    /// Commands that read, in a thousand.
    pub reads: u32,
    /// Longest time to live.
    pub ttl_ms: u64,
    /// Transactions, in a thousand.
    pub transactions: u32,
}

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Whole values, each written once.
    Strings,
    /// Strings that count.
    Counters,
    /// Hashes, some of whose fields count.
    Hashes,
    /// Sets without a time to live, compared with another library in lockstep.
    Sets,
    /// Sets with a time to live.
    Mortals,
    /// Everything on one key.
    Mixed,
    /// Two keys that are always written together.
    Pairs,
}

/// All that a seed decides in advance.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub regions: usize,
    pub partitions: u16,
    /// By region.
    pub durability: Vec<Durability>,
    /// How long clients write and faults strike.
    pub active_us: u64,
    /// The control plane takes part; otherwise any region may call itself primary.
    pub control: bool,
    /// By direction: from, to.
    pub weather: Vec<Vec<Weather>>,
    /// By region: what the time of day is wrong by at the start, and the drift.
    pub clocks: Vec<(i64, i64)>,
    pub faults: Faults,
    pub mix: Mix,
    /// How many bytes of frames may wait in a region for what they depend on.
    pub inbox_bytes: usize,
    /// Every value is made longer by this, in bytes, so that frames and batches reach their
    /// limits.
    pub padding: usize,
    /// By region: how long a sync takes, from and to.
    pub sync_us: Vec<(u64, u64)>,
    /// A region's turn comes this often.
    pub turn_us: u64,
    /// A checkpoint is begun this often.
    pub checkpoint: Every,
    /// The log is cut short when nobody needs it any more.
    pub releases: bool,
    /// A judge looks at a region this often.
    pub look_us: u64,
    /// Share of turns that end with a commit although more has arrived, in a thousand.
    pub commits: u32,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Plan {
        let mut random = Random::new(seed, Stream::Plan);
        let r = &mut random;
        let regions = r.pick(&[2, 3, 3, 3, 3, 4]);
        let durability = durability(r, regions);
        let active_us = r.spread(400 * MS, 6 * SECOND);
        Plan {
            regions,
            partitions: r.pick(&[1, 2, 4]),
            durability,
            active_us,
            control: r.chance(300),
            weather: weather(r, regions),
            clocks: clocks(r, regions),
            faults: faults(r, active_us),
            inbox_bytes: if r.chance(250) { r.range(100, 2000) as usize } else { 64 << 20 },
            padding: if r.chance(30) { r.spread(20_000, 700_000) as usize } else { 0 },
            sync_us: disks(r, regions),
            mix: mix(r, regions as u64, active_us),
            turn_us: r.spread(2 * MS, 20 * MS),
            checkpoint: r.chance(700).then(|| r.spread(20 * MS, SECOND)),
            releases: r.chance(700),
            look_us: r.spread(50 * MS, 500 * MS),
            commits: r.pick(&[0, 200, 1000]),
        }
    }
}

fn durability(r: &mut Random, regions: usize) -> Vec<Durability> {
    let kinds = [Durability::Always, Durability::Everysec];
    match r.below(3) {
        0 => vec![Durability::Always; regions],
        1 => vec![Durability::Everysec; regions],
        _ => (0..regions).map(|_| r.pick(&kinds)).collect(),
    }
}

fn weather(r: &mut Random, regions: usize) -> Vec<Vec<Weather>> {
    let (longest, jitter) = (r.spread(MS / 2, 250 * MS), r.pick(&[0, 100, 1000]));
    let loss = if r.chance(400) { r.range(1, 300) as u32 } else { 0 };
    let duplicates = if r.chance(300) { r.range(1, 200) as u32 } else { 0 };
    let is_slow = r.chance(150);
    let link = |r: &mut Random| {
        let delay_us = r.spread(MS / 5, longest.max(MS / 2));
        let jitter_us = delay_us * jitter / 1000;
        let window_bytes = if is_slow { r.spread(200, 4000) as usize } else { 1 << 20 };
        Weather { delay_us, jitter_us, loss, duplicates, window_bytes }
    };
    (0..regions).map(|_| (0..regions).map(|_| link(r)).collect()).collect()
}

fn clocks(r: &mut Random, regions: usize) -> Vec<(i64, i64)> {
    // Beyond sixty seconds ahead a region's frames are held back by the others.
    let largest = match r.below(10) {
        0 => 61 * SECOND,
        1..=3 => 2 * SECOND,
        4..=6 => 100 * MS,
        _ => 0,
    };
    let drift = if r.chance(300) { 20_000 } else { 100 };
    (0..regions)
        .map(|_| {
            let offset = match largest {
                0 => 0,
                largest if largest > 10 * SECOND && r.chance(400) => {
                    r.range(59 * SECOND + 500 * MS, largest) as i64
                }
                largest => {
                    r.range(0, 2 * largest.min(5 * SECOND)) as i64 - largest.min(5 * SECOND) as i64
                }
            };
            (offset, r.range(0, 2 * drift) as i64 - drift as i64)
        })
        .collect()
}

fn faults(r: &mut Random, active_us: u64) -> Faults {
    // None at all in some runs: what fails there is no fault's doing.
    if r.chance(100) {
        return Faults::default();
    }
    let every = |r: &mut Random, per_mille: u32| {
        r.chance(per_mille).then(|| r.spread(active_us / 12, active_us))
    };
    let mut faults = Faults {
        session_break: every(r, 400),
        cut: every(r, 400),
        process_crash: every(r, 350),
        machine_crash: every(r, 350),
        pause: every(r, 250),
        clock_jump: every(r, 250),
        ..Faults::default()
    };
    faults.restore = r.chance(200);
    faults.away_us = r.spread(20 * MS, 2 * SECOND);
    faults.clock_jump_us = r.spread(50 * MS, 5 * SECOND);
    faults.inbound_drops = if r.chance(200) { r.range(5, 150) as u32 } else { 0 };
    faults.outbound_drops = if r.chance(200) { r.range(5, 150) as u32 } else { 0 };
    faults
}

fn disks(r: &mut Random, regions: usize) -> Vec<(u64, u64)> {
    let are_slow = r.chance(400);
    let mut disk = |_| {
        let slowest = if are_slow && r.chance(500) { SECOND } else { 8 * MS };
        (MS / 2, r.spread(MS, slowest))
    };
    (0..regions).map(&mut disk).collect()
}

fn mix(r: &mut Random, regions: u64, active_us: u64) -> Mix {
    use Family::{Counters, Hashes, Mixed, Mortals, Pairs, Sets, Strings};
    let all = [Strings, Counters, Hashes, Sets, Mortals, Mixed, Pairs];
    let mut families: Vec<Family> = all.into_iter().filter(|_| r.chance(500)).collect();
    if families.is_empty() {
        families.push(r.pick(&all));
    }
    let clients = r.range(1, 3);
    let least_us = active_us * clients * regions / MAX_COMMANDS;
    Mix {
        clients: clients as usize,
        think_us: r.spread(2 * MS, 120 * MS).max(least_us),
        families,
        keys: r.range(1, 2),
        reads: r.pick(&[100, 300, 500]),
        ttl_ms: r.spread(30, 4000),
        transactions: r.pick(&[0, 100, 300]),
    }
}
