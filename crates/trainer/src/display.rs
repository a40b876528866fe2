//! Progress on stderr: a bar on a terminal, plain lines elsewhere; and the study's lines on stdout.

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pointwise_data::{Progress, Unit};
use pointwise_process::{OutputError, note};
use pointwise_runs::{EpochRecord, Run, RunResult};
use pointwise_training::{FinishedEpoch, Observer, StepProgress};
use std::ffi::OsStr;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Template of the bar of a run.
const BAR: &str = "{prefix} {wide_bar} {pos}/{len} {msg}";

/// Template of the bar of a download, or of reading files.
const LOADING_BAR: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";

/// Template of the bar of reading or drawing images.
const IMAGES_BAR: &str = "{msg} {wide_bar} {human_pos}/{human_len} images, {eta} left";

/// Plain lines come at most this often.
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// Follows a training.
pub(crate) struct TrainingDisplay {
    epochs: u32,
    bar: ProgressBar,
    plain: bool,
    began: Instant,
    last_line: Instant,
    /// Images and steps trained in this process.
    images: u64,
    steps: u64,
    loss: Option<f64>,
    /// Fractions: of the epoch's training images so far, and of the best epoch so far.
    accuracy: Option<f64>,
    best: Option<f64>,
    quiet: bool,
}

impl TrainingDisplay {
    /// `best` is the best accuracy before this process.
    pub(crate) fn new(epochs: u32, best: Option<f64>, quiet: bool) -> Self {
        let plain = is_plain();
        let bar = bar(plain || quiet);
        let now = Instant::now();
        Self {
            epochs,
            bar,
            plain,
            began: now,
            last_line: now,
            images: 0,
            steps: 0,
            loss: None,
            accuracy: None,
            best,
            quiet,
        }
    }

    /// Prints a line to stdout around the bar. A failure to write does not stop a training, whose files hold the same figures.
    fn print(&self, line: &str) {
        let _ = self.bar.suspend(|| crate::print(line));
    }
}

impl Observer for TrainingDisplay {
    fn step(&mut self, at: &StepProgress) {
        self.images += at.images as u64;
        self.steps += 1;
        self.loss = at.loss.or(self.loss);
        let seconds = self.began.elapsed().as_secs_f64();
        let total = at.steps;
        let left = seconds / self.steps as f64 * total.saturating_sub(at.step) as f64;
        let rate = self.images as f64 / seconds;
        self.accuracy = at.accuracy.or(self.accuracy);
        let figures = figures(self.loss, self.accuracy, self.best, rate, left);
        if self.plain {
            if !self.quiet && self.last_line.elapsed() >= LINE_PERIOD {
                self.last_line = Instant::now();
                let (epoch, epochs, step) = (at.epoch, self.epochs, at.step);
                note!("epoch {epoch}/{epochs}, step {step}/{total}, {figures}");
            }
        } else {
            self.bar.set_prefix(format!("epoch {}/{}", at.epoch, self.epochs));
            self.bar.set_length(at.batches as u64);
            self.bar.set_position(at.batch as u64);
            self.bar.set_message(figures);
        }
    }

    fn evaluating(&mut self, done: usize, total: usize) {
        self.bar.set_prefix("evaluating");
        self.bar.set_message("");
        // The length first: a position beyond it would be drawn for a moment.
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
    }

    fn epoch(&mut self, epoch: &FinishedEpoch<'_>) {
        let record = epoch.record;
        self.best = Some(record.best_acc);
        // The next epoch counts from the start.
        self.accuracy = None;
        self.print(&epoch_line(record, self.epochs));
    }
}

impl Drop for TrainingDisplay {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Whether progress is shown in plain lines: in pipes, files and CI, on a terminal that cannot move its cursor or does not say what it
/// is, and between the messages of `--verbose`.
fn is_plain() -> bool {
    let dumb = is_dumb(std::env::var_os("TERM").as_deref());
    let talkative = log::max_level() >= log::LevelFilter::Info;
    !std::io::stderr().is_terminal() || dumb || talkative || std::env::var_os("CI").is_some()
}

/// Whether a terminal of this name cannot move its cursor; only Unix names terminals.
fn is_dumb(term: Option<&OsStr>) -> bool {
    term.map_or(cfg!(unix), |term| term.is_empty() || term == "dumb")
}

/// A bar on stderr, or one that is never drawn.
fn bar(hidden: bool) -> ProgressBar {
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    bar.set_style(style(BAR));
    bar
}

/// What is known of a training under way, in words; accuracies are fractions, `left` is in seconds.
fn figures(loss: Option<f64>, accuracy: Option<f64>, best: Option<f64>, rate: f64, left: f64) -> String {
    let mut parts = Vec::new();
    parts.extend(loss.map(|loss| format!("loss {loss:.4}")));
    parts.extend(accuracy.map(|accuracy| format!("acc {:.1}%", 100.0 * accuracy)));
    parts.extend(best.map(|best| format!("best {:.2}%", 100.0 * best)));
    parts.push(format!("{rate:.0} images/s"));
    let left = HumanDuration(Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX));
    parts.push(format!("{left:#} left"));
    parts.join(", ")
}

