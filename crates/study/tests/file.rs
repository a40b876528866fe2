//! Studies from files: what is read, and what is refused, with which message and place.

use std::fs;
use std::path::Path;

use pointwise_recipe::Optimizer;
use pointwise_study::{Error, Metric, Study};

/// A study on lines 1 to 12, followed by more.
fn with(more: &str) -> String {
    format!(
        r#"name = "a"
title = "A"
[data]
kind = "cifar10"
[recipe]
epochs = 3
batch-size = 4
optimizer = "SGD"
[[networks]]
network = "nin"
[[networks]]
network = "alexnet_plain"
{more}"#
    )
}

fn read(text: &str) -> Result<Study, Error> {
    Study::from_toml(text, Path::new("."))
}

/// A change of the study, and the beginning of its error message.
#[derive(Debug)]
struct Wrong {
    /// The text of [`with`] to replace, `""` for the end.
    old: &'static str,
    new: &'static str,
    place: &'static str,
    says: &'static str,
}

const fn wrong(old: &'static str, new: &'static str, place: &'static str, says: &'static str) -> Wrong {
    Wrong { old, new, place, says }
}

/// After the study, from line 13 on.
const fn behind(new: &'static str, place: &'static str, says: &'static str) -> Wrong {
    wrong("", new, place, says)
}

