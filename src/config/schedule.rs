//! The learning rate as a function of the step.

use std::f64::consts::PI;

use crate::bail;
use crate::error::Result;

/// The default of [`Schedule::cooldown`].
pub const DEFAULT_COOLDOWN: f64 = 0.2;

/// The form of the decay after warmup. With `x` the completed fraction of the decay, in `[0, 1]`, and `f` the
/// [`floor`](Schedule::floor), the rate is `base` times:
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// `1`.
    Constant,
    /// `f + (1 - f) (1 - x)`, from the end of warmup to the last step.
    Linear,
    /// `f + (1 - f) (1 + cos(π x)) / 2`, from the end of warmup to the last step.
    Cosine,
    /// Warmup, stable, decay: `1`, then `f + (1 - f) (1 - x)` over the last `cooldown · steps` steps.
    Wsd,
}

/// A learning-rate schedule: linear warmup from zero to `base`, then a [`Decay`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The rate at the end of warmup, the highest of the run.
    pub base: f64,
    /// Steps of linear warmup, at most `steps`.
    pub warmup: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// The form of the decay.
    pub decay: Decay,
    /// The rate at step `steps` as a fraction of `base`, in `[0, 1]`. Not used by [`Decay::Constant`].
    pub floor: f64,
    /// The fraction of `steps` in the final decay of [`Decay::Wsd`], in `[0, 1]`. The decay never begins before the end
    /// of warmup.
    pub cooldown: f64,
}

impl Schedule {
    /// The learning rate of `step`, counted from 0.
    ///
    /// `base · step / warmup` while `step < warmup`, so the first step of a run with warmup has rate 0; then `base`
    /// times the factor of [`Decay`], with `x = (step - start) / (steps - start)`, where `start` is `warmup`, or for
    /// [`Decay::Wsd`] the step at which the cooldown begins, rounded to the nearest. At and after step `steps` the
    /// rate stays at its final value.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.base * (step as f64 / self.warmup as f64);
        }
        let factor = match self.decay {
            Decay::Constant => return self.base,
            Decay::Linear => self.left(step, self.warmup),
            Decay::Cosine => 0.5 * (1.0 + (PI * (1.0 - self.left(step, self.warmup))).cos()),
            Decay::Wsd => {
                // Conversion to an integer saturates, so an unchecked cooldown cannot overflow here.
                let length = (self.cooldown * self.steps as f64).round() as u64;
                if length == 0 {
                    return self.base;
                }
                self.left(step, self.steps.saturating_sub(length).max(self.warmup))
            }
        };
        self.base * (self.floor + (1.0 - self.floor) * factor)
    }

    /// The fraction of the steps from `start` to `steps` that is left at `step`.
    fn left(&self, step: u64, start: u64) -> f64 {
        if step <= start && start < self.steps {
            return 1.0;
        }
        self.steps.saturating_sub(step) as f64 / self.steps.saturating_sub(start).max(1) as f64
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// When `base` is negative or not finite, `warmup` exceeds `steps`, or `floor` or `cooldown` is outside `[0, 1]`.
    pub fn check(&self) -> Result<()> {
        if !(self.base.is_finite() && self.base >= 0.0) {
            bail!("the learning rate is {}; give a finite number that is not negative", self.base);
        }
        if self.warmup > self.steps {
            bail!("warmup of {} steps exceeds the {} steps of the run; shorten it", self.warmup, self.steps);
        }
        for (name, value) in [("floor", self.floor), ("cooldown", self.cooldown)] {
            if !(0.0..=1.0).contains(&value) {
                bail!("the learning-rate {name} is {value}; give a fraction from 0 to 1");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::schedule::*;

    fn schedule(decay: Decay, floor: f64) -> Schedule {
        Schedule { base: 0.5, warmup: 10, steps: 110, decay, floor, cooldown: DEFAULT_COOLDOWN }
    }

    fn assert_close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    #[test]
    fn warmup_starts_at_zero_and_reaches_base() {
        for decay in [Decay::Constant, Decay::Linear, Decay::Cosine, Decay::Wsd] {
            let s = schedule(decay, 0.1);
            assert_eq!(s.rate(0), 0.0);
            assert_close(s.rate(5), 0.25);
            assert_eq!(s.rate(10), 0.5);
            assert_eq!(Schedule { warmup: 0, ..s }.rate(0), 0.5);
        }
    }

    #[test]
    fn decays_follow_their_formulas() {
        assert_eq!(schedule(Decay::Constant, 0.1).rate(109), 0.5);
        assert_close(schedule(Decay::Linear, 0.1).rate(60), 0.5 * 0.55);
        assert_close(schedule(Decay::Linear, 0.0).rate(109), 0.5 * 0.01);
        assert_close(schedule(Decay::Cosine, 0.0).rate(60), 0.25);
        assert_close(schedule(Decay::Cosine, 0.2).rate(35), 0.5 * (0.2 + 0.8 * 0.5 * (1.0 + (PI * 0.25).cos())));
        let wsd = schedule(Decay::Wsd, 0.2);
        assert_eq!(wsd.rate(88), 0.5);
        assert_close(wsd.rate(99), 0.5 * 0.6);
    }

    #[test]
    fn rate_ends_at_the_floor_and_stays_there() {
        for decay in [Decay::Linear, Decay::Cosine, Decay::Wsd] {
            for step in [110, 111, u64::MAX] {
                assert_close(schedule(decay, 0.3).rate(step), 0.15);
            }
        }
    }

    #[test]
    fn extreme_values_give_finite_rates() {
        for decay in [Decay::Constant, Decay::Linear, Decay::Cosine, Decay::Wsd] {
            for (warmup, steps) in [(0, 0), (5, 5), (0, u64::MAX), (u64::MAX, u64::MAX), (9, 3)] {
                for cooldown in [0.0, 0.5, 1.0] {
                    let s = Schedule { base: 1.0, warmup, steps, decay, floor: 0.1, cooldown };
                    for step in [0, 1, 4, 5, 6, u64::MAX] {
                        assert!((0.0..=1.0).contains(&s.rate(step)), "{s:?} at {step}");
                    }
                }
            }
        }
    }

    #[test]
    fn wsd_cooldown_begins_after_warmup_and_may_be_absent() {
        let s = Schedule { cooldown: 1.0, ..schedule(Decay::Wsd, 0.0) };
        assert_eq!(s.rate(10), 0.5);
        assert_close(s.rate(60), 0.25);
        assert_eq!(Schedule { cooldown: 0.0, ..s }.rate(109), 0.5);
    }

    #[test]
    fn check_refuses_bad_values() {
        let good = schedule(Decay::Cosine, 0.0);
        assert!(good.check().is_ok());
        let bad = [
            (Schedule { base: -1.0, ..good }, "learning rate"),
            (Schedule { base: f64::NAN, ..good }, "learning rate"),
            (Schedule { base: f64::INFINITY, ..good }, "learning rate"),
            (Schedule { warmup: 111, ..good }, "warmup"),
            (Schedule { floor: 1.5, ..good }, "floor"),
            (Schedule { floor: f64::NAN, ..good }, "floor"),
            (Schedule { cooldown: -0.1, ..good }, "cooldown"),
        ];
        for (schedule, named) in bad {
            let message = schedule.check().unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }
}
