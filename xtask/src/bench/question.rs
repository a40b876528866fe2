//! What can be asked of a contender: the device, the precision and the kind of step to time.

use std::fmt;

use pointwise_recipe::Adam;
use serde::{Deserialize, Serialize};

use super::network::Network;
use pointwise_process::List;

/// Where a step is computed.
#[derive(Serialize, Deserialize, clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Device {
    /// The processor.
    Cpu,
    /// The first NVIDIA GPU.
    Cuda,
}

impl Device {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// Arithmetic of the products in a step on a GPU; how sums are accumulated and stored is up to the contender.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Precision {
    F32,
    Tf32,
    Bf16,
}

impl Precision {
    pub(crate) const ALL: [Self; 3] = [Self::F32, Self::Tf32, Self::Bf16];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Precisions, separated by commas.
pub(crate) fn precisions(text: &str) -> Result<List<Precision>, String> {
    List::parse(text, |part| {
        Precision::ALL
            .into_iter()
            .find(|precision| precision.name() == part)
            .ok_or_else(|| format!("`{part}` is not a precision: choose from f32, tf32, bf16"))
    })
}

/// A program that is timed. The names are those of `--only` and of records.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// Our engine.
    Pointwise,
    /// PyTorch as the notebook runs it.
    Pytorch,
    /// PyTorch with weights and images in its faster layout.
    PytorchChannelsLast,
    /// candle-nn as it comes.
    Candle,
    /// burn on the fastest of its CPU backends.
    Burn,
    /// PyTorch with its best settings on a GPU, a step as one CUDA graph.
    PytorchGraph,
    /// The same graph, of what torch.compile makes.
    PytorchCompile,
    /// The notebook as written, on a GPU.
    PytorchNotebook,
    /// ONNX Runtime, in inference.
    Onnxruntime,
    /// OpenVINO, in inference.
    Openvino,
}

impl Contender {
    pub(crate) const ALL: [Self; 10] = [
        Self::Pointwise,
        Self::Pytorch,
        Self::PytorchChannelsLast,
        Self::Candle,
        Self::Burn,
        Self::PytorchGraph,
        Self::PytorchCompile,
        Self::PytorchNotebook,
        Self::Onnxruntime,
        Self::Openvino,
    ];

