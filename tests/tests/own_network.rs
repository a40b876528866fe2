//! A network that a file describes, through the real binary: trained, resumed, evaluated and trained again without the file.

use pointwise_tests::{checkpoint, fail, metrics, succeed, write_binary_layout};
use std::fs;
use std::path::Path;

/// A residual sum, a concatenation, a gate, a depthwise convolution, dropout, rules for initial values.
const NETWORK: &str = r#"
name = "mine"
about = "Everything that no published network of the study has"
input = [3, 32, 32]
layers = [
    { name = "stem", Conv2d = { out_channels = 12, kernel_size = 3, stride = 2, padding = 1, bias = false } },
    { name = "norm", BatchNorm2d = { momentum = 0.2 } }, "SiLU",
    { name = "block", Sum = [
        [
            { name = "depthwise", Conv2d = { out_channels = 12, kernel_size = 3, padding = 1, groups = 12, bias = false } },
            { name = "norm", BatchNorm2d = {} }, "ReLU6",
            { name = "gate", Multiply = [[], [
                "AdaptiveAvgPool2d", { name = "fc", Conv2d = { out_channels = 12, kernel_size = 1 } }, "Sigmoid",
            ]] },
            { name = "pointwise", Conv2d = { out_channels = 12, kernel_size = 1 } },
        ],
        [], # the identity
    ] },
    { Concat = [[], [{ name = "grow", Conv2d = { out_channels = 5, kernel_size = [1, 3], padding = [0, 1] } }]] },
    { MaxPool2d = { kernel_size = 3, stride = 2, padding = 1 } },
    "GELU", "AdaptiveAvgPool2d", "Flatten", { Dropout = { p = 0.2 } },
    { name = "fc", Linear = { out_features = 10 } },
]
initial = [{ layer = "Conv2d", parameter = "weight", rule = { kaiming_normal = { mode = "fan_out", nonlinearity = "relu" } } }]
"#;

const SHORT: [&str; 12] = [
    "--data",
    "synthetic",
    "--limit-train",
    "20",
    "--limit-test",
    "10",
    "--batch-size",
    "4",
    "--epochs",
    "2",
    "--seed",
    "7",
];

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

fn train(file: &str, run: &Path, more: &[&str]) -> String {
    let line = ["train", "--model", file, "--run-dir", text(run)];
    succeed(line.iter().chain(&SHORT).chain(more))
}

#[test]
fn it_is_trained_resumed_and_used_without_its_file() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    let file = path("mine.toml");
    fs::write(&file, NETWORK).unwrap();
    let (whole, parts, again, other) = (path("whole"), path("parts"), path("again"), path("other"));
    let said = train(text(&file), &whole, &[]);
    assert!(said.contains("\nFinal MINE Test Accuracy: "), "{said}");

    // In two parts, on other numbers of threads, to the same bytes.
    train(text(&file), &parts, &["--max-steps", "7", "--threads", "1"]);
    fs::remove_file(&file).unwrap();
    succeed(["train", "--resume", "--run-dir", text(&parts), "--threads", "3"]);
    assert!(checkpoint(&whole, "last") == checkpoint(&parts, "last"));
    assert_eq!(metrics(&whole), metrics(&parts));

    // Repeated from its configuration, evaluated and used.
    succeed(["train", "--config", text(&whole.join("config.toml")), "--run-dir", text(&again)]);
    assert!(checkpoint(&whole, "last") == checkpoint(&again, "last"));
    let best = whole.join("checkpoints/best.safetensors");
    let figures =
        succeed(["eval", "--checkpoint", text(&best), "--data", "synthetic", "--limit", "10", "--json"]);
    assert!(figures.contains("\"model\": \"mine\"") && figures.contains("\"images\": 10"), "{figures}");
    succeed(["report", text(&whole), "--out", text(&path("report.html"))]);

    // Another description under the same name is another network; its own dropout counts, and an option for it.
    fs::write(&file, NETWORK.replace("out_channels = 5", "out_channels = 6")).unwrap();
    let resumed = ["train", "--resume", "--model", text(&file), "--run-dir", text(&whole), "--epochs", "3"];
    let message = fail(1, resumed);
    assert!(message.contains("another description of `mine`"), "{message}");
    let line = ["train", "--resume", "--run-dir", text(&whole), "--epochs", "3", "--dropout", "0.5"];
    let message = fail(1, line);
    assert!(message.contains("dropout 0.2, not 0.5"), "{message}");
    train(text(&file), &other, &["--dropout", "0"]);
    let config = fs::read_to_string(other.join("config.toml")).unwrap();
    assert!(config.contains("\ndropout = 0.0\n") && config.contains("Dropout = { p = 0.0 }"), "{config}");
    let message =
        fail(1, ["train", "--init", text(&best), "--model", text(&file), "--run-dir", text(&path("no"))]);
    assert!(message.contains("grow"), "{message}");
}

#[test]
fn what_does_not_fit_is_a_sentence_before_anything_is_written() {
    let temp = tempfile::tempdir().unwrap();
    let (file, run, data) =
        (temp.path().join("wrong.toml"), temp.path().join("run"), temp.path().join("data"));
    // Synthetic images have the shape and number of classes that the network takes.
    fs::create_dir(&data).unwrap();
    write_binary_layout(&data, 20);
    for (from, to, code, words) in [
        ("momentum", "momentun", 2, &["wrong.toml", "line 7", "momentun"][..]),
        ("SiLU", "Silu", 2, &["line 7", "Silu", "SiLU"]),
        ("groups = 12", "groups = 5", 2, &["block.depthwise", "5"]),
        ("stride = 2, padding = 1 } }", "stride = 2, padding = 2 } }", 2, &["MaxPool2d", "half"]),
        ("[3, 32, 32]", "[1, 28, 28]", 1, &["[1, 28, 28]", "[3, 32, 32]"]),
        ("out_features = 10", "out_features = 7", 1, &["7", "10 classes"]),
        ("\"Flatten\", ", "", 2, &["Linear"]),
        ("name = \"mine\"", "name = ", 2, &["line 2"]),
    ] {
        let wrong = NETWORK.replace(from, to);
        assert_ne!(wrong, NETWORK, "{from}");
        fs::write(&file, wrong).unwrap();
        let line = ["train", "--model", text(&file), "--run-dir", text(&run), "--data-dir", text(&data)];
        let message = fail(code, line);
        assert!(words.iter().all(|word| message.contains(word)), "{to}: {message}");
        assert!(!run.exists(), "{to}");
    }
    // More than any machine has.
    fs::write(&file, NETWORK.replace("out_channels = 5", "out_channels = 65536")).unwrap();
    let line = ["bench", "--model", text(&file), "--batch", "65536"];
    assert!(fail(1, line).contains("of memory"));
}

#[test]
fn a_shipped_network_is_printed_and_read_again() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("resnet20.toml");
    let printed = succeed(["summary", "--model", "resnet20", "--toml"]);
    fs::write(&file, &printed).unwrap();
    assert_eq!(
        succeed(["summary", "--model", "resnet20", "--json"]),
        succeed(["summary", "--model", text(&file), "--json"])
    );
    let list = succeed(["summary"]);
    for name in ["alexnet_plain", "resnet18", "mobilenetv2", "nin-nopad-relu-r4"] {
        assert!(list.lines().any(|line| line.starts_with(name)), "{name}: {list}");
    }
    let schema = succeed(["summary", "--schema"]);
    assert!(schema.contains("\"Conv2d\"") && schema.contains("additionalProperties"), "{schema}");
}
