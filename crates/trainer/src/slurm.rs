//! `trainer reproduce --slurm`, and what a training does in a Slurm job whose time is up.

use crate::args::{ReproduceArgs, SlurmArgs};
use crate::{End, print};
use anyhow::{Context, anyhow};
use pointwise_process::{List, note, time_is_up};
use pointwise_runs::Run;
use pointwise_study::{JobArray, Plan, SlurmJob, shards};
use std::path::{Path, absolute};

impl SlurmArgs {
    /// The options for sbatch.
    fn options(&self) -> Vec<String> {
        let named = [
            ("partition", &self.partition),
            ("account", &self.account),
            ("qos", &self.qos),
            ("time", &self.time),
            ("cpus-per-task", &self.cpus_per_task),
            ("gres", &self.gres),
            ("mem", &self.mem),
            ("constraint", &self.constraint),
        ];
        let given =
            named.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?)));
        given.chain(self.sbatch.iter().cloned()).collect()
    }
}

/// The array that trains the unfinished runs of a plan, where `existing` are its runs so far; `None` if all are finished.
pub(crate) fn array(
    args: &ReproduceArgs,
    plan: &Plan,
    existing: &[Option<Run>],
    program: &Path,
) -> anyhow::Result<Option<JobArray>> {
    let shards = shards(existing.len(), args.slurm.tasks)?;
    let is_finished = |run: &Option<Run>| run.as_ref().is_some_and(Run::is_finished);
    let missing = (0..shards).cycle().zip(existing).filter(|(_, run)| !is_finished(run));
    let mut tasks: Vec<u32> = missing.map(|(task, _)| task).collect();
    tasks.sort_unstable();
    tasks.dedup();
    if tasks.is_empty() {
        return Ok(None);
    }
    let out = absolute(&plan.out).with_context(|| format!("{} has no absolute path", plan.out.display()))?;
    let runs = plan.jobs().into_iter().filter_map(|job| Some(job.folder.file_name()?.to_str()?.to_owned()));
    Ok(Some(JobArray {
        name: plan.study.name.clone(),
        shards,
        tasks,
        runs: runs.collect(),
        throttle: args.slurm.throttle,
        options: args.slurm.options(),
        preamble: args.slurm.preamble.clone(),
        command: command(args, program, &out)?,
        out,
    }))
}

/// The command of a task, without the shard: this program, with the same options, for the copy of the study in its folder.
fn command(args: &ReproduceArgs, program: &Path, out: &Path) -> anyhow::Result<Vec<String>> {
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            anyhow!(
                "{} has a name that is not UTF-8, which a job script cannot hold: rename it",
                path.display()
            )
        })
    };
    let mut words = vec![text(program)?, "reproduce".to_owned(), text(&out.join("study.toml"))?];
    let mut add = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    add("out", text(out)?);
    if let Some(List(seeds)) = &args.seeds {
        add("seeds", seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(","));
    }
    if let Some(List(models)) = &args.models {
        add("models", models.join(","));
    }
    if let Some(epochs) = args.epochs {
        add("epochs", epochs.to_string());
    }
    if let Some(folder) = &args.data_dir {
        let folder =
            absolute(folder).with_context(|| format!("{} has no absolute path", folder.display()))?;
        add("data-dir", text(&folder)?);
    }
    if let Some(engine) = args.engine {
        add("engine", engine.name().to_owned());
    }
    if let Some(device) = &args.device {
        add("device", device.clone());
    }
    if let Some(precision) = args.precision {
        add("precision", precision.name().to_owned());
    }
    if let Some(threads) = args.threads {
        add("threads", threads.to_string());
    }
    if let Some(jobs) = args.jobs {
        add("jobs", jobs.to_string());
    }
    if args.deterministic {
        words.push("--deterministic".to_owned());
    }
    if args.quick {
        words.push("--quick".to_owned());
    }
    // The run folders show the progress.
    words.push("--quiet".to_owned());
    Ok(words)
}

/// Prints script and command.
pub(crate) fn show(array: &JobArray) -> anyhow::Result<End> {
    print(&format!("{}\n{}", array.script()?, array.command_line()?))?;
    Ok(End::Done)
}

/// Submits an array.
pub(crate) fn submit(array: &JobArray) -> anyhow::Result<End> {
    let id = array.submit()?;
    print(&format!(
        "job array {id} with {} of {} tasks, for {}",
        array.tasks.len(),
        array.shards,
        array.out.display()
    ))?;
    note!(
        "`trainer study status` shows how far they are, and the same command resubmits what is still missing"
    );
    Ok(End::Done)
}

/// Puts the Slurm job of a training that was interrupted because its time is up back into the queue, where Slurm allows it.
///
/// A request to terminate does not do that: `scancel` would never end such a job.
pub(crate) fn requeue(end: &End) {
    if *end != End::Interrupted || !time_is_up() {
        return;
    }
    let Some(job) = SlurmJob::current() else { return };
    match job.requeue() {
        Ok(()) => note!("job {} is back in the queue", job.id()),
        Err(error) => {
            note!("the job cannot go back into the queue: {error}; submit it again to continue");
        }
    }
}
