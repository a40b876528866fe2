//! The JSON Schema of a study's file: what editors accept is what the program accepts.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

#[path = "../../recipe/tests/json_schema/mod.rs"]
mod json_schema;

use json_schema::is_valid;
use pointwise_study::Study;
use serde_json::Value;
use std::path::Path;

/// A study, in parts that a case may replace.
const HEAD: &str = "name = \"a\"\ntitle = \"A\"\n";
const DATA: &str = "[data]\nkind = \"cifar10\"\n";
const RECIPE: &str = "[recipe]\nepochs = 3\nbatch-size = 4\noptimizer = \"SGD\"\n";
const NETWORKS: &str = "[[networks]]\nnetwork = \"nin\"\n[[networks]]\nnetwork = \"alexnet_plain\"\n";

/// What may come before the tables.
const HEADS: &[&str] = &[
    "",
    "name = \"a\"\n",
    "title = \"A\"\n",
    "name = 3\ntitle = \"A\"\n",
    "name = \"\"\ntitle = \"A\"\n",
    "name = \"../a\"\ntitle = \"A\"\n",
    "name = \".a\"\ntitle = \"A\"\n",
    "name = \"a.\"\ntitle = \"A\"\n",
    "name = \"a b\"\ntitle = \"A\"\n",
    "name = \"A-b_c.d+e=9\"\ntitle = \"A\"\n",
    "name = \"a\"\ntitle = \"\"\n",
    "name = \"a\"\ntitle = 3\n",
    "name = \"a\"\ntitle = \"A\"\nquestion = \"Q\"\nconclusion = \"C\"\n",
    "name = \"a\"\ntitle = \"A\"\nquestion = 3\n",
    "name = \"a\"\ntitle = \"A\"\nrecord = 3\n",
    "name = \"a\"\ntitle = \"A\"\nnotes = \"\"\n",
];

const DATAS: &[&str] = &[
    "",
    "[data]\n",
    "[data]\nkind = \"mnist\"\n",
    "[data]\nkind = \"cifar\"\n",
    "[data]\nkind = \"folder\"\ndir = \"images\"\ntest-split = \"0.2\"\n",
    "[data]\nkind = \"folder\"\ndir = \"images\"\ntest-split = 0.2\n",
    "[data]\nkind = \"folder\"\ndir = \"images\"\ntest-split = 500\n",
    "[data]\nkind = \"folder\"\ndir = \"images\"\ntest-split = 0\n",
    "[data]\nkind = \"folder\"\ndir = \"images\"\ntest-split = true\n",
    "[data]\nkind = \"folder\"\ndir = 3\n",
    "[data]\nkind = \"synthetic\"\ndata-seed = 3\nlimit-train = 1\nlimit-test = 1\n",
    "[data]\nkind = \"synthetic\"\nlimit-train = 0\n",
    "[data]\nkind = \"synthetic\"\nlimit-test = 0\n",
    "[data]\nkind = \"synthetic\"\ndata-seed = -1\n",
    "[data]\nkind = \"cifar10\"\nval-split = 0\ntrain-images = 1\ntest-images = 1\n",
    "[data]\nkind = \"cifar10\"\nval-split = -1\n",
    "[data]\nkind = \"cifar10\"\ntrain-images = 0\n",
    "[data]\nkind = \"cifar10\"\ntest-images = 0\n",
    "[data]\nkind = \"cifar10\"\npath = \"x\"\n",
];

const RECIPES: &[&str] = &[
    "",
    "[recipe]\nepochs = 0\nbatch-size = 4\noptimizer = \"SGD\"\n",
    "[recipe]\nepochs = 3\nbatch-size = 4\noptimizer = { SGD = { lr = 0.1 } }\n",
    "[recipe]\nepochs = 3\nbatch-size = 4\noptimizer = \"SDG\"\n",
    "[recipe]\nepochs = 3\nbatch-size = 4\n",
];

const NETWORK_LISTS: &[&str] = &[
    "",
    "[[networks]]\n",
    "[[networks]]\nnetwork = 3\n",
    "[[networks]]\nnetwork = \"nin\"\nname = \"b\"\n",
    "[[networks]]\nnetwork = \"nin\"\nname = \"a/b\"\n",
    "[[networks]]\nnetwork = \"alexnet_plain\"\ndropout = 0\n",
    "[[networks]]\nnetwork = \"alexnet_plain\"\ndropout = 1.0\n",
    "[[networks]]\nnetwork = \"alexnet_plain\"\ndropout = -0.1\n",
    "[[networks]]\nnetwork = \"nin\"\nrecipe = { epochs = 4 }\n",
    "[[networks]]\nnetwork = \"nin\"\nrecipe = 4\n",
    "[[networks]]\nnetwork = \"nin\"\nseeds = [1]\n",
    "[[networks]]\nnetwork = { name = \"b\", input = [1, 2, 2], layers = [\"Flatten\"] }\n",
    "[[networks]]\nnetwork = { name = \"b\", input = [1, 2], layers = [\"Flatten\"] }\n",
    "[[networks]]\nnetwork = { name = \"b\", input = [1, 2, 2], layers = [\"Flat\"] }\n",
    "[[networks]]\nnetwork = { name = \"b\", input = [1, 2, 2] }\n",
];

