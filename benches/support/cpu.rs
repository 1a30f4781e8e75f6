//! CPU time of processes and of the machine, to tell a slow front from a machine that was short of it.

use std::fs;

use anyhow::Context;
use tidegate::clock::Clock;

/// A first reading, and what it was of.
pub(super) struct Cpu {
    clock: Clock,
    models: Vec<u32>,
    fronts: Vec<u32>,
    before: (u64, u64, (u64, u64)),
}

/// What was used.
#[derive(Clone, Copy)]
pub(super) struct Used {
    /// Of one core, by the site and the crowd.
    pub(super) models: f64,
    /// Of one core, by what stands in front of the site.
    pub(super) front: f64,
    /// Of all cores, by everything on the machine.
    pub(super) machine: f64,
}

impl Cpu {
    pub(super) fn start(models: &[u32], fronts: &[u32]) -> anyhow::Result<Self> {
        let before = (nanos(models)?, nanos(fronts)?, machine()?);
        Ok(Self { clock: Clock::start(), models: models.to_vec(), fronts: fronts.to_vec(), before })
    }

    /// Since the start; the processes must still be there.
    pub(super) fn used(&self) -> anyhow::Result<Used> {
        let elapsed_ns = self.clock.moment().as_secs_f64().max(1e-3) * 1e9;
        let (models, fronts, (busy, all)) = self.before;
        let (busy_now, all_now) = machine()?;
        Ok(Used {
            models: nanos(&self.models)?.saturating_sub(models) as f64 / elapsed_ns,
            front: nanos(&self.fronts)?.saturating_sub(fronts) as f64 / elapsed_ns,
            machine: busy_now.saturating_sub(busy) as f64 / all_now.saturating_sub(all).max(1) as f64,
        })
    }
}

fn nanos(processes: &[u32]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for process in processes {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // the name stands in brackets and may hold anything
        let (_, rest) = stat.rsplit_once(')').context("/proc: no name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field).and_then(|field| field.parse::<u64>().ok()).context("/proc: no number");
        sum += (ticks(11)? + ticks(12)?) * NANOS_OF_A_TICK;
    }
    Ok(sum)
}

/// Ticks in which something ran, and all of them, on all cores.
fn machine() -> anyhow::Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let all: u64 = ticks.iter().sum();
    // idle, and waiting for a disk
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

/// On every Linux: USER_HZ is 100.
const NANOS_OF_A_TICK: u64 = 10_000_000;
