//! What a region's clocks show at a moment of virtual time.

/// Physical time at the beginning of every run, in microseconds since 1970.
const EPOCH_US: u64 = 1_700_000_000_000_000;

/// A machine's two clocks: the one that tells the time of day, which people and NTP move about,
/// and the steady one, which only runs a little fast or slow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clocks {
    /// What the time of day is wrong by, in microseconds.
    pub offset_us: i64,
    /// What both clocks gain or lose, in millionths.
    pub drift_ppm: i64,
    /// What the steady clock showed when the run began, in microseconds.
    pub uptime_us: u64,
}

impl Clocks {
    /// The time of day, in microseconds since 1970.
    pub fn physical_us(&self, now_us: u64) -> u64 {
        self.elapsed_us(now_us).saturating_add(EPOCH_US).saturating_add_signed(self.offset_us)
    }

    /// The steady clock and the time of day, both in microseconds.
    pub fn both_us(&self, now_us: u64) -> (u64, u64) {
        (self.uptime_us + self.elapsed_us(now_us), self.physical_us(now_us))
    }

    /// The steady clock, in milliseconds.
    pub fn steady_ms(&self, now_us: u64) -> u64 {
        (self.uptime_us + self.elapsed_us(now_us)) / 1000
    }

    /// From now on both clocks run as they should; the time of day is right but for `offset_us`.
    pub fn set_right(&mut self, now_us: u64, offset_us: i64) {
        let (steady_us, _) = self.both_us(now_us);
        *self = Clocks { offset_us, drift_ppm: 0, uptime_us: steady_us.saturating_sub(now_us) };
    }

    fn elapsed_us(&self, now_us: u64) -> u64 {
        let gained = i128::from(now_us) * i128::from(self.drift_ppm) / 1_000_000;
        now_us.saturating_add_signed(gained as i64)
    }
}
