//! How far a region that joins has got: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::reach;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often a line is written where there is no terminal, unless it says something new.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Places of the bar.
const BAR_WIDTH: u64 = 24;

/// Watches the node whose admin port this is until it is a full member. It is told on a thread of
/// its own: the node does not wait for it.
pub fn watch(name: String, admin: SocketAddr) -> Result<()> {
    let thread = std::thread::Builder::new().name("progress".to_owned());
    let body = move || {
        let shown = super::block_on(show(&name, admin));
        if let Err(error) = shown {
            tracing::warn!(error = %format!("{error:#}"), "the progress cannot be shown");
        }
    };
    thread.spawn(body).context("starting the thread that shows the progress")?;
    Ok(())
}

async fn show(name: &str, admin: SocketAddr) -> Result<()> {
    let began = Instant::now();
    let is_terminal = std::io::stderr().is_terminal();
    let (mut course, mut said, mut said_at) = (Course::default(), String::new(), None);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(own) = reach::status(admin).await else { continue };
        let phase = phase(&own, name);
        let remaining = backlog(&own, name).await;
        course.observe(began.elapsed(), remaining);
        let keys = own["keys"].as_u64().unwrap_or(0);
        let is_done = phase == Phase::Member;
        let text = match phase {
            Phase::Member => format!(
                "{name} has joined as region {} after {:.1} s, with {keys} keys",
                own["origin"],
                began.elapsed().as_secs_f64()
            ),
            Phase::Admission => format!("{name} has the data ({keys} keys); it is being admitted"),
            Phase::Data => match repair(&own) {
                Some(text) => format!("{name} {text}, {keys} keys"),
                None => format!("{name} {}, {keys} keys", course.text()),
            },
        };
        let mut out = std::io::stderr();
        if is_terminal {
            // Overwrites the line before.
            write!(out, "\r\x1b[K{text}")?;
            if is_done {
                writeln!(out)?;
            }
            out.flush()?;
        } else if text != said
            && (is_done || said_at.is_none_or(|at: Instant| at.elapsed() >= LINE_EVERY))
        {
            writeln!(out, "{text}")?;
            (said, said_at) = (text, Some(Instant::now()));
        }
        if is_done {
            return Ok(());
        }
    }
}

/// What a region that joins is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Data,
    Admission,
    Member,
}

fn phase(own: &Value, name: &str) -> Phase {
    let members = own["members"].as_array().map_or(&[][..], Vec::as_slice);
    let me = members.iter().rfind(|member| member["name"] == name);
    match me.map(|member| &member["status"]) {
        Some(status) if status == "active" => Phase::Member,
        _ if own["caught_up"] == true => Phase::Admission,
        _ => Phase::Data,
    }
}

/// How the state repairs go by which it takes over what no log holds any more, if there are any.
fn repair(own: &Value) -> Option<String> {
    let repairs = &own["repairs"];
    let outstanding = repairs["outstanding"].as_u64().filter(|left| *left > 0)?;
    let under_way = repairs["under_way"].as_array().map_or(&[][..], Vec::as_slice);
    let sum = |field: &str| under_way.iter().filter_map(|r| r[field].as_u64()).sum::<u64>();
    let from = under_way.iter().find_map(|r| r["from"].as_str()).unwrap_or("the others");
    let received = repairs["received_bytes"].as_u64().unwrap_or(0);
    Some(format!(
        "takes over the state of {from}: {outstanding} partitions left, {} of {} elements of those \
         under way, {} MiB so far",
        sum("elements"),
        sum("elements_expected"),
        mebibytes(received as f64)
    ))
}

/// What the other regions have not sent it yet, in bytes of their logs, as far as they tell.
async fn backlog(own: &Value, name: &str) -> u64 {
    let mut bytes = 0;
    for member in own["members"].as_array().into_iter().flatten() {
        let admin = member["admin"].as_str().and_then(|admin| admin.parse().ok());
        if let (true, Some(admin)) = (member["name"] != name && member["status"] == "active", admin)
            && let Ok(status) = reach::status(admin).await
        {
            bytes += status["peers"][name]["backlog_bytes"].as_u64().unwrap_or(0);
        }
    }
    bytes
}

