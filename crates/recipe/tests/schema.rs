//! The JSON Schema of a recipe: what editors accept is what the program accepts.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod json_schema;

use json_schema::is_valid as is_valid_by;
use pointwise_recipe::{Adam, Recipe};
use serde_json::Value;

/// Recipes on both sides of each limit, as TOML: lines to append to three that make a recipe.
const CASES: &[&str] = &[
    "",
    "dropout = 1",
    "epochs = 3",
    "shuffle = 1",
    "shuffle = false",
    "label-smoothing = 0",
    "label-smoothing = 0.999",
    "label-smoothing = 1.0",
    "label-smoothing = -0.1",
    "clip-norm = 0",
    "clip-norm = 1",
    "clip-norm = 1e39",
    "clip-norm = \"1\"",
    "ema = {}",
    "ema = { decay = 0.0 }",
    "ema = { decay = 1.0 }",
    "ema = 0.9",
    "last-epoch = 0",
    "last-epoch = 0.5",
    "last-epoch = 1.5",
    "drop-last = true",
    "drop-last = 0",
    "lookahead = {}",
    "lookahead = { every = 0 }",
    "lookahead = { every = 5, decay = 0.9, power = 3 }",
    "lookahead = { decay = 1 }",
    "lookahead = { power = -1 }",
    "parameter-groups = [{ max_dims = 1, frozen_after = 0 }]",
    "parameter-groups = [{ max_dims = 1, frozen_after = -1 }]",
    "test-time-augmentation = { flip = true }",
    "test-time-augmentation = { translate = 5000 }",
    "early-stopping = {}",
    "early-stopping = { patience = 0 }",
    "early-stopping = { patience = 3 }",
    "early-stopping = { patience = 2000000 }",
    "schedule = \"constant\"",
    "schedule = \"cosine\"",
    "schedule = \"MultiStepLR\"",
    "schedule = \"CosineAnnealingLR\"",
    "schedule = \"OneCycleLR\"",
    "schedule = \"PiecewiseLinear\"",
    "schedule = 3",
    "schedule = {}",
    "schedule = { constant = {} }",
    "schedule = { constant = { lr = 1 } }",
    "schedule = { constant = {}, OneCycleLR = {} }",
    "schedule = { MultiStepLR = {} }",
    "schedule = { MultiStepLR = { milestones = [] } }",
    "schedule = { MultiStepLR = { milestones = [0] } }",
    "schedule = { MultiStepLR = { milestones = [1, 9007199254740992] } }",
    "schedule = { MultiStepLR = { milestones = [9007199254740994] } }",
    "schedule = { MultiStepLR = { milestones = [1.5] } }",
    "schedule = { MultiStepLR = { milestones = [1], gamma = 0 } }",
    "schedule = { MultiStepLR = { milestones = [1], gamma = 2 } }",
    "schedule = { MultiStepLR = { milestones = [1], by = \"step\" } }",
    "schedule = { MultiStepLR = { milestones = [1], by = \"batch\" } }",
    "schedule = { CosineAnnealingLR = { T_max = 0 } }",
    "schedule = { CosineAnnealingLR = { T_max = 1, eta_min = 0, by = \"epoch\" } }",
    "schedule = { CosineAnnealingLR = { t_max = 1 } }",
    "schedule = { CosineAnnealingLR = { eta_min = -1 } }",
    "schedule = { OneCycleLR = { total_steps = 0 } }",
    "schedule = { OneCycleLR = { total_steps = 1 } }",
    "schedule = { OneCycleLR = { pct_start = 0 } }",
    "schedule = { OneCycleLR = { pct_start = 1 } }",
    "schedule = { OneCycleLR = { pct_start = 0.5, three_phase = false } }",
    "schedule = { OneCycleLR = { pct_start = 0.5, three_phase = true } }",
    "schedule = { OneCycleLR = { pct_start = 0.4, three_phase = true } }",
    "schedule = { OneCycleLR = { three_phase = true } }",
    "schedule = { OneCycleLR = { anneal_strategy = \"linear\" } }",
    "schedule = { OneCycleLR = { anneal_strategy = \"line\" } }",
    "schedule = { OneCycleLR = { base_momentum = 1 } }",
    "schedule = { OneCycleLR = { base_momentum = 0, max_momentum = 0 } }",
    "schedule = { OneCycleLR = { max_momentum = -0.1 } }",
    "schedule = { OneCycleLR = { div_factor = 0 } }",
    "schedule = { OneCycleLR = { final_div_factor = 0 } }",
    "schedule = { OneCycleLR = { div_factor = 0.5, final_div_factor = 0.5 } }",
    "schedule = { PiecewiseLinear = { points = [] } }",
    "schedule = { PiecewiseLinear = { points = [[0, 1]] } }",
    "schedule = { PiecewiseLinear = { points = [[0]] } }",
    "schedule = { PiecewiseLinear = { points = [[0, 1, 2]] } }",
    "schedule = { PiecewiseLinear = { points = [[0, -1]] } }",
    "schedule = { PiecewiseLinear = { points = [[-1, 1]] } }",
    "warmup = {}",
    "warmup = 5",
    "warmup = { steps = 0 }",
    "warmup = { steps = 1 }",
    "warmup = { epochs = 0 }",
    "warmup = { epochs = 0.5 }",
    "warmup = { epochs = 1, steps = 1 }",
    "warmup = { start_factor = 0.5 }",
    "warmup = { steps = 1, start_factor = 0 }",
    "warmup = { steps = 1, start_factor = 1 }",
    "warmup = { steps = 1, start_factor = 1.5 }",
    "warmup = { steps = 1, end_factor = 1 }",
    "parameter-groups = []",
    "parameter-groups = {}",
    "parameter-groups = [{}]",
    "parameter-groups = [{ weight_decay = 0 }]",
    "parameter-groups = [{ max_dims = 1 }, { names = \"*\" }]",
    "parameter-groups = [{ max_dims = 0 }]",
    "parameter-groups = [{ max_dims = 5 }]",
    "parameter-groups = [{ max_dims = 1, lr_factor = -1 }]",
    "parameter-groups = [{ max_dims = 1, lr_factor = 0, weight_decay = 0 }]",
    "parameter-groups = [{ max_dims = 1, weight_decay = -1 }]",
    "parameter-groups = [{ max_dims = 1, lr = 1 }]",
    "augment = \"none\"",
    "augment = \"crop-flip\"",
    "augment = \"flip\"",
    "augment = {}",
    "augment = { crop = 4096, cutout = 4096, flip = \"none\", padding_mode = \"reflect\" }",
    "augment = { crop = 4097 }",
    "augment = { cutout = 4097 }",
    "augment = { crop = -1 }",
    "augment = { flip = true }",
    "augment = { rotate = 1 }",
    "normalise = \"dataset\"",
    "normalise = \"measured\"",
    "normalise = \"imagenet\"",
    "normalise = {}",
    "normalise = { mean = [0], std = [1] }",
    "normalise = { mean = [0, 0, 0], std = [1, 1, 1] }",
    "normalise = { mean = [0, 0], std = [1] }",
    "normalise = { mean = [0], std = [1, 1] }",
    "normalise = { mean = [0], std = [0] }",
    "normalise = { mean = [], std = [1] }",
    "normalise = { mean = [0] }",
];

