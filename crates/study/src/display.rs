//! All runs of a study at once, on stderr: on a terminal a line for each and a bar for all, elsewhere plain lines.

use std::{
    ffi::OsStr,
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pointwise_process::note;
use pointwise_runs::{Run, State, duration};

/// The bar for all runs counts in thousandths.
const WHOLE: u64 = 1000;
const BAR: &str = "{prefix} {wide_bar} {percent} %{msg}";
/// Lines are truncated to the width.
const ROW: &str = "{wide_msg}";

/// How often a run with long epochs gets a plain line.
const LINE_PERIOD: Duration = Duration::from_secs(60);

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    // In order of interest, for when there is no room for all.
    Running,
    Failed,
    Interrupted,
    InUse,
    Finished,
    Waiting,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::InUse => "in use",
            Self::Finished => "finished",
            Self::Waiting => "waiting",
        }
    }
}

/// A run as displayed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// Network and seed.
    pub(crate) name: String,
    pub(crate) stage: Stage,
    /// The current epoch, or the last one.
    pub(crate) epoch: u32,
    pub(crate) epochs: u32,
    /// The fraction of its steps that is done.
    pub(crate) share: f64,
    /// After the last whole epoch, a fraction.
    pub(crate) accuracy: Option<f64>,
    pub(crate) images_per_second: Option<f64>,
    /// Seconds trained so far.
    pub(crate) seconds: f64,
    pub(crate) seconds_left: Option<f64>,
}

impl Row {
    pub(crate) fn waiting(name: String, epochs: u32) -> Self {
        Self {
            name,
            stage: Stage::Waiting,
            epoch: 0,
            epochs,
            share: 0.0,
            accuracy: None,
            images_per_second: None,
            seconds: 0.0,
            seconds_left: None,
        }
    }

    /// Updates the row from the run's files.
    pub(crate) fn read(&mut self, run: &Run) {
        let done = run.epochs().last();
        self.accuracy = done.and_then(|epoch| epoch.test_acc.or(epoch.val_acc));
        if let Some(progress) = &run.progress {
            self.epoch = progress.epoch;
            self.share = progress.step as f64 / progress.steps.max(1) as f64;
            self.seconds = progress.seconds;
            let under_way = progress.state == State::Running;
            self.images_per_second = Some(progress.images_per_second).filter(|rate| under_way && *rate > 0.0);
            self.seconds_left = progress.seconds_left();
        }
        if let Some(result) = &run.result {
            self.stage = Stage::Finished;
            (self.epoch, self.share, self.seconds) = (result.epochs, 1.0, result.seconds);
            self.accuracy = Some(result.final_acc);
            (self.images_per_second, self.seconds_left) = (None, None);
        }
    }

    /// Epoch, accuracy and time, as far as they are known.
    fn figures(&self) -> Vec<String> {
        let mut parts = Vec::new();
        if self.epoch > 0 {
            parts.push(format!("epoch {}/{}", self.epoch, self.epochs));
        }
        parts.extend(self.accuracy.map(|accuracy| format!("accuracy {:.2} %", 100.0 * accuracy)));
        if self.stage == Stage::Running {
            parts.extend(self.images_per_second.map(|rate| format!("{rate:.0} images/s")));
            parts.extend(self.seconds_left.map(|seconds| format!("{} left", duration(seconds))));
        } else if self.stage == Stage::Finished {
            parts.push(format!("took {}", duration(self.seconds)));
        }
        parts
    }
}

/// Shows the progress of a study's runs.
#[derive(Debug)]
pub enum Display {
    /// A line for each run and a bar for all.
    Bars(Bars),
    /// Lines about changes.
    Plain(Plain),
    /// Only errors are shown.
    Quiet,
}

impl Display {
    /// On stderr.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let dumb = is_dumb(std::env::var_os("TERM").as_deref());
        if quiet {
            Self::Quiet
        } else if !std::io::stderr().is_terminal() || dumb || std::env::var_os("CI").is_some() {
            Self::Plain(Plain::default())
        } else {
            let height = console::Term::stderr().size().0;
            Self::Bars(Bars::new(ProgressDrawTarget::stderr(), usize::from(height)))
        }
    }

    /// A run starts, `number` of `of`; `left` is in seconds, for all runs.
    pub(crate) fn started(&mut self, number: usize, of: usize, row: &Row, left: Option<f64>) {
        if let Self::Plain(_) = self {
            let left = left.map_or(String::new(), |seconds| {
                format!(" (about {} to the end of the last run)", duration(seconds))
            });
            note!("run {number} of {of}: {}{left}", row.name);
        }
    }

    /// The current progress. `share` is the fraction of all work that is done.
    pub(crate) fn show(&mut self, rows: &[Row], share: f64, left: Option<f64>) {
        match self {
            Self::Bars(bars) => bars.show(rows, share, left),
            Self::Plain(plain) => plain.show(rows).iter().for_each(|line| note!("{line}")),
            Self::Quiet => {}
        }
    }

    /// A message that is shown even without progress.
    pub(crate) fn note(&self, message: &str) {
        if let Self::Bars(bars) = self {
            // They reappear when drawn next. `suspend` would panic on a terminal that is gone.
            let _ = bars.all.clear();
        }
        note!("{message}");
    }
}

