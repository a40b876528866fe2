//! A study as one job array of Slurm: a task for each shard, its state in the folders of the runs, which all nodes share.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use pointwise_runs::{Activity, replace_file};

use crate::{
    Error, Result, RunStatus,
    bounded::{Answer, answer},
};

/// For a query, whose answer is useful only soon.
const QUERY_LIMIT: Duration = Duration::from_secs(15);
/// A busy controller makes sbatch wait, and a submission that is given up may have succeeded nevertheless.
const SUBMIT_LIMIT: Duration = Duration::from_secs(120);
/// Slurm's MaxArraySize if nothing else is configured.
const MAX_ARRAY_SIZE: u32 = 1001;
/// The seconds that a task has to end before its time limit: for the current step and a checkpoint on a slow file system.
const SIGNAL: &str = "--signal=B:USR1@60";
/// In a study's folder: the id of the last array submitted, as printed by sbatch.
const ID: &str = "slurm/id";
/// In a study's folder: a line for each run, the number of its task and its name.
const TASKS: &str = "slurm/tasks";
/// Options that would submit something other than the array, or nothing.
const REFUSED: [&str; 6] = ["--array", "-a", "--wrap", "--test-only", "--wait", "-W"];

/// A job array that trains the unfinished runs of a study.
#[derive(Clone, Debug)]
pub struct JobArray {
    /// Its name in the queue.
    pub name: String,
    /// The study's folder, an absolute path.
    pub out: PathBuf,
    /// The shards that the study is split into; a task has the number of its shard.
    pub shards: u32,
    /// The shards that are not finished, in ascending order.
    pub tasks: Vec<u32>,
    /// The names of the folders of all runs, in the study's order.
    pub runs: Vec<String>,
    /// The most tasks that run at once.
    pub throttle: u32,
    /// Options for sbatch, which come after ours and so override them.
    pub options: Vec<String>,
    /// Lines of the script before the trainer is started.
    pub preamble: Vec<String>,
    /// The trainer, an absolute path, and its arguments without the shard.
    pub command: Vec<String>,
}

impl JobArray {
    /// The script of a task.
    ///
    /// # Errors
    /// [`Error::Scheduler`] if something cannot be written in a script.
    pub fn script(&self) -> Result<String> {
        let mut script = format!(
            "#!/bin/bash\n\
             # A part of the study {}: its runs that are not finished, from where they stopped. Submitted by\n\
             #   {}\n",
            self.name,
            self.command_line()?
        );
        for line in &self.preamble {
            script.push_str(line);
            script.push('\n');
        }
        // A task gets as many threads as it has processors, whether or not Slurm binds it to them.
        script.push_str(
            "export RAYON_NUM_THREADS=\"${RAYON_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}}\"\n\
             echo \"$(date +%FT%T) task ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID on ${SLURMD_NODENAME}, start \
             $((${SLURM_RESTART_COUNT:-0} + 1))\"\n",
        );
        // Replaces the shell, which would not pass signals on.
        let command = quoted(&self.command)?;
        script.push_str(&format!("exec {command} --shard \"$SLURM_ARRAY_TASK_ID/{}\"\n", self.shards));
        Ok(script)
    }

    /// sbatch and its arguments. On the command line they override the variables that sbatch reads, such as `SBATCH_OPEN_MODE`.
    fn sbatch(&self) -> Result<Vec<String>> {
        for option in &self.options {
            let name = option.split('=').next().unwrap_or_default();
            if REFUSED.contains(&name) || !option.starts_with('-') {
                return Err(Error::Scheduler(format!(
                    "`{option}` cannot be passed to sbatch: give one of sbatch's options, such as --exclude=node7, but none of {}",
                    REFUSED.join(", ")
                )));
            }
        }
        let log = text(self.out.join("slurm/log").as_os_str())?;
        if log.contains('\\') {
            return Err(Error::Scheduler(format!(
                "sbatch cannot write logs to {log}: choose an --out without a backslash"
            )));
        }
        let mut arguments: Vec<String> = vec![
            "sbatch".to_owned(),
            "--parsable".to_owned(),
            format!("--job-name={}", self.name),
            format!("--array={}%{}", index_list(&self.tasks), self.throttle),
            "--nodes=1".to_owned(),
            "--ntasks=1".to_owned(),
            // A percent sign begins a placeholder, such as the number of the task.
            format!("--output={}/%A_%a.out", log.replace('%', "%%")),
            "--open-mode=append".to_owned(),
            "--requeue".to_owned(),
            SIGNAL.to_owned(),
        ];
        arguments.extend(self.options.iter().cloned());
        arguments.push(text(script_path(&self.out).as_os_str())?);
        Ok(arguments)
    }

