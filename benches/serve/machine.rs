//! What the operating system knows of a process: the processor time of each thread, and resident memory.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::Failure;

/// A process at some moment.
#[derive(Debug, Default)]
pub(super) struct Process {
    threads: HashMap<u32, Thread>,
    /// Memory that is resident.
    pub(super) resident_mib: f64,
    /// The part of it that no file stands behind.
    pub(super) anonymous_mib: f64,
}

#[derive(Debug, Clone)]
struct Thread {
    name: String,
    /// Time on a processor.
    seconds: f64,
    /// How often it was taken off one.
    switches: f64,
}

impl Process {
    /// The process `id` now.
    pub(super) fn of(id: u32) -> Result<Self, Failure> {
        let root = Path::new("/proc").join(id.to_string());
        let mut threads = HashMap::new();
        for entry in fs::read_dir(root.join("task"))? {
            let entry = entry?;
            // A thread that ends meanwhile has no files.
            if let (Ok(id), Some(thread)) = (entry.file_name().to_string_lossy().parse(), Thread::read(&entry.path())) {
                threads.insert(id, thread);
            }
        }
        let status = fs::read_to_string(root.join("status"))?;
        let mib = |key| field(&status, key) / 1024.0;
        Ok(Self { threads, resident_mib: mib("VmRSS:"), anonymous_mib: mib("RssAnon:") })
    }

    /// What its threads have done since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let spent = |(id, now): (&u32, &Thread)| {
            let (seconds, switches) = before.threads.get(id).map_or((0.0, 0.0), |then| (then.seconds, then.switches));
            let name = now.name.clone();
            (*id, Thread { name, seconds: now.seconds - seconds, switches: now.switches - switches })
        };
        Self { threads: self.threads.iter().map(spent).collect(), ..*self }
    }

    /// Processor time of all threads.
    pub(super) fn total(&self) -> f64 {
        self.threads.values().map(|thread| thread.seconds).sum()
    }

    /// How often threads were taken off a processor, by themselves or not.
    pub(super) fn switches(&self) -> f64 {
        self.threads.values().map(|thread| thread.switches).sum()
    }
}

impl Thread {
    fn read(path: &Path) -> Option<Self> {
        let text = |name| fs::read_to_string(path.join(name)).ok();
        let (schedule, status) = (text("schedstat")?, text("status")?);
        let on_cpu: f64 = schedule.split_whitespace().next()?.parse().ok()?;
        let switches = field(&status, "\nvoluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:");
        Some(Self { name: text("comm")?, seconds: 1e-9 * on_cpu, switches })
    }
}

/// The number behind `key`.
fn field(status: &str, key: &str) -> f64 {
    let rest = status.split_once(key).map_or("", |(_, rest)| rest);
    rest.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// The quantile `q` of `values`, which are sorted by this.
pub(super) fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let place = ((values.len().max(1) - 1) as f64 * q).round();
    values.get(place as usize).copied().unwrap_or(f64::NAN)
}
