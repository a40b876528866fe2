//! What was measured, as it is written to disk: `data/benchmarks/<date>-<processor>-<threads>threads.json`, and for a GPU
//! `data/benchmarks/<date>-<card>.json`.
//!
//! A record names the machine by its processor, its card and its driver and nothing else: no paths, hosts or users.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use pointwise_runs::replace_file;
use serde::{Deserialize, Serialize};

use super::question::{Contender, Device, Phase, Precision, Question};

/// The folder of records, in the workspace.
pub(crate) const FOLDER: &str = "data/benchmarks";

/// A benchmark: what ran where, and every row.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// The command that repeats it.
    pub(crate) command: String,
    /// The commit that was built.
    pub(crate) commit: Option<String>,
    /// Whether there were changes on top of the commit.
    pub(crate) dirty: bool,
    /// RFC 3339 UTC.
    pub(crate) started: String,
    pub(crate) processor: String,
    /// The GPU, where the steps were taken on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) card: Option<Card>,
    /// Operating system and architecture.
    pub(crate) os: String,
    /// Logical processors.
    pub(crate) cores: u32,
    /// Computing threads of every contender.
    pub(crate) threads: u32,
    /// Images in a batch.
    pub(crate) batch: u32,
    pub(crate) rounds: u32,
    /// Whether it was interrupted: rows are missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unfinished: bool,
    pub(crate) rustc: Option<String>,
    /// The compiler's flags for the peers in Rust; ours is built without.
    pub(crate) peer_flags: String,
    /// In the order of the first round.
    pub(crate) contenders: Vec<Entered>,
    pub(crate) skipped: Vec<Skipped>,
    /// Networks that a contender's library cannot express.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) lacking: Vec<Lacking>,
    /// A sentence for each process that failed.
    pub(crate) failures: Vec<String>,
    pub(crate) rows: Vec<Entry>,
    /// Whole studies of ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) studies: Vec<StudyTime>,
}

/// A GPU.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) name: String,
    /// Version of NVIDIA's driver; `None` if unknown.
    pub(crate) driver: Option<String>,
}

/// How long a whole study took, from the start of the first program to the end of the last.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct StudyTime {
    /// From 1.
    pub(crate) round: u32,
    pub(crate) precision: Precision,
    /// Passes over the training images, each followed by an evaluation.
    pub(crate) epochs: u32,
    /// Whether every program generated its own images.
    pub(crate) synthetic: bool,
    /// One program after the other.
    pub(crate) networks: Vec<NetworkTime>,
    pub(crate) seconds: f64,
}

/// A network's share of a study, start-up included.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct NetworkTime {
    pub(crate) model: String,
    pub(crate) seconds: f64,
}

/// A contender that was timed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Entered {
    pub(crate) contender: Contender,
    pub(crate) version: Option<String>,
    pub(crate) detail: String,
    /// Steps before the clock started, in each process.
    pub(crate) warmup: u32,
    /// Timed steps of each process.
    pub(crate) steps: u32,
}

/// A contender that was not installed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Skipped {
    pub(crate) contender: Contender,
    /// With how to install it.
    pub(crate) reason: String,
}

/// A network that a contender's library cannot express.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Lacking {
    pub(crate) contender: Contender,
    pub(crate) model: String,
    /// What it lacks.
    pub(crate) reason: String,
}

impl Lacking {
    pub(crate) fn is_of(&self, contender: Contender, model: &str) -> bool {
        self.contender == contender && self.model == model
    }
}

/// A row with its place in the benchmark.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// From 1.
    pub(crate) round: u32,
    /// The contender's place in the order of the round, among those it is compared with, from 1.
    pub(crate) place: u32,
    #[serde(flatten)]
    pub(crate) row: Row,
}

