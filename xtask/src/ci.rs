//! `cargo xtask ci`: everything that must hold, on a clean checkout with a Rust toolchain.

mod steps;

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::Command,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use pointwise_process::{note, outside_cargo};

use self::steps::{PRELUDE, STEPS, Step};
use crate::{End, print, trainer::workspace_root};

const AFTER: &str = "\
Steps install what they need, Debian's packages with apt-get and others below target/; where that fails, so does the step. \
Exit codes: 0 all passed, 1 a step failed, 2 wrong usage.";

/// The options, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// List the steps instead.
    #[arg(long, exclusive = true)]
    list: bool,
    /// Run these steps only, separated by commas, in the order of the list.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = step)]
    only: Vec<&'static Step>,
    /// Leave out steps whose requirements are missing and cannot be installed.
    #[arg(long)]
    allow_missing: bool,
    /// Run all steps, and fail at the end if one of them failed.
    #[arg(long)]
    keep_going: bool,
    /// Begin no step after this many minutes: on a slow machine the last steps are not run, which the end says.
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..))]
    minutes: Option<u64>,
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    /// It cannot run here.
    Missing,
    /// It cannot run here, which was allowed.
    LeftOut,
    /// An earlier one failed.
    NotRun,
    /// The others took too long.
    NoTime,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Missing => "cannot run",
            Self::LeftOut => "left out",
            Self::NotRun => "not run",
            Self::NoTime => "no time",
        }
    }

    fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Missing)
    }
}

/// A step with its outcome and how long it took.
type Done = (&'static Step, Outcome, Duration);

/// The step of this name.
fn step(name: &str) -> Result<&'static Step, String> {
    STEPS.iter().find(|step| step.name == name).ok_or_else(|| {
        let known: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        format!("there is no step `{name}`: choose from {}", known.join(", "))
    })
}

/// The requested steps, in their order; all of them if none is named.
fn selected(only: &[&Step]) -> Vec<&'static Step> {
    STEPS.iter().filter(|step| only.is_empty() || only.contains(step)).collect()
}