const WRONG: &[Wrong] = &[
    wrong(
        "title",
        "titel",
        "line 2, column 1",
        "unknown key `titel`, perhaps for `title`, expected one of `name`, `title`",
    ),
    wrong(
        "batch-size",
        "batch_size",
        "line 7, column 1",
        "unknown key `batch_size`, perhaps for `batch-size`, expected",
    ),
    wrong("title = \"A\"\n", "", "line 1, column 1", "missing key `title`"),
    wrong("title = \"A\"", "title = \" \"", "line 2, column 9", "the text is empty"),
    wrong(
        "title = \"A\"",
        "title = \"A\\u001b[2J\"",
        "line 2, column 9",
        "the text has line breaks or control characters",
    ),
    wrong(
        "title = \"A\"",
        "title = \"A\"\nquestion = \"\\u0007\"",
        "line 3, column 12",
        "the text has control characters",
    ),
    wrong("title = \"A\"", "title = \"A\"\ntitle = \"B\"", "line 3, column 1", "the key is given twice"),
    wrong(
        "name = \"a\"",
        "name = \"../a\"",
        "line 1, column 8",
        "`../a` cannot be the name of a study; give 1 to 64 letters",
    ),
    wrong("name = \"a\"", "name = \"a\\nb\"", "line 1, column 8", "`a\\nb` cannot be the name of a study"),
    wrong("name = \"a\"", "name = \"a\"\nrecord = \"none.json\"", "none.json", "it cannot be read"),
    wrong(
        "name = \"a\"",
        "name = \"a\"\nrecord = \"a\\u001b.json\"",
        "line 2, column 10",
        "`a\\u{1b}.json` cannot be a path",
    ),
    wrong("name = \"a\"", "name = \"a\"\nrecord = \".\"", ".", "it is not a file"),
    wrong("name = \"a\"", "name = \"a\"\nrecord = \"Cargo.toml\"", "Cargo.toml", "it is not a study.json"),
    // Data.
    wrong(
        "cifar10",
        "cifar-10",
        "line 4, column 8",
        "unknown value `cifar-10`, perhaps for `cifar10`, expected one of",
    ),
    wrong("\"cifar10\"", "\"folder\"\ndir = \"a\\nb\"", "line 3, column 1", "`a\\nb` cannot be a path"),
    wrong("\"cifar10\"", "\"folder\"", "line 3, column 1", "data of kind folder needs a `dir`"),
    wrong(
        "\"cifar10\"",
        "\"synthetic\"\ndir = \"x\"",
        "line 3, column 1",
        "`dir` is only for images in a folder",
    ),
    wrong(
        "\"cifar10\"",
        "\"cifar10\"\ntest-split = 0.2",
        "line 3, column 1",
        "`test-split` is for data of kind folder",
    ),
    wrong(
        "\"cifar10\"",
        "\"cifar10\"\ndata-seed = 2",
        "line 3, column 1",
        "`data-seed` is for data of kind synthetic or folder",
    ),
    wrong(
        "\"cifar10\"",
        "\"folder\"\ndir = \"x\"\ntest-split = 1.5",
        "line 6, column 14",
        "`1.5` is neither a share",
    ),
    wrong(
        "\"cifar10\"",
        "\"cifar10\"\nlimit-train = 0",
        "line 5, column 15",
        "invalid value: integer `0`, expected a whole number from 1",
    ),
    wrong(
        "\"cifar10\"",
        "\"cifar10\"\ntrain-images = 0",
        "line 5, column 16",
        "invalid value: integer `0`, expected a whole number from 1",
    ),
    // Recipe.
    wrong("epochs = 3", "epochs = 0", "line 5, column 1", "epochs is 0, not a whole number from 1"),
    wrong(
        "epochs = 3",
        "epochs = 3\nearly-stopping = { patience = 2 }",
        "line 5, column 1",
        "early-stopping needs held-out images; give `data` a `val-split`",
    ),
    wrong(
        "epochs = 3",
        "epochs = 3\nparameter-groups = [{ names = \"x*\" }]",
        "line 11, column 11",
        "`nin`: no parameter of the network belongs to parameter group 1",
    ),
    // Networks.
    wrong(
        "\"nin\"",
        "\"nln\"",
        "line 10, column 11",
        "there is no network `nln`, perhaps for `nin`; give one of alexnet_plain, alexnet, nin,",
    ),
    wrong("\"nin\"", "\"none.toml\"", "line 10, column 11", "./none.toml: it cannot be read"),
    wrong(
        "\"nin\"",
        "\"a\\nb.toml\"",
        "line 10, column 11",
        "`a\\nb.toml` cannot be a path; give one of up to 1000",
    ),
    wrong("\"nin\"", "\"src/\"", "line 10, column 11", "./src/: it is not a file"),
    wrong("\"nin\"", "\"/dev/zero\"", "line 10, column 11", "/dev/zero: it is not a file"),
    wrong("\"nin\"", "\"./Cargo.toml\"", "./Cargo.toml", "line 1, column 2: unknown key `package`"),
    wrong(
        "\"nin\"",
        "\"nin\"\nname = \"../x\"",
        "line 11, column 8",
        "`../x` cannot be the name of a network",
    ),
    wrong(
        "\"nin\"",
        "\"nin\"\nname = \"alexnet_plain\"",
        "line 13, column 11",
        "two networks are called `alexnet_plain`",
    ),
    wrong(
        "\"nin\"",
        "\"nin\"\nname = \"Alexnet_Plain\"",
        "line 13, column 11",
        "`Alexnet_Plain` and `alexnet_plain` are the same folder on some systems",
    ),
    wrong("\"nin\"", "\"nin\"\ndropout = 0.2", "line 10, column 11", "`nin` has no layer Dropout"),
    wrong(
        "\"nin\"",
        "\"alexnet_plain\"\ndropout = nan",
        "line 11, column 11",
        "invalid value: floating point `NaN`, expected a number from 0 to below 1",
    ),
    wrong(
        "\"nin\"",
        "\"nin\"\nrecipe = { epoch = 4 }",
        "line 11, column 10",
        "unknown key `epoch`, perhaps for `epochs`, expected",
    ),
    wrong("\"nin\"", "\"nin\"\nrecipe = { epochs = 0 }", "line 11, column 10", "epochs is 0"),
    wrong(
        "\"nin\"",
        "{ name = \"my net\", input = [1, 2, 2], layers = [\"Flatten\"] }",
        "line 10, column 11",
        "`my net` cannot be the name of a network in a study; give it a `name`",
    ),
    wrong(
        "\"nin\"",
        "{ name = \"b\", input = [1, 2, 2], layers = [] }",
        "line 10, column 11",
        "`b` ends in a map",
    ),
    wrong("\"nin\"", "{ name = \"b\", input = [1, 2, 2], layers = [\"Flat\"] }", "line 10, column 54", ""),
    // Grid.
    behind("[grid]\nseeds = []", "line 14, column 9", "there is no seed"),
    behind("[grid]\nseeds = [1, 2, 1]", "line 14, column 9", "seed 1 is given twice"),
    behind(
        "[grid]\nseeds = [-1]",
        "line 14, column 10",
        "invalid value: integer `-1`, expected a whole number from 0",
    ),
    behind(
        "[grid]\nseeds = [9223372036854775808]",
        "line 14, column 9",
        "seed 9223372036854775808 is too large",
    ),
    behind(
        "[[grid.vary]]\nkey = \"lr\"\nvalues = [1]",
        "line 14, column 7",
        "`lr` begins with neither `recipe.` nor `network.`",
    ),
    behind("[[grid.vary]]\nkey = \"recipe.epochs\"\nvalues = []", "line 15, column 10", "there is no value"),
    behind(
        "[[grid.vary]]\nkey = \"recipe.epoch\"\nvalues = [1]",
        "line 14, column 7",
        "unknown key `epoch`, perhaps for `epochs`",
    ),
    behind(
        "[[grid.vary]]\nkey = \"recipe.optimizer.Adam.lr\"\nvalues = [1]",
        "line 14, column 7",
        "`nin` has no `recipe.optimizer.Adam.lr`",
    ),
    behind(
        "[[grid.vary]]\nkey = \"recipe.optimizer.SGD.lr\"\nvalues = [-1]",
        "line 14, column 7",
        "optimizer.SGD.lr is -1",
    ),
    behind(
        "[[grid.vary]]\nkey = \"network.name\"\nvalues = [\"a\"]",
        "line 14, column 7",
        "a network's name follows from the varied values",
    ),
    behind(
        "[[grid.vary]]\nkey = \"network.layers.9.Conv2d.bias\"\nvalues = [true]",
        "line 14, column 7",
        "`nin` has no `network.layers.9.Conv2d.bias`",
    ),
    behind(
        "[[grid.vary]]\nkey = \"network.input\"\nvalues = [[3, 2, 2]]",
        "line 14, column 7",
        "layer features.",
    ),
    behind(
        "[[grid.vary]]\nkey = \"network.dropout\"\nvalues = [0]",
        "line 14, column 7",
        "`nin` has no layer Dropout",
    ),
    behind(
        "[[grid.vary]]\nkey = \"network.dropout\"\nvalues = [1]",
        "line 14, column 7",
        "1 is not a dropout probability",
    ),
    behind(
        "[[grid.vary]]\nkey = \"recipe.epochs\"\nlabel = \"/\"\nvalues = [1]",
        "line 15, column 9",
        "`/` cannot be part of a name",
    ),
    behind(
        "[[grid.vary]]\nkey = \"recipe.epochs\"\nnames = [\"a\"]\nvalues = [1, 2]",
        "line 15, column 9",
        "there are 1 names for 2 values",
    ),
    behind(
        "[[grid.vary]]\nkey = \"recipe.epochs\"\nnames = [\"../a\"]\nvalues = [1]",
        "line 15, column 9",
        "`../a` cannot be part of a name",
    ),
    behind(
        "[[grid.vary]]\nkey = \"recipe.epochs\"\nlabel = \"e\"\nnames = [\"a\"]\nvalues = [1]",
        "line 15, column 9",
        "`names` replace the `label`",
    ),
    behind(
        "[[grid.vary]]\nkey = \"recipe.epochs\"\nvalues = [1, 1]",
        "line 10, column 11",
        "two networks are called `nin-epochs1`",
    ),
    behind(
        "[[grid.vary]]\nkey = \"recipe.epochs\"\nvalues = [1]\n[[grid.vary]]\nkey = \"recipe.epochs\"\nvalues = [2]",
        "line 17, column 7",
        "`recipe.epochs` is varied above",
    ),
    behind(
        "[[grid.vary]]\nkey = \"recipe.epochs\"\nlabel = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\nvalues = [3]",
        "line 14, column 7",
        "`nin-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...` cannot be the name of a network; shorten its parts",
    ),
    behind(
        "[[networks]]\nnetwork = \"lenet\"\nrecipe = { epochs = false }",
        "line 15, column 10",
        "invalid type: boolean `false`, expected a whole number",
    ),
    behind(
        "[[networks]]\nnetwork = \"lenet\"\nrecipe = { warm-up = false }",
        "line 15, column 10",
        "unknown key `warm-up`, perhaps for `warmup`",
    ),
    // Published figures.
    behind(
        "[[published]]\nnetwork = \"nln\"",
        "line 14, column 11",
        "`nln` is not a network of this study, perhaps for `nin`; give one of nin, alexnet_plain",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\n[[published]]\nnetwork = \"nin\"",
        "line 16, column 11",
        "`nin` is twice under `published`",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70 }]",
        "line 14, column 11",
        "figures are published, but none of them decides; give a [[primary]] with its `metric` and a `margin`",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test_acc\", value = 70 }]",
        "line 15, column 23",
        "unknown value `test_acc`, perhaps for `test-acc`, expected",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70 },\n{ metric = \"test-acc\", value = 71 }]",
        "line 16, column 1",
        "test-acc at the end of `nin` is given twice",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70, epoch = 4 }]",
        "line 15, column 43",
        "test-acc of epoch 4 is published, and `nin` is trained for only 3 epochs",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70, epoch = 0 }]",
        "line 15, column 55",
        "invalid value: integer `0`, expected a whole number from 1",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 100.1 }]",
        "line 15, column 43",
        "test-acc is 100.1, not an accuracy from 0 to 100 percent",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-loss\", value = -0.1 }]",
        "line 15, column 44",
        "test-loss is -0.1, not a loss from 0",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-loss\", value = nan }]",
        "line 15, column 44",
        "invalid value: floating point `NaN`, expected a finite number",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-loss\", value = \"nan\" }]",
        "line 15, column 44",
        "the text is not a number",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-loss\", value = 1e-30 }]",
        "line 15, column 44",
        "the number has 30 decimals",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nruns = 0",
        "line 15, column 8",
        "invalid value: integer `0`, expected a whole number from 1",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70, deviation = 1 }]",
        "line 15, column 43",
        "one run has no deviation",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70, runs = 2, deviation = inf }]",
        "line 15, column 69",
        "invalid value: floating point `inf`, expected a number from 0",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\ncurves = { test-acc = [1, 2, 3, 4] }",
        "line 15, column 10",
        "the curve of test-acc has 4 values, and `nin` is trained for 3 epochs",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\ncurves = { test-acc = [1, nan] }",
        "line 15, column 23",
        "invalid value: floating point `NaN`, expected an accuracy from 0 to 100",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\ncurves = { test-loss = [1, -1] }",
        "line 15, column 24",
        "invalid value: floating point `-1.0`, expected a loss from 0",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"tta-test-acc\", value = 70 }]",
        "line 15, column 47",
        "tta-test-acc needs a recipe with `test-time-augmentation`, and that of `nin` has none; add it to the recipe",
    ),
    wrong(
        "\"SGD\"",
        "\"SGD\"\ntest-time-augmentation = { flip = true }\n[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"tta-test-acc\", value = 70, epoch = 3 }]",
        "line 12, column 47",
        "tta-test-acc is measured only after the last epoch; leave out `epoch`",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\ncurves = { tta-test-acc = [1, 2, 3] }",
        "line 15, column 12",
        "unknown key `tta-test-acc`",
    ),
    // Primary figures.
    behind(
        "[[primary]]\nmetric = \"test-acc\"\nmargin = 1",
        "line 13, column 1",
        "test-acc at the end cannot decide, since it was published for no network",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70 }]\n[[primary]]\nmetric = \"test-acc\"\nepoch = 4\nmargin = 1",
        "line 16, column 1",
        "test-acc of epoch 4 cannot decide",
    ),
    behind(
        "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70 }]\n[[primary]]\nmetric = \"test-acc\"\nmargin = 1\n[[primary]]\nmetric = \"test-acc\"\nmargin = 2",
        "line 19, column 1",
        "test-acc at the end is twice under `primary`",
    ),
    behind(
        "[[primary]]\nmetric = \"test-acc\"\nmargin = 0",
        "line 15, column 10",
        "invalid value: floating point `0.0`, expected a number above 0",
    ),
    behind(
        "[[primary]]\nmetric = \"test-acc\"\nmargin = nan",
        "line 15, column 10",
        "invalid value: floating point `NaN`, expected a number above 0",
    ),
    // Claims.
    behind(
        "[[claims]]\nkind = \"ratio\"\nof = \"macs\"\nnetwork = \"nln\"\nto = \"nin\"\nmargin = 2",
        "line 16, column 11",
        "`nln` is not a network of this study, perhaps for `nin`",
    ),
    behind(
        "[[claims]]\nkind = \"ratio\"\nof = \"macs\"\nnetwork = \"nin\"\nto = \"vgg\"\nmargin = 2",
        "line 17, column 6",
        "`vgg` is not a network of this study; give one of",
    ),
    behind(
        "[[claims]]\nkind = \"ratio\"\nof = \"macs\"\nnetwork = \"nin\"\nto = \"nin\"\nmargin = 2",
        "line 13, column 1",
        "`nin` is compared with itself",
    ),
    behind(
        "[[claims]]\nkind = \"ratio\"\nof = \"macs\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"\nmargin = 1",
        "line 13, column 1",
        "the margin of a ratio is itself a ratio; give a number above 1",
    ),
    behind(
        "[[claims]]\nkind = \"ratio\"\nof = \"macs\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"\npublished = 0",
        "line 13, column 1",
        "a published ratio is a number above 0",
    ),
    behind(
        "[[claims]]\nkind = \"difference\"\nof = \"test-acc\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"\npublished = inf",
        "line 18, column 13",
        "invalid value: floating point `inf`, expected a finite number",
    ),
    behind(
        "[[claims]]\nkind = \"difference\"\nof = \"test-acc\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"\nmargin = -1",
        "line 18, column 10",
        "invalid value: floating point `-1.0`, expected a number above 0",
    ),
    behind(
        "[[claims]]\nkind = \"difference\"\nof = \"test-acc\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"",
        "line 13, column 1",
        "the claim has no published value",
    ),
    behind(
        "[[claims]]\nkind = \"difference\"\nof = \"tta-test-acc\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"\npublished = 1",
        "line 13, column 1",
        "tta-test-acc needs a recipe with `test-time-augmentation`, and that of `nin` has none",
    ),
    behind(
        "[[claims]]\nkind = \"ratio\"\nof = \"parameters\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"",
        "line 13, column 1",
        "the claim has no published value",
    ),
    // Effects.
    behind(
        "[[effects]]\nname = \"smaller\"\nnetworks = [\"nin\", \"nln\"]\nto = [\"alexnet_plain\", \"nin\"]",
        "line 15, column 20",
        "`nln` is not a network of this study, perhaps for `nin`",
    ),
    behind(
        "[[effects]]\nname = \"smaller\"\nnetworks = [\"nin\"]\nto = []",
        "line 13, column 1",
        "`networks` has 1 and `to` has 0; give each network its counterpart",
    ),
    behind(
        "[[effects]]\nname = \"smaller\"\nnetworks = []\nto = []",
        "line 13, column 1",
        "`networks` has 0 and `to` has 0; give each network its counterpart",
    ),
    behind(
        "[[effects]]\nname = \"smaller\"\nnetworks = [\"nin\"]\nto = [\"nin\"]",
        "line 16, column 7",
        "`nin` is compared with itself",
    ),
    behind(
        "[[effects]]\nname = \"smaller\"\nnetworks = [\"nin\", \"nin\"]\nto = [\"alexnet_plain\", \"alexnet_plain\"]",
        "line 15, column 20",
        "`nin` and `alexnet_plain` are paired twice",
    ),
    behind(
        "[[effects]]\nname = \"smaller\"\nnetworks = [\"nin\"]\nto = [\"alexnet_plain\"]\n[[effects]]\nname = \"smaller\"\nnetworks = [\"alexnet_plain\"]\nto = [\"nin\"]",
        "line 17, column 1",
        "the effect \"smaller\" is given twice; leave one out",
    ),
    behind(
        "[[effects]]\nname = \"\"\nnetworks = [\"nin\"]\nto = [\"alexnet_plain\"]",
        "line 14, column 8",
        "",
    ),
    behind(
        "[source]\nlink = \"javascript:alert(1)\"",
        "line 14, column 8",
        "`javascript:alert(1)` is not a web address",
    ),
];

