//! What is measured: a server that takes commands, and its peers that receive the writes.

use crate::client::{Client, info_field};
use crate::process::{self, Server};
use crate::{metrics, process::poll_until};
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A settled process uses at most this share of a CPU.
const SETTLED_CPU_SHARE: f64 = 0.05;

/// Over this long. Ten ticks of the CPU clock at the least, so that the share can be told.
const SETTLED_WINDOW: Duration = Duration::from_millis(200);

/// A server under measurement. Its processes end with this value.
pub struct Target {
    /// As it is called in the report.
    pub name: String,
    /// Where commands go.
    pub address: SocketAddr,
    /// The process whose CPU time counts.
    pub pid: u32,
    /// The processes of its peers, which have work to do as well.
    pub others: Vec<u32>,
    /// Where its writes appear.
    pub peers: Vec<SocketAddr>,
    /// How to learn what it has sent to one peer.
    pub wire: Wire,
    /// The processes that were started for it.
    pub servers: Vec<Server>,
}

/// Where the bytes sent to a peer are counted.
#[derive(Clone, Copy, Debug)]
pub enum Wire {
    /// The replication offset of Redis: the bytes of the stream that every replica receives.
    RedisOffset,
    /// A counter for each peer in Prometheus form, at this address.
    Metrics(SocketAddr),
    /// Nowhere.
    Unknown,
}

impl Target {
    /// What its processes have said last, to explain a failure.
    pub fn last_words(&self) -> String {
        let logs = self
            .servers
            .iter()
            .map(|server| format!("-- {}:\n{}", server.pid(), server.last_words()));
        logs.fold(format!("{} failed", self.name), |all, log| format!("{all}\n{log}"))
    }

    /// Bytes of memory that its process holds.
    pub fn resident_bytes(&self) -> Result<u64> {
        process::resident_bytes(self.pid)
    }

    /// Keys that it holds.
    pub fn keys(&self) -> Result<u64> {
        let count = Client::connect(self.address)?.call(&["DBSIZE"])?.as_integer();
        count.and_then(|count| u64::try_from(count).ok()).context("DBSIZE is no number")
    }

    /// CPU seconds used so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.pid)
    }

    /// CPU seconds used so far by it and all of its peers.
    pub fn total_cpu_seconds(&self) -> Result<f64> {
        self.others
            .iter()
            .try_fold(self.cpu_seconds()?, |sum, pid| Ok(sum + process::cpu_seconds(*pid)?))
    }

    /// Waits until the server has finished what it does behind the replies (flushing, sending), and
    /// its peers what they were sent, so that the work of one measurement is not charged to the
    /// next.
    pub fn settle(&self) -> Result<()> {
        let mut since = (Instant::now(), self.total_cpu_seconds()?);
        poll_until("the server to settle", || {
            if since.0.elapsed() < SETTLED_WINDOW {
                return Ok(None);
            }
            let now = (Instant::now(), self.total_cpu_seconds()?);
            let share = (now.1 - since.1) / (now.0 - since.0).as_secs_f64();
            since = now;
            let idle = SETTLED_CPU_SHARE * (1 + self.others.len()) as f64;
            Ok((share <= idle).then_some(()))
        })
        .with_context(|| self.name.clone())
    }

    /// Bytes sent to one peer so far, if the server counts them.
    pub fn sent_bytes(&self) -> Result<Option<u64>> {
        match self.wire {
            Wire::RedisOffset => {
                let info = Client::connect(self.address)?.info("replication")?;
                let offset = info_field(&info, "master_repl_offset");
                let offset = offset.and_then(|text| text.parse().ok());
                Ok(Some(offset.context("INFO has no master_repl_offset")?))
            }
            Wire::Metrics(address) => {
                let text = metrics::fetch(address)?;
                let sent = metrics::values(&text, metrics::SENT_BYTES);
                // Peers receive the same records; the first stands for all.
                Ok(sent.first().map(|sent| *sent as u64))
            }
            Wire::Unknown => Ok(None),
        }
    }
}

/// A server that somebody else has started, from `--attach`.
#[derive(Clone, Debug)]
pub struct Attached {
    name: String,
    address: SocketAddr,
    pid: u32,
    peer: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
}

impl Attached {
    /// The target it describes.
    pub fn target(&self) -> Result<Target> {
        Ok(Target {
            name: self.name.clone(),
            address: self.address,
            pid: self.pid,
            others: Vec::new(),
            peers: self.peer.into_iter().collect(),
            wire: self.metrics.map_or(Wire::Unknown, Wire::Metrics),
            servers: Vec::new(),
        })
    }
}

impl std::str::FromStr for Attached {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut name, mut address, mut pid) = (None, None, None);
        let (mut peer, mut metrics) = (None, None);
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or(format!("`{part}` is not key=value"))?;
            let wrong = || format!("`{value}` does not fit `{key}`");
            match key {
                "name" => name = Some(value.to_owned()),
                "address" => address = Some(value.parse().map_err(|_| wrong())?),
                "pid" => pid = Some(value.parse().map_err(|_| wrong())?),
                "peer" => peer = Some(value.parse().map_err(|_| wrong())?),
                "metrics" => metrics = Some(value.parse().map_err(|_| wrong())?),
                _ => return Err(format!("unknown key `{key}`")),
            }
        }
        Ok(Attached {
            name: name.ok_or("name= is missing")?,
            address: address.ok_or("address= is missing")?,
            pid: pid.ok_or("pid= is missing")?,
            peer,
            metrics,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attached_servers_are_described_by_pairs() {
        let parsed: Attached = "name=x,address=127.0.0.1:1,pid=2,peer=127.0.0.1:3".parse().unwrap();
        assert_eq!((parsed.name.as_str(), parsed.pid), ("x", 2));
        assert_eq!(parsed.target().unwrap().peers, ["127.0.0.1:3".parse().unwrap()]);
        for wrong in ["", "name=x", "name=x,address=y,pid=1", "name=x,address=127.0.0.1:1,pid=z"] {
            assert!(wrong.parse::<Attached>().is_err(), "{wrong}");
        }
    }
}