    /// The command that submits the script, as typed in a shell.
    ///
    /// # Errors
    /// [`Error::Scheduler`] for an option that cannot be passed on, or a path that cannot be written.
    pub fn command_line(&self) -> Result<String> {
        quoted(&self.sbatch()?)
    }

    /// Writes the script to `slurm/job.sh` in the study's folder, submits it, saves the array's id in `slurm/id`, and returns it.
    ///
    /// # Errors
    /// [`Error::Scheduler`] if sbatch is missing or refuses, if an earlier array of the study is still in the queue, or if a file
    /// cannot be written.
    pub fn submit(&self) -> Result<String> {
        let (script, sbatch) = (self.script()?, self.sbatch()?);
        if let Some(queue) = Queue::read(&self.out)? {
            let active = queue.active();
            if active > 0 {
                return Err(Error::Scheduler(format!(
                    "job array {} is at work on this study (tasks that wait or run: {active}): let it end, or end it with `{}`",
                    queue.id,
                    queue.cancellation()
                )));
            }
        }
        let path = script_path(&self.out);
        let wrong = |path: &Path, cause: &dyn fmt::Display| {
            Error::Scheduler(format!("{} cannot be written ({cause}): choose another --out", path.display()))
        };
        // sbatch does not create the folder of the logs: each task would fail silently.
        let log = self.out.join("slurm/log");
        fs::create_dir_all(&log).map_err(|cause| wrong(&log, &cause))?;
        replace_file(&path, script.as_bytes()).map_err(|cause| wrong(&path, &cause))?;
        let mut command = Command::new(&sbatch[0]);
        command.args(&sbatch[1..]);
        // When submitted from within a job, that job's values would replace defaults.
        for name in ["SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"] {
            command.env_remove(name);
        }
        let Answer { status, stdout, stderr } = answer(&mut command, SUBMIT_LIMIT)?;
        if !status.success() {
            return Err(Error::Scheduler(format!("sbatch did not take the job array ({stderr})")));
        }
        let id = stdout.trim().to_owned();
        let is_id = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        if !is_id(id.split(';').next().unwrap_or_default()) {
            return Err(Error::Scheduler(format!(
                "sbatch gave no job id but `{id}`: look for the array with `squeue --me`"
            )));
        }
        let tasks = self.runs.iter().zip((0..self.shards).cycle());
        let tasks: String = tasks.map(|(run, task)| format!("{task} {run}\n")).collect();
        for (name, content) in [(TASKS, tasks), (ID, format!("{id}\n"))] {
            let path = self.out.join(name);
            replace_file(&path, content.as_bytes()).map_err(|cause| wrong(&path, &cause))?;
        }
        Ok(id)
    }
}

/// How many shards a study of this many runs is split into: as many as requested, else one for each run, but no more than the tasks that Slurm
/// allows in an array.
///
/// # Errors
/// [`Error::Scheduler`] if more are requested.
pub fn shards(runs: usize, asked: Option<u32>) -> Result<u32> {
    shards_within(max_array_size(), runs, asked)
}

fn shards_within(most: u32, runs: usize, asked: Option<u32>) -> Result<u32> {
    let runs = u32::try_from(runs).unwrap_or(u32::MAX).max(1);
    match asked {
        Some(asked) if asked > most => Err(Error::Scheduler(format!(
            "{asked} tasks are more than an array can have on this cluster (MaxArraySize={most}): ask for {most} or fewer, which share \
             the runs out"
        ))),
        Some(asked) => Ok(asked.min(runs)),
        None => Ok(runs.min(most)),
    }
}

