use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One line of `metrics.jsonl`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// A training step.
    Step(StepRecord),
    /// The end of an epoch.
    Epoch(EpochRecord),
}

/// One training step.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct StepRecord {
    /// Counted from 1.
    pub epoch: u32,
    /// Steps since the start of the run, counted from 1.
    pub step: u64,
    /// Mean loss of the batch, nats.
    pub loss: f64,
    /// Norm of all gradients together before clipping, if they are clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Seconds since the start of the run, interruptions left out.
    pub seconds: f64,
}

/// One epoch with its evaluation. Losses are mean cross-entropies in nats, accuracies are fractions in [0, 1].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct EpochRecord {
    /// Counted from 1.
    pub epoch: u32,
    /// Steps since the start of the run.
    pub step: u64,
    /// Over the epoch, in training mode, as it went.
    pub train_loss: f64,
    /// Over the epoch, in training mode, as it went.
    pub train_acc: f64,
    /// On the test set; null where the epoch was not tested.
    pub test_loss: Option<f64>,
    /// On the test set; null where the epoch was not tested.
    pub test_acc: Option<f64>,
    /// On the held-out images, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// On the held-out images, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_acc: Option<f64>,
    /// With averaged weights: on the held-out images if there are any, else on the test set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_loss: Option<f64>,
    /// With averaged weights: on the held-out images if there are any, else on the test set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_acc: Option<f64>,
    /// The best accuracy up to here: on the held-out images if there are any, else on the test set.
    pub best_acc: f64,
    /// The epoch of `best_acc`.
    pub best_epoch: u32,
    /// Seconds this epoch trained.
    pub train_seconds: f64,
    /// Seconds this epoch evaluated.
    pub eval_seconds: f64,
    /// Seconds since the start of the run, interruptions left out.
    pub seconds: f64,
}

/// How far a run is: `progress.json`, for people and programs that follow it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Progress {
    /// The epoch under way, counted from 1; 0 before the first.
    pub epoch: u32,
    /// Epochs of the whole run.
    pub epochs: u32,
    /// Steps done.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Seconds since the start of the run, interruptions left out.
    pub seconds: f64,
    /// Recent training speed. A number that is not finite (nothing measured yet) is written as 0.
    pub images_per_second: f64,
    /// What the run is doing.
    pub state: State,
    /// When this was written, RFC 3339 UTC: see [`timestamp`](crate::timestamp).
    pub updated: String,
}

impl Progress {
    /// Seconds to the last step at the pace so far; `None` before the first step.
    pub fn seconds_left(&self) -> Option<f64> {
        (self.step > 0).then(|| self.seconds / self.step as f64 * self.steps.saturating_sub(self.step) as f64)
    }
}

/// What a run is doing. A killed run stays `running`: check `updated` as well.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Under way.
    Running,
    /// Stopped on request; it can be resumed.
    Interrupted,
    /// Stopped at `max-steps`; it can be resumed.
    Limited,
    /// Stopped by an error.
    Failed,
    /// Done; there is a result.
    Finished,
}

/// The outcome: `result.json`. Losses are mean cross-entropies in nats, accuracies are fractions in [0, 1].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct RunResult {
    /// On the test set, with the last parameters.
    pub final_loss: f64,
    /// On the test set, with the last parameters.
    pub final_acc: f64,
    /// The accuracy that chose the best epoch: on the held-out images if there are any, else on the test set.
    pub best_acc: f64,
    /// The epoch of `best_acc`, counted from 1; 0 if no epoch was completed.
    pub best_epoch: u32,
    /// On the test set, with the parameters of the best epoch.
    pub best_test_acc: Option<f64>,
    /// On the test set, with the parameters of the best epoch.
    pub best_test_loss: Option<f64>,
    /// On the test set, with the averaged weights after the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_test_acc: Option<f64>,
    /// On the test set, with the averaged weights after the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_test_loss: Option<f64>,
    /// On the test set, with the last parameters, by the mean of each image's logits over the views of the recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tta_test_acc: Option<f64>,
    /// On the test set, with the last parameters, by the mean of each image's logits over the views of the recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tta_test_loss: Option<f64>,
    /// Whether early stopping ended the training: for too long no epoch was better.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stopped_early: bool,
    /// Epochs completed.
    pub epochs: u32,
    /// Steps done.
    pub steps: u64,
    /// Seconds of the whole run, interruptions left out.
    pub seconds: f64,
    /// Seconds of training.
    pub train_seconds: f64,
    /// Seconds of evaluation.
    pub eval_seconds: f64,
    /// Peak memory of the process, with all of its runs if several share it.
    pub peak_memory_bytes: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Record {
    /// An error if a number is NaN or infinite: JSON would silently turn it into null.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Record::Step(step) => finite(&[
                ("loss", step.loss),
                ("gradient_norm", step.gradient_norm.unwrap_or(0.0)),
                ("seconds", step.seconds),
            ]),
            Record::Epoch(epoch) => finite(&[
                ("train_loss", epoch.train_loss),
                ("train_acc", epoch.train_acc),
                ("test_loss", epoch.test_loss.unwrap_or(0.0)),
                ("test_acc", epoch.test_acc.unwrap_or(0.0)),
                ("val_loss", epoch.val_loss.unwrap_or(0.0)),
                ("val_acc", epoch.val_acc.unwrap_or(0.0)),
                ("ema_loss", epoch.ema_loss.unwrap_or(0.0)),
                ("ema_acc", epoch.ema_acc.unwrap_or(0.0)),
                ("best_acc", epoch.best_acc),
                ("train_seconds", epoch.train_seconds),
                ("eval_seconds", epoch.eval_seconds),
                ("seconds", epoch.seconds),
            ]),
        }
    }
}

