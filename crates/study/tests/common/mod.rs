//! A stand-in for the trainer, and the files that it leaves.

#![allow(dead_code, reason = "each test program uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pointwise_process::Stop;
use pointwise_runs::{Run, RunFolder};
use pointwise_study::{Display, Options, Plan, Result, Study, train};
use tempfile::TempDir;

#[path = "../../src/testing.rs"]
mod testing;

/// A folder with what the stand-in needs.
pub(crate) struct Fake(TempDir);

impl Fake {
    /// With finished runs of all networks of the first study for the seeds 42 to 44.
    pub(crate) fn new() -> Self {
        let fake = Self(tempfile::tempdir().expect("a folder"));
        // Linked, since a program just written may be busy.
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake-trainer.sh");
        std::os::unix::fs::symlink(script, fake.path("trainer")).expect("a link");
        for network in ["alexnet_plain", "alexnet", "nin"] {
            for seed in 42..=44 {
                let run = testing::run(network, seed, 60.0);
                write(&fake.path(&format!("runs/{network}-seed{seed}")), &run);
            }
        }
        fake
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    /// The first study with three seeds, in `out`.
    pub(crate) fn plan(&self, out: &str, options: Options) -> Plan {
        let seeds = options.seeds.clone().or(Some(vec![42, 43, 44]));
        let options = Options { seeds, out: Some(self.path(out)), ..options };
        Plan::new(Study::by_name("pointwise").expect("the first study"), options).expect("a plan")
    }

    /// Trains what is missing; only the newest calls are kept.
    pub(crate) fn train(&self, plan: &Plan) -> Result<Option<Vec<Run>>> {
        self.train_until(plan, &Stop::default())
    }

    pub(crate) fn train_until(&self, plan: &Plan, stop: &Stop) -> Result<Option<Vec<Run>>> {
        for file in ["calls", "threads", "stopped"] {
            let _ = fs::remove_file(self.path(file));
        }
        let existing = plan.existing()?;
        plan.write()?;
        train(plan, &self.path("trainer"), existing, stop, &mut Display::new(true))
    }

    /// The lines of a file that the stand-in writes.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

fn write(folder: &Path, run: &Run) {
    let mut writer = RunFolder::create(folder, &run.config, &run.environment).expect("a run folder");
    for record in &run.records {
        writer.append(record).expect("a record");
    }
    writer.finish(run.result.as_ref().expect("a result")).expect("a result");
}

pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
