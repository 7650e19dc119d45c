//! What a region shows to its clients, asked with Redis commands of a copy of its data.
//!
//! A copy, so that looking does not disturb what is looked at.

use std::collections::{BTreeMap, BTreeSet};

use meridian_keyspace::{Durability, Engine, Stage};
use meridian_resp::{ReplyLimits, ReplyParser, Value};
use meridian_store::LogPosition;

use crate::{
    region::{RegionConfig, engine_config},
    spec::{Content, Shown},
};

/// Asks a copy of a region's data.
pub(crate) struct Observer {
    engine: Engine,
    parser: ReplyParser,
}

/// The only client of an observer.
const CLIENT: u64 = 1;

impl Observer {
    /// A view of data in which nothing waits for a commit.
    pub fn new(config: &RegionConfig, stage: &Stage) -> Observer {
        let mut config = engine_config(config);
        config.durability = Durability::Everysec;
        let mut engine = Engine::new(config, stage.clone(), LogPosition(0));
        engine.connect(CLIENT, "127.0.0.1:1".into());
        Observer { engine, parser: ReplyParser::new(ReplyLimits::DEFAULT) }
    }

    /// What a key shows.
    pub fn show(&mut self, key: &[u8]) -> Result<Option<Shown>, String> {
        let kind = self.ask(&[b"TYPE", key])?;
        let content = match kind.as_bytes() {
            Some(b"none") => {
                let exists = self.ask(&[b"EXISTS", key])?;
                return match exists.as_integer() {
                    Some(0) => Ok(None),
                    other => Err(format!("EXISTS answers {other:?} where TYPE answers none")),
                };
            }
            Some(b"string") => Content::String(bytes(&self.ask(&[b"GET", key])?)?),
            Some(b"hash") => {
                let fields = pairs(&self.ask(&[b"HGETALL", key])?)?;
                self.check_count(&[b"HLEN", key], fields.len())?;
                Content::Hash(fields)
            }
            Some(b"set") => {
                let members = items(&self.ask(&[b"SMEMBERS", key])?)?;
                self.check_count(&[b"SCARD", key], members.len())?;
                Content::Set(members.into_iter().collect::<BTreeSet<_>>())
            }
            _ => return Err(format!("TYPE answers {kind:?}")),
        };
        let deadline = self.ask(&[b"PEXPIRETIME", key])?.as_integer();
        let deadline_ms = deadline.and_then(|ms| u64::try_from(ms).ok());
        Ok(Some(Shown { content, deadline_ms }))
    }

    fn check_count(&mut self, args: &[&[u8]], expected: usize) -> Result<(), String> {
        let count = self.ask(args)?;
        if count.as_integer() == i64::try_from(expected).ok() {
            return Ok(());
        }
        let name = String::from_utf8_lossy(args[0]);
        Err(format!("{name} answers {count:?} where there are {expected}"))
    }

    fn ask(&mut self, args: &[&[u8]]) -> Result<Value, String> {
        self.engine.execute(CLIENT, args);
        let commit = self.engine.commit();
        if commit.entry.is_some() {
            return Err(format!("{} wrote", String::from_utf8_lossy(args[0])));
        }
        self.engine.appended(commit, LogPosition(0));
        self.engine.take_ready();
        let client = self.engine.output(CLIENT).ok_or("the observer was disconnected")?;
        let bytes = client.releasable().to_vec();
        client.consume(bytes.len());
        match self.parser.parse(&bytes).map_err(|e| e.to_string())? {
            Some((value, used)) if used == bytes.len() => Ok(value),
            _ => Err(format!("{} has no single reply", String::from_utf8_lossy(args[0]))),
        }
    }
}

/// The digest of everything that is held, slot by slot.
pub(crate) fn digest(stage: &mut Stage) -> Vec<(u16, u64)> {
    let slots: Vec<u16> = stage.occupied_slots().collect();
    let digests = slots.into_iter().map(|slot| (slot, stage.slot_digest(slot)));
    digests.filter(|(_, digest)| *digest != 0).collect()
}

/// A string reply.
fn bytes(value: &Value) -> Result<Vec<u8>, String> {
    value.as_bytes().map(<[u8]>::to_vec).ok_or_else(|| format!("no string: {value:?}"))
}

/// An array of strings.
fn items(value: &Value) -> Result<Vec<Vec<u8>>, String> {
    let values = value.as_array().ok_or_else(|| format!("no array: {value:?}"))?;
    values.iter().map(bytes).collect()
}

fn pairs(value: &Value) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, String> {
    let items = items(value)?;
    Ok(items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
}