    /// The contenders whose training steps can be timed on a device, ours first.
    pub(crate) fn on(device: Device) -> &'static [Self] {
        match device {
            Device::Cpu => {
                &[Self::Pointwise, Self::Pytorch, Self::PytorchChannelsLast, Self::Candle, Self::Burn]
            }
            Device::Cuda => {
                &[Self::Pointwise, Self::PytorchGraph, Self::PytorchCompile, Self::PytorchNotebook]
            }
        }
    }

    /// The contenders if none are named: without torch.compile at max-autotune, which takes minutes to begin.
    pub(crate) fn usual(device: Device) -> Vec<Self> {
        Self::on(device).iter().copied().filter(|contender| *contender != Self::PytorchCompile).collect()
    }

    /// The requested precisions that apply to it: `None` if it has a precision of its own.
    pub(crate) fn precisions(self, asked: &[Precision]) -> Vec<Option<Precision>> {
        match self {
            Self::Pointwise | Self::PytorchGraph | Self::PytorchCompile if !asked.is_empty() => {
                asked.iter().copied().map(Some).collect()
            }
            _ => vec![None],
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pointwise => "pointwise",
            Self::Pytorch => "pytorch",
            Self::PytorchChannelsLast => "pytorch-channels-last",
            Self::Candle => "candle",
            Self::Burn => "burn",
            Self::PytorchGraph => "pytorch-graph",
            Self::PytorchCompile => "pytorch-compile",
            Self::PytorchNotebook => "pytorch-notebook",
            Self::Onnxruntime => "onnxruntime",
            Self::Openvino => "openvino",
        }
    }

    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Pytorch => "PyTorch",
            Self::PytorchChannelsLast => "PyTorch channels_last",
            Self::PytorchGraph => "PyTorch, CUDA graph",
            Self::PytorchCompile => "PyTorch, compiled",
            Self::PytorchNotebook => "the notebook",
            Self::Openvino => "OpenVINO",
            other => other.name(),
        }
    }

    /// Warm-up steps and timed steps of one round; on a GPU groups of steps, of which more come first, because an idle card takes a while to
    /// reach its clock. candle takes seconds a step, so it gets only two a round.
    pub(crate) fn steps(self, asked: u32, device: Device) -> (u32, u32) {
        match (self, device) {
            (Self::Candle, _) => (1, 1),
            (_, Device::Cpu) => (2, asked),
            (_, Device::Cuda) => (10, asked),
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Contenders, separated by commas.
pub(crate) fn contenders(text: &str) -> Result<List<Contender>, String> {
    List::parse(text, |part| {
        Contender::ALL.into_iter().find(|contender| contender.name() == part).ok_or_else(|| {
            let known = Contender::ALL.map(Contender::name);
            format!("`{part}` is not a contender: choose from {}", known.join(", "))
        })
    })
}

/// What a step is.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Train,
    Eval,
    /// From images to logits, as fast as the contender can.
    Infer,
}

impl Phase {
    /// The phases of the training benchmark.
    pub(crate) const ALL: [Self; 2] = [Self::Train, Self::Eval];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
            Self::Infer => "infer",
        }
    }

    /// Passes through the network, each as much work as the forward pass: the gradients of inputs and of weights count as two.
    pub(crate) fn passes(self) -> f64 {
        match self {
            Self::Train => 3.0,
            Self::Eval | Self::Infer => 1.0,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Phases, separated by commas.
pub(crate) fn phases(text: &str) -> Result<List<Phase>, String> {
    List::parse(text, |part| {
        Phase::ALL
            .into_iter()
            .find(|phase| phase.name() == part)
            .ok_or_else(|| format!("`{part}` is not a phase: choose from train, eval"))
    })
}

/// A step for a contender to time.
#[derive(Clone, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) device: Device,
    pub(crate) network: &'a Network,
    pub(crate) phase: Phase,
    /// On a GPU, for contenders whose precision can be chosen.
    pub(crate) precision: Option<Precision>,
    pub(crate) batch: u32,
    pub(crate) adam: &'a Adam,
    pub(crate) threads: u32,
    /// Timed steps of a contender that is not slow.
    pub(crate) steps: u32,
    pub(crate) rates: Rates,
}

/// What a GPU was already measured to reach in this record: it is measured once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    /// In large products in this precision, 1e9 operations a second.
    pub(crate) peak_gflops: Option<f64>,
    /// Bytes read plus bytes written, 1e9 a second.
    pub(crate) bandwidth_gb: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_and_phases_have_the_names_of_options_and_records() {
        for contender in Contender::ALL {
            let written = serde_json::to_value(contender).unwrap();
            assert_eq!(written, contender.name());
            assert_eq!(contenders(contender.name()).unwrap().0, [contender]);
        }
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.name());
            assert_eq!(phases(phase.name()).unwrap().0, [phase]);
        }
        for precision in Precision::ALL {
            assert_eq!(serde_json::to_value(precision).unwrap(), precision.name());
            assert_eq!(precisions(precision.name()).unwrap().0, [precision]);
        }
        let error = contenders("pointwise,jax").unwrap_err();
        assert!(error.starts_with("`jax` is not a contender: choose from pointwise, pytorch,"), "{error}");
        assert!(phases("train,train").unwrap_err().contains("given twice"));
    }

    #[test]
    fn precisions_are_asked_of_those_that_can_be_told() {
        let both = [Some(Precision::F32), Some(Precision::Bf16)];
        let asked = [Precision::F32, Precision::Bf16];
        assert_eq!(Contender::Pointwise.precisions(&asked), both);
        assert_eq!(Contender::PytorchNotebook.precisions(&asked), [None]);
        // On the CPU there is no choice.
        assert_eq!(Contender::Pointwise.precisions(&[]), [None]);
        assert!(!Contender::usual(Device::Cuda).contains(&Contender::PytorchCompile));
        for contender in Contender::ALL {
            let on = [Device::Cpu, Device::Cuda].map(|device| Contender::on(device).contains(&contender));
            assert_eq!(on == [true, true], contender == Contender::Pointwise, "{contender}: {on:?}");
            let infers = matches!(contender, Contender::Onnxruntime | Contender::Openvino);
            assert_eq!(on == [false, false], infers, "{contender}");
        }
    }
}
