//! What it takes to bring a region back: a new one that has nothing, and one that was apart while
//! both sides wrote and no log leads on any more.
//!
//! Two regions, each a process, nothing delays what passes between them. Their logs are kept so
//! short that everything goes by state repair. Seconds count from the first answer of the region
//! that starts until both say the same digest; bytes are those of all UDP datagrams that it receives,
//! and of the repair itself before compression.

use crate::ceilings;
use crate::client::{Client, answers};
use crate::meridian::{Region, TOPOLOGY, describe, issue_certificates, place_regions};
use crate::metrics;
use crate::process::{Server, free_address, poll_until, poll_until_within};
use anyhow::{Context, Result};
use meridian_resp::encode_command;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes of a value: random, so that nothing compresses it.
const VALUE_LEN: usize = 128;

/// Commands under way at a time.
const WINDOW: u64 = 1_000;

/// How long a region may take to come back.
const PATIENCE: Duration = Duration::from_secs(280);

/// Logs are kept this short. Enough is written on top to leave nothing else of them.
const STORAGE: &str = "storage:\n  log_segment: 4MiB\n  log_retention: 8MiB\n  log_limit: 16MiB\n  \
                       checkpoint_trigger: 8MiB\n";

/// Bytes that are written to push what came before out of the log.
const PUSH_BYTES: u64 = 64 << 20;

/// A status tells of a moment at most this long before it, in milliseconds.
const STATUS_AGE_MS: u128 = 1_500;

/// Measures and prints.
pub fn run(program: &Path, directory: &Path, keys: u64, differences: &[u64]) -> Result<String> {
    let pair = Pair::place(program, directory)?;
    let mut there = pair.start(0, TOPOLOGY)?;
    crate::progress(&format!("writing {keys} keys"));
    write(pair.regions[0].redis, 0, keys, 1)?;
    push(&pair.regions[0])?;

    crate::progress("a new region comes in");
    let mut out = String::from(
        "what                  keys     differ     MB data   MB repair  MB wire      s   \
         connected  begun   done given up\n",
    );
    let mut here = pair.start(1, TOPOLOGY)?;
    let bytes = keys * (VALUE_LEN + KEY_LEN) as u64;
    out += &pair.watch("new region", keys, keys, bytes, &mut there, &mut here)?;
    let ceilings = [ceilings::disk(directory, bytes)?, ceilings::loopback(bytes)?];
    for (round, count) in (2..).zip(differences) {
        crate::progress(&format!("{count} keys differ"));
        drop(here);
        // Apart: a region that finds nobody and is found by nobody.
        let apart = pair.start(1, APART)?;
        write(pair.regions[1].redis, 0, count / 2, round)?;
        push(&pair.regions[1])?;
        drop(apart);
        write(pair.regions[0].redis, count / 2, count - count / 2, round)?;
        push(&pair.regions[0])?;
        here = pair.start(1, TOPOLOGY)?;
        let bytes = count * (VALUE_LEN + KEY_LEN) as u64;
        out += &pair.watch("was apart", keys, *count, bytes, &mut there, &mut here)?;
    }
    let [disk, loopback] = ceilings.map(|rate| rate / 1e6);
    out += &format!(
        "beside it, the same bytes of data: to this disk with one sync {disk:.0} MB/s, through one TCP \
         connection over loopback {loopback:.0} MB/s\n"
    );
    Ok(out)
}

/// Name of the topology file in which the second region is alone.
const APART: &str = "apart.yaml";

/// Bytes of a key.
const KEY_LEN: usize = 15;

struct Pair<'a> {
    program: &'a Path,
    directory: &'a Path,
    regions: Vec<Region>,
}

impl<'a> Pair<'a> {
    fn place(program: &'a Path, directory: &'a Path) -> Result<Pair<'a>> {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let regions = place_regions()?;
        let text = describe(&regions).replace("storage:\n", STORAGE);
        let mut apart = text.clone();
        let mut held = Vec::new();
        for region in &regions {
            let nowhere = free_address(region.mesh.ip(), &mut held)?;
            apart = apart.replace(&format!("mesh: {}", region.mesh), &format!("mesh: {nowhere}"));
        }
        for (name, text) in [(TOPOLOGY, text), (APART, apart)] {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        for action in ["init", "issue"] {
            issue_certificates(program, directory, action)?;
        }
        Ok(Pair { program, directory, regions })
    }

    fn start(&self, index: usize, topology: &str) -> Result<Server> {
        let region = &self.regions[index];
        let mut command = Command::new(self.program);
        command.args(["node", "--region", region.name]);
        command.arg("--config").arg(self.directory.join(topology));
        command.arg("--data-dir").arg(self.directory);
        let mut server = Server::start(&self.directory.join(region.name), command)?;
        server.wait_until("ready", || answers(region.redis))?;
        Ok(server)
    }