#[test]
fn a_path_of_any_length_is_refused_in_a_sentence() {
    for length in [1001, 100_000] {
        let text = with("").replacen("\"nin\"", &format!("\"./{}.toml\"", "a".repeat(length)), 1);
        let error = read(&text).unwrap_err().to_string();
        assert!(error.starts_with("line 10, column 11: `./aaa") && error.len() < 300, "{error}");
    }
}

#[test]
fn every_wrong_file_is_refused_with_its_place_and_a_reason() {
    assert!(read(&with("")).is_ok());
    let mut failures = Vec::new();
    for case in WRONG {
        let text = match case.old {
            "" => with(case.new),
            old => {
                let text = with("");
                assert!(text.contains(old), "{case:?}");
                text.replacen(old, case.new, 1)
            }
        };
        let error = read(&text).map_or_else(|error| error.to_string(), |_| "nothing".to_owned());
        let is_line = !error.contains('\n') && error.len() < 1000;
        let expected = format!("{}: {}", case.place, case.says);
        if !(error.starts_with(&expected) || error.starts_with(&format!("./{expected}"))) || !is_line {
            failures.push(format!("{case:?}\n  says: {error}"));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), WRONG.len(), failures.join("\n"));
}

#[test]
fn a_name_that_nobody_knows_is_answered_with_a_likely_one() {
    let error = Study::find("pointwize").unwrap_err().to_string();
    assert!(
        error.starts_with("there is no study `pointwize`, perhaps for `pointwise`; give one of pointwise, "),
        "{error}"
    );
    let error = Study::find("none/at/all.toml").unwrap_err().to_string();
    assert!(error.starts_with("none/at/all.toml: it cannot be read ("), "{error}");
    assert_eq!(Study::find("pointwise").unwrap().name, "pointwise");
}