/// The tasks that an array can have. If it is unknown, sbatch will check.
fn max_array_size() -> u32 {
    let said = answer(Command::new("scontrol").args(["show", "config"]), QUERY_LIMIT);
    let size = said.ok().and_then(|said| configured_array_size(&said.stdout));
    size.filter(|size| *size > 0).unwrap_or(MAX_ARRAY_SIZE)
}

fn configured_array_size(config: &str) -> Option<u32> {
    let value = config.lines().find_map(|line| line.strip_prefix("MaxArraySize")?.split_once('='))?.1;
    value.trim().parse().ok()
}

/// What the queue knows about the last array submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The array's id; on a federation of clusters `ID;CLUSTER`.
    pub id: String,
    /// The number of each run's task, by the name of the run.
    task_of: BTreeMap<String, u32>,
    /// By the number of the task.
    tasks: BTreeMap<u32, QueuedTask>,
}

/// A task of an array, as `squeue` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedTask {
    /// In Slurm's words: `PENDING`, `RUNNING`, `COMPLETED`, ...
    pub state: String,
    /// The node; empty if there is none yet.
    pub node: String,
    /// Why it waits, in Slurm's words: `Priority`, `PartitionTimeLimit`, ...
    pub reason: String,
}

impl QueuedTask {
    /// Whether it waits, runs or is about to end.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !matches!(
            self.state.as_str(),
            "BOOT_FAIL"
                | "CANCELLED"
                | "COMPLETED"
                | "DEADLINE"
                | "FAILED"
                | "NODE_FAIL"
                | "OUT_OF_MEMORY"
                | "PREEMPTED"
                | "REVOKED"
                | "TIMEOUT"
        )
    }
}

/// `pending (Priority)`, `running on node7`, `failed (NonZeroExitCode)`.
impl fmt::Display for QueuedTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, node, reason } = self;
        f.write_str(&state.to_lowercase())?;
        match (state.as_str(), node.as_str(), reason.as_str()) {
            ("RUNNING" | "COMPLETING", node, _) if !node.is_empty() => write!(f, " on {node}"),
            (_, _, "" | "None") => Ok(()),
            (_, _, reason) => write!(f, " ({reason})"),
        }
    }
}

impl Queue {
    /// Queries the array whose id is saved in a study's folder, with one query; `None` if none was submitted.
    ///
    /// # Errors
    /// [`Error::Scheduler`] if `squeue` is missing, fails or does not answer, or if the saved data about the array are not valid.
    pub fn read(out: &Path) -> Result<Option<Self>> {
        let kept = |name: &str| {
            let path = out.join(name);
            fs::read_to_string(&path)
                .map_err(|cause| Error::Scheduler(format!("{} cannot be read ({cause})", path.display())))
        };
        if !out.join(ID).exists() {
            return Ok(None);
        }
        let (id, tasks) = (kept(ID)?.trim().to_owned(), kept(TASKS)?);
        let mut command = Command::new("squeue");
        command.args(["--noheader", "--array", "--states=all", "--format=%K|%T|%N|%r"]);
        let mut parts = id.split(';');
        command.arg(format!("--jobs={}", parts.next().unwrap_or_default()));
        if let Some(cluster) = parts.next() {
            command.arg(format!("--clusters={cluster}"));
        }
        let Answer { status, stdout, stderr } = answer(&mut command, QUERY_LIMIT)?;
        // Jobs that ended a while ago are forgotten, which is not an error here.
        if !status.success() && !stderr.contains("Invalid job id") {
            return Err(Error::Scheduler(format!("squeue failed ({stderr})")));
        }
        Ok(Some(Self::of(id, &tasks, &stdout)))
    }

    /// From the file of tasks and the lines of squeue.
    fn of(id: String, tasks: &str, queue: &str) -> Self {
        let task_of = tasks.lines().filter_map(|line| {
            let (task, run) = line.split_once(' ')?;
            Some((run.to_owned(), task.parse().ok()?))
        });
        Self { id, task_of: task_of.collect(), tasks: queue.lines().filter_map(queued).collect() }
    }

    /// The task that trains the run in the folder of this name; `None` if the queue has none.
    #[must_use]
    pub fn task_of(&self, run: &str) -> Option<&QueuedTask> {
        self.tasks.get(self.task_of.get(run)?)
    }

