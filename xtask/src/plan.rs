//! What a reproduction consists of: which runs, how each is asked for, and which of them are there already.

use std::{
    ffi::OsString,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{CommandFactory, error::ErrorKind};
use pointwise_recipe::{DataKind, EngineKind, Precision, Recipe};
use pointwise_report::{NetworkFacts, Published};
use pointwise_runs::{Run, RunConfig, holds_run};

use crate::list::List;

/// A device as the trainer names them.
pub(crate) fn device(text: &str) -> Result<String, String> {
    let numbered = |number: &str| number.parse::<usize>().is_ok();
    if matches!(text, "auto" | "cpu" | "cuda") || text.strip_prefix("cuda:").is_some_and(numbered) {
        Ok(text.to_owned())
    } else {
        Err("give auto, cpu, cuda or cuda:N".to_owned())
    }
}

/// What `--quick` trains on: enough that every network visibly learns, in about two minutes on two cores.
pub(crate) const QUICK: Quick = Quick { train_images: 2016, test_images: 504, epochs: 5 };

/// The size of a quick study.
pub(crate) struct Quick {
    /// Synthetic images to train on: sixteen whole batches.
    pub(crate) train_images: u32,
    /// Synthetic images to test on.
    pub(crate) test_images: u32,
    /// Eighty steps in all.
    pub(crate) epochs: u32,
}

/// The options of a reproduction, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Networks beside each other, without a verdict.
    pub(crate) ablation: bool,
    pub(crate) models: Vec<String>,
    pub(crate) seeds: Vec<u64>,
    pub(crate) quick: bool,
    pub(crate) epochs: u32,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) engine: Option<EngineKind>,
    pub(crate) device: Option<String>,
    pub(crate) precision: Option<Precision>,
    /// Of all runs that go on at once.
    pub(crate) threads: Option<u32>,
    /// Runs at once.
    pub(crate) jobs: u32,
    pub(crate) out: PathBuf,
}

/// One run of the plan.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) model: String,
    pub(crate) seed: u64,
    pub(crate) folder: PathBuf,
}

impl Job {
    /// In words.
    pub(crate) fn name(&self) -> String {
        format!("{}, seed {}", self.model, self.seed)
    }
}

impl Plan {
    /// Network by network.
    pub(crate) fn jobs(&self) -> Vec<Job> {
        let runs = self.out.join("runs");
        let job = |model: &str, seed: u64| Job {
            model: model.to_owned(),
            seed,
            folder: runs.join(format!("{model}-seed{seed}")),
        };
        self.models.iter().flat_map(|model| self.seeds.iter().map(move |&seed| job(model, seed))).collect()
    }