/// Files that would never end, or fill memory.
#[test]
fn files_that_are_none_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("study.toml"), with("").replace("\"nin\"", "\"large.toml\"")).unwrap();
    fs::File::create(path("large.toml")).unwrap().set_len(1 << 40).unwrap();
    let error = Study::read(&path("study.toml")).unwrap_err().to_string();
    assert!(
        error.contains("study.toml: line 10, column 11: ")
            && error.contains("large.toml: it has more than 16 MiB"),
        "{error}"
    );
    fs::write(path("latin.toml"), b"name = \"\xe4\"").unwrap();
    let error = Study::read(&path("latin.toml")).unwrap_err().to_string();
    assert!(error.contains("it cannot be read as text"), "{error}");
    #[cfg(unix)]
    {
        let pipe = path("pipe.toml");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = Study::read(&pipe).unwrap_err().to_string();
        assert!(error.ends_with("pipe.toml: it is not a file: give the path of one"), "{error}");
    }
    // A thousand million combinations.
    let values: Vec<String> = (1..=1000).map(|value| value.to_string()).collect();
    let vary =
        |key: &str| format!("[[grid.vary]]\nkey = \"recipe.{key}\"\nvalues = [{}]\n", values.join(", "));
    let error =
        read(&with(&[vary("epochs"), vary("batch-size"), vary("augment.crop")].concat())).unwrap_err();
    assert!(error.to_string().contains("make 2000000000 combinations; keep them to 10000"), "{error}");
    let seeds: Vec<String> = (0..500_001).map(|seed| seed.to_string()).collect();
    let error = read(&with(&format!("[grid]\nseeds = [{}]", seeds.join(", ")))).unwrap_err();
    assert!(error.to_string().contains("2 networks with 500001 seeds are 1000002 runs"), "{error}");
    assert!(read(&with(&"[".repeat(100_000))).is_err());
}