const OPTIMIZERS: &[&str] = &[
    "\"SGD\"",
    "\"sgd\"",
    "3",
    "{}",
    "{ SGD = {} }",
    "{ SGD = {}, Adam = {} }",
    "{ SGD = { lr = 0 } }",
    "{ SGD = { lr = 1e-300 } }",
    "{ SGD = { lr = 1e39 } }",
    "{ SGD = { momentum = 1 } }",
    "{ SGD = { momentum = -0.5 } }",
    "{ SGD = { weight_decay = -1 } }",
    "{ SGD = { nesterov = false } }",
    "{ SGD = { nesterov = true } }",
    "{ SGD = { nesterov = true, momentum = 0 } }",
    "{ SGD = { nesterov = true, momentum = 0.9 } }",
    "{ SGD = { betas = [0, 0] } }",
    "{ Adam = { betas = [0, 0.5] } }",
    "{ Adam = { betas = [0, 1] } }",
    "{ Adam = { betas = [-0.1, 0] } }",
    "{ Adam = { betas = [0.9] } }",
    "{ Adam = { betas = [0.9, 0.9, 0.9] } }",
    "{ Adam = { betas = 0.9 } }",
    "{ Adam = { eps = 0, weight_decay = 0 } }",
    "{ Adam = { eps = -1 } }",
    "{ AdamW = { lr = 0 } }",
    "{ AdamW = { lr = 1, betas = [0.1, 0.2], eps = 1, weight_decay = 1 } }",
    "{ AdamW = { betas = [1, 0] } }",
    "{ AdamW = { weight_decay = -1 } }",
    "{ AdamW = { amsgrad = true } }",
];

