//! What the steps share: the cluster, its Postgres, and short words for looking at them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meridian_chaos::cluster::{Cluster, Region};
use meridian_chaos::names::Names;
use meridian_chaos::redis_port::Redis;
use meridian_chaos::{http, patience};
use meridian_postgres::testing::TestPostgres;
use serde_json::Value;

/// The region that follows Postgres first, and that dies.
pub const US: &str = "us-east";
/// The region next to it.
pub const EU: &str = "eu-central";
/// The region far away.
pub const AP: &str = "ap-southeast";
/// All of them.
pub const ALL: [&str; 3] = [US, EU, AP];

/// The clients of us-east, as a resolver tells their network.
pub const US_CLIENTS: (IpAddr, u8) = (IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 0)), 16);

/// How long regions may take to agree on data after a fault.
const CONVERGE_WITHIN: Duration = Duration::from_secs(30);

/// A running demonstration. Everything that it started ends with it.
pub struct Tour {
    /// The regions.
    pub cluster: Cluster,
    /// The server that they follow, once it has started.
    pub postgres: Option<TestPostgres>,
    /// Its start, while that goes on.
    pub postgres_start: Option<std::thread::JoinHandle<Result<(TestPostgres, Duration)>>>,
    /// How to reach its shop.
    pub shop_url: String,
    /// Asks DNS.
    pub names: Names,
}

impl Tour {
    /// A region.
    pub fn region(&self, name: &str) -> Result<&Region> {
        self.cluster.region(name)
    }

    /// A new connection to a region's Redis port.
    pub fn redis(&self, name: &str) -> Result<Redis> {
        Redis::connect(self.region(name)?.redis)
    }

    /// What a region says of itself.
    pub fn status(&self, name: &str) -> Result<Value> {
        http::status(self.region(name)?.admin)
    }

    /// Half of the round trip between two regions.
    pub fn one_way(&self, from: &str, to: &str) -> Duration {
        Duration::from_secs_f64(self.cluster.one_way_ms(from, to) / 1000.0)
    }

    /// The name that stands for the nearest region.
    pub fn service_name(&self) -> String {
        format!("{}.{}", self.cluster.name, self.cluster.zone)
    }

    /// What the DNS server of a region answers to the clients of us-east.
    pub fn answer_for_us_clients(&self, server: &str) -> Result<Vec<IpAddr>> {
        let server = self.region(server)?.dns;
        Ok(self.names.ask(server, &self.service_name(), US_CLIENTS)?.0)
    }

    /// Waits until every region agrees that us-east is primary and DNS sends its clients there: on a
    /// machine that is busy a region may have been taken for dead meanwhile.
    pub fn settle(&self) -> Result<()> {
        let home = self.region(US)?.client_address;
        let mut last = String::new();
        let settled = patience::until("the cluster to settle", CONVERGE_WITHIN, || {
            for name in ALL {
                let status = self.status(name)?;
                let answer = self.answer_for_us_clients(name)?;
                if status["primary"] != US || answer != [home] {
                    let primary = &status["primary"];
                    last = format!("{name} says primary {primary}, DNS {answer:?}");
                    return Ok(None);
                }
            }
            Ok((self.status(US)?["is_primary"] == true).then_some(()))
        });
        settled.with_context(|| last)
    }

    /// A query to copy, as the one above.
    pub fn dig(&self, server: &str) -> Result<String> {
        let dns = self.region(server)?.dns;
        let (address, prefix) = US_CLIENTS;
        let name = self.service_name();
        Ok(format!("dig @{} -p {} +short +subnet={address}/{prefix} {name}", dns.ip(), dns.port()))
    }

    /// Waits until these regions hold the same data; how long that took since `since`, and the
    /// digest that they agree on.
    pub fn converge(&self, regions: &[&str], since: Instant) -> Result<(Duration, String)> {
        let mut ports = Vec::new();
        for name in regions {
            ports.push(self.redis(name)?);
        }
        let mut last = Vec::new();
        let agreed = patience::until("equal digests", CONVERGE_WITHIN, || {
            last.clear();
            for port in &mut ports {
                last.push(port.digest()?);
            }
            let is_equal = last.iter().all(|digest| *digest == last[0]);
            Ok(is_equal.then(|| (since.elapsed(), last[0].clone())))
        });
        agreed.with_context(|| format!("the digests of {} are {last:?}", regions.join(", ")))
    }

    /// How long it takes until `key` reads `value` in a region.
    pub fn appears(
        &self,
        redis: &mut Redis,
        key: &str,
        value: &str,
        since: Instant,
    ) -> Result<Duration> {
        let what = format!("{key} to read {value:?}");
        patience::time_until(&what, CONVERGE_WITHIN, since, || {
            let found: Option<String> = redis.call(&["GET", key])?;
            Ok(found.as_deref() == Some(value))
        })
    }
}

/// Equal or a clear word.
pub fn check_equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: T,
    expected: T,
) -> Result<()> {
    ensure!(found == expected, "{what}: found {found:?}, expected {expected:?}");
    Ok(())
}