    /// How many tasks wait, run or are about to end.
    fn active(&self) -> usize {
        self.tasks.values().filter(|task| task.is_active()).count()
    }

    /// The command that cancels all tasks, as typed in a shell.
    #[must_use]
    pub fn cancellation(&self) -> String {
        match self.id.split_once(';') {
            Some((id, cluster)) => format!("scancel --clusters={cluster} {id}"),
            None => format!("scancel {}", self.id),
        }
    }
}

/// Adds the state in the queue to unfinished runs, with one query, or none if no array was submitted.
///
/// # Errors
/// As for [`Queue::read`]; the runs are then unchanged.
pub fn add_queue(out: &Path, runs: &mut [RunStatus]) -> Result<()> {
    let mut unfinished = runs.iter_mut().filter(|run| run.state != Activity::Finished.name()).peekable();
    if unfinished.peek().is_none() {
        return Ok(());
    }
    let Some(queue) = Queue::read(out)? else { return Ok(()) };
    for run in unfinished {
        let name = run.folder.file_name().and_then(OsStr::to_str);
        run.queue = name.and_then(|name| queue.task_of(name)).map(QueuedTask::to_string);
    }
    Ok(())
}

/// A line of squeue.
fn queued(line: &str) -> Option<(u32, QueuedTask)> {
    let mut parts = line.splitn(4, '|').map(str::trim);
    let index = parts.next()?.parse().ok()?;
    let mut next = || parts.next().map(str::to_owned);
    Some((index, QueuedTask { state: next()?, node: next()?, reason: next()? }))
}

fn script_path(out: &Path) -> PathBuf {
    out.join("slurm/job.sh")
}

fn text(path: &OsStr) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::Scheduler(format!(
            "{} has a name that is not UTF-8, which a job script cannot hold: rename it",
            path.display()
        ))
    })
}

/// Words quoted for a shell.
fn quoted(words: &[String]) -> Result<String> {
    if let Some(word) = words.iter().find(|word| word.contains('\n')) {
        return Err(Error::Scheduler(format!(
            "{word:?} spans more than one line, which a job script cannot hold: rename it"
        )));
    }
    shlex::try_join(words.iter().map(String::as_str))
        .map_err(|cause| Error::Scheduler(format!("a job script cannot hold a word ({cause})")))
}