pub(crate) fn run(args: &Args) -> anyhow::Result<End> {
    if args.list {
        print(&list())?;
        return Ok(End::Good);
    }
    let root = workspace_root().canonicalize().context("the folder of the workspace cannot be found")?;
    let succeeds = |script: &str| {
        let status = bash(script, &root).status();
        Ok(status.context("bash, which the steps are written in, cannot be started")?.success())
    };
    let start = Instant::now();
    let steps = selected(&args.only);
    let stop = AtomicBool::new(false);
    let (sender, found) = channel();
    let done = thread::scope(|scope| {
        scope.spawn(|| prepare(&steps, &stop, succeeds, sender));
        let is_late = || args.minutes.is_some_and(|minutes| start.elapsed().as_secs() / 60 >= minutes);
        let done = run_steps(&steps, args.keep_going, is_late, |step| {
            print(&format!("\n== {} ({} min)\n", step.name, start.elapsed().as_secs() / 60))?;
            let is_there = || found.recv().context("nobody has looked for what the step needs")?;
            let outcome = run_step(step, args.allow_missing, is_there, succeeds)?;
            if let Some(sentence) = sentence(step, outcome) {
                note!("{sentence}");
            }
            Ok(outcome)
        });
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    print(&table(&done))?;
    Ok(if done.iter().any(|(_, outcome, _)| outcome.is_failure()) { End::Bad } else { End::Good })
}

/// Runs steps, up to the first that fails unless `keep_going`, and until `is_late`.
fn run_steps(
    steps: &[&'static Step],
    keep_going: bool,
    is_late: impl Fn() -> bool,
    mut run: impl FnMut(&Step) -> anyhow::Result<Outcome>,
) -> anyhow::Result<Vec<Done>> {
    let mut done: Vec<Done> = Vec::new();
    for &step in steps {
        let start = Instant::now();
        let has_failed = done.iter().any(|(_, outcome, _)| outcome.is_failure());
        let outcome = match has_failed && !keep_going {
            true => Outcome::NotRun,
            false if is_late() => Outcome::NoTime,
            false => run(step)?,
        };
        done.push((step, outcome, start.elapsed()));
    }
    Ok(done)
}

/// Looks for what the steps need, one after another, and sends whether it is there, in the order of the steps that need something. Installing is
/// mostly waiting for the network, so this is done while earlier steps run. It ends early if `stop` is set.
fn prepare(
    steps: &[&Step],
    stop: &AtomicBool,
    succeeds: impl Fn(&str) -> anyhow::Result<bool>,
    found: Sender<anyhow::Result<bool>>,
) {
    for need in steps.iter().filter_map(|step| step.need.as_ref()) {
        if stop.load(Ordering::Relaxed) || found.send(succeeds(need.script)).is_err() {
            return;
        }
    }
}

/// Runs a step; `is_there` waits for what it needs, and `succeeds` runs a script and returns whether it succeeded.
fn run_step(
    step: &Step,
    allow_missing: bool,
    is_there: impl FnOnce() -> anyhow::Result<bool>,
    succeeds: impl FnOnce(&str) -> anyhow::Result<bool>,
) -> anyhow::Result<Outcome> {
    Ok(match step.need.is_none() || is_there()? {
        true if succeeds(step.script)? => Outcome::Passed,
        true => Outcome::Failed,
        false if allow_missing => Outcome::LeftOut,
        false => Outcome::Missing,
    })
}

/// The message about a step that did not pass, with what to do about it.
fn sentence(step: &Step, outcome: Outcome) -> Option<String> {
    let name = step.name;
    let missing = step.need.as_ref().map_or("", |need| need.missing);
    match outcome {
        Outcome::Failed => Some(format!(
            "error: the step {name} failed, see its messages above; `cargo xtask ci --only {name}` runs it alone"
        )),
        Outcome::Missing => Some(format!(
            "error: the step {name} cannot run: {missing}; `cargo xtask ci --only {name}` tries it alone, and --allow-missing leaves \
             it out"
        )),
        Outcome::LeftOut => Some(format!("the step {name} is left out: {missing}")),
        Outcome::Passed | Outcome::NotRun | Outcome::NoTime => None,
    }
}

/// Bash in the workspace's folder, in the environment of cargo's caller.
fn bash(script: &str, root: &Path) -> Command {
    let mut command = Command::new("bash");
    command.arg("-c").arg(format!("{PRELUDE}\n{script}")).current_dir(root);
    outside_cargo(&mut command);
    if let Some(paths) = std::env::var_os(LIBRARIES) {
        match without_cargo(&paths, root) {
            Some(paths) => command.env(LIBRARIES, paths),
            None => command.env_remove(LIBRARIES),
        };
    }
    command
}

/// Where the system looks for shared libraries first; cargo puts folders of its own in front.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// These folders without cargo's own: what it builds, and the toolchain's libraries. `None` if no other is left.
fn without_cargo(paths: &OsStr, root: &Path) -> Option<OsString> {
    let is_own = |folder: &Path| {
        folder.starts_with(root.join("target"))
            || folder.components().any(|part| part.as_os_str() == "rustlib")
    };
    let kept: Vec<_> = std::env::split_paths(paths).filter(|folder| !is_own(folder)).collect();
    // What was split from a list can be joined again.
    if kept.is_empty() { None } else { std::env::join_paths(kept).ok() }
}

/// All steps with their descriptions.
fn list() -> String {
    let width = STEPS.iter().map(|step| step.name.len()).max().unwrap_or(0);
    let line = |step: &Step| format!("{:width$}  {}", step.name, step.about);
    STEPS.iter().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

/// The outcomes of the steps.
fn table(done: &[Done]) -> String {
    let width = done.iter().map(|(step, ..)| step.name.len()).max().unwrap_or(0);
    let line = |(step, outcome, time): &Done| {
        let minutes = time.as_secs_f64() / 60.0;
        format!("{:width$}  {:10} {minutes:6.1} min", step.name, outcome.name())
    };
    let all: Duration = done.iter().map(|(.., time)| *time).sum();
    let is = |wanted| done.iter().any(|(_, outcome, _)| *outcome == wanted);
    let end = if is(Outcome::Failed) || is(Outcome::Missing) {
        "not all passed"
    } else if is(Outcome::NoTime) {
        "all that there was time for passed"
    } else if is(Outcome::LeftOut) {
        "all that could run passed"
    } else {
        "all passed"
    };
    let lines: Vec<String> = done.iter().map(line).collect();
    format!("\n== {end} ({} min)\n{}\n", all.as_secs() / 60, lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::{steps::Need, *};
    use clap::Parser;
    use std::cell::RefCell;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &[&str]) -> Result<Args, clap::Error> {
        Line::try_parse_from(["ci"].iter().chain(line)).map(|line| line.args)
    }

    const NEED: Option<Need> = Some(Need { script: "look", missing: "there is no tool" });
    static A: Step = Step { name: "a", about: "", need: None, script: "a" };
    static B: Step = Step { name: "b", about: "", need: NEED, script: "b" };
    static C: Step = Step { name: "c", about: "", need: None, script: "c" };

    /// What becomes of three steps where these scripts fail, and the scripts that ran.
    fn outcomes(failing: &[&str], allow_missing: bool, keep_going: bool) -> (Vec<Outcome>, Vec<String>) {
        outcomes_until(usize::MAX, failing, allow_missing, keep_going)
    }

    /// As [`outcomes`], where it is late once so many scripts have run.
    fn outcomes_until(
        late: usize,
        failing: &[&str],
        allow_missing: bool,
        keep_going: bool,
    ) -> (Vec<Outcome>, Vec<String>) {
        let ran = RefCell::new(Vec::new());
        let succeeds = |script: &str| {
            ran.borrow_mut().push(script.to_owned());
            Ok(!failing.contains(&script))
        };
        let is_late = || ran.borrow().len() >= late;
        let done = run_steps(&[&A, &B, &C], keep_going, is_late, |step| {
            run_step(step, allow_missing, || succeeds("look"), succeeds)
        });
        (done.unwrap().into_iter().map(|(_, outcome, _)| outcome).collect(), ran.into_inner())
    }

    #[test]
    fn what_steps_need_is_looked_for_in_their_order_until_told_to_stop() {
        let looked = |stop_after: usize| {
            let (stop, looks) = (AtomicBool::new(false), RefCell::new(0));
            let (sender, found) = channel();
            let succeeds = |script: &str| {
                *looks.borrow_mut() += 1;
                stop.store(*looks.borrow() == stop_after, Ordering::Relaxed);
                Ok(script == "look" && *looks.borrow() != 2)
            };
            prepare(&[&A, &B, &C, &B, &B], &stop, succeeds, sender);
            found.iter().map(Result::unwrap).collect::<Vec<bool>>()
        };
        assert_eq!(looked(0), [true, false, true]);
        assert_eq!(looked(1), [true]);
    }

    #[test]
    fn steps_are_chosen_by_name_and_run_in_their_order() {
        let names = |line: &[&str]| -> Vec<&str> {
            selected(&parse(line).unwrap().only).iter().map(|step| step.name).collect()
        };
        assert_eq!(names(&["--only", "tests"]), ["tests"]);
        assert_eq!(
            names(&["--only", "tests,formatting", "--only", "lints,tests"]),
            ["formatting", "lints", "tests"]
        );
        assert_eq!(names(&["--keep-going"]), STEPS.iter().map(|step| step.name).collect::<Vec<_>>());
        assert!(parse(&["--list", "--only", "tests"]).is_err());
    }

    #[test]
    fn an_unknown_step_is_refused_with_those_that_there_are() {
        for (line, named) in [("test", "`test`"), ("tests,", "``"), ("tests, lints", "` lints`")] {
            let error = parse(&["--only", line]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let error = error.to_string();
            let said = format!(
                "there is no step {named}: choose from images, formatting, architecture, dependencies, "
            );
            let last = format!(", {}\n", STEPS[STEPS.len() - 1].name);
            assert!(error.contains(&said) && error.contains(&last), "{error}");
        }
    }

    #[test]
    fn every_step_has_a_name_of_its_own_and_a_line_in_the_list() {
        let list = list();
        assert_eq!(list.lines().count(), STEPS.len());
        for (number, step) in STEPS.iter().enumerate() {
            let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(step.name.chars().all(is_plain), "{}", step.name);
            assert!(
                STEPS[..number].iter().all(|other| other.name != step.name),
                "{} is listed twice",
                step.name
            );
            assert!(list.contains(&format!("{}  ", step.name)) && list.contains(step.about), "{}", step.name);
        }
    }

    #[test]
    fn nothing_runs_after_a_failure_unless_it_is_to_keep_going() {
        use Outcome::{Failed, NotRun, Passed};
        assert_eq!(
            outcomes(&[], false, false),
            (vec![Passed; 3], vec!["a".into(), "look".into(), "b".into(), "c".into()])
        );
        assert_eq!(outcomes(&["a"], false, false), (vec![Failed, NotRun, NotRun], vec!["a".into()]));
        assert_eq!(outcomes(&["a", "c"], false, true).0, [Failed, Passed, Failed]);
        let said = sentence(&A, Failed).unwrap();
        assert!(
            said.starts_with("error: the step a failed, ") && said.contains("`cargo xtask ci --only a`"),
            "{said}"
        );
    }

    #[test]
    fn no_step_begins_once_it_is_late() {
        use Outcome::{Failed, NoTime, NotRun, Passed};
        assert_eq!(outcomes_until(1, &[], false, true), (vec![Passed, NoTime, NoTime], vec!["a".into()]));
        assert_eq!(outcomes_until(2, &["look"], true, true).0, [Passed, Outcome::LeftOut, NoTime]);
        assert_eq!(outcomes_until(1, &["a"], false, true).0, [Failed, NoTime, NoTime]);
        assert_eq!(outcomes_until(1, &["a"], false, false).0, [Failed, NotRun, NotRun]);
        assert!(!NoTime.is_failure());
        assert_eq!(parse(&["--minutes", "65"]).unwrap().minutes, Some(65));
        assert!(parse(&["--minutes", "0"]).is_err());
    }

    #[test]
    fn a_missing_tool_is_a_failure_unless_it_is_allowed() {
        use Outcome::{LeftOut, Missing, NotRun, Passed};
        assert_eq!(
            outcomes(&["look"], false, false),
            (vec![Passed, Missing, NotRun], vec!["a".into(), "look".into()])
        );
        assert_eq!(outcomes(&["look"], true, false).0, [Passed, LeftOut, Passed]);
        assert!(Missing.is_failure() && !LeftOut.is_failure());
        let said = sentence(&B, Missing).unwrap();
        assert!(said.starts_with("error: the step b cannot run: there is no tool; "), "{said}");
        assert!(said.contains("--allow-missing"), "{said}");
        assert_eq!(sentence(&B, LeftOut).unwrap(), "the step b is left out: there is no tool");
    }

    #[test]
    fn the_end_lists_all_steps() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let mut done = vec![(&A, Outcome::Passed, minutes(2)), (&B, Outcome::LeftOut, minutes(0))];
        assert_eq!(
            table(&done),
            "\n== all that could run passed (2 min)\na  passed        2.0 min\nb  left out      0.0 min\n"
        );
        done.push((&C, Outcome::NoTime, minutes(0)));
        assert!(
            table(&done).starts_with("\n== all that there was time for passed (2 min)\n"),
            "{}",
            table(&done)
        );
        assert!(table(&done).ends_with("\nc  no time       0.0 min\n"), "{}", table(&done));
        done.push((&C, Outcome::Failed, minutes(1)));
        assert!(table(&done).starts_with("\n== not all passed (3 min)\n"), "{}", table(&done));
        assert!(table(&done[..1]).starts_with("\n== all passed (2 min)\n"));
    }

    #[cfg(unix)]
    #[test]
    fn scripts_stop_at_the_first_failure_and_see_nothing_of_the_outer_cargo() {
        let folder = tempfile::tempdir().unwrap();
        let succeeds = |script: &str| bash(script, folder.path()).status().unwrap().success();
        assert!(succeeds("true"));
        assert!(!succeeds("false; true"));
        assert!(!succeeds("false | true; true"));
        assert!(!succeeds("exec 2> /dev/null; echo \"$NOBODY_SETS_THIS\"; true"));
        assert!(succeeds("installed bash a-package-that-nobody-has"));
        // Cargo has set this test's variables about its package.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        assert!(succeeds("! env | grep -E '^(CARGO=|CARGO_PKG_|CARGO_MANIFEST_)'"));
        std::fs::write(folder.path().join("README.md"), "Run\n\n    true\ntrue\n").unwrap();
        assert!(succeeds("readme true"));
        assert!(!succeeds("readme 'true x' 2> /dev/null"));
    }

    #[test]
    fn folders_of_libraries_that_cargo_put_there_are_left_out() {
        let root = Path::new("/checkout");
        let kept = |paths: &[&str]| {
            without_cargo(&std::env::join_paths(paths).unwrap(), root).map(|kept| kept.into_string().unwrap())
        };
        let own = ["/checkout/target/debug/deps", "/toolchain/lib/rustlib/x86_64/lib"];
        assert_eq!(kept(&own), None);
        assert_eq!(kept(&[own[0], "/opt/cuda", own[1]]).as_deref(), Some("/opt/cuda"));
    }
}
