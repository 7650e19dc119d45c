//! When to let frames gather before reading.
//!
//! Postgres sends each replication message in a packet of its own. A reader that wakes for each
//! keeps both sides busy with wake-ups; napping a millisecond while much comes in doubles the
//! throughput, and a quiet stream is still read at once.

use std::time::Duration;

/// Frames are counted in windows of this length.
const WINDOW: Duration = Duration::from_millis(5);
/// More frames than this in a window mean that the stream is busy.
const BUSY_FRAMES: u32 = 50;
/// How long a busy stream is left alone.
const PAUSE: Duration = Duration::from_millis(1);

/// Counts frames; time is what has passed since some fixed moment.
#[derive(Debug, Default)]
pub(super) struct Coalescer {
    window: u128,
    frames: u32,
    frames_before: u32,
}

impl Coalescer {
    /// A frame was taken.
    pub(super) fn count(&mut self, now: Duration) {
        self.turn(now);
        self.frames = self.frames.saturating_add(1);
    }

    /// How long to wait before the next read; `None` means not at all.
    pub(super) fn pause(&mut self, now: Duration) -> Option<Duration> {
        self.turn(now);
        (self.frames.max(self.frames_before) > BUSY_FRAMES).then_some(PAUSE)
    }

    fn turn(&mut self, now: Duration) {
        let window = now.as_micros() / WINDOW.as_micros();
        if window != self.window {
            self.frames_before = if window == self.window + 1 { self.frames } else { 0 };
            self.frames = 0;
            self.window = window;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_busy_stream_pauses() {
        let at = Duration::from_micros;
        let mut coalescer = Coalescer::default();
        for frame in 0..=u64::from(BUSY_FRAMES) {
            assert_eq!(coalescer.pause(at(10 * frame)), None);
            coalescer.count(at(10 * frame));
        }
        assert_eq!(coalescer.pause(at(600)), Some(PAUSE));
        assert_eq!(coalescer.pause(at(5_100)), Some(PAUSE), "still in the window after");
        assert_eq!(coalescer.pause(at(10_100)), None, "quiet for a whole window");
    }

    #[test]
    fn an_old_burst_is_forgotten() {
        let mut coalescer = Coalescer::default();
        for _ in 0..1000 {
            coalescer.count(Duration::ZERO);
        }
        assert_eq!(coalescer.pause(Duration::from_secs(1)), None);
    }
}