/// How the remaining bytes have gone down.
#[derive(Clone, Debug, Default)]
struct Course {
    /// The most that remained.
    total: u64,
    remaining: u64,
    /// When something was seen to remain first, and last.
    began: Option<Duration>,
    now: Duration,
}

impl Course {
    fn observe(&mut self, now: Duration, remaining: u64) {
        if remaining > self.total {
            self.total = remaining;
        }
        if self.total > 0 {
            self.began.get_or_insert(now);
        }
        (self.now, self.remaining) = (now, remaining);
    }

    fn text(&self) -> String {
        if self.total == 0 {
            return "connects to the other regions".to_owned();
        }
        let done = self.total - self.remaining;
        let percent = u128::from(done) * 100 / u128::from(self.total);
        let filled = (u128::from(done) * u128::from(BAR_WIDTH) / u128::from(self.total)) as usize;
        let bar = "#".repeat(filled) + &"-".repeat(BAR_WIDTH as usize - filled);
        let seconds = self.now.saturating_sub(self.began.unwrap_or(self.now)).as_secs_f64();
        let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let left = match rate > 0.0 {
            true => format!("about {:.0} s left", self.remaining as f64 / rate),
            false => "no rate yet".to_owned(),
        };
        let (done, total, rate) =
            (mebibytes(done as f64), mebibytes(self.total as f64), mebibytes(rate));
        format!("[{bar}] {percent:3} %, {done} of {total} MiB, {rate} MiB/s, {left}")
    }
}

fn mebibytes(bytes: f64) -> String {
    format!("{:.1}", bytes / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_course_has_a_rate_and_an_end() {
        let mut course = Course::default();
        course.observe(Duration::from_secs(1), 0);
        assert_eq!(course.text(), "connects to the other regions");
        course.observe(Duration::from_secs(2), 100 << 20);
        assert!(course.text().contains("0 %") && course.text().contains("no rate yet"));
        course.observe(Duration::from_secs(7), 75 << 20);
        assert_eq!(
            course.text(),
            "[######------------------]  25 %, 25.0 of 100.0 MiB, 5.0 MiB/s, about 15 s left"
        );
        // More was written meanwhile than was sent.
        course.observe(Duration::from_secs(8), 120 << 20);
        assert!(course.text().contains("  0 %, 0.0 of 120.0 MiB"), "{}", course.text());
        course.observe(Duration::from_secs(9), 0);
        assert!(course.text().starts_with("[########################] 100 %"));
    }

    #[test]
    fn a_repair_shows_its_own_progress() {
        assert_eq!(repair(&json!({"repairs": {"outstanding": 0, "under_way": []}})), None);
        let own = json!({"repairs": {"outstanding": 7, "received_bytes": 3 << 20, "under_way": [
            {"from": "eu", "elements": 10, "elements_expected": 40},
            {"from": "eu", "elements": 5, "elements_expected": 20},
        ]}});
        assert_eq!(
            repair(&own).as_deref(),
            Some(
                "takes over the state of eu: 7 partitions left, 15 of 60 elements of those under \
                 way, 3.0 MiB so far"
            )
        );
    }

    #[test]
    fn the_phase_is_told_by_the_nodes_own_status() {
        let own = |status: &str, caught_up: bool| {
            let members = json!([{"name": "x", "status": "dead"}, {"name": "x", "status": status}]);
            json!({"members": members, "caught_up": caught_up})
        };
        assert_eq!(phase(&own("joining", false), "x"), Phase::Data);
        assert_eq!(phase(&own("joining", true), "x"), Phase::Admission);
        assert_eq!(phase(&own("active", true), "x"), Phase::Member);
        assert_eq!(phase(&json!({}), "x"), Phase::Data);
    }
}