    /// The arguments of `trainer` for a run. With `--resume` the same call starts, continues or confirms it.
    pub(crate) fn train_arguments(&self, job: &Job) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        add("--model", job.model.clone().into());
        add("--seed", job.seed.to_string().into());
        add("--run-dir", job.folder.clone().into());
        add("--epochs", self.epochs.to_string().into());
        if self.quick {
            add("--data", "synthetic".into());
            add("--limit-train", QUICK.train_images.to_string().into());
            add("--limit-test", QUICK.test_images.to_string().into());
        }
        if let Some(folder) = &self.data_dir {
            add("--data-dir", folder.clone().into());
        }
        if let Some(engine) = self.engine {
            add("--engine", engine.name().into());
        }
        if let Some(device) = &self.device {
            add("--device", device.into());
        }
        if let Some(precision) = self.precision {
            add("--precision", precision.name().into());
        }
        // Of several runs each gets its share from the environment, which leaves no trace in its configuration.
        if let Some(threads) = self.threads.filter(|_| self.jobs == 1) {
            add("--threads", threads.to_string().into());
        }
        let mut all = vec!["train".into(), "--resume".into()];
        all.append(&mut arguments);
        all
    }

    /// The run in a job's folder, if there is one.
    ///
    /// # Errors
    /// If it cannot be read, or is not the run that this plan would train.
    pub(crate) fn existing(&self, job: &Job, published: &Published) -> anyhow::Result<Option<Run>> {
        if !holds_run(&job.folder) {
            return Ok(None);
        }
        let run = Run::read(&job.folder)?;
        if let Some(difference) = self.asked(job, published, &run.config).difference(&run.config) {
            bail!(
                "the run in {} has {} {}, not {} as asked now: choose another --out, or ask for what is there",
                job.folder.display(),
                difference.name,
                difference.theirs,
                difference.ours
            );
        }
        Ok(Some(run))
    }

    /// The configuration that the plan asks for. What it leaves to the trainer, and what does not decide the figures, is as
    /// stored.
    fn asked(&self, job: &Job, published: &Published, stored: &RunConfig) -> RunConfig {
        let device = self.device.as_deref().and_then(|device| device.parse().ok());
        RunConfig {
            model: job.model.clone(),
            engine: self.engine.unwrap_or(stored.engine),
            device: device.unwrap_or(stored.device),
            precision: self.precision.unwrap_or(stored.precision),
            // Real images are real images, wherever they came from: the report compares their fingerprints.
            data: match (self.quick, stored.data) {
                (true, _) => DataKind::Synthetic,
                (false, DataKind::Huggingface) => DataKind::Huggingface,
                (false, _) => DataKind::Cifar10,
            },
            recipe: Recipe { epochs: self.epochs, ..published.recipe.clone() },
            dropout: published.dropout,
            seed: job.seed,
            val_split: 0,
            init: None,
            init_sha256: None,
            limit_train: NonZeroU32::new(QUICK.train_images).filter(|_| self.quick),
            limit_test: NonZeroU32::new(QUICK.test_images).filter(|_| self.quick),
            network: None,
            ..stored.clone()
        }
    }
}

/// Seconds that a run of `model` takes, from what is `known` of networks and the seconds that a run of them took: of the same
/// network, else of the others by their multiply-accumulates (all runs of a study see as many images). `None` while nothing is
/// known.
pub(crate) fn estimate(model: &str, known: &[(&str, f64)], facts: &[NetworkFacts]) -> Option<f64> {
    let mean =
        |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let own = known.iter().filter(|(name, _)| *name == model).map(|(_, seconds)| *seconds).collect();
    mean(own).or_else(|| {
        let per_mac = known.iter().filter_map(|(name, seconds)| Some(seconds / macs(name, facts)?)).collect();
        Some(mean(per_mac)? * macs(model, facts)?)
    })
}

/// Multiply-accumulates of a network.
pub(crate) fn macs(model: &str, facts: &[NetworkFacts]) -> Option<f64> {
    facts.iter().find(|facts| facts.model == model).map(|facts| facts.macs as f64)
}

/// Seconds until the last run ends, where `slots` runs go on at once: those `running` have so many seconds left, those `waiting`
/// take so many, and the first one starts where a place becomes free.
pub(crate) fn schedule(running: &[f64], waiting: &[f64], slots: usize) -> f64 {
    let mut ends = running.to_vec();
    ends.resize(slots.max(running.len()).max(1), 0.0);
    for seconds in waiting {
        let free = (0..ends.len()).min_by(|a, b| ends[*a].total_cmp(&ends[*b])).unwrap_or(0);
        ends[free] += seconds;
    }
    ends.into_iter().fold(0.0, f64::max)
}

/// The threads of the next of several runs: `free` ones, over the `places` where a run can start now and the runs that can fill
/// them. At least one.
pub(crate) fn share(free: u32, places: usize, waiting: usize) -> u32 {
    (free / places.min(waiting).max(1) as u32).max(1)
}

/// The published recipe and the networks' names.
///
/// # Errors
/// If the published figures are not valid.
pub(crate) fn published() -> anyhow::Result<Published> {
    Published::load().context("the study cannot be set up")
}

/// The networks of the study that are asked for, or all. Ends the program, as for any value that is not possible, where one is no
/// network of the study.
pub(crate) fn study_models(asked: Option<&List<String>>, published: &Published) -> Vec<String> {
    let known: Vec<String> = published.networks.iter().map(|network| network.name.clone()).collect();
    let Some(List(models)) = asked else { return known };
    if let Some(model) = models.iter().find(|model| !known.contains(*model)) {
        let message = format!("`{model}` is not a network of the study: choose from {}", known.join(", "));
        crate::Cli::command().error(ErrorKind::InvalidValue, message).exit();
    }
    models.clone()
}

