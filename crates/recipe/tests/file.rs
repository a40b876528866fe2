//! Errors in files and the messages that their authors see, and writing and reading back.

use pointwise_recipe::{
    Adam, AdamW, Anneal, Augment, CosineAnnealingLr, EarlyStopping, Ema, Flip, Lookahead, MultiStepLr,
    Normalise, OneCycleLr, Optimizer, PaddingMode, ParameterGroup, PiecewiseLinear, Recipe, Schedule, Sgd,
    Span, TestTimeAugmentation, Unit, Warmup,
};

/// A complete recipe with one more line, its fourth.
fn with(line: &str) -> String {
    format!("epochs = 2\nbatch-size = 8\noptimizer = \"SGD\"\n{line}\n")
}

/// The same with this optimizer on line 3.
fn with_optimizer(optimizer: &str) -> String {
    format!("epochs = 2\nbatch-size = 8\noptimizer = {optimizer}\n")
}

/// Compares the messages of all cases and shows every one that differs.
#[track_caller]
fn told(cases: impl IntoIterator<Item = (String, &'static str)>) {
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|(text, expected)| {
            let found =
                Recipe::from_toml(&text).map_or_else(|error| error.to_string(), |_| "a recipe".to_owned());
            (found != expected).then(|| format!("{text}\nfound    {found}\nexpected {expected}\n"))
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn keys() {
    told([
        (String::new(), "line 1, column 1: missing key `epochs`"),
        ("epochs = 2".to_owned(), "line 1, column 1: missing key `batch-size`"),
        ("epochs = 2\nbatch-size = 8".to_owned(), "line 1, column 1: missing key `optimizer`"),
        (
            with("dropout = 0.5"),
            "line 4, column 1: unknown key `dropout`, expected one of `epochs`, `last-epoch`, `batch-size`, `drop-last`, `optimizer`, `schedule`, `warmup`, `parameter-groups`, `label-smoothing`, `clip-norm`, `ema`, `lookahead`, `early-stopping`, `augment`, `shuffle`, `normalise`, `test-time-augmentation`",
        ),
        (
            with("batch_size = 3"),
            "line 4, column 1: unknown key `batch_size`, expected one of `epochs`, `last-epoch`, `batch-size`, `drop-last`, `optimizer`, `schedule`, `warmup`, `parameter-groups`, `label-smoothing`, `clip-norm`, `ema`, `lookahead`, `early-stopping`, `augment`, `shuffle`, `normalise`, `test-time-augmentation`",
        ),
        (with("epochs = 3"), "line 4, column 1: the key is given twice; remove one of them"),
        (
            with("shuffle = true\nshuffle = true"),
            "line 5, column 1: the key is given twice; remove one of them",
        ),
        (with("ema = {"), "line 4, column 8: unclosed inline table, expected `}`"),
        (
            with("shuffle = \"yes\""),
            "line 4, column 11: invalid type: string \"yes\", expected true or false",
        ),
        (with("shuffle = 1"), "line 4, column 11: invalid type: integer `1`, expected true or false"),
        (
            with("label-smoothing = \"a little\""),
            "line 4, column 19: invalid type: string \"a little\", expected a number",
        ),
        (with("label-smoothing = -0.1"), "label-smoothing is -0.1, not a number from 0 to below 1"),
        (with("label-smoothing = 1"), "label-smoothing is 1.0, not a number from 0 to below 1"),
        (with("label-smoothing = nan"), "label-smoothing is nan, not a number from 0 to below 1"),
        (with("clip-norm = 0"), "clip-norm is 0.0, not a number above 0"),
        (with("clip-norm = inf"), "clip-norm is inf, not a number of at most 3.4e38"),
        (with("clip-norm = 1e400"), "line 4, column 13: the number is too large"),
        (with("clip-norm = 1e39"), "clip-norm is 1e39, not a number of at most 3.4e38"),
        (with("clip-norm = {}"), "line 4, column 13: invalid type: table, expected a number"),
        (with("ema = 0.9"), "line 4, column 7: invalid type: floating point `0.9`, expected a table"),
        (with("ema = { decay = 1.0 }"), "ema.decay is 1.0, not a number from 0 to below 1"),
        (with("ema = { rate = 0.9 }"), "line 4, column 9: unknown key `rate`, expected `decay`"),
        (with("early-stopping = 3"), "line 4, column 18: invalid type: integer `3`, expected a table"),
        (with("early-stopping = {}"), "line 4, column 18: missing key `patience`"),
        (
            with("early-stopping = { patience = 0 }"),
            "early-stopping.patience is 0, not a whole number from 1 to 1000000",
        ),
        (
            with("early-stopping = { patience = 1.5 }"),
            "line 4, column 31: invalid type: floating point `1.5`, expected a whole number from 0 to 4294967295",
        ),
        (
            with("early-stopping = { patience = -1 }"),
            "line 4, column 31: invalid value: integer `-1`, expected a whole number from 0 to 4294967295",
        ),
        (
            "epochs = 0\nbatch-size = 8\noptimizer = \"SGD\"".to_owned(),
            "epochs is 0, not a whole number from 1 to 1000000",
        ),
        (
            "epochs = 1000001\nbatch-size = 8\noptimizer = \"SGD\"".to_owned(),
            "epochs is 1000001, not a whole number from 1 to 1000000",
        ),
        (
            "epochs = 5000000000\nbatch-size = 8\noptimizer = \"SGD\"".to_owned(),
            "line 1, column 10: invalid value: integer `5000000000`, expected a whole number from 0 to 4294967295",
        ),
        (
            "epochs = 2\nbatch-size = 65537\noptimizer = \"SGD\"".to_owned(),
            "batch-size is 65537, not a whole number from 1 to 65536",
        ),
        (
            "epochs = 2\nbatch-size = 99999999999999999999999999999999999999999\noptimizer = \"SGD\""
                .to_owned(),
            "line 2, column 14: the number is too large",
        ),
        (
            "epochs = 2.0\nbatch-size = 8\noptimizer = \"SGD\"".to_owned(),
            "line 1, column 10: invalid type: floating point `2.0`, expected a whole number from 0 to 4294967295",
        ),
    ]);
}

#[test]
fn optimizers() {
    told([
        (
            with_optimizer("\"sgd\""),
            "line 3, column 13: `sgd` is not an optimizer; give one of Adam, AdamW, SGD",
        ),
        (
            with_optimizer("\"a\\u001b[31m name\""),
            "line 3, column 13: `a\\u{1b}[31m name` is not an optimizer; give one of Adam, AdamW, SGD",
        ),
        (
            with_optimizer("3"),
            "line 3, column 13: invalid type: integer `3`, expected the name of an optimizer, or a table such as { Adam = {} }",
        ),
        (
            with_optimizer("[]"),
            "line 3, column 13: invalid type: array, expected the name of an optimizer, or a table such as { Adam = {} }",
        ),
        (
            with_optimizer("{}"),
            "line 3, column 13: an empty table is not an optimizer; give it one of Adam, AdamW, SGD",
        ),
        (
            with_optimizer("{ lr = 0.1 }"),
            "line 3, column 15: `lr` is not an optimizer; give one of Adam, AdamW, SGD",
        ),
        (
            with_optimizer("{ Lion = { lr = 0.1 } }"),
            "line 3, column 15: `Lion` is not an optimizer; give one of Adam, AdamW, SGD",
        ),
        (
            with_optimizer("{ SGD = {}, Adam = {} }"),
            "line 3, column 25: SGD and Adam in one table; leave one of them out",
        ),
        (
            with_optimizer("{ SGD = {}, lr = 0.1 }"),
            "line 3, column 25: unknown key `lr` next to SGD; an argument goes into its table, { SGD = { lr = ... } }",
        ),
        (
            with_optimizer("{ SGD = {}, SGD = {} }"),
            "line 3, column 25: the key is given twice; remove one of them",
        ),
        (
            with_optimizer("{ SGD = 0.1 }"),
            "line 3, column 21: invalid type: floating point `0.1`, expected a table",
        ),
        (
            with_optimizer("{ SGD = { lr = 0.1, lr = 0.2 } }"),
            "line 3, column 33: the key is given twice; remove one of them",
        ),
        (
            with_optimizer("{ SGD = { learning_rate = 0.1 } }"),
            "line 3, column 23: unknown key `learning_rate`, expected one of `lr`, `momentum`, `weight_decay`, `nesterov`",
        ),
        (
            with_optimizer("{ SGD = { lr = \"0.1\" } }"),
            "line 3, column 28: invalid type: string \"0.1\", expected a number",
        ),
        (with_optimizer("{ SGD = { lr = 0 } }"), "optimizer.SGD.lr is 0.0, not a number above 0"),
        (with_optimizer("{ SGD = { lr = -1e-3 } }"), "optimizer.SGD.lr is -0.001, not a number above 0"),
        (with_optimizer("{ SGD = { lr = nan } }"), "optimizer.SGD.lr is nan, not a number above 0"),
        (
            with_optimizer("{ SGD = { lr = 1e300 } }"),
            "optimizer.SGD.lr is 1e300, not a number of at most 3.4e38",
        ),
        (
            with_optimizer("{ SGD = { momentum = 1 } }"),
            "optimizer.SGD.momentum is 1.0, not a number from 0 to below 1",
        ),
        (
            with_optimizer("{ SGD = { weight_decay = -1 } }"),
            "optimizer.SGD.weight_decay is -1.0, not a number from 0 up",
        ),
        (
            with_optimizer("{ SGD = { nesterov = true } }"),
            "optimizer.SGD.nesterov needs a momentum; give one, such as momentum = 0.9",
        ),
        (
            with_optimizer("{ SGD = { nesterov = 1 } }"),
            "line 3, column 34: invalid type: integer `1`, expected true or false",
        ),
        (
            with_optimizer("{ SGD = { dampening = 0.1 } }"),
            "line 3, column 23: unknown key `dampening`, expected one of `lr`, `momentum`, `weight_decay`, `nesterov`",
        ),
        (
            with_optimizer("{ Adam = { betas = [0.9] } }"),
            "line 3, column 32: an array of length 1; give two numbers",
        ),
        (
            with_optimizer("{ Adam = { betas = [0.9, 0.99, 0.999] } }"),
            "line 3, column 32: an array of length 3; give two numbers",
        ),
        (
            with_optimizer("{ Adam = { betas = 0.9 } }"),
            "line 3, column 32: invalid type: floating point `0.9`, expected an array",
        ),
        (
            with_optimizer("{ Adam = { betas = [0.9, 1.0] } }"),
            "optimizer.Adam.betas is 1.0, not a number from 0 to below 1",
        ),
        (with_optimizer("{ Adam = { eps = -1e-8 } }"), "optimizer.Adam.eps is -1e-8, not a number from 0 up"),
        (
            with_optimizer("{ AdamW = { weight_decay = inf } }"),
            "optimizer.AdamW.weight_decay is inf, not a number of at most 3.4e38",
        ),
        (
            with_optimizer("{ AdamW = { amsgrad = true } }"),
            "line 3, column 25: unknown key `amsgrad`, expected one of `lr`, `betas`, `eps`, `weight_decay`",
        ),
    ]);
}

#[test]
fn schedules() {
    told([
        (
            with("schedule = \"cosine\""),
            "line 4, column 12: `cosine` is not a schedule; give one of constant, MultiStepLR, CosineAnnealingLR, OneCycleLR, PiecewiseLinear",
        ),
        (
            with("schedule = \"MultiStepLR\""),
            "line 4, column 12: MultiStepLR cannot stand alone; write { MultiStepLR = { milestones = ... } }",
        ),
        (
            with("schedule = \"PiecewiseLinear\""),
            "line 4, column 12: PiecewiseLinear cannot stand alone; write { PiecewiseLinear = { points = ... } }",
        ),
        (
            with("schedule = { constant = { lr = 1 } }"),
            "line 4, column 27: unknown key `lr`; this table takes none",
        ),
        (with("schedule = { MultiStepLR = { gamma = 0.1 } }"), "line 4, column 28: missing key `milestones`"),
        (
            with("schedule = { MultiStepLR = { milestones = 3 } }"),
            "line 4, column 43: invalid type: integer `3`, expected an array",
        ),
        (
            with("schedule = { MultiStepLR = { milestones = [3.5] } }"),
            "line 4, column 44: invalid type: floating point `3.5`, expected a whole number from 0",
        ),
        (
            with("schedule = { MultiStepLR = { milestones = [0, 3] } }"),
            "schedule.MultiStepLR.milestones is [0, 3], not ascending whole numbers from 1",
        ),
        (
            with("schedule = { MultiStepLR = { milestones = [5, 3] } }"),
            "schedule.MultiStepLR.milestones is [5, 3], not ascending whole numbers from 1",
        ),
        (
            with("schedule = { MultiStepLR = { milestones = [18446744073709551615] } }"),
            "schedule.MultiStepLR.milestones is 18446744073709551615, not a number of at most 9007199254740992",
        ),
        (
            with("schedule = { MultiStepLR = { milestones = [9, 8, 7, 6, 5, 4, 3, 2, 1, 1] } }"),
            "schedule.MultiStepLR.milestones is [9, 8, 7, 6, 5, 4, 3, 2] and 2 more, not ascending whole numbers from 1",
        ),
        (
            with("schedule = { MultiStepLR = { milestones = [1], gamma = 0 } }"),
            "schedule.MultiStepLR.gamma is 0.0, not a number above 0",
        ),
        (
            with("schedule = { MultiStepLR = { milestones = [1, 1, 1], gamma = 1e20 } }"),
            "the learning rate rises to 1.0e57; lower it, or the factors in schedule and parameter-groups, to at most 3.4e38",
        ),
        (
            with("schedule = { MultiStepLR = { milestones = [1], by = \"batch\" } }"),
            "line 4, column 53: unknown value `batch`, expected `epoch` or `step`",
        ),
        (
            with("schedule = { MultiStepLR = { milestones = [1], by = 3 } }"),
            "line 4, column 53: expected a name, in quotation marks",
        ),
        (
            with("schedule = { CosineAnnealingLR = { T_max = 0 } }"),
            "schedule.CosineAnnealingLR.T_max is 0, not a whole number from 1",
        ),
        (
            with("schedule = { CosineAnnealingLR = { t_max = 5 } }"),
            "line 4, column 36: unknown key `t_max`, expected one of `T_max`, `eta_min`, `by`",
        ),
        (
            with("schedule = { CosineAnnealingLR = { eta_min = -1 } }"),
            "schedule.CosineAnnealingLR.eta_min is -1.0, not a number from 0 up",
        ),
        (
            with("schedule = { OneCycleLR = { total_steps = 0 } }"),
            "schedule.OneCycleLR.total_steps is 0, not a whole number from 1",
        ),
        (
            with("schedule = { OneCycleLR = { pct_start = 1.0 } }"),
            "schedule.OneCycleLR.pct_start is 1.0, not a number above 0 and below 1",
        ),
        (
            with("schedule = { OneCycleLR = { pct_start = nan } }"),
            "schedule.OneCycleLR.pct_start is nan, not a number above 0 and below 1",
        ),
        (
            with("schedule = { OneCycleLR = { pct_start = 0.5, three_phase = true } }"),
            "schedule.OneCycleLR.pct_start is 0.5, not a number above 0 and below 1/2, as three_phase requires",
        ),
        (
            with("schedule = { OneCycleLR = { anneal_strategy = \"cosine\" } }"),
            "line 4, column 47: unknown value `cosine`, expected `cos` or `linear`",
        ),
        (
            with("schedule = { OneCycleLR = { base_momentum = 1 } }"),
            "schedule.OneCycleLR.base_momentum is 1.0, not a number from 0 to below 1",
        ),
        (
            with("schedule = { OneCycleLR = { max_momentum = -0.1 } }"),
            "schedule.OneCycleLR.max_momentum is -0.1, not a number from 0 to below 1",
        ),
        (
            with("schedule = { OneCycleLR = { div_factor = 0 } }"),
            "schedule.OneCycleLR.div_factor is 0.0, not a number above 0",
        ),
        (
            with("schedule = { OneCycleLR = { div_factor = 1e-300 } }"),
            "the learning rate rises to 1.0e297; lower it, or the factors in schedule and parameter-groups, to at most 3.4e38",
        ),
        (
            with("schedule = { OneCycleLR = { final_div_factor = -1 } }"),
            "schedule.OneCycleLR.final_div_factor is -1.0, not a number above 0",
        ),
        (
            with("schedule = { OneCycleLR = { max_lr = 0.1 } }"),
            "line 4, column 29: unknown key `max_lr`, expected one of `total_steps`, `pct_start`, `anneal_strategy`, `cycle_momentum`, `base_momentum`, `max_momentum`, `div_factor`, `final_div_factor`, `three_phase`",
        ),
        (
            with("schedule = { PiecewiseLinear = { points = [] } }"),
            "schedule.PiecewiseLinear.points is [], not pairs of an epoch, ascending from 0, and a factor from 0, such as [[0, 0.1], [5, 1], [20, 0]]",
        ),
        (
            with("schedule = { PiecewiseLinear = { points = [0, 1] } }"),
            "line 4, column 44: invalid type: integer `0`, expected an array",
        ),
        (
            with("schedule = { PiecewiseLinear = { points = [[0, 1, 2]] } }"),
            "line 4, column 43: an array of length 3; give two numbers",
        ),
        (
            with("schedule = { PiecewiseLinear = { points = [[0]] } }"),
            "line 4, column 43: an array of length 1; give two numbers",
        ),
        (
            with("schedule = { PiecewiseLinear = { points = [[3, 1], [3, 2]] } }"),
            "schedule.PiecewiseLinear.points is [[3.0, 1.0], [3.0, 2.0]], not pairs of an epoch, ascending from 0, and a factor from 0, such as [[0, 0.1], [5, 1], [20, 0]]",
        ),
        (
            with("schedule = { PiecewiseLinear = { points = [[0, 1], [nan, 2]] } }"),
            "schedule.PiecewiseLinear.points is [[0.0, 1.0], [NaN, 2.0]], not pairs of an epoch, ascending from 0, and a factor from 0, such as [[0, 0.1], [5, 1], [20, 0]]",
        ),
        (
            with("schedule = { PiecewiseLinear = { points = [[0, -1]] } }"),
            "schedule.PiecewiseLinear.points is [[0.0, -1.0]], not pairs of an epoch, ascending from 0, and a factor from 0, such as [[0, 0.1], [5, 1], [20, 0]]",
        ),
        (
            with(
                "schedule = { PiecewiseLinear = { points = [[0, 3e38], [1, 1e38]] } }\nparameter-groups = [{ max_dims = 1, lr_factor = 1e5 }]",
            ),
            "the learning rate rises to 3.0e40; lower it, or the factors in schedule and parameter-groups, to at most 3.4e38",
        ),
        (with("warmup = 5"), "line 4, column 10: invalid type: integer `5`, expected a table"),
        (with("warmup = {}"), "warmup needs a length; give steps or epochs, such as { epochs = 5 }"),
        (
            with("warmup = { steps = 3, epochs = 1 }"),
            "warmup has a length in steps and one in epochs; leave one of them out",
        ),
        (with("warmup = { steps = 0 }"), "warmup.steps is 0, not a whole number from 1"),
        (
            with("warmup = { steps = 18446744073709551615 }"),
            "warmup.steps is 18446744073709551615, not a number of at most 9007199254740992",
        ),
        (with("warmup = { epochs = 0 }"), "warmup.epochs is 0.0, not a number above 0"),
        (with("warmup = { epochs = 1e300 }"), "warmup.epochs is 1e300, not a number of at most 3.4e38"),
        (
            with("warmup = { epochs = 1, start_factor = 0 }"),
            "warmup.start_factor is 0.0, not a number above 0, at most 1",
        ),
        (
            with("warmup = { epochs = 1, start_factor = 1.5 }"),
            "warmup.start_factor is 1.5, not a number above 0, at most 1",
        ),
        (
            with("warmup = { epochs = 1, end_factor = 1.0 }"),
            "line 4, column 24: unknown key `end_factor`, expected one of `steps`, `epochs`, `start_factor`",
        ),
    ]);
}

#[test]
fn lengths_averages_and_views() {
    told([
        (with("last-epoch = 0"), "last-epoch is 0.0, not a number above 0 and up to 1"),
        (with("last-epoch = 1.1"), "last-epoch is 1.1, not a number above 0 and up to 1"),
        (with("last-epoch = nan"), "last-epoch is nan, not a number above 0 and up to 1"),
        (with("drop-last = 1"), "line 4, column 13: invalid type: integer `1`, expected true or false"),
        (with("lookahead = { every = 0 }"), "lookahead.every is 0, not a whole number from 1"),
        (with("lookahead = { decay = 1 }"), "lookahead.decay is 1.0, not a number from 0 to below 1"),
        (with("lookahead = { power = -1 }"), "lookahead.power is -1.0, not a number from 0 to 100"),
        (
            with("lookahead = {}\nema = {}"),
            "ema and lookahead each average the weights; leave one of them out",
        ),
        (
            with("clip-norm = 1\nparameter-groups = [{ max_dims = 1, frozen_after = 3 }]"),
            "clip-norm counts the gradients of all parameters, including those of a frozen group; leave out clip-norm, or \
             frozen_after in parameter-groups",
        ),
        (
            with("parameter-groups = [{ max_dims = 1, frozen_after = -1 }]"),
            "line 4, column 52: invalid value: integer `-1`, expected a whole number from 0 to 4294967295",
        ),
        (
            with("test-time-augmentation = {}"),
            "test-time-augmentation has no view but the image itself; give it flip = true or translate, or leave it out",
        ),
        (
            with("test-time-augmentation = { translate = 5000 }"),
            "test-time-augmentation.translate is 5000, not a whole number from 0 to 4096",
        ),
    ]);
}

/// The length of airbench94: 48 whole batches of 1,024 in 50,000 images, and 9.9 epochs of them.
#[test]
fn a_training_may_end_within_its_last_epoch() {
    let whole = Recipe { batch_size: 1024, epochs: 10, ..simple() };
    assert_eq!(whole.span(50_000), Span { steps_per_epoch: 49, steps: 490 });
    let full = Recipe { drop_last: true, ..whole.clone() };
    assert_eq!(full.span(50_000), Span { steps_per_epoch: 48, steps: 480 });
    assert_eq!(full.span(1023), Span { steps_per_epoch: 0, steps: 0 });
    assert_eq!(full.span(49_152), Span { steps_per_epoch: 48, steps: 480 });
    let part = |share| Recipe { last_epoch: Some(share), ..full.clone() }.span(50_000).steps;
    assert_eq!([0.9, 1.0, 1e-9].map(part), [476, 480, 433]);
}

/// `alpha_schedule` of airbench94: `0.95 ** 5 * (step / steps) ** 3` after every fifth of 476 steps, and 1 after the last.
#[test]
fn lookahead_returns_to_the_slow_weights_every_few_steps_and_at_the_end() {
    let span = Span { steps_per_epoch: 48, steps: 476 };
    let lookahead = Lookahead { every: 5, decay: 0.95f64.powi(5), power: 3.0 };
    let decays: Vec<(u64, f64)> =
        (1..=476).filter_map(|step| Some((step, lookahead.decay_after(step, span)?))).collect();
    assert_eq!(decays.iter().map(|(step, _)| *step).collect::<Vec<_>>(), {
        (1..=95).map(|number| 5 * number).chain([476]).collect::<Vec<_>>()
    });
    assert!((decays[0].1 - 0.773_780_937_5 * (5.0f64 / 476.0).powi(3)).abs() < 1e-15);
    assert!((decays[94].1 - 0.773_780_937_5 * (475.0f64 / 476.0).powi(3)).abs() < 1e-15);
    assert_eq!(decays[95].1, 1.0);
    // The paper's: constant, also if the last step is one after which weights are averaged.
    let span = Span { steps_per_epoch: 10, steps: 10 };
    assert_eq!(
        [4, 5, 9, 10].map(|step| Lookahead::default().decay_after(step, span)),
        [None, Some(0.5), None, Some(0.5)]
    );
}

#[test]
fn views_of_a_test_image_sum_to_one() {
    let views = TestTimeAugmentation { flip: true, translate: 1 }.views();
    let found: Vec<_> = views.iter().map(|view| (view.corner, view.flip, view.weight)).collect();
    assert_eq!(
        found,
        [
            (1, false, 0.25),
            (1, true, 0.25),
            (0, false, 0.125),
            (0, true, 0.125),
            (2, false, 0.125),
            (2, true, 0.125)
        ]
    );
    for given in [
        TestTimeAugmentation { flip: true, translate: 0 },
        TestTimeAugmentation { flip: false, translate: 3 },
    ] {
        assert_eq!(given.views().iter().map(|view| view.weight).sum::<f64>(), 1.0, "{given:?}");
    }
}

#[test]
fn groups_and_images() {
    told([
        (
            with("parameter-groups = { max_dims = 1 }"),
            "line 4, column 20: invalid type: table, expected an array",
        ),
        (
            with("parameter-groups = [{}]"),
            "parameter group 1 matches everything; give it names or max_dims, or change the optimizer's own values",
        ),
        (
            with("parameter-groups = [{ max_dims = 1 }, { weight_decay = 0 }]"),
            "parameter group 2 matches everything; give it names or max_dims, or change the optimizer's own values",
        ),
        (
            with("parameter-groups = [{ names = 3 }]"),
            "line 4, column 31: invalid type: integer `3`, expected a string",
        ),
        (
            with("parameter-groups = [{ max_dims = 0 }]"),
            "max_dims of parameter group 1 is 0, not a whole number from 1 to 4",
        ),
        (
            with("parameter-groups = [{ max_dims = -1 }]"),
            "line 4, column 34: invalid value: integer `-1`, expected a whole number from 0",
        ),
        (
            with("parameter-groups = [{ max_dims = 1, lr_factor = -1 }]"),
            "lr_factor of parameter group 1 is -1.0, not a number from 0 up",
        ),
        (
            with("parameter-groups = [{ max_dims = 1 }, { max_dims = 2, weight_decay = nan }]"),
            "weight_decay of parameter group 2 is nan, not a number from 0 up",
        ),
        (
            with("parameter-groups = [{ max_dims = 1, lr = 0.1 }]"),
            "line 4, column 37: unknown key `lr`, expected one of `names`, `max_dims`, `lr_factor`, `weight_decay`, `frozen_after`",
        ),
        (
            with("augment = \"flip\""),
            "line 4, column 11: there is no augmentation `flip`; give crop-flip, none, or a table such as { crop = 4, flip = \"random\" }",
        ),
        (
            with("augment = 4"),
            "line 4, column 11: invalid type: integer `4`, expected crop-flip, none, or a table such as { crop = 4, flip = \"random\" }",
        ),
        (
            with("augment = { crop = -4 }"),
            "line 4, column 20: invalid value: integer `-4`, expected a whole number from 0 to 4294967295",
        ),
        (with("augment = { crop = 5000 }"), "augment.crop is 5000, not a whole number from 0 to 4096"),
        (with("augment = { cutout = 4097 }"), "augment.cutout is 4097, not a whole number from 0 to 4096"),
        (
            with("augment = { rotate = 10 }"),
            "line 4, column 13: unknown key `rotate`, expected one of `crop`, `padding_mode`, `flip`, `cutout`",
        ),
        (with("augment = { flip = true }"), "line 4, column 20: expected a name, in quotation marks"),
        (
            with("augment = { flip = \"always\" }"),
            "line 4, column 20: unknown value `always`, expected one of `none`, `random`, `alternating`",
        ),
        (
            with("augment = { padding_mode = \"reflection\" }"),
            "line 4, column 28: unknown value `reflection`, expected `zeros` or `reflect`",
        ),
        (
            with("augment = { crop = 4, crop = 4 }"),
            "line 4, column 23: the key is given twice; remove one of them",
        ),
        (
            with("normalise = \"imagenet\""),
            "line 4, column 13: there is no normalisation `imagenet`; give dataset, measured, or a table such as { mean = [0.5], std = [0.5] }",
        ),
        (
            with("normalise = true"),
            "line 4, column 13: invalid type: boolean `true`, expected dataset, measured, or a table such as { mean = [0.5], std = [0.5] }",
        ),
        (with("normalise = { mean = [0.5] }"), "line 4, column 13: missing key `std`"),
        (
            with("normalise = { mean = 0.5, std = [0.5] }"),
            "line 4, column 22: invalid type: floating point `0.5`, expected an array",
        ),
        (
            with("normalise = { mean = [0.5, 0.5], std = [0.5] }"),
            "normalise.mean is [0.5, 0.5], not one number, or one for each of three channels",
        ),
        (
            with("normalise = { mean = [0.5], std = [0.5, 0, 0.5] }"),
            "normalise.std is [0.5, 0.0, 0.5], not one number above 0, or one for each of three channels",
        ),
        (
            with("normalise = { mean = [1e39], std = [1] }"),
            "normalise.mean is [inf], not one number, or one for each of three channels",
        ),
        (
            with("normalise = { mean = [], std = [] }"),
            "normalise.mean is [], not one number, or one for each of three channels",
        ),
    ]);
}

/// Every optimizer and schedule with and without arguments, and every form of every key.
fn recipes() -> Vec<Recipe> {
    let optimizers: [Optimizer; 6] = [
        Adam::default().into(),
        Adam { lr: 1e-4, betas: [0.5, 0.75], eps: 1e-5, weight_decay: 5e-4 }.into(),
        AdamW::default().into(),
        AdamW { lr: 3e-4, betas: [0.0, 0.95], eps: 0.0, weight_decay: 0.1 }.into(),
        Sgd::default().into(),
        Sgd { lr: 0.1, momentum: 0.9, weight_decay: 5e-4, nesterov: true }.into(),
    ];
    let one_cycle = OneCycleLr {
        total_steps: Some(1 << 53),
        pct_start: 0.25,
        anneal_strategy: Anneal::Linear,
        cycle_momentum: false,
        base_momentum: 0.0,
        max_momentum: 0.99,
        div_factor: 1e-3,
        final_div_factor: 1e20,
        three_phase: true,
    };
    let schedules: [Schedule; 8] = [
        Schedule::default(),
        MultiStepLr { milestones: vec![], gamma: 0.1, by: Unit::Epoch }.into(),
        MultiStepLr { milestones: vec![1, 1, 1 << 53], gamma: 1.0 / 3.0, by: Unit::Step }.into(),
        CosineAnnealingLr::default().into(),
        CosineAnnealingLr { t_max: Some(1), eta_min: 1e-300, by: Unit::Step }.into(),
        OneCycleLr::default().into(),
        one_cycle.into(),
        PiecewiseLinear { points: vec![[0.0, 0.1], [0.1 + 0.2, 1.0], [20.0, 0.0]] }.into(),
    ];
    let plain = |optimizer: &Optimizer| Recipe::new(3, 32, optimizer.clone());
    let mut recipes: Vec<Recipe> = optimizers.iter().map(plain).collect();
    recipes.extend(schedules.map(|schedule| Recipe { schedule, ..plain(&optimizers[5]) }));
    let warm = |steps, epochs, start_factor| Some(Warmup { steps, epochs, start_factor });
    recipes.extend([
        Recipe { warmup: warm(Some(500), None, 1.0 / 3.0), ..simple() },
        Recipe { warmup: warm(None, Some(0.5), 1e-3), ..simple() },
        Recipe {
            parameter_groups: vec![
                ParameterGroup {
                    max_dims: Some(1),
                    lr_factor: 1.0,
                    weight_decay: Some(0.0),
                    ..ParameterGroup::default()
                },
                ParameterGroup {
                    names: Some("a \"quoted\" \\ name\n*".to_owned()),
                    max_dims: Some(4),
                    lr_factor: 0.0,
                    weight_decay: None,
                    frozen_after: Some(0),
                },
            ],
            ..simple()
        },
        Recipe {
            epochs: Recipe::MAX_EPOCHS,
            batch_size: Recipe::MAX_BATCH_SIZE,
            label_smoothing: 0.1,
            clip_norm: Some(1.0),
            ema: Some(Ema::default()),
            early_stopping: Some(EarlyStopping { patience: 5 }),
            shuffle: false,
            ..simple()
        },
    ]);
    recipes.extend([
        Recipe {
            last_epoch: Some(0.9),
            drop_last: true,
            lookahead: Some(Lookahead { every: 5, decay: 0.95f64.powi(5), power: 3.0 }),
            test_time_augmentation: Some(TestTimeAugmentation { flip: true, translate: 1 }),
            ..simple()
        },
        Recipe { last_epoch: Some(1.0), lookahead: Some(Lookahead::default()), ..simple() },
    ]);
    let cutout = Augment { cutout: 8, padding_mode: PaddingMode::Reflect, flip: Flip::Alternating, crop: 2 };
    for augment in [Augment::NONE, Augment::CROP_FLIP, cutout, Augment { crop: 4, ..Augment::NONE }] {
        recipes.push(Recipe { augment, ..simple() });
    }
    let given = Normalise::Given { mean: vec![0.4914, 1.0 / 3.0, -1e-7], std: vec![f32::MIN_POSITIVE] };
    for normalise in [Normalise::Dataset, Normalise::Measured, given] {
        recipes.push(Recipe { normalise, ..simple() });
    }
    recipes
}

/// Adam, and otherwise defaults.
fn simple() -> Recipe {
    Recipe::new(3, 32, Adam::default())
}

#[test]
fn a_recipe_is_read_back_as_it_was_written() {
    for recipe in recipes() {
        recipe.check().unwrap_or_else(|error| panic!("{error}\n{recipe:?}"));
        let text = recipe.to_toml();
        assert_eq!(Recipe::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}")), recipe);
        // As part of another file, too.
        let whole = toml::to_string(&recipe).unwrap();
        assert_eq!(toml::from_str::<Recipe>(&whole).unwrap(), recipe, "{whole}");
    }
}

/// Also for values that no check has seen.
#[test]
fn anything_can_be_written() {
    let numbers = [f64::NAN, f64::INFINITY, -0.0, f64::MIN_POSITIVE, f64::MAX];
    for number in numbers {
        let recipe = Recipe {
            optimizer: Sgd { lr: number, ..Sgd::default() }.into(),
            warmup: Some(Warmup { steps: Some(u64::MAX), epochs: Some(number), start_factor: number }),
            schedule: MultiStepLr { milestones: vec![u64::MAX], gamma: number, by: Unit::Step }.into(),
            parameter_groups: vec![ParameterGroup {
                max_dims: Some(usize::MAX),
                ..ParameterGroup::default()
            }],
            normalise: Normalise::Given { mean: vec![], std: vec![f32::NAN] },
            ..simple()
        };
        assert!(Recipe::from_toml(&recipe.to_toml()).is_err());
    }
}

#[test]
fn a_key_a_line() {
    let groups = vec![
        ParameterGroup { names: Some("fc.*".to_owned()), lr_factor: 10.0, ..ParameterGroup::default() },
        ParameterGroup {
            max_dims: Some(1),
            lr_factor: 1.0,
            weight_decay: Some(0.0),
            ..ParameterGroup::default()
        },
    ];
    let recipe = Recipe { parameter_groups: groups, ema: Some(Ema { decay: 0.99 }), ..simple() };
    let expected = "\
epochs = 3
batch-size = 32
drop-last = false
optimizer = { Adam = { lr = 0.001, betas = [0.9, 0.999], eps = 0.00000001, weight_decay = 0.0 } }
schedule = \"constant\"
parameter-groups = [
    { names = \"fc.*\", lr_factor = 10.0 },
    { max_dims = 1, lr_factor = 1.0, weight_decay = 0.0 },
]
label-smoothing = 0.0
ema = { decay = 0.99 }
augment = \"none\"
shuffle = true
normalise = \"dataset\"
";
    assert_eq!(recipe.to_toml(), expected);
}

/// Values left out are PyTorch's defaults, and different ways to write a thing are equal.
#[test]
fn forms() {
    let read = |line: &str| Recipe::from_toml(line).unwrap_or_else(|error| panic!("{error}\n{line}"));
    let least = read("epochs = 1\nbatch-size = 1\noptimizer = \"Adam\"");
    assert_eq!(least.optimizer, Adam { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 }.into());
    let AdamW { lr, betas, eps, weight_decay } = AdamW::default();
    assert_eq!((lr, betas, eps, weight_decay), (1e-3, [0.9, 0.999], 1e-8, 1e-2));
    assert_eq!(least, Recipe::new(1, 1, Adam::default()));

    // Names, tables, and TOML's tables with a header.
    let sgd = |text: &str| read(&format!("epochs = 1\nbatch-size = 1\n{text}")).optimizer;
    assert_eq!(sgd("optimizer = \"SGD\""), sgd("[optimizer]\nSGD = {}"));
    assert_eq!(sgd("optimizer.SGD.lr = 1"), sgd("[optimizer.SGD]\nlr = 1.0"));

    let augment = |text: &str| read(&with(&format!("augment = {text}"))).augment;
    assert_eq!(
        augment("\"crop-flip\""),
        augment("{ crop = 4, flip = \"random\", padding_mode = \"zeros\" }")
    );
    assert_eq!(augment("\"none\""), augment("{}"));
    let expected =
        Augment { cutout: 8, padding_mode: PaddingMode::Reflect, flip: Flip::Alternating, crop: 0 };
    assert_eq!(augment("{ cutout = 8, padding_mode = \"reflect\", flip = \"alternating\" }"), expected);

    let normalise = |text: &str| read(&with(&format!("normalise = {text}"))).normalise;
    assert_eq!(normalise("\"dataset\""), Normalise::Dataset);
    assert_eq!(normalise("\"measured\""), Normalise::Measured);
    let given = Normalise::Given { mean: vec![0.0], std: vec![1.0, 2.0, 0.5] };
    assert_eq!(normalise("{ mean = [0], std = [1, 2, 0.5] }"), given);
}

/// Recipes, damaged: numbers at and beyond every limit, words swapped, text truncated or cut out. Whatever can be read is a recipe with all that
/// follows from it; whatever cannot gives an error of one line.
#[test]
fn damaged_files() {
    let look = |text: &str| match Recipe::from_toml(text) {
        Ok(recipe) => {
            assert_eq!(Recipe::from_toml(&recipe.to_toml()), Ok(recipe.clone()), "{text}");
            for (steps_per_epoch, step) in
                [(1, 0), (7, 9), (u64::MAX, 3), (u64::MAX, u64::MAX), (1, u64::MAX), (1 << 53, 1 << 60)]
            {
                let rate = recipe.rate(step, Span::of_epochs(steps_per_epoch, recipe.epochs));
                assert!(rate.lr.is_finite() && rate.lr >= 0.0, "{rate:?}\n{text}");
                assert!(
                    rate.momentum.is_none_or(|momentum| (0.0..1.0).contains(&momentum)),
                    "{rate:?}\n{text}"
                );
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 1000 && !message.contains(char::is_control), "{message}");
        }
    };
    for recipe in recipes() {
        let text = recipe.to_toml();
        let is_number = |at: &usize| {
            let bytes = text.as_bytes();
            bytes[*at].is_ascii_digit() && matches!(bytes[at - 1], b' ' | b'[')
        };
        for start in (1..text.len()).filter(is_number) {
            let end = start + text[start..].find([',', ' ', ']', '\n']).unwrap_or(0);
            for value in [
                "0",
                "1",
                "-1",
                "-0.0",
                "2.5",
                "nan",
                "-nan",
                "inf",
                "-inf",
                "1e-320",
                "1e38",
                "3.4e38",
                "1e300",
                "1e400",
                "4294967295",
                "4294967296",
                "9007199254740992",
                "9223372036854775807",
                "18446744073709551615",
                "99999999999999999999",
                "[]",
                "{}",
                "true",
                "\"a\"",
                "1979-05-27",
            ] {
                look(&format!("{}{value}{}", &text[..start], &text[end..]));
            }
        }
        for at in 0..text.len() {
            look(&text[..at]);
            look(&format!("{}{}", &text[..at], &text[(at + 5).min(text.len())..]));
            look(&format!("{}\"SGD\", {}", &text[..at], &text[at..]));
        }
        for (word, other) in
            [("SGD", "Adam"), ("Adam", "SGD"), ("OneCycleLR", "MultiStepLR"), ("{", "["), ("[", "[[")]
        {
            look(&text.replace(word, other));
        }
    }
    for (open, close) in [("[", "]"), ("{ a = ", " }"), ("{ SGD = ", " }")] {
        let nested = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        for key in ["optimizer", "schedule", "augment", "normalise", "parameter-groups", "unknown"] {
            look(&with(&format!("{key} = {nested}")).replacen(
                "optimizer = \"SGD\"\noptimizer",
                "optimizer",
                1,
            ));
        }
    }
    look(&with(&format!("augment = \"{}\"", "a\\n".repeat(100_000))));
    look(&with(&format!("parameter-groups = [{}]", "{ max_dims = 1 }, ".repeat(10_000))));
    look(&with(&format!("schedule = {{ MultiStepLR = {{ milestones = [{}] }} }}", "1, ".repeat(100_000))));
}