/// Follows a run of another process, by its files.
pub(crate) struct WatchDisplay {
    bar: ProgressBar,
    plain: bool,
    last_line: Option<Instant>,
}

impl WatchDisplay {
    pub(crate) fn new() -> Self {
        let plain = is_plain();
        Self { bar: bar(plain), plain, last_line: None }
    }

    /// Prints a line to stdout around the bar.
    pub(crate) fn line(&self, line: &str) -> Result<(), OutputError> {
        self.bar.suspend(|| crate::print(line))
    }

    /// Shows how far the run is.
    pub(crate) fn progress(&mut self, run: &Run) {
        let Some(progress) = &run.progress else { return };
        let loss = run.steps().last().map(|step| step.loss);
        let best = run.epochs().last().map(|epoch| epoch.best_acc);
        let rate = progress.images_per_second;
        let left = progress.seconds_left().unwrap_or(f64::INFINITY);
        let figures = figures(loss, None, best, rate, left);
        let (epoch, epochs, step, steps) = (progress.epoch, progress.epochs, progress.step, progress.steps);
        if !self.plain {
            self.bar.set_prefix(format!("epoch {epoch}/{epochs}"));
            self.bar.set_length(steps);
            self.bar.set_position(step);
            self.bar.set_message(figures);
        } else if self.last_line.is_none_or(|last| last.elapsed() >= LINE_PERIOD) {
            self.last_line = Some(Instant::now());
            note!("epoch {epoch}/{epochs}, step {step}/{steps}, {figures}");
        }
    }