/// Whether a terminal of this name cannot move its cursor, or does not say what it is; only Unix names terminals.
fn is_dumb(term: Option<&OsStr>) -> bool {
    term.map_or(cfg!(unix), |term| term.is_empty() || term == "dumb")
}

/// A line for each run, or for the most interesting ones if there is no room for all, under a bar for all.
#[derive(Debug)]
pub struct Bars {
    all: MultiProgress,
    overall: ProgressBar,
    lines: Vec<ProgressBar>,
    room: usize,
}

impl Bars {
    /// `height` is the terminal's, in lines.
    fn new(target: ProgressDrawTarget, height: usize) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let overall = all.add(ProgressBar::new(WHOLE).with_style(style(BAR)));
        // A line for the bar, and one for the cursor.
        Self { all, overall, lines: Vec::new(), room: height.saturating_sub(2) }
    }

    fn show(&mut self, rows: &[Row], share: f64, left: Option<f64>) {
        let shown = most_interesting(rows, self.room);
        while self.lines.len() < shown.len() {
            self.lines.push(self.all.add(ProgressBar::new(0).with_style(style(ROW))));
        }
        let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        for (line, row) in self.lines.iter().zip(shown) {
            let stage = row.stage.name();
            let text = format!("{:<width$}  {stage:<11}  {}", row.name, row.figures().join(", "));
            line.set_message(text.trim_end().to_owned());
        }
        let finished = rows.iter().filter(|row| row.stage == Stage::Finished).count();
        self.overall.set_prefix(format!("{finished} of {} runs", rows.len()));
        self.overall
            .set_message(left.map_or(String::new(), |seconds| format!(", {} left", duration(seconds))));
        self.overall.set_position((share * WHOLE as f64) as u64);
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // The final state of the runs stays on the screen.
        self.overall.abandon();
        self.lines.iter().for_each(ProgressBar::abandon);
    }
}

/// As many rows as there is room for, in their order: running ones before those that failed, finished or wait; of the finished ones the newest.
fn most_interesting(rows: &[Row], room: usize) -> Vec<&Row> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&index| {
        let newest_first = rows.len() - index;
        (rows[index].stage, if rows[index].stage == Stage::Finished { newest_first } else { index })
    });
    order.truncate(room);
    order.sort_unstable();
    order.into_iter().map(|index| &rows[index]).collect()
}

/// Lines about changes: an epoch done, an end, and a sign of life now and then.
#[derive(Debug, Default)]
pub struct Plain {
    /// What was last reported about each run, and when.
    told: Vec<(Row, Instant)>,
}

impl Plain {
    fn show(&mut self, rows: &[Row]) -> Vec<String> {
        let now = Instant::now();
        let mut lines = Vec::new();
        if self.told.is_empty() {
            self.told = rows.iter().map(|row| (row.clone(), now)).collect();
        }
        for (row, (told, when)) in rows.iter().zip(&mut self.told) {
            let ended = row.stage != told.stage && row.stage != Stage::Running;
            let running = row.stage == Stage::Running;
            let epoch_done = running && row.accuracy.is_some() && row.epoch != told.epoch;
            if ended || epoch_done || running && when.elapsed() >= LINE_PERIOD {
                let stage = if running { String::new() } else { format!("{}, ", row.stage.name()) };
                let line = format!("{}: {stage}{}", row.name, row.figures().join(", "));
                lines.push(line.trim_end_matches([',', ' ', ':']).to_owned());
                *when = now;
                *told = row.clone();
            } else if row.stage != told.stage {
                // Its start has its own line.
                (*told, *when) = (row.clone(), now);
            }
        }
        lines
    }
}

