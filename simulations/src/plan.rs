//! What kind of run a seed is: how many regions, which faults, what clients do.
//!
//! A plan is a list of numbers, so that it can be written down in one line, read back, kept for
//! ever and made smaller one number at a time ([`crate::shrink`]). What differs between regions or
//! links is drawn from streams of their own when it is needed.

use std::{collections::BTreeSet, fmt, str::FromStr};

use meridian_keyspace::Durability;

use crate::{
    ablation::Ablation,
    random::{Random, Stream},
    swarm,
};

/// One millisecond in microseconds.
pub(crate) const MS: u64 = 1000;
/// One second in microseconds.
pub(crate) const SECOND: u64 = 1000 * MS;

/// A link's weather, one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub delay_us: u64,
    pub jitter_us: u64,
    /// Datagrams lost, in a thousand.
    pub loss: u64,
    /// Datagrams that arrive twice, in a thousand.
    pub duplicates: u64,
    /// Messages whose lane stands still because something was lost on it, in a thousand.
    pub stalls: u64,
    /// The largest packet that gets through, in bytes.
    pub mtu: usize,
    /// Bytes under way on the live lane before the sender has to wait.
    pub window_bytes: usize,
}

/// What strikes. Every kind has a mean time between two strikes in the plan; never, if it is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A session ends for no reason.
    SessionBreak,
    /// A link is cut, in one direction or both.
    Cut,
    /// All links of a region are cut.
    Isolation,
    /// A process dies and comes back.
    ProcessCrash,
    /// A machine dies and comes back: what was not synced is lost in part.
    MachineCrash,
    /// A process dies in the middle of one of the next steps of its disk: before it, half-way, or
    /// when it is done and nobody knows.
    StepCrash,
    /// The disk refuses one of the next steps.
    IoError,
    /// The disk refuses everything that needs room, for a while.
    DiskFull,
    /// A byte that was on disk changes.
    BitRot,
    /// A disk says that it has synced and has not; then the machine dies.
    LyingSync,
    /// A process stands still for a while.
    Pause,
    /// The time of day is set to something else.
    ClockJump,
    /// A copy of a region's disk is put aside.
    BackUp,
    /// A region is set back to its copy, under a new ordinal.
    Restore,
    /// A new region asks to join.
    Join,
    /// A region is told to leave.
    Leave,
    /// A region goes away, and an operator declares it dead.
    DeclareDead,
    /// A machine is set back to its copy, and goes on under its old ordinal.
    Relapse,
}

