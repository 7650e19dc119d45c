//! What simulated clients ask for: few keys, many collisions.

use crate::{
    plan::{Family, Plan},
    random::{Random, Stream},
};

/// A command and its arguments.
pub(crate) type Command = Vec<Vec<u8>>;

/// The key of a pair that is written together, twice.
pub(crate) fn pair_keys(number: u64) -> [Vec<u8>; 2] {
    [format!("{{p{number}}}a").into_bytes(), format!("{{p{number}}}b").into_bytes()]
}

/// All keys that a plan may use.
pub(crate) fn universe(plan: &Plan) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    for family in &plan.families {
        for number in 0..plan.keys() {
            match family {
                Family::Pairs => keys.extend(pair_keys(number)),
                family => keys.push(key(*family, number)),
            }
        }
    }
    keys
}

/// The family of a key.
pub(crate) fn family_of(key: &[u8]) -> Family {
    match key.first() {
        Some(b's') => Family::Strings,
        Some(b'c') => Family::Counters,
        Some(b'h') => Family::Hashes,
        Some(b'm') => Family::Sets,
        Some(b't') => Family::Mortals,
        Some(b'{') => Family::Pairs,
        _ => Family::Mixed,
    }
}

fn key(family: Family, number: u64) -> Vec<u8> {
    let letter = match family {
        Family::Strings => 's',
        Family::Counters => 'c',
        Family::Hashes => 'h',
        Family::Sets => 'm',
        Family::Mortals => 't',
        Family::Mixed => 'x',
        Family::Pairs => 'p',
    };
    format!("{letter}{number}").into_bytes()
}

/// Draws a client's commands. Every value that it writes to a string is different from all others.
#[derive(Debug)]
pub(crate) struct Workload {
    plan: Plan,
    client: usize,
    random: Random,
    values: u64,
}

impl Workload {
    pub fn new(plan: &Plan, client: usize) -> Workload {
        let random = plan.stream(Stream::Workload, client as u64);
        Workload { plan: plan.clone(), client, random, values: 0 }
    }

    /// Time until a client's next command.
    pub fn think_us(&mut self) -> u64 {
        let is_busy = (self.client as u64) < self.plan.clients();
        let times = if is_busy { self.plan.busy() } else { 1 };
        self.random.range(1, (2 * self.plan.think_us() / times).max(1))
    }

    /// What a client sends next: one command, or a whole transaction.
    pub fn next(&mut self) -> Vec<Command> {
        let family = self.random.pick(&self.plan.families);
        let number = self.random.range(0, self.plan.keys() - 1);
        if family == Family::Pairs {
            return self.pair(number);
        }
        let key = key(family, number);
        if !self.random.chance(self.plan.transactions()) {
            return vec![self.on(family, &key)];
        }
        let mut commands = vec![command(&[b"MULTI"])];
        for _ in 0..self.random.range(1, 3) {
            commands.push(self.on(family, &key));
        }
        commands.push(command(&[if self.random.chance(100) { b"DISCARD" } else { b"EXEC" }]));
        commands
    }

    fn pair(&mut self, number: u64) -> Vec<Command> {
        let [a, b] = pair_keys(number);
        if self.random.chance(self.plan.reads()) {
            return vec![command(&[b"MGET", &a, &b])];
        }
        if self.random.chance(200) {
            return vec![command(&[b"DEL", &a, &b])];
        }
        let value = self.value();
        vec![
            command(&[b"MULTI"]),
            command(&[b"SET", &a, &value]),
            command(&[b"SET", &b, &value]),
            command(&[b"EXEC"]),
        ]
    }

    fn on(&mut self, family: Family, key: &[u8]) -> Command {
        if self.random.chance(self.plan.reads()) {
            return self.read(family, key);
        }
        match family {
            Family::Strings => self.string(key),
            Family::Counters => self.counter(key),
            Family::Hashes => self.hash(key),
            Family::Sets => self.set(key),
            Family::Mortals if self.random.chance(350) => self.life(key),
            Family::Mortals => self.set(key),
            Family::Mixed | Family::Pairs => match self.random.below(6) {
                0 => self.string(key),
                1 => self.counter(key),
                2 => self.hash(key),
                3 => self.set(key),
                _ => self.life(key),
            },
        }
    }

