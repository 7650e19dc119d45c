//! What happened, as a rolling hash and, on demand, as lines.
//!
//! Two runs of a seed must have the same hash: it covers every event, every log entry and every
//! reply, so that any hidden source of chance shows.

use std::collections::VecDeque;

/// How many lines a failure keeps.
const TAIL_LINES: usize = 60;

/// The record of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    /// Takes every line as it comes.
    sink: Option<fn(&str)>,
    /// Keep the last lines for a failure's report.
    tail: VecDeque<String>,
}

impl Trace {
    pub fn new(sink: Option<fn(&str)>) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, sink, tail: VecDeque::new() }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Adds numbers to the hash: a multiply and a rotation of FxHash's kind are enough to notice
    /// a difference.
    pub fn mix(&mut self, values: &[u64]) {
        for value in values {
            self.hash = (self.hash.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    /// Adds bytes to the hash.
    pub fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(&[bytes.len() as u64]);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(&[u64::from_le_bytes(word)]);
        }
    }

    /// Notes a line, if lines are wanted.
    pub fn line(&mut self, now_us: u64, text: impl FnOnce() -> String) {
        if let Some(sink) = self.sink {
            sink(&format!("{:>10.3} {}", now_us as f64 / 1000.0, text()));
        }
    }

    /// Notes a line that is rare and telling: a fault, a life that ends.
    pub fn fault(&mut self, now_us: u64, text: impl FnOnce() -> String) {
        let line = format!("{:>10.3} ! {}", now_us as f64 / 1000.0, text());
        if let Some(sink) = self.sink {
            sink(&line);
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// The last telling lines.
    pub fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }
}
