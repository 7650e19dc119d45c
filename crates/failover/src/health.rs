//! A region's own health, from end-to-end checks: a small write, its fsync, and reading it back.
//! A process that answers pings over a dead disk is not healthy.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Timing;

/// How well a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// All is well.
    Healthy,
    /// It works, with a limitation that the reasons name.
    Degraded,
    /// It should not serve.
    Unhealthy,
}

/// How one step of the end-to-end check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepOutcome {
    /// It took this many milliseconds.
    Ok {
        /// Duration of the step in milliseconds.
        took_ms: u64,
    },
    /// It failed, or was given up.
    Failed,
}

/// The result of one end-to-end check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckReport {
    /// Executing a write.
    pub write: StepOutcome,
    /// Making it durable.
    pub fsync: StepOutcome,
    /// Reading it back.
    pub read: StepOutcome,
}

/// Why a region is not healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A step of the last checks failed so many times in a row.
    StepFailed {
        /// `write`, `fsync` or `read`.
        step: &'static str,
        /// Failures in a row.
        times: u32,
    },
    /// A step of the last checks was slow so many times in a row.
    StepSlow {
        /// `write`, `fsync` or `read`.
        step: &'static str,
        /// Duration of the last one.
        took_ms: u64,
        /// The limit.
        limit_ms: u64,
    },
    /// No check has ended for this long.
    NoCheck {
        /// Milliseconds since the last result, or since the start.
        since_ms: u64,
    },
    /// A majority of regions has not confirmed to hear this one for this long.
    Isolated {
        /// Milliseconds since the last confirmation; `None` if there was none yet.
        since_ms: Option<u64>,
    },
    /// Data that other regions have is still missing.
    CatchingUp,
    /// The control group considers this region down, degraded or recovering.
    Excluded,
}

/// A region's health as `/healthz` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The worst of the reasons' levels.
    pub level: Level,
    /// Empty when healthy.
    pub reasons: Vec<Reason>,
}

/// Consecutive bad results of one step from which they count: one slow fsync is weather.
const SLOW_IN_A_ROW: u32 = 3;
/// Consecutive failures that make a region unhealthy; the first one degrades it.
const FAILURES_IN_A_ROW: u32 = 3;

/// Folds check results into a level. Time is the caller's monotonic milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Checks {
    last_ms: u64,
    steps: [Step; 3],
}

#[derive(Debug, Clone, Copy)]
struct Step {
    name: &'static str,
    failures: u32,
    slow: u32,
    took_ms: u64,
}

impl Checks {
    pub(crate) fn new(now_ms: u64) -> Self {
        let step = |name| Step { name, failures: 0, slow: 0, took_ms: 0 };
        Self { last_ms: now_ms, steps: [step("write"), step("fsync"), step("read")] }
    }

    pub(crate) fn observe(&mut self, now_ms: u64, report: &CheckReport, timing: &Timing) {
        self.last_ms = now_ms;
        for (step, outcome) in self.steps.iter_mut().zip([report.write, report.fsync, report.read])
        {
            match outcome {
                StepOutcome::Ok { took_ms } => {
                    step.failures = 0;
                    step.took_ms = took_ms;
                    let is_slow = took_ms > timing.slow_ms;
                    step.slow = if is_slow { step.slow.saturating_add(1) } else { 0 };
                }
                StepOutcome::Failed => step.failures = step.failures.saturating_add(1),
            }
        }
    }

    /// The reasons with their levels; empty when all is well.
    pub(crate) fn reasons(&self, now_ms: u64, timing: &Timing) -> Vec<(Level, Reason)> {
        let mut reasons = Vec::new();
        let since_ms = now_ms.saturating_sub(self.last_ms);
        if since_ms >= timing.check_dead_ms {
            reasons.push((Level::Unhealthy, Reason::NoCheck { since_ms }));
        } else if since_ms >= timing.check_stale_ms {
            reasons.push((Level::Degraded, Reason::NoCheck { since_ms }));
        }
        for step in &self.steps {
            if step.failures > 0 {
                let is_lasting = step.failures >= FAILURES_IN_A_ROW;
                let level = if is_lasting { Level::Unhealthy } else { Level::Degraded };
                let reason = Reason::StepFailed { step: step.name, times: step.failures };
                reasons.push((level, reason));
            } else if step.slow >= SLOW_IN_A_ROW {
                let (took_ms, limit_ms) = (step.took_ms, timing.slow_ms);
                let reason = Reason::StepSlow { step: step.name, took_ms, limit_ms };
                reasons.push((Level::Degraded, reason));
            }
        }
        reasons
    }