/// A template that a test below checks; a wrong one is replaced with indicatif's plain one.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::InMemoryTerm;
    use std::io;

    fn row(name: &str, stage: Stage) -> Row {
        Row { stage, ..Row::waiting(name.into(), 10) }
    }

    fn running(epoch: u32, accuracy: Option<f64>) -> Row {
        Row {
            epoch,
            share: 0.25,
            accuracy,
            images_per_second: Some(412.3),
            seconds: 300.0,
            seconds_left: Some(900.0),
            ..row("nin, seed 43", Stage::Running)
        }
    }

    fn finished() -> Row {
        Row {
            epoch: 10,
            share: 1.0,
            accuracy: Some(0.7427),
            seconds: 1503.0,
            ..row("nin, seed 42", Stage::Finished)
        }
    }

    #[test]
    fn a_row_is_what_the_files_tell() {
        let mut run = crate::testing::run("nin", 43, 60.0);
        run.progress = Some(pointwise_runs::Progress {
            epoch: 4,
            epochs: 10,
            step: 30,
            steps: 100,
            seconds: 15.0,
            images_per_second: 250.0,
            state: State::Running,
            updated: String::new(),
        });
        let result = run.result.take();
        let mut row = row("nin, seed 43", Stage::Running);
        row.read(&run);
        // The last record of the published curve.
        assert_eq!(
            row.figures().join(", "),
            "epoch 4/10, accuracy 74.27 %, 250 images/s, 35 s left",
            "70 steps at half a second"
        );
        run.result = result;
        row.read(&run);
        assert_eq!(row.figures().join(", "), "epoch 10/10, accuracy 74.27 %, took 1 min 00 s");
    }

    #[test]
    fn a_terminal_shows_all_runs_under_one_bar() {
        let term = InMemoryTerm::new(10, 80);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(term.clone()), 255);
        let mut bars = Bars::new(target, 10);
        let rows = [finished(), running(3, Some(0.6119)), row("alexnet, seed 42", Stage::Waiting)];
        bars.show(&rows, 0.41, Some(3720.0));
        bars.overall.tick();
        let seen = term.contents();
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines.len(), 4, "{seen}");
        assert!(
            lines[0].starts_with("1 of 3 runs ") && lines[0].ends_with(" 41 %, 1 h 02 min left"),
            "{seen}"
        );
        assert_eq!(
            lines[1..],
            [
                "nin, seed 42      finished     epoch 10/10, accuracy 74.27 %, took 25 min 03 s",
                "nin, seed 43      running      epoch 3/10, accuracy 61.19 %, 412 images/s, 15 min 00",
                "alexnet, seed 42  waiting",
            ]
            .map(|line| line.chars().take(80).collect::<String>())
        );
    }

    /// A terminal whose window was closed.
    #[derive(Debug)]
    struct Gone;

    impl indicatif::TermLike for Gone {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Err(io::Error::other("gone"))
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Err(io::Error::other("gone"))
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Err(io::Error::other("gone"))
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Err(io::Error::other("gone"))
        }
        fn write_line(&self, _: &str) -> io::Result<()> {
            Err(io::Error::other("gone"))
        }
        fn write_str(&self, _: &str) -> io::Result<()> {
            Err(io::Error::other("gone"))
        }
        fn clear_line(&self) -> io::Result<()> {
            Err(io::Error::other("gone"))
        }
        fn flush(&self) -> io::Result<()> {
            Err(io::Error::other("gone"))
        }
    }

    #[test]
    fn a_terminal_that_has_gone_is_no_panic() {
        for height in [0, 1, 10] {
            let target = ProgressDrawTarget::term_like_with_hz(Box::new(Gone), 255);
            let mut display = Display::Bars(Bars::new(target, height));
            let rows = [finished(), running(3, Some(0.6119))];
            display.started(1, 2, &rows[1], None);
            display.show(&rows, 0.4, Some(60.0));
            display.note("a message");
            display.show(&rows, 0.5, None);
        }
    }

    #[test]
    fn a_terminal_without_a_name_gets_no_bars() {
        for (term, dumb) in
            [(Some("xterm"), false), (Some("dumb"), true), (Some(""), true), (None, cfg!(unix))]
        {
            assert_eq!(is_dumb(term.map(OsStr::new)), dumb, "{term:?}");
        }
    }

    #[test]
    fn where_room_is_short_the_runs_under_way_are_shown() {
        let mut rows: Vec<Row> = (0..6).map(|i| row(&format!("r{i}"), Stage::Finished)).collect();
        rows.push(row("r6", Stage::Running));
        rows.push(row("r7", Stage::Waiting));
        let names = |room| most_interesting(&rows, room).iter().map(|row| &row.name[..]).collect::<Vec<_>>();
        assert_eq!(names(1), ["r6"]);
        assert_eq!(names(3), ["r4", "r5", "r6"]);
        assert_eq!(names(20).len(), 8);
        assert!(names(0).is_empty());
    }

    #[test]
    fn plain_lines_tell_of_epochs_and_ends_only() {
        let mut plain = Plain::default();
        let waiting = row("nin, seed 43", Stage::Waiting);
        assert!(plain.show(&[finished(), waiting]).is_empty(), "what has not changed is not reported");
        let mut show = |row: Row| plain.show(&[finished(), row]);
        assert!(show(running(1, None)).is_empty());
        assert!(show(running(1, None)).is_empty());
        assert_eq!(
            show(running(2, Some(0.4714))),
            ["nin, seed 43: epoch 2/10, accuracy 47.14 %, 412 images/s, 15 min 00 s left"]
        );
        assert!(show(running(2, Some(0.4714))).is_empty());
        let failed = row("nin, seed 43", Stage::Failed);
        assert_eq!(show(failed.clone()), ["nin, seed 43: failed"]);
        assert!(show(failed).is_empty());
    }

    #[test]
    fn templates_are_valid_and_without_colours() {
        for template in [BAR, ROW] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
            // NO_COLOR changes nothing: a colour would follow a dot.
            assert!(!template.contains('.'), "{template}");
        }
    }
}