    /// Watches the second region until it is the same as the first. A line for the report.
    fn watch(
        &self,
        what: &str,
        keys: u64,
        differ: u64,
        data: u64,
        there: &mut Server,
        here: &mut Server,
    ) -> Result<String> {
        let began = Instant::now();
        let mut phases = Phases::default();
        let digest = |region: &Region| Client::connect(region.redis)?.call(&["MERIDIAN", "DIGEST"]);
        let seconds = poll_until_within(PATIENCE, "both regions to be the same", || {
            // The admin port may come up after the one for clients.
            let Ok(status) = self.status(1) else { return Ok(None) };
            phases.look(&status, self.regions[0].name, began.elapsed());
            // The digests cost something: only once the repairs are through.
            let busy = status["repairs"]["outstanding"].as_u64() != Some(0)
                || status["caught_up"].as_bool() != Some(true);
            if busy {
                return Ok(None);
            }
            // Of both at the same time: what they take is not a part of the healing.
            let seconds = began.elapsed().as_secs_f64();
            let (one, other) = std::thread::scope(|scope| {
                let one = scope.spawn(|| digest(&self.regions[0]));
                let other = digest(&self.regions[1]);
                (one.join(), other)
            });
            let one = one.map_err(|_| anyhow::anyhow!("who asked for a digest panicked"))?;
            Ok((one? == other?).then_some(seconds))
        })
        .with_context(|| format!("{}\n{}", there.last_words(), here.last_words()))?;
        // A status may be a moment old: one that was taken after the end.
        let ended = SystemTime::now().duration_since(UNIX_EPOCH).context("clock")?.as_millis();
        let status = poll_until("a status from after the end", || {
            let status = self.status(1)?;
            let taken = u128::from(status["now_ms"].as_u64().unwrap_or(0));
            Ok((taken > ended + STATUS_AGE_MS).then_some(status))
        })?;
        let wire = &status["peers"][self.regions[0].name]["received"]["udp_bytes"];
        let repair = &status["repairs"]["received_bytes"];
        let mb = |bytes: u64| bytes as f64 / 1e6;
        Ok(format!(
            "{what:<16} {keys:>9} {differ:>10} {:>11.2} {:>11.2} {:>8.2} {seconds:>6.2}   {}\n",
            mb(data),
            mb(repair.as_u64().unwrap_or(0)),
            mb(wire.as_u64().unwrap_or(0)),
            phases.tell(),
        ))
    }

    fn status(&self, index: usize) -> Result<Value> {
        let body = metrics::get(self.regions[index].admin, "/status")?.body;
        serde_json::from_str(&body).context("/status is no JSON")
    }
}

/// When the region that comes back was how far.
#[derive(Default)]
struct Phases {
    connected: Option<Duration>,
    begun: Option<Duration>,
    here: Option<Duration>,
    given_up: u64,
}

impl Phases {
    fn look(&mut self, status: &Value, peer: &str, now: Duration) {
        let reached = |phase: &mut Option<Duration>, is: bool| {
            if is && phase.is_none() {
                *phase = Some(now);
            }
        };
        let repairs = &status["repairs"];
        let count = |field: &str| repairs[field].as_u64().unwrap_or(0);
        let outstanding = repairs["outstanding"].as_u64();
        reached(&mut self.connected, status["peers"][peer]["connected"].as_bool() == Some(true));
        reached(&mut self.begun, count("outstanding") + count("completed") > 0);
        reached(&mut self.here, count("completed") > 0 && outstanding == Some(0));
        self.given_up = count("given_up");
    }

    fn tell(&self) -> String {
        let at = |phase: Option<Duration>| {
            phase.map_or("-".to_owned(), |at| format!("{:.2}", at.as_secs_f64()))
        };
        let (connected, begun, here) = (at(self.connected), at(self.begun), at(self.here));
        format!("{connected:>9} {begun:>6} {here:>6} {:>8}", self.given_up)
    }
}

/// Writes keys `from` to `from + count`, each with a value of its own for every `round`.
fn write(address: SocketAddr, from: u64, count: u64, round: u64) -> Result<()> {
    pipeline(address, count, |n, out| {
        let number = from + n;
        let key = format!("key:{number:011}");
        let value = noise(number, round);
        encode_command(out, &[&b"SET"[..], key.as_bytes(), &value]);
    })
}

/// Writes so much to one key that nothing else is left in the log, and waits until it is gone.
fn push(region: &Region) -> Result<()> {
    let log = |field: &str| -> Result<u64> {
        let body = metrics::get(region.admin, "/status")?.body;
        let status: Value = serde_json::from_str(&body).context("/status is no JSON")?;
        status["log"][field].as_u64().context("a status without its log")
    };
    let end = log("end")?;
    let count = PUSH_BYTES / (VALUE_LEN as u64 + 40);
    pipeline(region.redis, count, |n, out| {
        encode_command(out, &[&b"SET"[..], b"push", &noise(n, u64::MAX)]);
    })?;
    poll_until("the log to be let go", || Ok((log("start")? >= end).then_some(())))
}

fn pipeline(
    address: SocketAddr,
    count: u64,
    mut command: impl FnMut(u64, &mut Vec<u8>),
) -> Result<()> {
    const REPLY: usize = b"+OK\r\n".len();
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
    stream.set_read_timeout(Some(crate::process::PATIENCE)).context("read timeout")?;
    let (mut sent, mut out) = (0, Vec::new());
    let mut replies = vec![0; REPLY * WINDOW as usize];
    while sent < count {
        let some = WINDOW.min(count - sent);
        out.clear();
        (sent..sent + some).for_each(|n| command(n, &mut out));
        stream.write_all(&out).context("send")?;
        let replies = &mut replies[..REPLY * some as usize];
        stream.read_exact(replies).context("receive")?;
        anyhow::ensure!(replies.chunks(REPLY).all(|r| r == b"+OK\r\n"), "a write was refused");
        sent += some;
    }
    Ok(())
}

/// Bytes that look random: a generator of Steele, Lea and Flood ("Fast splittable pseudorandom
/// number generators", 2014).
fn noise(number: u64, round: u64) -> [u8; VALUE_LEN] {
    // The odd factors differ: else the streams of neighbours would be the same but for their ends,
    // and compress.
    let mut state = number.wrapping_mul(0xd134_2543_de82_ef95) ^ round.rotate_left(32);
    let mut value = [0; VALUE_LEN];
    for chunk in value.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
    }
    value
}