/// What may follow a complete study.
const TAILS: &[&str] = &[
    "[source]\n",
    "[source]\ntitle = \"T\"\nauthor = \"A\"\nyear = 2015\nlink = \"https://example.org\"\nlicence = \"MIT\"\nnote = \"N\"\n",
    "[source]\nyear = -1\n",
    "[source]\nyear = \"2015\"\n",
    "[source]\nlink = \"javascript:alert(1)\"\n",
    "[source]\nlicense = \"MIT\"\n",
    "[grid]\n",
    "[grid]\nseeds = []\n",
    "[grid]\nseeds = [1, 2]\n",
    "[grid]\nseeds = [1, 1]\n",
    "[grid]\nseeds = [-1]\n",
    "[grid]\nseeds = [1.5]\n",
    "[grid]\nseeds = 1\n",
    "[grid]\nseed = [1]\n",
    "[[grid.vary]]\nkey = \"recipe.epochs\"\nvalues = [3, 4]\n",
    "[[grid.vary]]\nkey = \"recipe.epochs\"\nlabel = \"e\"\nvalues = [3, 4]\n",
    "[[grid.vary]]\nkey = \"recipe.epochs\"\nnames = [\"short\", \"long\"]\nvalues = [3, 4]\n",
    "[[grid.vary]]\nkey = \"recipe.epochs\"\nvalues = []\n",
    "[[grid.vary]]\nkey = \"recipe.epochs\"\nvalues = 3\n",
    "[[grid.vary]]\nkey = \"recipe.epochs\"\n",
    "[[grid.vary]]\nvalues = [3]\n",
    "[[grid.vary]]\nkey = 3\nvalues = [3]\n",
    "[[grid.vary]]\nkey = \"recipe.epochs\"\nvalue = [3]\n",
    "[[published]]\nnetwork = \"nin\"\n",
    "[[published]]\nnetwork = \"nin\"\nparameters = 1\n",
    "[[published]]\nnetwork = \"nin\"\nparameters = -1\n",
    "[[published]]\nparameters = 1\n",
    "[[published]]\nnetwork = \"nin\"\nruns = 0\n",
    "[[published]]\nnetwork = \"nin\"\nruns = 5\nfigures = [{ metric = \"test-acc\", value = 70, at-least = true }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = \"70.0\", at-least = true, epoch = 3 }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = \"70,0\", at-least = true }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = \"\", at-least = true }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = \"1e1\", at-least = true }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = true, at-least = true }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"accuracy\", value = 70, at-least = true }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", at-least = true }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ value = 70, at-least = true }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70, at-least = 1 }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70, at-least = true, epoch = 0 }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70, at-least = true, runs = 0 }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70, at-least = true, runs = 2, deviation = 0 }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70, at-least = true, runs = 2, deviation = -1 }]\n",
    "[[published]]\nnetwork = \"nin\"\nfigures = [{ metric = \"test-acc\", value = 70, at-least = true, std = 1 }]\n",
    "[[published]]\nnetwork = \"nin\"\ncurves = {}\n",
    "[[published]]\nnetwork = \"nin\"\ncurves = { test-acc = [101] }\n",
    "[[published]]\nnetwork = \"nin\"\ncurves = { test-acc = [-1] }\n",
    "[[published]]\nnetwork = \"nin\"\ncurves = { train-loss = [-1] }\n",
    "[[published]]\nnetwork = \"nin\"\ncurves = { accuracy = [1] }\n",
    "[[published]]\nnetwork = \"nin\"\ncurves = { test-acc = [50, 60.5, 100] }\n[[primary]]\nmetric = \"test-acc\"\nmargin = 1\n",
    "[[published]]\nnetwork = \"nin\"\ncurves = { test-loss = [1, 0] }\n[[primary]]\nmetric = \"test-loss\"\nepoch = 2\nmargin = 0.1\nreason = \"R\"\n",
    "[[published]]\nnetwork = \"nin\"\ncurves = { test-loss = [1, 0] }\n[[primary]]\nmetric = \"test-loss\"\nepoch = 0\nmargin = 0.1\n",
    "[[published]]\nnetwork = \"nin\"\ncurves = { test-loss = [1, 0] }\n[[primary]]\nmetric = \"test-loss\"\nepoch = 2\nmargin = 0\n",
    "[[published]]\nnetwork = \"nin\"\ncurves = { test-loss = [1, 0] }\n[[primary]]\nmetric = \"test-loss\"\nepoch = 2\n",
    "[[published]]\nnetwork = \"nin\"\ncurves = { test-loss = [1, 0] }\n[[primary]]\nepoch = 2\nmargin = 1\n",
    "[[claims]]\nkind = \"ratio\"\nof = \"macs\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"\npublished = 2\n",
    "[[claims]]\nkind = \"difference\"\nof = \"test-acc\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"\nmargin = 2\nreason = \"R\"\ntext = \"T\"\n",
    "[[claims]]\nkind = \"difference\"\nof = \"test-acc\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"\nmargin = 0\n",
    "[[claims]]\nkind = \"sum\"\nof = \"test-acc\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"\nmargin = 2\n",
    "[[claims]]\nkind = \"ratio\"\nof = \"size\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"\nmargin = 2\n",
    "[[claims]]\nkind = \"ratio\"\nof = \"macs\"\nnetwork = \"nin\"\nmargin = 2\n",
    "[[claims]]\nkind = \"ratio\"\nof = \"macs\"\nto = \"nin\"\nmargin = 2\n",
    "[[claims]]\nkind = \"ratio\"\nof = \"macs\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"\npublished = \"2\"\n",
    "[[claims]]\nkind = \"ratio\"\nof = \"macs\"\nnetwork = \"nin\"\nto = \"alexnet_plain\"\nmargin = 2\nwhy = \"R\"\n",
    "[[effects]]\nname = \"smaller\"\nnetworks = [\"nin\"]\nto = [\"alexnet_plain\"]\n",
    "[[effects]]\nname = \"\"\nnetworks = [\"nin\"]\nto = [\"alexnet_plain\"]\n",
    "[[effects]]\nname = \"smaller\"\nnetworks = []\nto = []\n",
    "[[effects]]\nname = \"smaller\"\nnetworks = [\"nin\"]\n",
    "[[effects]]\nname = \"smaller\"\nnetworks = \"nin\"\nto = \"alexnet_plain\"\n",
    "[[effects]]\nname = \"smaller\"\nnetworks = [\"nin\"]\nto = [\"alexnet_plain\"]\nof = \"macs\"\n",
    "[network]\n",
];