/// Ascending numbers as Slurm writes them: `0,3,7-9`.
fn index_list(numbers: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let range = |(first, last): (u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.into_iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array() -> JobArray {
        JobArray {
            name: "pointwise".to_owned(),
            out: "/data/a study".into(),
            shards: 6,
            tasks: vec![0, 3, 4, 5],
            runs: vec!["nin-seed42".to_owned(), "nin-seed43".to_owned()],
            throttle: 8,
            options: vec!["--partition=gpu".to_owned(), "--comment=a 'good' one".to_owned()],
            preamble: vec!["module load cuda".to_owned()],
            command: ["/opt/trainer", "reproduce", "/data/a study/study.toml", "--out", "/data/a study"]
                .map(str::to_owned)
                .into(),
        }
    }

    #[test]
    fn the_script_ends_in_the_trainer() {
        let script = array().script().unwrap();
        let lines: Vec<&str> = script.lines().collect();
        assert_eq!(lines[0], "#!/bin/bash");
        assert_eq!(lines[2], format!("#   {}", array().command_line().unwrap()));
        assert_eq!(lines[3], "module load cuda");
        assert_eq!(
            lines.last().copied(),
            Some(
                "exec /opt/trainer reproduce '/data/a study/study.toml' --out '/data/a study' \
                 --shard \"$SLURM_ARRAY_TASK_ID/6\""
            )
        );
    }

    #[test]
    fn the_command_names_what_is_missing() {
        assert_eq!(
            array().command_line().unwrap(),
            "sbatch --parsable '--job-name=pointwise' '--array=0,3-5%8' '--nodes=1' '--ntasks=1' \
             '--output=/data/a study/slurm/log/%A_%a.out' '--open-mode=append' --requeue '--signal=B:USR1@60' \
             '--partition=gpu' \"--comment=a 'good' one\" '/data/a study/slurm/job.sh'"
        );
        let line = JobArray { out: "/a%b".into(), ..array() }.command_line().unwrap();
        assert!(line.contains("'--output=/a%%b/slurm/log/%A_%a.out'"), "{line}");
        assert!(line.contains("/a%b/slurm/job.sh"), "{line}");
    }

    #[test]
    fn what_no_script_or_array_can_hold_is_refused() {
        for (array, says) in [
            (JobArray { out: "/a\nb".into(), ..array() }, "spans more than one line"),
            (JobArray { out: "/a\\b".into(), ..array() }, "without a backslash"),
            (JobArray { command: vec!["a\nb".to_owned()], ..array() }, "spans more than one line"),
            (JobArray { options: vec!["--array=1".to_owned()], ..array() }, "`--array=1` cannot be passed"),
            (JobArray { options: vec!["--wrap".to_owned()], ..array() }, "`--wrap` cannot be passed"),
            (JobArray { options: vec!["gpu".to_owned()], ..array() }, "`gpu` cannot be passed"),
        ] {
            let error = array.script().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    /// The words, and with them the paths, pass through a shell unchanged.
    #[cfg(unix)]
    #[test]
    fn a_shell_reads_the_words_back() {
        let words = [
            "a b", "it's", "\"x\"", "$HOME", "`ls`", "a\\b", "", "*", "!1", "~", "#x", "ö", "{a,b}",
            "a;b&c|d",
        ]
        .map(str::to_owned);
        let line = format!("printf '%s\\n' {}", quoted(&words).unwrap());
        let said = Command::new("bash").args(["-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap(), words.join("\n") + "\n");
    }

    #[test]
    fn numbers_are_listed_in_ranges() {
        for (numbers, list) in [
            (&[][..], ""),
            (&[4], "4"),
            (&[0, 1, 2], "0-2"),
            (&[0, 3, 7, 8, 9], "0,3,7-9"),
            (&[1, 3, 4, 6], "1,3-4,6"),
        ] {
            assert_eq!(index_list(numbers), list);
        }
    }

    #[test]
    fn the_queue_is_read_line_by_line() {
        let lines = "0|RUNNING|w1|None\n1|PENDING||Resources\n  2 |FAILED|w2|NonZeroExitCode \n\
                     3|PENDING||Nodes required for job are DOWN, DRAINED|or so\nN/A|RUNNING|w1|None\nrubbish\n";
        let queue = Queue::of("12;west".to_owned(), "0 nin-seed42\n2 nin-seed43\n7 nin-seed44\n", lines);
        let shown: Vec<String> = queue.tasks.values().map(QueuedTask::to_string).collect();
        assert_eq!(
            shown,
            [
                "running on w1",
                "pending (Resources)",
                "failed (NonZeroExitCode)",
                "pending (Nodes required for job are DOWN, DRAINED|or so)"
            ]
        );
        assert_eq!(queue.active(), 3);
        let node = |run| queue.task_of(run).map(|task| task.node.as_str());
        assert_eq!([node("nin-seed42"), node("nin-seed43")], [Some("w1"), Some("w2")]);
        // A task that the queue has forgotten, and one that it never knew.
        assert_eq!([node("nin-seed44"), node("nin-seed45")], [None, None]);
        assert_eq!(queue.cancellation(), "scancel --clusters=west 12");
    }

    #[test]
    fn a_study_has_no_more_tasks_than_an_array_can() {
        let config = "MaxArraySize            = 2001\nMaxDBDMsgs              = 20012\n";
        assert_eq!(configured_array_size(config), Some(2001));
        assert_eq!(configured_array_size("MaxJobCount = 10000"), None);
        let shards = |runs, asked| shards_within(1001, runs, asked).map_err(|error| error.to_string());
        assert_eq!(shards(6, None), Ok(6));
        assert_eq!(shards(100_000, None), Ok(1001));
        assert_eq!(shards(6, Some(2)), Ok(2));
        assert_eq!(shards(6, Some(600)), Ok(6));
        let error = shards(5000, Some(2000)).unwrap_err();
        assert!(error.contains("2000 tasks") && error.contains("MaxArraySize=1001"), "{error}");
    }
}