/// Whole numbers, from the least to the most and beyond.
const LENGTHS: &[(&str, &str)] = &[
    ("1", "1"),
    ("0", "1"),
    ("1", "0"),
    ("1000000", "65536"),
    ("1000001", "1"),
    ("1", "65537"),
    ("1.5", "1"),
];

/// Errors of an order or a product, which a schema cannot express.
const BEYOND: &[&str] = &[
    "schedule = { MultiStepLR = { milestones = [3, 1] } }",
    "schedule = { MultiStepLR = { milestones = [1, 1], gamma = 1e38 } }",
    "schedule = { PiecewiseLinear = { points = [[1, 0], [0, 1]] } }",
];

#[test]
fn the_schema_and_the_program_agree() {
    let schema = Recipe::json_schema();
    let is_valid = |text: &str| {
        let value: Value = toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        is_valid_by(&value, &schema, &schema)
    };
    let lines = CASES.iter().map(|line| format!("epochs = 1\nbatch-size = 1\noptimizer = \"SGD\"\n{line}\n"));
    let optimizers =
        OPTIMIZERS.iter().map(|kind| format!("epochs = 1\nbatch-size = 1\noptimizer = {kind}\n"));
    let lengths = LENGTHS
        .iter()
        .map(|(epochs, size)| format!("epochs = {epochs}\nbatch-size = {size}\noptimizer = \"Adam\"\n"));
    let missing = [
        "epochs = 1\nbatch-size = 1",
        "epochs = 1\noptimizer = \"SGD\"",
        "batch-size = 1\noptimizer = \"SGD\"",
    ];
    let texts: Vec<String> =
        lines.chain(optimizers).chain(lengths).chain(missing.map(str::to_owned)).collect();
    let (mut good, mut wrong) = (0, Vec::new());
    // A duplicate key is an error of TOML, which the JSON never shows.
    for text in texts.iter().filter(|text| text.parse::<toml::Table>().is_ok()) {
        let read = Recipe::from_toml(text);
        good += usize::from(read.is_ok());
        if is_valid(text) != read.is_ok() {
            wrong.push(format!("{text}the program says {read:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), texts.len(), wrong.join("\n\n"));
    assert!(good > 30 && texts.len() - good > 70, "{good} of {}", texts.len());

    for line in BEYOND {
        let text = format!("epochs = 1\nbatch-size = 1\noptimizer = \"SGD\"\n{line}\n");
        assert!(is_valid(&text) && Recipe::from_toml(&text).is_err(), "{line}");
    }
    // What we write is valid for an editor, too.
    assert!(is_valid(&Recipe::new(1, 1, Adam::default()).to_toml()));
}

/// Every key has a description, which an editor shows.
#[test]
fn every_key_is_described() {
    fn look(path: &str, schema: &Value, missing: &mut Vec<String>) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (key, property) in properties {
                let is_kind =
                    property.get("properties").is_some() || property.get("type") == Some(&"object".into());
                if property.get("description").is_none() && property.get("$ref").is_none() && !is_kind {
                    missing.push(format!("{path}.{key}"));
                }
                look(&format!("{path}.{key}"), property, missing);
            }
        }
        for list in ["anyOf", "oneOf"] {
            for alternative in schema.get(list).and_then(Value::as_array).into_iter().flatten() {
                look(path, alternative, missing);
            }
        }
        for (name, definition) in schema.get("$defs").and_then(Value::as_object).into_iter().flatten() {
            look(name, definition, missing);
        }
    }
    let mut missing = Vec::new();
    look("", &Recipe::json_schema(), &mut missing);
    assert!(missing.is_empty(), "{missing:?}");
}