#[test]
fn a_grid_is_every_combination_with_names_that_are_folders() {
    let grid = r#"
        [grid]
        seeds = [1, 2]
        [[grid.vary]]
        key = "recipe.optimizer.SGD.lr"
        values = [0.1, 1e-3, 1e-7]
        [[grid.vary]]
        key = "recipe.augment"
        label = "aug"
        values = ["none", { crop = 2, flip = "random" }]
        [[grid.vary]]
        key = "recipe.shuffle"
        names = ["shuffled", "in-order"]
        values = [true, false]
    "#;
    let study = read(&with(grid)).unwrap();
    let names: Vec<&str> = study.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!((names.len(), study.seeds.as_slice()), (24, &[1, 2][..]));
    assert_eq!(
        names[..5],
        [
            "nin-lr0.1-augnone-shuffled",
            "nin-lr0.1-augnone-in-order",
            "nin-lr0.1-augcrop2-fliprandom-shuffled",
            "nin-lr0.1-augcrop2-fliprandom-in-order",
            "nin-lr0.001-augnone-shuffled",
        ]
    );
    assert_eq!(names[23], "alexnet_plain-lr1e-7-augcrop2-fliprandom-in-order");
    let arm = &study.arms[11];
    let Optimizer::Sgd(sgd) = &arm.recipe.optimizer else { panic!("{arm:?}") };
    assert_eq!(
        (sgd.lr, arm.recipe.augment.crop, arm.recipe.shuffle, arm.is_shipped),
        (1e-7, 2, false, false)
    );
    assert_eq!(arm.name, arm.network.name);
    // Values that are not varied stay.
    assert_eq!(arm.recipe.batch_size, 4);
}