#[test]
fn the_schema_and_the_program_agree() {
    let schema = Study::json_schema();
    let is_valid = |text: &str| {
        let value: Value = toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        is_valid(&value, &schema, &schema)
    };
    let texts: Vec<String> = (HEADS.iter().map(|head| [*head, DATA, RECIPE, NETWORKS, ""].concat()))
        .chain(DATAS.iter().map(|data| [HEAD, *data, RECIPE, NETWORKS].concat()))
        .chain(RECIPES.iter().map(|recipe| [HEAD, DATA, *recipe, NETWORKS].concat()))
        .chain(NETWORK_LISTS.iter().map(|networks| [HEAD, DATA, RECIPE, *networks].concat()))
        .chain(TAILS.iter().map(|tail| [HEAD, DATA, RECIPE, NETWORKS, *tail].concat()))
        .collect();
    let (mut good, mut wrong) = (0, Vec::new());
    for text in &texts {
        let read = Study::from_toml(text, Path::new("."));
        good += usize::from(read.is_ok());
        if is_valid(text) != read.is_ok() {
            wrong.push(format!("{text}the program says {:?}", read.map(|study| study.name)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), texts.len(), wrong.join("\n\n"));
    assert!(good > 25 && texts.len() - good > 60, "{good} of {}", texts.len());
    for name in Study::shipped() {
        assert!(is_valid(Study::shipped_toml(name).unwrap()), "{name}");
        assert!(is_valid(&Study::by_name(name).unwrap().to_toml()), "{name}");
    }
}

/// Every key has a description, which an editor shows.
#[test]
fn every_key_is_described() {
    fn look(path: &str, schema: &Value, missing: &mut Vec<String>) {
        for (key, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if property.get("description").is_none() && property.get("$ref").is_none() {
                missing.push(format!("{path}.{key}"));
            }
        }
    }
    let schema = Study::json_schema();
    let mut missing = Vec::new();
    look("", &schema, &mut missing);
    let own = [
        "Grid",
        "Vary",
        "Entry",
        "FilePublished",
        "FileFigure",
        "FileClaim",
        "Primary",
        "Curves",
        "Source",
        "DataSource",
    ];
    let definitions = schema["$defs"].as_object().unwrap();
    for (name, definition) in
        definitions.iter().filter(|(name, _)| own.iter().any(|own| name.starts_with(own)))
    {
        look(name, definition, &mut missing);
    }
    assert!(own.iter().all(|name| definitions.contains_key(*name)), "{:?}", definitions.keys());
    assert!(missing.is_empty(), "{missing:?}");
}