    /// Removes the bar.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// The study's line of an epoch. Its "Val" are the images that choose the best epoch: the test set, or those held out.
pub(crate) fn epoch_line(record: &EpochRecord, epochs: u32) -> String {
    let loss = record.val_loss.or(record.test_loss).unwrap_or(f64::NAN);
    let accuracy = record.val_acc.or(record.test_acc).unwrap_or(f64::NAN);
    let average = record.ema_acc.map(|accuracy| format!(" | EMA Val Acc {:.2}%", 100.0 * accuracy));
    format!(
        "Epoch {:02}/{epochs:02} | Train Loss {:.4} Acc {:.2}% | Val Loss {loss:.4} Acc {:.2}% | Best Val Acc {:.2}%{}",
        record.epoch,
        record.train_loss,
        100.0 * record.train_acc,
        100.0 * accuracy,
        100.0 * record.best_acc,
        average.unwrap_or_default()
    )
}

/// The study's last line, and one of test-time augmentation where there was such a test.
pub(crate) fn final_lines(model: &str, result: &RunResult) -> String {
    let line = |test: &str, accuracy: f64, loss: f64| {
        let model = model.to_uppercase();
        format!("Final {model} {test} Accuracy: {:.2}% (loss {loss:.4})", 100.0 * accuracy)
    };
    let mut lines = line("Test", result.final_acc, result.final_loss);
    if let (Some(accuracy), Some(loss)) = (result.tta_test_acc, result.tta_test_loss) {
        lines += &format!("\n{}", line("TTA Test", accuracy, loss));
    }
    lines
}

/// Follows loading and downloading.
#[derive(Default)]
pub(crate) struct LoadingDisplay {
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress for LoadingDisplay {
    fn start(&self, what: &str, total: Option<u64>, unit: Unit) {
        let new = if !is_plain() {
            let bar = match total {
                Some(total) => ProgressBar::new(total).with_style(loading_style(unit)),
                None => ProgressBar::new_spinner(),
            };
            bar.set_message(what.to_owned());
            Some(bar)
        } else {
            note!("{what}");
            None
        };
        self.with(|bar| *bar = new);
    }

    fn advance(&self, position: u64) {
        self.with(|bar| {
            if let Some(bar) = bar {
                bar.set_position(position);
            }
        });
    }

    fn finish(&self) {
        self.with(|bar| {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
        });
    }

    fn note(&self, message: &str) {
        self.with(|bar| match bar {
            Some(bar) => bar.suspend(|| note!("{message}")),
            None => note!("{message}"),
        });
    }
}

impl LoadingDisplay {
    fn with(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        // A display whose lock a panicking thread held can still be drawn on.
        act(&mut self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

fn loading_style(unit: Unit) -> ProgressStyle {
    style(match unit {
        Unit::Bytes => LOADING_BAR,
        Unit::Images => IMAGES_BAR,
    })
}

/// A template that the test below checks; indicatif's plain one replaces an invalid one.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::InMemoryTerm;

    /// The lines of the published run.
    #[test]
    fn lines_are_the_studys_to_the_letter() {
        let record = EpochRecord {
            epoch: 1,
            step: 397,
            train_loss: 1.54784,
            train_acc: 0.424_66,
            test_loss: Some(1.202_58),
            test_acc: Some(0.562),
            val_loss: None,
            val_acc: None,
            ema_loss: None,
            ema_acc: None,
            best_acc: 0.562,
            best_epoch: 1,
            train_seconds: 1.0,
            eval_seconds: 1.0,
            seconds: 2.0,
        };
        assert_eq!(
            epoch_line(&record, 10),
            "Epoch 01/10 | Train Loss 1.5478 Acc 42.47% | Val Loss 1.2026 Acc 56.20% | Best Val Acc 56.20%"
        );
        let result = RunResult {
            final_loss: 0.6424,
            final_acc: 0.7858,
            best_acc: 0.7858,
            best_epoch: 1,
            best_test_acc: None,
            best_test_loss: None,
            ema_test_acc: None,
            ema_test_loss: None,
            tta_test_acc: None,
            tta_test_loss: None,
            stopped_early: false,
            epochs: 1,
            steps: 1,
            seconds: 2.0,
            train_seconds: 1.0,
            eval_seconds: 1.0,
            peak_memory_bytes: None,
        };
        let line = "Final ALEXNET_PLAIN Test Accuracy: 78.58% (loss 0.6424)";
        assert_eq!(final_lines("alexnet_plain", &result), line);
        let result = RunResult { tta_test_acc: Some(0.7912), tta_test_loss: Some(0.6), ..result };
        assert_eq!(
            final_lines("alexnet_plain", &result),
            format!("{line}\nFinal ALEXNET_PLAIN TTA Test Accuracy: 79.12% (loss 0.6000)")
        );
    }

    #[test]
    fn a_terminal_without_a_name_gets_no_bar() {
        for (term, dumb) in
            [(Some("xterm"), false), (Some("dumb"), true), (Some(""), true), (None, cfg!(unix))]
        {
            assert_eq!(is_dumb(term.map(OsStr::new)), dumb, "{term:?}");
        }
    }

    #[test]
    fn templates_are_valid() {
        for template in [BAR, LOADING_BAR, IMAGES_BAR] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
            // Without colours, NO_COLOR is always respected: a colour would follow a dot.
            assert!(!template.contains('.'), "{template}");
        }
    }

    #[test]
    fn a_terminal_shows_one_line_with_everything() {
        let term = InMemoryTerm::new(5, 110);
        let mut display = TrainingDisplay::new(10, Some(0.612), true);
        display.plain = false;
        display.bar.set_draw_target(ProgressDrawTarget::term_like_with_hz(Box::new(term.clone()), 255));
        let at = StepProgress {
            epoch: 3,
            batch: 100,
            batches: 397,
            step: 894,
            steps: 3970,
            images: 126,
            loss: Some(0.98765),
            accuracy: Some(0.6543),
        };
        display.step(&at);
        // Between records the last figures stay.
        display.step(&StepProgress { batch: 101, step: 895, loss: None, accuracy: None, ..at });
        display.bar.tick();
        let seen = term.contents();
        assert!(seen.starts_with("epoch 3/10 ") && seen.lines().count() == 1, "{seen}");
        assert!(seen.contains(" 101/397 loss 0.9877, acc 65.4%, best 61.20%, "), "{seen}");
        assert!(seen.contains(" images/s, ") && seen.ends_with(" left"), "{seen}");
        drop(display);
        assert_eq!(term.contents(), "", "nothing of it remains");
    }
}
