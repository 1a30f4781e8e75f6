//! What was seen in the last epoch, tick by tick. The ticker's own.

use std::collections::VecDeque;
use std::time::Duration;

/// The ticks of the last epoch, the newest last.
#[derive(Debug)]
pub(super) struct Window<T> {
    ticks: VecDeque<(f64, T)>,
}

/// A tick that is later than this does not make a crowd older: whoever waits could not show up while the gate stood still.
const TICK_MAX_S: f64 = 2.0;

/// Epochs are a whole number of ticks only by and large.
const HALF_A_TICK_S: f64 = 0.5;

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { ticks: VecDeque::new() }
    }
}

impl<T> Window<T> {
    /// Takes in one tick, and gives up those that are of epochs before.
    pub(super) fn push(&mut self, seconds: f64, seen: T, length: Duration) -> Vec<T> {
        self.ticks.push_back((seconds.min(TICK_MAX_S), seen));
        let mut covered = self.covered();
        let mut over = Vec::new();
        while let Some(&(first, _)) = self.ticks.front()
            && covered - first >= length.as_secs_f64() - HALF_A_TICK_S
        {
            covered -= first;
            over.extend(self.ticks.pop_front().map(|(_, seen)| seen));
        }
        over
    }

    /// Epochs have another length from now on. The last one stands for the next until that is over, spread evenly: `part` is what of it
    /// a tick stands for.
    pub(super) fn spread(&mut self, length: Duration, part: impl Fn(f64) -> T) {
        let seconds = length.as_secs_f64();
        self.ticks.clear();
        let mut left = seconds;
        while left > 0.0 {
            let tick = left.min(1.0);
            self.ticks.push_back((tick, part(tick / seconds)));
            left -= tick;
        }
    }

    /// Seconds that it covers.
    pub(super) fn covered(&self) -> f64 {
        self.ticks.iter().map(|(seconds, _)| seconds).sum()
    }

    /// What was seen.
    pub(super) fn seen(&self) -> impl Iterator<Item = &T> {
        self.ticks.iter().map(|(_, seen)| seen)
    }
}
