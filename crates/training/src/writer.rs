//! A thread that writes the files of a run in order, while training continues.

use crate::TrainingError;
use pointwise_runs::RunFolder;
use std::any::Any;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// Writes something to the run folder.
type Task = Box<dyn FnOnce(&mut RunFolder) -> Result<(), TrainingError> + Send>;

/// The thread that has the run folder, and what it is still to write.
///
/// **Invariant:** tasks are done one after the other in the order in which they were given, and none after one that failed. So whenever
/// a run is killed, its folder is as it would be if training waited for each of them, but perhaps of an earlier time.
pub(crate) struct Writer<'scope> {
    tasks: Sender<Task>,
    /// `None` once its error was taken.
    thread: Option<ScopedJoinHandle<'scope, Result<(), TrainingError>>>,
    /// Notified when the newest checkpoint is written.
    checkpoint: Option<Receiver<()>>,
}

impl<'scope> Writer<'scope> {
    /// # Errors
    /// [`TrainingError::Thread`].
    pub(crate) fn start(
        scope: &'scope Scope<'scope, '_>,
        run: &'scope mut RunFolder,
    ) -> Result<Self, TrainingError> {
        let (tasks, given) = mpsc::channel::<Task>();
        let write = move || given.into_iter().try_for_each(|task| task(run));
        let thread = Builder::new().name("writer".to_owned()).spawn_scoped(scope, write);
        let thread = thread.map_err(|cause| TrainingError::Thread { cause })?;
        Ok(Self { tasks, thread: Some(thread), checkpoint: None })
    }

    /// Gives the thread a task, to be done after all earlier ones.
    ///
    /// # Errors
    /// That of an earlier task.
    pub(crate) fn give(
        &mut self,
        task: impl FnOnce(&mut RunFolder) -> Result<(), TrainingError> + Send + 'static,
    ) -> Result<(), TrainingError> {
        // The thread receives tasks until one fails.
        self.tasks.send(Box::new(task)).or_else(|_| self.end())
    }

    /// As [`Writer::give`], for a task that holds a copy of the state: see [`Writer::wait_for_checkpoint`].
    pub(crate) fn give_checkpoint(
        &mut self,
        task: impl FnOnce(&mut RunFolder) -> Result<(), TrainingError> + Send + 'static,
    ) -> Result<(), TrainingError> {
        self.give(task)?;
        self.checkpoint = Some(self.notice()?);
        Ok(())
    }

    /// Waits until the newest checkpoint is written. Called before each copy of the state is taken, it keeps the copies to one.
    ///
    /// # Errors
    /// That of an earlier task.
    pub(crate) fn wait_for_checkpoint(&mut self) -> Result<(), TrainingError> {
        match self.checkpoint.take() {
            Some(notice) => self.wait_for(&notice),
            None => Ok(()),
        }
    }

    /// Waits until all earlier tasks are done.
    ///
    /// # Errors
    /// That of an earlier task.
    pub(crate) fn flush(&mut self) -> Result<(), TrainingError> {
        let notice = self.notice()?;
        self.wait_for(&notice)
    }

    /// Waits until all tasks are done, for the last time.
    ///
    /// # Errors
    /// That of a task, unless it was returned before.
    pub(crate) fn finish(mut self) -> Result<(), TrainingError> {
        self.flush()
    }

    /// A receiver that is notified when all earlier tasks are done.
    fn notice(&mut self) -> Result<Receiver<()>, TrainingError> {
        let (written, notice) = mpsc::channel();
        self.give(move |_| {
            // Nobody may be waiting any more.
            let _ = written.send(());
            Ok(())
        })?;
        Ok(notice)
    }

    fn wait_for(&mut self, notice: &Receiver<()>) -> Result<(), TrainingError> {
        // A task that is never done is dropped with the thread.
        notice.recv().or_else(|_| self.end())
    }

    /// Takes the error of the thread, which has ended. There is none if it was taken before: its taker has ended the run.
    fn end(&mut self) -> Result<(), TrainingError> {
        match self.thread.take().map(ScopedJoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => Err(TrainingError::Panic(message(&*panic).to_owned())),
            None => Ok(()),
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
