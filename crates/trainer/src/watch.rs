//! `trainer watch`: follows a run from its files.

use crate::args::WatchArgs;
use crate::display::{WatchDisplay, epoch_line, final_lines};
use crate::{End, print};
use anyhow::bail;
use pointwise_process::note;
use pointwise_runs::{Activity, Run};
use std::thread;
use std::time::Duration;

/// How often the files are read; a run renews its progress every two seconds.
const PERIOD: Duration = Duration::from_millis(500);

/// Ends when the run ends, in the same way: done, failed or interrupted.
pub(crate) fn run(args: &WatchArgs) -> anyhow::Result<End> {
    let shown = args.run.display();
    let mut display = WatchDisplay::new();
    let mut epochs_shown = 0;
    loop {
        // Read first: once the run has ended, the next read is complete.
        let before = Run::read(&args.run)?.activity();
        let run = Run::read(&args.run)?;
        for epoch in run.epochs().filter(|epoch| epoch.epoch > epochs_shown) {
            display.line(&epoch_line(epoch, run.config.recipe.epochs))?;
        }
        epochs_shown = run.epochs().last().map_or(epochs_shown, |epoch| epoch.epoch);
        match before {
            Activity::Running => display.progress(&run),
            Activity::Finished => {
                display.clear();
                if let Some(result) = &run.result {
                    print(&final_lines(&run.config.model, result))?;
                }
                return Ok(End::Done);
            }
            Activity::Limited => {
                display.clear();
                note!("the run in {shown} stopped at --max-steps; train --resume continues it");
                return Ok(End::Done);
            }
            Activity::Interrupted => {
                display.clear();
                note!("the run in {shown} was interrupted; train --resume continues it");
                return Ok(End::Interrupted);
            }
            Activity::Failed => bail!("the run in {shown} failed; its own output says why"),
            Activity::Stale => {
                bail!("no process is at work on the run in {shown}; train --resume continues it")
            }
        }
        thread::sleep(PERIOD);
    }
}