impl RunResult {
    /// As for [`Record::check`].
    pub(crate) fn check(&self) -> Result<()> {
        finite(&[
            ("final_loss", self.final_loss),
            ("final_acc", self.final_acc),
            ("best_acc", self.best_acc),
            ("best_test_acc", self.best_test_acc.unwrap_or(0.0)),
            ("best_test_loss", self.best_test_loss.unwrap_or(0.0)),
            ("ema_test_acc", self.ema_test_acc.unwrap_or(0.0)),
            ("ema_test_loss", self.ema_test_loss.unwrap_or(0.0)),
            ("tta_test_acc", self.tta_test_acc.unwrap_or(0.0)),
            ("tta_test_loss", self.tta_test_loss.unwrap_or(0.0)),
            ("seconds", self.seconds),
            ("train_seconds", self.train_seconds),
            ("eval_seconds", self.eval_seconds),
        ])
    }
}

fn finite(numbers: &[(&'static str, f64)]) -> Result<()> {
    match numbers.iter().find(|(_, value)| !value.is_finite()) {
        Some(&(name, value)) => Err(Error::NotFinite { name, value }),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn step(epoch: u32, step: u64) -> Record {
        Record::Step(StepRecord { epoch, step, loss: 2.3125, gradient_norm: None, seconds: 0.41 })
    }

    pub(crate) fn epoch(epoch: u32, step: u64) -> Record {
        Record::Epoch(EpochRecord {
            epoch,
            step,
            train_loss: 1.5,
            train_acc: 0.5,
            test_loss: None,
            test_acc: Some(0.25),
            val_loss: None,
            val_acc: None,
            ema_loss: None,
            ema_acc: None,
            best_acc: 0.25,
            best_epoch: 1,
            train_seconds: 3.0,
            eval_seconds: 1.0,
            seconds: 4.0,
        })
    }

    pub(crate) fn result() -> RunResult {
        RunResult {
            final_loss: 0.7,
            final_acc: 0.75,
            best_acc: 0.76,
            best_epoch: 9,
            best_test_acc: Some(0.76),
            best_test_loss: None,
            ema_test_acc: None,
            ema_test_loss: None,
            tta_test_acc: None,
            tta_test_loss: None,
            stopped_early: false,
            epochs: 10,
            steps: 3970,
            seconds: 100.0,
            train_seconds: 90.0,
            eval_seconds: 10.0,
            peak_memory_bytes: None,
        }
    }

    #[test]
    fn lines_have_the_documented_form() {
        let line = |record| serde_json::to_string(&record).unwrap();
        assert_eq!(line(step(1, 1)), r#"{"kind":"step","epoch":1,"step":1,"loss":2.3125,"seconds":0.41}"#);
        assert_eq!(
            line(epoch(2, 8)),
            r#"{"kind":"epoch","epoch":2,"step":8,"train_loss":1.5,"train_acc":0.5,"test_loss":null,"test_acc":0.25,"best_acc":0.25,"best_epoch":1,"train_seconds":3.0,"eval_seconds":1.0,"seconds":4.0}"#
        );
        for record in [step(1, 1), epoch(2, 8)] {
            assert_eq!(serde_json::from_str::<Record>(&line(record.clone())).unwrap(), record);
        }
    }

    #[test]
    fn every_number_of_a_record_is_checked() {
        // Whatever the fields are: a NaN that no check sees would be written as null.
        let Record::Epoch(full) = epoch(1, 1) else { unreachable!() };
        let nan = f64::NAN;
        let cases = [
            Record::Epoch(EpochRecord { train_loss: nan, ..full.clone() }),
            Record::Epoch(EpochRecord { train_acc: nan, ..full.clone() }),
            Record::Epoch(EpochRecord { test_loss: Some(nan), ..full.clone() }),
            Record::Epoch(EpochRecord { test_acc: Some(nan), ..full.clone() }),
            Record::Epoch(EpochRecord { val_loss: Some(nan), ..full.clone() }),
            Record::Epoch(EpochRecord { val_acc: Some(f64::INFINITY), ..full.clone() }),
            Record::Epoch(EpochRecord { ema_loss: Some(nan), ..full.clone() }),
            Record::Epoch(EpochRecord { ema_acc: Some(nan), ..full.clone() }),
            Record::Epoch(EpochRecord { best_acc: nan, ..full }),
            Record::Step(StepRecord { epoch: 1, step: 1, loss: nan, gradient_norm: None, seconds: 0.0 }),
            Record::Step(StepRecord { epoch: 1, step: 1, loss: 0.0, gradient_norm: Some(nan), seconds: 0.0 }),
        ];
        for case in cases {
            assert!(matches!(case.check(), Err(Error::NotFinite { .. })), "{case:?}");
        }
        for case in [
            RunResult { tta_test_acc: Some(nan), ..result() },
            RunResult { tta_test_loss: Some(f64::INFINITY), ..result() },
        ] {
            assert!(matches!(case.check(), Err(Error::NotFinite { .. })), "{case:?}");
        }
        let error = RunResult { final_loss: nan, ..result() }.check().unwrap_err();
        assert!(error.to_string().starts_with("final_loss is NaN"), "{error}");
    }
}