/// What one process measured: the line of JSON that every contender prints.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) contender: Contender,
    pub(crate) version: Option<String>,
    pub(crate) model: String,
    pub(crate) phase: Phase,
    /// On a GPU, for contenders whose precision can be chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) precision: Option<Precision>,
    pub(crate) batch: u32,
    pub(crate) threads: u32,
    /// Of each timed step; on a GPU, where the host works ahead, the mean of each group of them.
    pub(crate) seconds: Vec<f64>,
    /// Steps in a group, where it is not 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<u32>,
    /// The largest resident set of the process; `None` if the system does not report it.
    pub(crate) peak_memory_bytes: Option<u64>,
    /// What else affects the figures.
    pub(crate) detail: String,
    /// Trainable values of the network that was timed; only the oldest records lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parameters: Option<u64>,
    /// Multiply-accumulates of one forward pass of one image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) macs_per_image: Option<u64>,
    /// The measured peak of the machine's arithmetic with this many threads, 1e9 operations a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peak_gflops: Option<f64>,
    /// The measured bandwidth of a GPU's memory, bytes read plus bytes written, 1e9 a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth_gb: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) floor: Option<Floor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) layers: Option<Vec<LayerTime>>,
}

/// A lower bound of a step's time.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub(crate) struct Floor {
    /// Arithmetic of a step, 1e9 operations.
    pub(crate) gflop: f64,
    /// Bytes that a step has to move through the GPU's memory, 1e9.
    pub(crate) gbytes: f64,
    /// The longer of the two times at the measured rates.
    pub(crate) seconds: f64,
}

/// A part of a step.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct LayerTime {
    /// The layer's place, such as `features.4`.
    pub(crate) path: String,
    /// How the engine computes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<String>,
    pub(crate) forward_seconds: f64,
    /// `None` in evaluation.
    #[serde(default)]
    pub(crate) backward_seconds: Option<f64>,
    /// Arithmetic of both passes counted as direct convolution, 1e9 operations.
    #[serde(default)]
    pub(crate) gflop: Option<f64>,
}

impl Row {
    /// Parses a contender's output.
    ///
    /// # Errors
    /// If it is not one object with all the fields of a row.
    pub(crate) fn parse(output: &[u8]) -> anyhow::Result<Self> {
        let row: Self = serde_json::from_slice(output)?;
        ensure!(!row.seconds.is_empty(), "it has no timed step");
        ensure!(
            row.seconds.iter().all(|seconds| seconds.is_finite() && *seconds > 0.0),
            "it has a step that took no time"
        );
        Ok(row)
    }

    /// Checks that the row answers what was asked.
    ///
    /// # Errors
    /// Naming what differs.
    pub(crate) fn check(&self, contender: Contender, question: &Question<'_>) -> anyhow::Result<()> {
        let steps = contender.steps(question.steps, question.device).1 as usize;
        let name = |precision: Option<Precision>| precision.map_or("none", Precision::name).to_owned();
        for (what, asked, answered) in [
            ("contender", contender.to_string(), self.contender.to_string()),
            ("model", question.network.name.clone(), self.model.clone()),
            ("phase", question.phase.to_string(), self.phase.to_string()),
            // If none was asked for, the contender has one of its own.
            ("precision", name(question.precision), name(question.precision.and(self.precision))),
            ("batch", question.batch.to_string(), self.batch.to_string()),
            ("threads", question.threads.to_string(), self.threads.to_string()),
            ("steps", steps.to_string(), self.seconds.len().to_string()),
        ] {
            ensure!(
                asked == answered,
                "{contender} was asked for {what} {asked} and timed {what} {answered}"
            );
        }
        let (model, described) = (&self.model, question.network.parameters);
        match self.parameters {
            Some(parameters) => ensure!(
                parameters == described,
                "{contender} timed a {model} of {parameters} parameters, and ours has {described}"
            ),
            None => bail!("{contender} does not say how many parameters its {model} has"),
        }
        Ok(())
    }

    /// Removes what means nothing in a record.
    pub(crate) fn settle(&mut self, question: &Question<'_>) {
        self.precision = question.precision;
        self.group = self.group.filter(|group| *group != 1);
    }
}

impl Record {
    pub(crate) fn device(&self) -> Device {
        if self.card.is_some() { Device::Cuda } else { Device::Cpu }
    }

    /// The name of its file.
    pub(crate) fn file_name(&self) -> String {
        let date = date(&self.started);
        match &self.card {
            Some(card) => format!("{date}-{}.json", slug(&card.name)),
            None => format!("{date}-{}-{}threads.json", slug(&self.processor), self.threads),
        }
    }