    fn read(&mut self, family: Family, key: &[u8]) -> Command {
        match (family, self.random.below(4)) {
            (Family::Strings | Family::Counters, 0..3) => command(&[b"GET", key]),
            (Family::Hashes, 0..3) => command(&[b"HGETALL", key]),
            (Family::Sets | Family::Mortals, 0..3) => command(&[b"SMEMBERS", key]),
            (_, 0) => command(&[b"GET", key]),
            (_, 1) => command(&[b"HGETALL", key]),
            (_, 2) => command(&[b"SMEMBERS", key]),
            _ => command(&[b"PTTL", key]),
        }
    }

    fn string(&mut self, key: &[u8]) -> Command {
        let value = self.value();
        let ttl = self.ttl();
        match self.random.below(12) {
            0..4 => command(&[b"SET", key, &value]),
            4 => command(&[b"SET", key, &value, b"PX", &ttl]),
            5 => command(&[b"SET", key, &value, b"KEEPTTL"]),
            6 => command(&[b"SET", key, &value, b"NX"]),
            7 => command(&[b"GETSET", key, &value]),
            8 => command(&[b"GETDEL", key]),
            9 => command(&[b"DEL", key]),
            10 => command(&[b"GETEX", key, b"PX", &ttl]),
            _ => self.life(key),
        }
    }

    fn counter(&mut self, key: &[u8]) -> Command {
        let delta = self.delta();
        match self.random.below(12) {
            0..3 => command(&[b"INCR", key]),
            3..6 => command(&[b"INCRBY", key, &delta]),
            6 => command(&[b"DECRBY", key, &delta]),
            7 => command(&[b"INCRBYFLOAT", key, b"0.5"]),
            8 => command(&[b"SET", key, &delta]),
            9 | 10 => command(&[b"DEL", key]),
            _ => self.life(key),
        }
    }

    fn hash(&mut self, key: &[u8]) -> Command {
        let (field, value) = (self.name(b'f'), self.value());
        let delta = self.delta();
        match self.random.below(12) {
            0..3 => command(&[b"HSET", key, &field, &value]),
            3 => command(&[b"HSET", key, b"n", &delta, &field, &value]),
            4..7 => command(&[b"HINCRBY", key, b"n", &delta]),
            7 => command(&[b"HINCRBYFLOAT", key, b"n", b"0.25"]),
            8 => command(&[b"HDEL", key, &field]),
            9 => command(&[b"HDEL", key, b"n"]),
            10 => command(&[b"DEL", key]),
            _ => self.life(key),
        }
    }

    fn set(&mut self, key: &[u8]) -> Command {
        let member = self.name(b'm');
        match self.random.below(10) {
            0..5 => command(&[b"SADD", key, &member]),
            5 => command(&[b"SADD", key, &member, &self.name(b'm')]),
            6 | 7 => command(&[b"SREM", key, &member]),
            8 => command(&[b"SPOP", key]),
            _ => command(&[b"DEL", key]),
        }
    }

    fn life(&mut self, key: &[u8]) -> Command {
        let ttl = self.ttl();
        match self.random.below(5) {
            0..3 => command(&[b"PEXPIRE", key, &ttl]),
            3 => command(&[b"PERSIST", key]),
            _ => command(&[b"DEL", key]),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        self.values += 1;
        let mut value = format!("v{}-{}", self.client, self.values).into_bytes();
        value.resize(value.len() + self.plan.padding() as usize, b'.');
        value
    }

    fn name(&mut self, letter: u8) -> Vec<u8> {
        let number = self.random.below(self.plan.names() as usize);
        [&[letter][..], number.to_string().as_bytes()].concat()
    }

    fn delta(&mut self) -> Vec<u8> {
        (self.random.range(0, 12) as i64 - 4).to_string().into_bytes()
    }

    fn ttl(&mut self) -> Vec<u8> {
        self.random.spread(5, self.plan.ttl_ms()).to_string().into_bytes()
    }
}

fn command(args: &[&[u8]]) -> Command {
    args.iter().map(|arg| arg.to_vec()).collect()
}
