//! How the demonstration speaks: steps, what was checked, and a table at the end.

use std::io::Write;
use std::time::{Duration, Instant};

/// Steps told so far, and what was measured.
pub struct Story {
    started: Instant,
    step: u32,
    checks: u32,
    table: Vec<(String, String, String)>,
}

impl Story {
    /// Nothing told yet.
    pub fn begin() -> Story {
        Story { started: Instant::now(), step: 0, checks: 0, table: Vec::new() }
    }

    /// The next step begins.
    pub fn step(&mut self, title: &str) {
        self.step += 1;
        tell(&format!("\n{}. {title}  [{:.1} s]", self.step, self.started.elapsed().as_secs_f64()));
    }

    /// Tells something.
    pub fn say(&self, words: &str) {
        tell(&format!("   {words}"));
    }

    /// Tells something that was checked and holds.
    pub fn holds(&mut self, words: &str) {
        self.checks += 1;
        tell(&format!("   ok  {words}"));
    }

    /// A row of the table: what, how much, and what to compare it with.
    pub fn measured(&mut self, what: &str, value: impl Into<String>, note: impl Into<String>) {
        self.table.push((what.to_owned(), value.into(), note.into()));
    }

    /// The table.
    pub fn end(&self) {
        let took_s = self.started.elapsed().as_secs_f64();
        tell(&format!("\n{}\n\nall {} checks hold; {took_s:.0} s", self.render(), self.checks));
    }

    fn render(&self) -> String {
        let width = |column: fn(&(String, String, String)) -> &String| {
            self.table.iter().map(|row| column(row).chars().count()).max().unwrap_or(0)
        };
        let (what, value) = (width(|row| &row.0), width(|row| &row.1));
        let line = |(a, b, c): &(String, String, String)| format!("{a:<what$}  {b:>value$}  {c}");
        self.table.iter().map(|row| line(row).trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}

/// Prints a line. That nobody reads it any more is no reason to stop checking.
pub fn tell(words: &str) {
    let _ = writeln!(std::io::stdout(), "{words}");
}

/// A duration for people: `0.4 ms`, `42 ms`, `1.23 s`.
pub fn time(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        ..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1000.0),
    }
}

/// The middle and the largest of some durations.
pub fn median_and_max(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    (median, times.last().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable() {
        let check = |us, expected: &str| assert_eq!(time(Duration::from_micros(us)), expected);
        check(420, "0.4 ms");
        check(42_400, "42 ms");
        check(1_234_000, "1.23 s");
    }

    #[test]
    fn the_table_is_aligned() {
        let mut story = Story::begin();
        story.measured("one", "1 ms", "");
        story.measured("two times", "22 ms", "of 80");
        assert_eq!(story.render(), "one         1 ms\ntwo times  22 ms  of 80");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let ms = Duration::from_millis;
        assert_eq!(median_and_max(vec![ms(9), ms(1), ms(3)]), (ms(3), ms(9)));
        assert_eq!(median_and_max(vec![]), (ms(0), ms(0)));
    }
}