    /// Reads a record.
    ///
    /// # Errors
    /// If the file cannot be read or holds something else.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => bail!("{shown} cannot be read: {error}"),
        };
        match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(record),
            Err(error) => bail!("{shown} is not a benchmark record: {error}"),
        }
    }

    /// Writes the record.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("the folder {} cannot be created", folder.display()))?;
        }
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(replace_file(path, &bytes)?)
    }
}

/// The newest record of a device in a folder, by its start; `None` if there is none.
///
/// # Errors
/// If one cannot be read.
pub(crate) fn newest(folder: &Path, device: Device) -> anyhow::Result<Option<PathBuf>> {
    let mut found: Option<(String, PathBuf)> = None;
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.with_context(|| format!("{} cannot be listed", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let record = Record::read(&path)?;
            if record.device() == device {
                found = found.max(Some((record.started, path)));
            }
        }
    }
    Ok(found.map(|(_, path)| path))
}

/// The day of a time in RFC 3339.
pub(super) fn date(time: &str) -> &str {
    time.split('T').next().unwrap_or_default()
}

/// Letters and digits, joined by hyphens: `amd-epyc-7b13`.
pub(super) fn slug(processor: &str) -> String {
    let plain = processor.replace("(R)", " ").replace("(TM)", " ").to_lowercase();
    let words = plain.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::network::Network;
    use crate::bench::question::Rates;
    use pointwise_recipe::Adam;

    /// As all contenders print it.
    const LINE: &str = r#"{"contender":"pytorch-channels-last","version":"2.15.0","model":"nin","phase":"train","batch":126,
        "parameters":1485386,"threads":2,"seconds":[1.5,1.25],"peak_memory_bytes":null,"detail":"eager"}"#;

    static ADAM: Adam = Adam { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };

    fn nin() -> Network {
        Network {
            name: "nin".into(),
            asked: "nin".into(),
            parameters: 1_485_386,
            macs: 7,
            graph: "nin.json".into(),
        }
    }

    fn question(network: &Network) -> Question<'_> {
        Question {
            device: Device::Cpu,
            network,
            phase: Phase::Train,
            precision: None,
            batch: 126,
            adam: &ADAM,
            threads: 2,
            steps: 2,
            rates: Rates::default(),
        }
    }

    #[test]
    fn a_line_is_a_row() {
        let row = Row::parse(LINE.as_bytes()).unwrap();
        assert_eq!((row.seconds.as_slice(), row.peak_memory_bytes), ([1.5, 1.25].as_slice(), None));
        assert_eq!((row.contender, row.phase), (Contender::PytorchChannelsLast, Phase::Train));
        row.check(Contender::PytorchChannelsLast, &question(&nin())).unwrap();

        let more = LINE.replace(
            "\"detail\"",
            r#""macs_per_image":7,"peak_gflops":140.5,"warmup":2,
               "layers":[{"path":"features.0","method":"patches","forward_seconds":0.5,"backward_seconds":1.0,"gflop":2.0},
                         {"path":"features.1","forward_seconds":0.25}],"detail""#,
        );
        let row = Row::parse(more.as_bytes()).unwrap();
        assert_eq!((row.macs_per_image, row.peak_gflops), (Some(7), Some(140.5)));
        let layers = row.layers.unwrap();
        assert_eq!((layers[0].method.as_deref(), &layers[1].method), (Some("patches"), &None));
        assert_eq!((layers[0].backward_seconds, layers[1].backward_seconds), (Some(1.0), None));
    }

    #[test]
    fn what_is_not_a_row_is_refused() {
        for (from, to, says) in [
            ("[1.5,1.25]", "[]", "no timed step"),
            ("1.25", "0.0", "took no time"),
            ("1.25", "-1.0", "took no time"),
            ("1.25", "null", "invalid type: null"),
            ("\"train\"", "\"test\"", "unknown variant `test`"),
            ("pytorch-channels-last", "jax", "unknown variant `jax`"),
            ("\"batch\":126,", "", "missing field `batch`"),
            ("{", "step 1\n{", "expected value"),
            ("\"eager\"}", "\"eager\"} {}", "trailing characters"),
        ] {
            let error = Row::parse(LINE.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{from} as {to}: {error}");
        }
    }

    #[test]
    fn a_row_that_answers_another_question_is_refused() {
        for (from, to, says) in [
            ("\"nin\"", "\"alexnet\"", "model nin and timed model alexnet"),
            ("\"train\"", "\"eval\"", "phase train and timed phase eval"),
            ("126", "125", "batch 126 and timed batch 125"),
            ("\"threads\":2", "\"threads\":1", "threads 2 and timed threads 1"),
            ("[1.5,1.25]", "[1.5]", "steps 2 and timed steps 1"),
            ("1485386", "1485385", "timed a nin of 1485385 parameters, and ours has 1485386"),
            ("1485386", "null", "does not say how many parameters its nin has"),
            (
                "pytorch-channels-last",
                "pytorch",
                "contender pytorch-channels-last and timed contender pytorch",
            ),
        ] {
            let row = Row::parse(LINE.replacen(from, to, 1).as_bytes()).unwrap();
            let error = row.check(Contender::PytorchChannelsLast, &question(&nin())).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_precision_that_was_asked_for_must_be_answered() {
        let nin = nin();
        let asked = Question { precision: Some(Precision::Bf16), ..question(&nin) };
        let contender = Contender::PytorchChannelsLast;
        let line = |precision: &str| {
            LINE.replace("\"batch\"", &format!("\"precision\":{precision},\"group\":1,\"batch\""))
        };
        for (answered, says) in [("\"tf32\"", "timed precision tf32"), ("null", "timed precision none")] {
            let row = Row::parse(line(answered).as_bytes()).unwrap();
            let error = row.check(contender, &asked).unwrap_err().to_string();
            assert!(error.contains("precision bf16") && error.contains(says), "{error}");
        }
        let mut row = Row::parse(line("\"bf16\"").as_bytes()).unwrap();
        row.check(contender, &asked).unwrap();
        // If it was not asked for, the record does not have it.
        row.check(contender, &question(&nin)).unwrap();
        row.settle(&question(&nin));
        assert_eq!((row.precision, row.group), (None, None));
    }

    #[test]
    fn processors_make_file_names() {
        assert_eq!(slug("AMD EPYC"), "amd-epyc");
        assert_eq!(slug("Intel(R) Xeon(R) CPU @ 2.20GHz"), "intel-xeon-cpu-2-20ghz");
        let record = super::super::testing::record();
        assert_eq!(record.file_name(), "2026-01-31-some-cpu-2threads.json");
        assert_eq!(super::super::testing::gpu_record().file_name(), "2026-02-28-some-gpu-80gb.json");
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let record = super::super::testing::record();
        let path = folder.path().join("deep/record.json");
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), record);
    }

    #[test]
    fn the_newest_record_is_the_one_started_last() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest(&folder.path().join("none"), Device::Cpu).unwrap(), None);
        let mut record = super::super::testing::record();
        for (name, started) in [
            ("2026-02-01-a-2threads.json", "2026-02-01T10:00:00Z"),
            ("2026-02-01-b-2threads.json", "2026-02-01T09:00:00Z"),
        ] {
            record.started = started.to_owned();
            record.write(&folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("notes.md"), "").unwrap();
        let of = |device| newest(folder.path(), device).unwrap();
        assert!(of(Device::Cpu).unwrap().ends_with("2026-02-01-a-2threads.json"));
        assert_eq!(of(Device::Cuda), None);
        let gpu = super::super::testing::gpu_record();
        gpu.write(&folder.path().join("gpu.json")).unwrap();
        assert!(of(Device::Cuda).unwrap().ends_with("gpu.json"));
        assert!(of(Device::Cpu).unwrap().ends_with("2026-02-01-a-2threads.json"));

        fs::write(folder.path().join("cut.json"), "{\"command\":").unwrap();
        let error = newest(folder.path(), Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("cut.json is not a benchmark record: EOF"), "{error}");
        let error = Record::read(&folder.path().join("no.json")).unwrap_err().to_string();
        assert!(error.contains("no.json cannot be read"), "{error}");
    }
}