/// Tables that would make the name too long are numbered.
#[test]
fn values_that_are_tables_have_names() {
    let grid = r#"
        [[grid.vary]]
        key = "recipe.optimizer"
        label = ""
        values = ["SGD", { Adam = { lr = 0.1 } }, { AdamW = { lr = 0.1, betas = [0.9, 0.99], weight_decay = 1e-4 } }]
    "#;
    let study = read(&with(&grid.replace("label = \"\"\n", ""))).unwrap();
    let names: Vec<&str> = study.arms.iter().take(3).map(|arm| arm.name.as_str()).collect();
    assert_eq!(names, ["nin-optimizerSGD", "nin-optimizerAdam-lr0.1", "nin-optimizer3"]);
    let error = read(&with(grid)).unwrap_err().to_string();
    assert!(error.contains("`` cannot be part of a name"), "{error}");
}

#[test]
fn networks_are_varied_in_their_layers_and_dropouts() {
    let text = with("[[grid.vary]]\nkey = \"network.dropout\"\nvalues = [0, 0.25]")
        .replace("[[networks]]\nnetwork = \"nin\"\n", "");
    let study = read(&text).unwrap();
    let found: Vec<_> = study.arms.iter().map(|arm| (arm.name.as_str(), arm.dropout())).collect();
    assert_eq!(found, [("alexnet_plain-dropout0", Some(0.0)), ("alexnet_plain-dropout0.25", Some(0.25))]);

    // A layer given by its name alone has arguments, too.
    let text = r#"
        name = "widths"
        title = "Widths"
        data = { kind = "mnist" }
        recipe = { epochs = 1, batch-size = 4, optimizer = "SGD" }
        [[networks]]
        [networks.network]
        name = "small"
        input = [1, 28, 28]
        layers = [
            { Conv2d = { out_channels = 8, kernel_size = 3 } },
            "BatchNorm2d",
            "Dropout",
            "Flatten",
            { Linear = { out_features = 10 } },
        ]
        [[grid.vary]]
        key = "network.layers.0.Conv2d.out_channels"
        label = "c"
        values = [4, 8]
        [[grid.vary]]
        key = "network.layers.2.Dropout.p"
        values = [0.1]
    "#;
    let study = read(text).unwrap();
    let found: Vec<_> = study
        .arms
        .iter()
        .map(|arm| {
            (arm.name.as_str(), arm.network.graph().unwrap().parameters()[0].shape.clone(), arm.dropout())
        })
        .collect();
    assert_eq!(found, [("small-c4-p0.1", vec![4], Some(0.1)), ("small-c8-p0.1", vec![8], Some(0.1))]);
}