impl Fault {
    /// Every kind, with the name that it has in a plan.
    pub const ALL: [(&'static str, Fault); 18] = [
        ("break", Fault::SessionBreak),
        ("cut", Fault::Cut),
        ("isolate", Fault::Isolation),
        ("process-crash", Fault::ProcessCrash),
        ("machine-crash", Fault::MachineCrash),
        ("step-crash", Fault::StepCrash),
        ("io-error", Fault::IoError),
        ("disk-full", Fault::DiskFull),
        ("bit-rot", Fault::BitRot),
        ("lying-sync", Fault::LyingSync),
        ("pause", Fault::Pause),
        ("clock-jump", Fault::ClockJump),
        ("backup", Fault::BackUp),
        ("restore", Fault::Restore),
        ("join", Fault::Join),
        ("leave", Fault::Leave),
        ("declare-dead", Fault::DeclareDead),
        ("relapse", Fault::Relapse),
    ];

    /// Its name in a plan.
    pub fn name(self) -> &'static str {
        Fault::ALL.iter().find(|(_, fault)| *fault == self).map_or("", |(name, _)| name)
    }
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

impl Family {
    /// Every one, with the name that it has in a plan.
    pub const ALL: [(&'static str, Family); 7] = [
        ("strings", Family::Strings),
        ("counters", Family::Counters),
        ("hashes", Family::Hashes),
        ("sets", Family::Sets),
        ("mortals", Family::Mortals),
        ("mixed", Family::Mixed),
        ("pairs", Family::Pairs),
    ];
}

/// A strike of a fault: the kind, and how many of the kind were before it.
pub(crate) type Strike = (Fault, u64);

/// All that is decided in advance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    numbers: [u64; NUMBERS.len()],
    pub(crate) families: Vec<Family>,
    /// Strikes that do not happen.
    pub(crate) skipped: BTreeSet<Strike>,
    /// The rule that is off.
    pub(crate) off: Option<Ablation>,
}

macro_rules! numbers {
    ($( $(#[$doc:meta])* $field:ident $setter:ident $name:literal = $calm:expr; )*) => {
        /// The names of all numbers, and what each is in a run in which nothing goes wrong.
        pub(crate) const NUMBERS: [(&str, u64); [$($name),*].len()] = [$(($name, $calm)),*];

        #[allow(non_camel_case_types, clippy::enum_variant_names)]
        enum Index { $($field),* }

        #[allow(dead_code, reason = "times of faults are looked up by the fault's name")]
        impl Plan {
            $(
                $(#[$doc])*
                pub(crate) fn $field(&self) -> u64 {
                    self.numbers[Index::$field as usize]
                }

                pub(crate) fn $setter(&mut self, value: u64) {
                    self.numbers[Index::$field as usize] = value;
                }
            )*
        }
    };
}

numbers! {
    /// Where all randomness comes from.
    seed set_seed "seed" = 0;
    /// How many regions.
    regions set_regions "regions" = 3;
    /// Partitions of each.
    partitions set_partitions "partitions" = 1;
    /// How long clients write and faults strike, in microseconds.
    active_us set_active_us "active" = SECOND;
    /// 0: `appendfsync always` everywhere; 1: `everysec`; 2: by region.
    durability set_durability "durability" = 0;
    /// The control plane takes part; otherwise any region may call itself primary.
    control set_control "control" = 0;
    /// Without a control plane: all take themselves for the primary one.
    all_primary set_all_primary "all-primary" = 0;
    /// The longest way from region to region, in microseconds.
    delay_us set_delay_us "delay" = 10 * MS;
    /// Further delay, in thousandths of the delay.
    jitter set_jitter "jitter" = 0;
    /// Datagrams lost, in a thousand.
    loss set_loss "loss" = 0;
    /// Datagrams that arrive twice, in a thousand.
    duplicates set_duplicates "duplicates" = 0;
    /// Messages before which a lane stands still for some times the delay while the other lane goes
    /// on, in a thousand.
    stalls set_stalls "stalls" = 0;
    /// Lanes hold only a few hundred or thousand bytes.
    narrow set_narrow "narrow" = 0;
    /// Regions talk over QUIC itself instead of modelled sessions.
    quic set_quic "quic" = 0;
    /// By how much the time of day is wrong at the start, at most, in microseconds.
    skew_us set_skew_us "skew" = 0;
    /// What clocks gain or lose at most, in millionths.
    drift_ppm set_drift_ppm "drift" = 0;
    /// A region whose clock is further off than this, in milliseconds, refuses to write; 0: never.
    fence_ms set_fence_ms "fence" = 0;
    /// The last region tells the others nonsense about its clock, until everything heals.
    liar set_liar "liar" = 0;
    /// How long a sync takes at most, in microseconds.
    sync_us set_sync_us "sync" = 8 * MS;
    /// How long what died stays away at most, in microseconds.
    away_us set_away_us "away" = 500 * MS;
    /// By how much a clock jumps at most, in microseconds.
    jump_us set_jump_us "jump" = SECOND;
    /// Batches that a receiver drops because it is busy, in a thousand.
    inbound_drops set_inbound_drops "inbound-drops" = 0;
    /// Control messages that a sender drops because its queue is full, in a thousand.
    outbound_drops set_outbound_drops "outbound-drops" = 0;
    /// Clients in each region.
    clients set_clients "clients" = 1;
    /// Mean time between two commands of a client, in microseconds.
    think_us set_think_us "think" = 20 * MS;
    /// Clients of the first region send so many times as often as others.
    busy set_busy "busy" = 1;
    /// Keys of each family.
    keys set_keys "keys" = 1;
    /// Fields or members that clients use in each key.
    names set_names "names" = 3;
    /// Commands that read, in a thousand.
    reads set_reads "reads" = 100;
    /// Longest time to live, in milliseconds.
    ttl_ms set_ttl_ms "ttl" = 1000;
    /// Turns of a client in which it moves to another region with a token, in a thousand.
    travel set_travel "travel" = 0;
    /// Transactions, in a thousand.
    transactions set_transactions "transactions" = 0;
    /// Every value is longer by this, in bytes, so that frames and batches reach their limits.
    padding set_padding "padding" = 0;
    /// Bytes of frames that may wait in a region for what they depend on; 0: as in production.
    inbox_bytes set_inbox_bytes "inbox" = 0;
    /// A region's turn comes this often, in microseconds.
    turn_us set_turn_us "turn" = 5 * MS;
    /// A checkpoint is begun this often, in microseconds; 0: never.
    checkpoint_us set_checkpoint_us "checkpoint" = 0;
    /// The log is cut short when nobody needs it any more.
    releases set_releases "releases" = 0;
    /// Bytes of log that are kept for a region that is away; beyond that it must be repaired. 0: all.
    retention_bytes set_retention_bytes "retention" = 0;
    /// Repairs compare by symbols, so many in a message, whatever differs, and elements travel in
    /// pieces of as little; 0: as in production, where so few elements are mostly sent whole.
    sketch set_sketch "sketch" = 0;
    /// Bytes of log beyond which who lacks them is sent bundles; 0: as in production.
    compact_bytes set_compact_bytes "compact" = 0;
    /// Events that end with a commit although more has arrived, in a thousand.
    commits set_commits "commits" = 1000;
    /// A judge looks at a region this often, in microseconds.
    look_us set_look_us "look" = 200 * MS;
    /// Before everything heals only a part does, and must go on alone.
    partial set_partial "partial" = 0;
    /// Mean time between two strikes, in microseconds; never if 0.
    session_break_us set_session_break_us "break" = 0;
    /// As above.
    cut_us set_cut_us "cut" = 0;
    /// As above.
    isolation_us set_isolation_us "isolate" = 0;
    /// As above.
    process_crash_us set_process_crash_us "process-crash" = 0;
    /// As above.
    machine_crash_us set_machine_crash_us "machine-crash" = 0;
    /// As above.
    step_crash_us set_step_crash_us "step-crash" = 0;
    /// As above.
    io_error_us set_io_error_us "io-error" = 0;
    /// As above.
    disk_full_us set_disk_full_us "disk-full" = 0;
    /// As above.
    bit_rot_us set_bit_rot_us "bit-rot" = 0;
    /// As above.
    lying_sync_us set_lying_sync_us "lying-sync" = 0;
    /// As above.
    pause_us set_pause_us "pause" = 0;
    /// As above.
    clock_jump_us set_clock_jump_us "clock-jump" = 0;
    /// As above.
    backup_us set_backup_us "backup" = 0;
    /// As above.
    restore_us set_restore_us "restore" = 0;
    /// As above.
    join_us set_join_us "join" = 0;
    /// As above.
    leave_us set_leave_us "leave" = 0;
    /// As above.
    declare_dead_us set_declare_dead_us "declare-dead" = 0;
    /// As above.
    relapse_us set_relapse_us "relapse" = 0;
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Plan {
        swarm::plan(seed)
    }

    /// A plan in which nothing goes wrong.
    pub(crate) fn calm(seed: u64) -> Plan {
        let mut plan = Plan {
            numbers: NUMBERS.map(|(_, calm)| calm),
            families: vec![Family::Strings],
            skipped: BTreeSet::new(),
            off: None,
        };
        plan.set_seed(seed);
        plan
    }

    /// The same plan with a rule switched off.
    #[must_use]
    pub fn without(mut self, rule: Option<Ablation>) -> Plan {
        self.off = rule;
        self
    }

    /// Where its randomness comes from: the seed that it was the plan of.
    #[must_use]
    pub fn source(&self) -> u64 {
        self.seed()
    }

    /// The rule that is off.
    #[must_use]
    pub fn rule_off(&self) -> Option<Ablation> {
        self.off
    }

    /// The number of a name.
    pub(crate) fn number_mut(&mut self, name: &str) -> Option<&mut u64> {
        let index = NUMBERS.iter().position(|(known, _)| *known == name)?;
        self.numbers.get_mut(index)
    }

    /// Mean time between two strikes of a fault, in microseconds; never if 0.
    pub(crate) fn every_us(&self, fault: Fault) -> u64 {
        let index = NUMBERS.iter().position(|(known, _)| *known == fault.name());
        index.map_or(0, |index| self.numbers[index])
    }

    /// Whether regions come and go. The control group decides on that; and the two ways by which
    /// a region gets another ordinal (a restored copy, a ruined disk) stay apart from this one, as
    /// do sessions over QUIC, whose hosts know each other from the beginning.
    pub(crate) fn changes_members(&self) -> bool {
        self.can_change_members() && self.join_us() + self.leave_us() + self.declare_dead_us() > 0
    }

    /// Whether they could, in a run of this kind.
    pub(crate) fn can_change_members(&self) -> bool {
        let apart = [self.quic(), self.restore_us(), self.bit_rot_us(), self.lying_sync_us()];
        self.control() > 0 && apart.iter().all(|number| *number == 0)
    }

    /// What the link is like, one way.
    pub(crate) fn weather(&self, from: usize, to: usize) -> Weather {
        let mut random = self.stream(Stream::Weather, direction(from, to));
        let delay_us = random.spread(MS / 5, self.delay_us().max(MS / 2));
        let narrow_bytes = random.spread(200, 4000) as usize;
        Weather {
            delay_us,
            jitter_us: delay_us * self.jitter() / 1000,
            loss: self.loss(),
            duplicates: self.duplicates(),
            stalls: self.stalls(),
            mtu: random.pick(&[1200, 1280, 1400, 1452, 1500]),
            window_bytes: if self.narrow() > 0 { narrow_bytes } else { 1 << 20 },
        }
    }

    /// The policy of a region.
    pub(crate) fn durability_of(&self, region: usize) -> Durability {
        let mut random = self.stream(Stream::Machine, region as u64);
        let mixed = random.pick(&[Durability::Always, Durability::Everysec]);
        match self.durability() {
            0 => Durability::Always,
            1 => Durability::Everysec,
            _ => mixed,
        }
    }

    /// What a region's time of day is wrong by at the start, in microseconds, and its drift in
    /// millionths. Who is wrong by much is ahead: near the bound beyond which others hold its
    /// frames.
    pub(crate) fn clock_of(&self, region: usize) -> (i64, i64) {
        let mut random = self.stream(Stream::Machine, 1000 + region as u64);
        let drift = random.around(self.drift_ppm());
        let (near, far) = (self.skew_us().min(5 * SECOND), self.skew_us() > 10 * SECOND);
        let offset = random.around(near);
        let ahead = random.range(0, 1500 * MS);
        if far && random.chance(400) {
            return (self.skew_us() as i64 - ahead as i64, drift);
        }
        (offset, drift)
    }

    /// How long a region's syncs take, in microseconds: from and to.
    pub(crate) fn sync_of(&self, region: usize) -> (u64, u64) {
        let mut random = self.stream(Stream::Machine, 2000 + region as u64);
        let fast = random.spread(MS, 8 * MS);
        let slowest = random.spread(MS, self.sync_us().max(MS));
        (MS / 2, if random.chance(500) { slowest } else { fast.min(self.sync_us().max(MS)) })
    }

    /// A stream of this plan's seed.
    pub(crate) fn stream(&self, stream: Stream, who: u64) -> Random {
        Random::new(self.seed(), stream, who)
    }
}

/// The number of one direction of a link.
pub(crate) fn direction(from: usize, to: usize) -> u64 {
    ((from as u64) << 16) | to as u64
}

impl fmt::Display for Plan {
    /// One line of `name=value`, without what is as in a run in which nothing goes wrong.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={}", self.seed())?;
        for ((name, calm), value) in NUMBERS.iter().zip(self.numbers).skip(1) {
            if value != *calm {
                write!(f, " {name}={value}")?;
            }
        }
        let named = |family: &Family| {
            Family::ALL.iter().find(|(_, known)| known == family).map_or("", |(name, _)| *name)
        };
        let families: Vec<&str> = self.families.iter().map(named).collect();
        write!(f, " families={}", families.join("+"))?;
        if !self.skipped.is_empty() {
            let strikes =
                self.skipped.iter().map(|(fault, number)| format!("{}.{number}", fault.name()));
            write!(f, " skip={}", strikes.collect::<Vec<_>>().join("+"))?;
        }
        self.off.map_or(Ok(()), |rule| write!(f, " off={}", rule.name()))
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Plan, String> {
        Plan::calm(0).with(text)
    }
}

impl Plan {
    /// The same plan with what a line of `name=value` says.
    ///
    /// # Errors
    /// What is wrong with the line, or with the plan that it makes.
    pub fn with(self, text: &str) -> Result<Plan, String> {
        let mut plan = self;
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').ok_or(format!("{word:?} is no name=value"))?;
            match name {
                "families" => {
                    plan.families = value.split('+').map(family).collect::<Result<_, _>>()?;
                }
                "skip" => plan.skipped = value.split('+').map(strike).collect::<Result<_, _>>()?,
                "off" => {
                    let rule = Ablation::named(value);
                    plan.off = Some(rule.ok_or(format!("no rule is called {value:?}"))?);
                }
                name => {
                    let number = plan.number_mut(name).ok_or(format!("no {name:?} in a plan"))?;
                    *number = value.parse().map_err(|e| format!("{word}: {e}"))?;
                }
            }
        }
        plan.check()
    }

    /// Whether it can be run at all.
    fn check(self) -> Result<Plan, String> {
        let limits = [
            ("regions", self.regions(), 2, 50),
            ("partitions", self.partitions(), 1, 1024),
            ("active", self.active_us(), 1, 600 * SECOND),
            ("clients", self.clients(), 1, 100),
            ("think", self.think_us(), 1, u64::MAX / 4),
            ("busy", self.busy(), 1, 1000),
            ("keys", self.keys(), 1, 1000),
            ("names", self.names(), 1, 1000),
            ("ttl", self.ttl_ms(), 5, u64::MAX / 4),
            ("turn", self.turn_us(), 100, SECOND),
            ("look", self.look_us(), 1, u64::MAX / 4),
        ];
        for (name, value, least, most) in limits {
            if !(least..=most).contains(&value) {
                return Err(format!("{name}={value} is not within {least} to {most}"));
            }
        }
        if !self.partitions().is_power_of_two() {
            return Err(format!("partitions={} is no power of two", self.partitions()));
        }
        Ok(self)
    }
}

fn family(name: &str) -> Result<Family, String> {
    let found = Family::ALL.iter().find(|(known, _)| *known == name);
    found.map(|(_, family)| *family).ok_or(format!("no family is called {name:?}"))
}

fn strike(text: &str) -> Result<Strike, String> {
    let (name, number) = text.split_once('.').ok_or(format!("{text:?} is no fault.number"))?;
    let found = Fault::ALL.iter().find(|(known, _)| *known == name);
    let (_, fault) = found.ok_or(format!("no fault is called {name:?}"))?;
    Ok((*fault, number.parse().map_err(|e| format!("{text}: {e}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_is_written_down_is_the_same_plan() {
        for seed in 0..200 {
            let mut plan = Plan::of(seed).without(Some(Ablation::DropCuts));
            plan.skipped = [(Fault::Cut, 3), (Fault::Pause, 0)].into();
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
    }

    #[test]
    fn what_is_not_said_is_calm() {
        assert_eq!("seed=7 families=strings".parse(), Ok(Plan::calm(7)));
        assert_eq!("".parse(), Ok(Plan::calm(0)));
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_a_reason() {
        for (text, reason) in [
            ("regions", "no name=value"),
            ("regions=1", "not within"),
            ("regions=51", "not within"),
            ("colour=3", "no \"colour\""),
            ("seed=x", "invalid digit"),
            ("seed=-1", "invalid digit"),
            ("families=trees", "no family"),
            ("skip=cut", "fault.number"),
            ("skip=flood.1", "no fault"),
            ("off=gravity", "no rule"),
            ("partitions=3", "power of two"),
            ("turn=0", "not within"),
        ] {
            let refused = text.parse::<Plan>().expect_err(text);
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }

    #[test]
    fn every_fault_has_its_time_in_the_plan() {
        for (name, fault) in Fault::ALL {
            assert_eq!(fault.name(), name);
            let mut plan = Plan::calm(1);
            *plan.number_mut(name).expect("a number of this name") = 9;
            assert_eq!(plan.every_us(fault), 9);
        }
    }
}
