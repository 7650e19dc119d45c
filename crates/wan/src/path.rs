//! One direction of a link: decides for each packet whether it arrives, and when. Pure and seeded,
//! so that a run with the same packets at the same times loses the same ones.

use std::time::Duration;

use crate::limits::DELAY_MAX;

/// How one direction of a link treats packets.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shape {
    /// Time from one end to the other, without jitter.
    pub one_way_delay: Duration,
    /// Each packet takes up to this much longer, uniformly; packets may overtake each other.
    pub jitter: Duration,
    /// Probability, 0 to 1, that a packet is lost.
    pub loss: f64,
    /// What the line carries a second; packets beyond it wait their turn.
    pub bytes_per_second: Option<u64>,
}

impl Shape {
    /// A line with this delay and no other fault.
    pub fn delay(one_way_delay: Duration) -> Self {
        Shape { one_way_delay, ..Shape::default() }
    }

    /// Whether the figures make sense.
    pub(crate) fn is_valid(&self) -> bool {
        (0.0..=1.0).contains(&self.loss)
            && self.one_way_delay <= DELAY_MAX
            && self.jitter <= DELAY_MAX
            && self.bytes_per_second != Some(0)
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives at this instant (microseconds).
    Deliver(u64),
    /// Lost by chance.
    Lost,
    /// The link is cut.
    Cut,
}

/// The state of one direction of a link.
#[derive(Debug)]
pub struct Path {
    shape: Shape,
    is_cut: bool,
    random: SplitMix64,
    /// When the line has sent everything that was given to it (microseconds).
    idle_from: u64,
}

impl Path {
    /// A path whose losses and jitter follow from `seed`.
    pub fn new(shape: Shape, seed: u64) -> Self {
        Path { shape, is_cut: false, random: SplitMix64(seed), idle_from: 0 }
    }

    /// Changes how later packets are treated; those in flight keep their times.
    pub fn set_shape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// How packets are treated now.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Cuts or heals the path.
    pub fn set_cut(&mut self, is_cut: bool) {
        self.is_cut = is_cut;
    }

    /// Whether the path is cut; packets in flight at a cut are lost too.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Decides about a packet of `size` bytes that was sent at `now` (microseconds).
    pub fn admit(&mut self, now: u64, size: usize) -> Verdict {
        if self.is_cut {
            return Verdict::Cut;
        }
        if self.random.chance(self.shape.loss) {
            return Verdict::Lost;
        }
        let sent = match self.shape.bytes_per_second {
            None => now,
            Some(rate) => {
                let takes = (size as u64).saturating_mul(1_000_000) / rate.max(1);
                self.idle_from = self.idle_from.max(now).saturating_add(takes);
                self.idle_from
            }
        };
        let jitter = self.random.up_to(self.shape.jitter.as_micros() as u64);
        Verdict::Deliver(sent + self.shape.one_way_delay.as_micros() as u64 + jitter)
    }
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn chance(&mut self, probability: f64) -> bool {
        // 53 bits make a uniform f64 in [0, 1).
        probability > 0.0 && ((self.next() >> 11) as f64) / ((1u64 << 53) as f64) < probability
    }

    fn up_to(&mut self, max: u64) -> u64 {
        if max == 0 { 0 } else { self.next() % (max + 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;

    fn delivered(path: &mut Path, now: u64, size: usize) -> u64 {
        match path.admit(now, size) {
            Verdict::Deliver(due) => due,
            other => panic!("expected delivery, got {other:?}"),
        }
    }

    #[test]
    fn delays_by_exactly_the_delay() {
        let mut path = Path::new(Shape::delay(Duration::from_millis(40)), 1);
        assert_eq!(delivered(&mut path, 7, 1200), 7 + 40 * MS);
    }

    #[test]
    fn loses_about_as_many_as_asked_and_the_same_ones_for_a_seed() {
        let lost = |seed| {
            let shape = Shape { loss: 0.1, ..Shape::default() };
            let mut path = Path::new(shape, seed);
            (0..10_000).map(|i| path.admit(i, 100) == Verdict::Lost).collect::<Vec<_>>()
        };
        let count = lost(1).iter().filter(|lost| **lost).count();
        assert!((850..1150).contains(&count), "{count} of 10000 lost at 10 %");
        assert_eq!(lost(1), lost(1));
        assert_ne!(lost(1), lost(2));
    }

    #[test]
    fn jitter_only_adds_and_stays_within_bounds() {
        let shape = Shape {
            one_way_delay: Duration::from_millis(10),
            jitter: Duration::from_millis(5),
            ..Shape::default()
        };
        let mut path = Path::new(shape, 3);
        let dues: Vec<_> = (0..1000).map(|_| delivered(&mut path, 0, 100)).collect();
        assert!(dues.iter().all(|due| (10 * MS..=15 * MS).contains(due)));
        let spread = dues.iter().max().expect("some") - dues.iter().min().expect("some");
        assert!(spread > 4 * MS, "only {spread} us of jitter");
    }

    #[test]
    fn a_slow_line_makes_packets_queue() {
        let shape = Shape { bytes_per_second: Some(1_000_000), ..Shape::default() };
        let mut path = Path::new(shape, 1);
        assert_eq!(delivered(&mut path, 0, 1000), MS);
        assert_eq!(delivered(&mut path, 0, 1000), 2 * MS);
        // Idle time is not saved up.
        assert_eq!(delivered(&mut path, 10 * MS, 1000), 11 * MS);
    }

    #[test]
    fn a_cut_stops_everything_until_healed() {
        let mut path = Path::new(Shape::default(), 1);
        path.set_cut(true);
        assert_eq!(path.admit(0, 10), Verdict::Cut);
        path.set_cut(false);
        assert_eq!(path.admit(5, 10), Verdict::Deliver(5));
    }

    #[test]
    fn shapes_are_checked() {
        assert!(Shape::default().is_valid());
        assert!(!Shape { loss: 1.5, ..Shape::default() }.is_valid());
        assert!(!Shape { loss: f64::NAN, ..Shape::default() }.is_valid());
        assert!(!Shape { bytes_per_second: Some(0), ..Shape::default() }.is_valid());
        assert!(!Shape::delay(Duration::from_secs(3600)).is_valid());
    }
}
