//! `trainer train-several`: the runs of a study that are trained at once, each on its own thread, in one process. The runner of
//! `pointwise_study` starts it on a GPU, see `trainers.rs` there.
//!
//! A run has the same here as in its own process: its folder with its lock, its checkpoint when it is stopped, its error or panic, its exit
//! code. Only what ends a whole process (exhausted memory, a failing GPU) ends the other runs as well; the same command continues them.

use crate::args::{Cli, Command};
use crate::train::{self, Host, PreparedImages};
use crate::{End, FAILED, exit_code, print, signal_flag, threads};
use anyhow::Context;
use clap::Parser;
use pointwise_study::{Answer, Order};
use std::any::Any;
use std::ffi::OsString;
use std::io::{self, BufRead};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// The exit code of a program that panics.
const PANICKED: u8 = 101;

/// As large as a main thread's usually is.
const STACK_BYTES: usize = 8 << 20;

pub(crate) fn run() -> anyhow::Result<End> {
    let stop = signal_flag()?;
    threads::start(None)?;
    let images = PreparedImages::default();
    serve(
        io::stdin().lock(),
        &stop,
        |arguments| train(arguments, Host::Shared { stop: Arc::clone(&stop), images: &images }),
        |answer| {
            // On a new line: other output may have left one open. Without a reader, an error to print does not matter.
            let _ = serde_json::to_string(&answer).map(|line| print(&format!("\n{line}")));
        },
    )?;
    Ok(End::Done)
}

/// Starts a run for each line of `orders`, each on a thread, and gives their answers as they end. The end of `orders` stops the runs that are
/// still going.
///
/// # Errors
/// If a line is not an order.
fn serve(
    orders: impl BufRead,
    stop: &AtomicBool,
    train: impl Fn(Vec<OsString>) -> Outcome + Sync,
    answer: impl Fn(Answer) + Sync,
) -> anyhow::Result<()> {
    let (train, answer) = (&train, &answer);
    thread::scope(|scope| {
        let _stopping = Stopping(stop);
        for line in orders.lines().map_while(|line| line.ok()) {
            let order = serde_json::from_str(&line);
            let Order { run, arguments } = order.with_context(|| format!("`{line}` is not an order"))?;
            let work = move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| train(arguments)));
                let Outcome { code, said } = outcome.unwrap_or_else(|panic| Outcome::panicked(&*panic));
                answer(Answer { run, code, said });
            };
            let thread = thread::Builder::new().name(format!("run {run}")).stack_size(STACK_BYTES);
            if let Err(error) = thread.spawn_scoped(scope, work) {
                let said = format!(
                    "no thread can be started to train ({}): raise the limit, or give a smaller --jobs",
                    threads::cause(&error)
                );
                answer(Answer { run, code: FAILED, said: Some(said) });
            }
        }
        Ok(())
    })
}

/// Sets the flag when it is dropped.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The exit code of a run, and its error.
#[derive(Debug, PartialEq)]
struct Outcome {
    code: u8,
    said: Option<String>,
}

impl Outcome {
    fn panicked(panic: &(dyn Any + Send)) -> Self {
        let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = message.or_else(|| panic.downcast_ref().cloned());
        let said = format!("the trainer panicked: {}", message.as_deref().unwrap_or("it said nothing"));
        Self { code: PANICKED, said: Some(said) }
    }
}

/// Trains a run as a trainer with these arguments would.
fn train(arguments: Vec<OsString>, host: Host<'_>) -> Outcome {
    let line: Vec<OsString> = [OsString::from("trainer")].into_iter().chain(arguments).collect();
    let args = match Cli::try_parse_from(&line).map(|cli| cli.command) {
        Ok(Command::Train(args)) => args,
        Ok(_) => return Outcome { code: FAILED, said: Some("the command is not `train`".to_owned()) },
        Err(error) => {
            let said = error.to_string();
            let said = said.trim().strip_prefix("error: ").unwrap_or(&said).to_owned();
            return Outcome { code: error.exit_code() as u8, said: Some(said) };
        }
    };
    let outcome = train::run(&args, line, host);
    let code = exit_code(&outcome);
    Outcome { code, said: outcome.err().map(|error| format!("{error:#}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn orders(words: &[&str]) -> Vec<u8> {
        let order = |(run, word): (usize, &&str)| {
            let order = Order { run, arguments: vec![word.into()] };
            serde_json::to_string(&order).unwrap() + "\n"
        };
        words.iter().enumerate().map(order).collect::<String>().into_bytes()
    }

    /// The answers in the order of the runs.
    fn served(orders: &[u8], train: impl Fn(&str, &AtomicBool) -> Outcome + Sync) -> Vec<Answer> {
        let (stop, answers) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let train = |arguments: Vec<OsString>| train(arguments[0].to_str().unwrap(), &stop);
        serve(orders, &stop, train, |answer| answers.lock().unwrap().push(answer)).unwrap();
        let mut answers = answers.into_inner().unwrap();
        answers.sort_by_key(|answer| answer.run);
        answers
    }

    #[test]
    fn a_run_that_panics_or_fails_leaves_the_others_alone_and_the_end_of_the_orders_stops_them() {
        let answers = served(&orders(&["good", "panics", "fails", "goes on"]), |word, stop| match word {
            "panics" => panic!("the run {word}"),
            "fails" => Outcome { code: FAILED, said: Some("no".to_owned()) },
            "goes on" => {
                while !stop.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
                Outcome { code: 130, said: None }
            }
            _ => Outcome { code: 0, said: None },
        });
        let answer = |run, code, said: Option<&str>| Answer { run, code, said: said.map(str::to_owned) };
        let expected = [
            answer(0, 0, None),
            answer(1, PANICKED, Some("the trainer panicked: the run panics")),
            answer(2, FAILED, Some("no")),
            answer(3, 130, None),
        ];
        assert_eq!(answers, expected);
    }

    #[test]
    fn what_is_no_order_stops_all_runs() {
        let stop = AtomicBool::new(false);
        let orders = [orders(&["goes on"]), b"stop\n".to_vec()].concat();
        let train = |_| {
            while !stop.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            Outcome { code: 130, said: None }
        };
        let answers = Mutex::new(Vec::new());
        let error = serve(&orders[..], &stop, train, |answer| answers.lock().unwrap().push(answer.code));
        assert_eq!(error.unwrap_err().to_string(), "`stop` is not an order");
        assert_eq!(answers.into_inner().unwrap(), [130]);
    }

    #[test]
    fn arguments_are_those_of_a_trainer_of_its_own() {
        let stop = Arc::new(AtomicBool::new(false));
        let images = PreparedImages::default();
        let said = |words: &[&str]| {
            let host = Host::Shared { stop: Arc::clone(&stop), images: &images };
            let outcome = train(words.iter().map(OsString::from).collect(), host);
            (outcome.code, outcome.said.unwrap())
        };
        let (code, text) = said(&["train", "--epochs", "0"]);
        assert!(code == 2 && text.starts_with("invalid value '0' for '--epochs"), "{code} {text}");
        assert_eq!(said(&["runs"]), (FAILED, "the command is not `train`".to_owned()));
        let (code, text) = said(&["train", "--config", "no/such.toml"]);
        assert!(code == FAILED && text.contains("no/such.toml cannot be read"), "{code} {text}");
    }
}