    pub(crate) fn level(&self, now_ms: u64, timing: &Timing) -> Level {
        worst(&self.reasons(now_ms, timing))
    }
}

/// The worst level among reasons.
pub(crate) fn worst(reasons: &[(Level, Reason)]) -> Level {
    reasons.iter().map(|(level, _)| *level).max().unwrap_or(Level::Healthy)
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StepFailed { step, times } => {
                write!(f, "end-to-end check: {step} failed {times} times in a row")
            }
            Self::StepSlow { step, took_ms, limit_ms } => {
                write!(f, "end-to-end check: {step} takes {took_ms} ms, more than {limit_ms} ms")
            }
            Self::NoCheck { since_ms } => {
                write!(f, "end-to-end check: no result for {since_ms} ms")
            }
            Self::Isolated { since_ms: Some(ms) } => {
                write!(f, "cut off: no majority of regions has heard this one for {ms} ms")
            }
            Self::Isolated { since_ms: None } => {
                f.write_str("cut off: no majority of regions has heard this one yet")
            }
            Self::CatchingUp => f.write_str("catching up with the other regions"),
            Self::Excluded => f.write_str("the control group does not count this region as up"),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: StepOutcome = StepOutcome::Ok { took_ms: 1 };
    const SLOW: StepOutcome = StepOutcome::Ok { took_ms: 900 };

    /// Feeds fsync outcomes 100 ms apart; the level right after the last.
    fn after(outcomes: &[StepOutcome]) -> Level {
        let timing = Timing::default();
        let mut checks = Checks::new(0);
        let mut now_ms = 0;
        for &fsync in outcomes {
            now_ms += 100;
            checks.observe(now_ms, &CheckReport { write: FINE, fsync, read: FINE }, &timing);
        }
        checks.level(now_ms, &timing)
    }

    #[test]
    fn failures_and_slowness_count_in_a_row() {
        use StepOutcome::Failed;
        assert_eq!(after(&[FINE]), Level::Healthy);
        assert_eq!(after(&[Failed]), Level::Degraded);
        assert_eq!(after(&[Failed, Failed, Failed]), Level::Unhealthy);
        assert_eq!(after(&[Failed, Failed, FINE, Failed]), Level::Degraded);
        assert_eq!(after(&[SLOW, SLOW]), Level::Healthy);
        assert_eq!(after(&[SLOW, SLOW, SLOW]), Level::Degraded);
        assert_eq!(after(&[SLOW, SLOW, FINE, SLOW]), Level::Healthy);
    }

    #[test]
    fn a_check_that_hangs_is_a_failure() {
        let timing = Timing::default();
        let checks = Checks::new(1_000);
        let level = |after_ms| checks.level(1_000 + after_ms, &timing);
        assert_eq!(level(timing.check_stale_ms - 1), Level::Healthy);
        assert_eq!(level(timing.check_stale_ms), Level::Degraded);
        assert_eq!(level(timing.check_dead_ms), Level::Unhealthy);
    }

    #[test]
    fn reasons_speak_plainly() {
        let timing = Timing::default();
        let mut checks = Checks::new(0);
        for _ in 0..3 {
            let report = CheckReport { write: FINE, fsync: StepOutcome::Failed, read: SLOW };
            checks.observe(10, &report, &timing);
        }
        let text: Vec<_> = checks.reasons(10, &timing).iter().map(|(_, r)| r.to_string()).collect();
        assert_eq!(
            text,
            [
                "end-to-end check: fsync failed 3 times in a row",
                "end-to-end check: read takes 900 ms, more than 100 ms"
            ]
        );
    }
}