#[test]
fn an_arm_is_a_network_with_a_recipe_of_its_own() {
    let text = r#"
        name = "b"
        title = "B"
        data = { kind = "cifar10" }
        recipe = { epochs = 3, batch-size = 4, optimizer = "SGD", shuffle = false }
        networks = [
            { network = "nin" },
            { network = "nin", name = "nin-adam", recipe = { optimizer = "Adam", batch-size = 8 } },
            { network = "alexnet_plain", dropout = 0 },
            { network = { name = "nin-own", input = [1, 2, 2], layers = ["Flatten"] } },
        ]
    "#;
    let study = read(text).unwrap();
    let found: Vec<_> =
        study.arms.iter().map(|arm| (arm.name.as_str(), arm.is_shipped, arm.dropout())).collect();
    assert_eq!(
        found,
        [
            ("nin", true, None),
            ("nin-adam", false, None),
            ("alexnet_plain", true, Some(0.0)),
            ("nin-own", false, None)
        ]
    );
    let adam = &study.arms[1].recipe;
    assert_eq!((adam.batch_size, adam.epochs, adam.shuffle), (8, 3, false));
    assert!(matches!(adam.optimizer, Optimizer::Adam(_)));
    assert_eq!(study.arms[0].recipe, study.recipe);
    assert_eq!(study.seeds, [42]);
    assert!(!study.is_published());
}