/// A path that a child process understands whatever it takes a bare name for.
pub(crate) fn program(path: &Path) -> anyhow::Result<PathBuf> {
    if !path.is_file() {
        bail!(
            "{} is not a file: give the path of a built trainer to --trainer, or leave that out",
            path.display()
        );
    }
    std::path::absolute(path).with_context(|| format!("{} cannot be resolved", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            ablation: false,
            models: vec!["nin".into(), "alexnet".into()],
            seeds: vec![42, 43],
            quick: false,
            epochs: 10,
            data_dir: None,
            engine: None,
            device: None,
            precision: None,
            threads: None,
            jobs: 1,
            out: "out".into(),
        }
    }

    fn line(plan: &Plan) -> String {
        let arguments = plan.train_arguments(&plan.jobs()[1]);
        arguments.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn options_reach_the_trainer() {
        let plain = "train --resume --model nin --seed 43 --run-dir out/runs/nin-seed43 --epochs 10";
        assert_eq!(line(&plan()), plain);
        let full = Plan {
            data_dir: Some("a b".into()),
            engine: Some(EngineKind::Cpu),
            device: Some("auto".into()),
            precision: Some(Precision::Tf32),
            threads: Some(2),
            ..plan()
        };
        let options = "--data-dir a b --engine cpu --device auto --precision tf32 --threads 2";
        assert_eq!(line(&full), format!("{plain} {options}"));
        // Several runs share the threads.
        assert_eq!(line(&Plan { threads: Some(2), jobs: 2, ..plan() }), plain);
        let quick = Plan { quick: true, ..plan() };
        assert_eq!(line(&quick), format!("{plain} --data synthetic --limit-train 2016 --limit-test 504"));
    }

    #[test]
    fn every_network_is_run_with_every_seed() {
        let jobs: Vec<_> = plan().jobs().into_iter().map(|job| (job.model, job.seed)).collect();
        let job = |model: &str, seed| (model.to_owned(), seed);
        assert_eq!(jobs, [job("nin", 42), job("nin", 43), job("alexnet", 42), job("alexnet", 43)]);
    }

    #[test]
    fn an_estimate_is_of_the_same_network_or_scaled() {
        let facts: Vec<NetworkFacts> = [("nin", 256), ("alexnet", 128)]
            .map(|(model, macs)| NetworkFacts {
                model: model.into(),
                parameters: 1,
                macs,
                layers: Vec::new(),
            })
            .into();
        assert_eq!(estimate("nin", &[], &facts), None);
        let alexnet = [("alexnet", 10.0), ("alexnet", 20.0)];
        assert_eq!(estimate("alexnet", &alexnet, &facts), Some(15.0));
        assert_eq!(estimate("nin", &alexnet, &facts), Some(30.0));
        assert_eq!(estimate("unknown", &alexnet, &facts), None);
    }

    #[test]
    fn runs_fill_the_places_that_become_free() {
        assert_eq!(schedule(&[], &[], 2), 0.0);
        assert_eq!(schedule(&[5.0], &[10.0, 20.0], 1), 35.0);
        // The second place takes 10, then 3; the first one 8, then 1.
        assert_eq!(schedule(&[8.0], &[10.0, 1.0, 3.0], 2), 12.0);
    }

    #[test]
    fn threads_are_shared_out_and_never_oversubscribed() {
        for total in 1..=9_u32 {
            for places in 1..=total as usize {
                for waiting in 1..=12_usize {
                    let (mut free, mut given) = (total, Vec::new());
                    for started in 0..places.min(waiting) {
                        let threads = share(free, places - started, waiting - started);
                        free -= threads;
                        given.push(threads);
                    }
                    assert_eq!(free, 0, "{total} {places} {waiting}: {given:?}");
                    let (least, most) = (given.iter().min(), given.iter().max());
                    assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{given:?}");
                }
            }
        }
    }
}