#[test]
fn figures_follow_from_curves_where_there_are_no_others() {
    let more = r#"
        [[primary]]
        metric = "test-acc"
        margin = 1
        [[published]]
        network = "nin"
        runs = 3
        figures = [{ metric = "test-acc", epoch = 2, value = "60.0", runs = 5, deviation = 0.5 }]
        curves = { test-acc = [50, 60.25, 70.5], test-loss = [2, 1] }
    "#;
    let study = read(&with(more)).unwrap();
    let published = &study.arm("nin").unwrap().published;
    let figure = |metric, epoch| {
        let figure = published.figure(metric, epoch)?;
        Some((figure.value, figure.decimals, figure.runs, figure.deviation))
    };
    assert_eq!(figure(Metric::TestAcc, Some(1)), Some((50.0, 2, 3, None)));
    assert_eq!(figure(Metric::TestAcc, Some(2)), Some((60.0, 1, 5, Some(0.5))));
    assert_eq!(figure(Metric::TestAcc, Some(3)), Some((70.5, 2, 3, None)));
    assert_eq!(figure(Metric::TestAcc, None), Some((70.5, 2, 3, None)));
    assert_eq!(figure(Metric::TestLoss, Some(2)), Some((1.0, 0, 3, None)));
    // The curve ends before the training does.
    assert_eq!(figure(Metric::TestLoss, None), None);
    assert_eq!(published.figures.len(), 6);
}

/// A figure of one arm, whose recipe has views; the others' have none, and no such figure.
#[test]
fn an_accuracy_over_views_decides() {
    let more = r#"
        [[networks]]
        network = "lenet"
        recipe = { test-time-augmentation = { flip = true, translate = 1 } }
        [[primary]]
        metric = "tta-test-acc"
        margin = 1
        [[published]]
        network = "lenet"
        figures = [{ metric = "tta-test-acc", value = "94.01" }]
    "#;
    let study = read(&with(more)).unwrap();
    let published = &study.arm("lenet").unwrap().published;
    assert_eq!(published.figure(Metric::TtaTestAcc, None).unwrap().shown(), "94.01");
    assert!(published.curves.of(Metric::TtaTestAcc).is_empty());
    assert_eq!(read(&study.to_toml()).unwrap(), study);
}

/// Figures that are lower bounds decide by themselves, and numbers of parameters are counted.
#[test]
fn what_needs_no_primary_figure() {
    let more = "[[published]]\nnetwork = \"nin\"\nparameters = 3\nfigures = [{ metric = \"test-acc\", value = 70, at-least = true }]";
    let study = read(&with(more)).unwrap();
    assert!(study.is_published() && study.primary.is_empty());
    assert!(read(&with("[[published]]\nnetwork = \"nin\"\nparameters = 3")).unwrap().is_published());
}

#[test]
fn paths_are_from_the_folder_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("nets")).unwrap();
    fs::write(path("nets/own.toml"), "name = \"own net\"\ninput = [3, 2, 2]\nlayers = [\"Flatten\"]")
        .unwrap();
    fs::write(path("old.json"), "{}").unwrap();
    let text = with("")
        .replace("title", "record = \"old.json\"\ntitle")
        .replace("kind = \"cifar10\"", "kind = \"folder\"\ndir = \"images\"\ntest-split = 0.2")
        .replace("network = \"nin\"", "network = \"nets/own.toml\"\nname = \"own\"");
    fs::write(path("study.toml"), text).unwrap();
    let study = Study::read(&path("study.toml")).unwrap();
    assert_eq!(study.data.dir.as_deref(), Some(path("images").as_path()));
    assert_eq!(study.data.test_split.as_deref(), Some("0.2"));
    assert_eq!((study.arms[0].name.as_str(), study.arms[0].network.name.as_str()), ("own", "own"));
    assert_eq!(study.record.as_deref(), Some("{}"));
    // An error in another file names that file.
    fs::write(path("nets/own.toml"), "name = \"own\"\ninput = [3, 2, 2]\nlayers = [3]").unwrap();
    let error = Study::read(&path("study.toml")).unwrap_err().to_string();
    assert!(error.contains("nets/own.toml: line 3, column 11: "), "{error}");
}
