//! Turns the content of a file into a study, or into an error with its place.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf, absolute};

use pointwise_network::Network;
use pointwise_recipe::{DataKind, Recipe, RecipeError};
use pointwise_runs::RunConfig;
use serde::de::IgnoredAny;
use toml::Spanned;

use crate::file::{
    Entry, FileClaim, FileEffect, FileFigure, FilePublished, NetworkSource, StudyFile, message, read_text,
};
use crate::number::{Decimal, decimals};
use crate::reader::{Reader, as_table};
use crate::text::{is_name, listed, name_rule, perhaps, shown};
use crate::vary::Variation;
use crate::{
    Arm, Claim, ClaimKind, Curves, DataSource, Effect, Error, Metric, Primary, Published, PublishedFigure,
    Quantity, Result, Study,
};

/// The most arms of a study, and its most runs: a grid beyond them is a mistake.
const MAX_ARMS: usize = 10_000;
const MAX_RUNS: usize = 1_000_000;

/// The most characters of a path in a study: at four bytes each, still within the limit of Linux.
const MAX_PATH: usize = 1000;

impl Study {
    /// The study of this name, or the one that the file at this path describes.
    ///
    /// # Errors
    /// [`Error::Unknown`] or [`Error::File`].
    pub fn find(name: &str) -> Result<Self> {
        let is_file = name.ends_with(".toml") || name.contains(['/', '\\']);
        if is_file { Self::read(Path::new(name)) } else { Self::by_name(name) }
    }

    /// Reads a file that describes a study, and the files that it names.
    ///
    /// # Errors
    /// [`Error::File`] naming the file and, for an error in its content, the line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        Self::from_toml(&text, folder.unwrap_or(Path::new("."))).map_err(|error| match error {
            Error::File { .. } => error,
            error => Error::File { path: path.to_owned(), cause: error.to_string() },
        })
    }

    /// Reads the text of a file that lies in `folder`.
    ///
    /// # Errors
    /// [`Error::Syntax`] naming the line, or [`Error::File`] naming another file that the text names.
    pub fn from_toml(text: &str, folder: &Path) -> Result<Self> {
        let file: StudyFile = toml::from_str(text).map_err(|error| syntax(text, &error))?;
        Reader { text, folder }.study(file)
    }
}

/// The TOML parser's error, for somebody who knows TOML but not Rust.
fn syntax(text: &str, error: &toml::de::Error) -> Error {
    let (line, column) = match RecipeError::syntax(text, error) {
        RecipeError::Syntax { line, column, .. } => (line, column),
        _ => (1, 1),
    };
    Error::Syntax { line, column, message: message(error) }
}

impl Reader<'_> {
    /// The study.
    fn study(&self, file: StudyFile) -> Result<Study> {
        let name = self.name(&file.name, "a study")?;
        let recipe_span = file.recipe.span();
        let recipe = file.recipe.into_inner();
        recipe.check().map_err(|error| self.wrong(recipe_span.clone(), error.to_string()))?;
        let seeds = self.seeds(file.grid.seeds)?;
        let variations = file.grid.vary.into_iter().map(|vary| self.variation(vary));
        let variations: Vec<Variation> = variations.collect::<Result<_>>()?;
        self.check_variations(&variations)?;

        let networks_span = file.networks.span();
        let entries = file.networks.into_inner();
        if entries.is_empty() {
            return Err(self.wrong(networks_span, "there is no network; name at least one"));
        }
        let varied = variations.iter().fold(1usize, |product, of| product.saturating_mul(of.len()));
        let arms = entries.len().saturating_mul(varied);
        if arms > MAX_ARMS {
            return Err(self.wrong(
                networks_span,
                format!("networks and what is varied make {arms} combinations; keep them to {MAX_ARMS}"),
            ));
        }
        let runs = arms.saturating_mul(seeds.len());
        if runs > MAX_RUNS {
            return Err(self.wrong(
                networks_span,
                format!(
                    "{arms} networks with {} seeds are {runs} runs; keep them to {MAX_RUNS}",
                    seeds.len()
                ),
            ));
        }
        let data = self.data(file.data)?;
        let mut arms = Vec::with_capacity(arms);
        // The place of each arm.
        let mut spans = HashMap::new();
        for entry in entries {
            let span = entry.network.span();
            let arm = self.arm(entry, &recipe)?;
            for arm in self.varied(arm, &variations)? {
                self.check_arm(&arm, &data, span.clone(), recipe_span.clone())?;
                // Where case does not distinguish letters, it does not distinguish folders either.
                if let Some((other, _)) =
                    spans.insert(arm.name.to_lowercase(), (arm.name.clone(), span.clone()))
                {
                    let name = &arm.name;
                    return Err(self.wrong(
                        span,
                        if other == *name {
                            format!("two networks are called `{name}`; give one of them another `name`")
                        } else {
                            format!("`{other}` and `{name}` are the same folder on some systems; give one of them another `name`")
                        },
                    ));
                }
                arms.push(arm);
            }
        }

        let places: HashMap<String, usize> =
            arms.iter().enumerate().map(|(place, arm)| (arm.name.clone(), place)).collect();
        let place = |name: &Spanned<String>| {
            places.get(name.get_ref()).copied().ok_or_else(|| {
                let names = || arms_names(&places);
                let message = format!(
                    "`{}` is not a network of this study{}; give one of {}",
                    shown(name.get_ref()),
                    perhaps(name.get_ref(), names()),
                    listed(names())
                );
                self.wrong(name.span(), message)
            })
        };
        let mut published_spans: HashMap<usize, Range<usize>> = HashMap::new();
        for published in file.published {
            let at = place(&published.network)?;
            let span = published.network.span();
            if published_spans.insert(at, span.clone()).is_some() {
                let name = &arms[at].name;
                return Err(self.wrong(span, format!("`{name}` is twice under `published`; join the two")));
            }
            arms[at].published = self.published(published, &arms[at])?;
        }
        let primary = self.primary(file.primary, &arms, &published_spans)?;
        let mut claims = Vec::with_capacity(file.claims.len());
        for claim in file.claims {
            let (one, other) = (place(&claim.get_ref().network)?, place(&claim.get_ref().to)?);
            let claim = self.claim(claim, &arms[one], &arms[other], &claims)?;
            claims.push(claim);
        }
        let mut effects: Vec<Effect> = Vec::with_capacity(file.effects.len());
        for effect in file.effects {
            let effect = self.effect(effect, place, &arms, &effects)?;
            effects.push(effect);
        }
        let record = file.record.map(|path| self.record(&path)).transpose()?;
        Ok(Study {
            name,
            title: file.title,
            question: file.question,
            conclusion: file.conclusion,
            source: file.source,
            data,
            recipe,
            seeds,
            arms,
            primary,
            claims,
            effects,
            record,
        })
    }

    fn name(&self, name: &Spanned<String>, of: &str) -> Result<String> {
        if is_name(name.get_ref()) {
            return Ok(name.get_ref().clone());
        }
        Err(self.wrong(
            name.span(),
            format!("`{}` cannot be the name of {of}; give {}", shown(name.get_ref()), name_rule()),
        ))
    }

    fn seeds(&self, seeds: Option<Spanned<Vec<u64>>>) -> Result<Vec<u64>> {
        let Some(seeds) = seeds else { return Ok(vec![42]) };
        let mut seen = HashSet::new();
        let message = if seeds.get_ref().is_empty() {
            "there is no seed; give at least one".to_owned()
        } else if let Some(seed) = seeds.get_ref().iter().find(|seed| **seed > RunConfig::MAX_SEED) {
            format!("seed {seed} is too large; give numbers up to {}", RunConfig::MAX_SEED)
        } else if let Some(seed) = seeds.get_ref().iter().find(|seed| !seen.insert(**seed)) {
            format!("seed {seed} is given twice; leave one out")
        } else {
            return Ok(seeds.into_inner());
        };
        Err(self.wrong(seeds.span(), message))
    }

    /// The images, with the folder as an absolute path.
    fn data(&self, data: Spanned<DataSource>) -> Result<DataSource> {
        let span = data.span();
        let mut data = data.into_inner();
        let kind = data.kind;
        let in_folder = !matches!(kind, DataKind::Synthetic | DataKind::Huggingface);
        let message = match &data {
            DataSource { dir: None, .. } if kind == DataKind::Folder => {
                "data of kind folder needs a `dir`, the folder of the images"
            }
            DataSource { dir: Some(_), .. } if !in_folder => "`dir` is only for images in a folder",
            DataSource { test_split: Some(_), .. } if kind != DataKind::Folder => {
                "`test-split` is for data of kind folder; others have test images of their own"
            }
            DataSource { data_seed: Some(_), .. }
                if !matches!(kind, DataKind::Folder | DataKind::Synthetic) =>
            {
                "`data-seed` is for data of kind synthetic or folder"
            }
            DataSource { data_seed: Some(seed), .. } if *seed > RunConfig::MAX_SEED => {
                "`data-seed` is too large"
            }
            _ => "",
        };
        if !message.is_empty() {
            return Err(self.wrong(span, message));
        }
        if let Some(dir) = &data.dir {
            let dir = self.path(&span, dir)?;
            let whole = absolute(&dir).ok().filter(|dir| dir.to_str().is_some()).ok_or_else(|| {
                self.wrong(
                    span,
                    format!("the folder {} has no path that can be written as text", dir.display()),
                )
            })?;
            data.dir = Some(whole);
        }
        Ok(data)
    }

    fn arm(&self, entry: Entry, recipe: &Recipe) -> Result<Arm> {
        let span = entry.network.span();
        let (mut network, mut is_shipped) = match entry.network.into_inner() {
            NetworkSource::Described(network) => {
                network.graph().map_err(|error| self.wrong(span.clone(), error.to_string()))?;
                (*network, false)
            }
            NetworkSource::Named(name) if name.ends_with(".toml") || name.contains(['/', '\\']) => {
                let path = self.path(&span, Path::new(&name))?;
                let text = read_text(&path).map_err(|error| self.wrong(span.clone(), error.to_string()))?;
                let network = Network::from_toml(&text)
                    .map_err(|error| Error::File { path, cause: error.to_string() })?;
                (network, false)
            }
            NetworkSource::Named(name) => {
                let network = Network::by_name(&name).map_err(|_| {
                    let message = format!(
                        "there is no network `{}`{}; give one of {}, or the path of a file that describes one, such as ./mine.toml",
                        shown(&name),
                        perhaps(&name, Network::shipped()),
                        listed(Network::shipped())
                    );
                    self.wrong(span.clone(), message)
                })?;
                (network, true)
            }
        };
        match entry.name {
            Some(name) => {
                let name = self.name(&name, "a network")?;
                is_shipped &= name == network.name;
                network.name = name;
            }
            None if !is_name(&network.name) => {
                let message = format!(
                    "`{}` cannot be the name of a network in a study; give it a `name` of {}",
                    shown(&network.name),
                    name_rule()
                );
                return Err(self.wrong(span, message));
            }
            None => {}
        }
        if let Some(p) = entry.dropout {
            if network.dropout().is_none() {
                let message = format!("`{}` has no layer Dropout; leave out its `dropout`", network.name);
                return Err(self.wrong(span, message));
            }
            network = network.with_dropout(p);
        }
        let recipe = match entry.recipe {
            Some(keys) => {
                let span = keys.span();
                let mut table = as_table(recipe);
                table.extend(keys.into_inner());
                self.recipe(table, span)?
            }
            None => recipe.clone(),
        };
        Ok(Arm { name: network.name.clone(), network, is_shipped, recipe, published: Published::default() })
    }

    /// Checks network, recipe and data together.
    fn check_arm(
        &self,
        arm: &Arm,
        data: &DataSource,
        span: Range<usize>,
        recipe_span: Range<usize>,
    ) -> Result<()> {
        if arm.recipe.early_stopping.is_some() && data.val_split == 0 {
            return Err(self.wrong(
                recipe_span,
                "early-stopping needs held-out images; give `data` a `val-split`, the number of them",
            ));
        }
        if !arm.recipe.parameter_groups.is_empty() {
            let graph = arm.network.graph().map_err(|error| self.wrong(span.clone(), error.to_string()))?;
            let parameters = graph.parameters().iter().map(|own| (own.name.as_str(), own.shape.len()));
            arm.recipe
                .check_groups(parameters)
                .map_err(|error| self.wrong(span, format!("`{}`: {error}", arm.name)))?;
        }
        Ok(())
    }

    fn published(&self, file: FilePublished, arm: &Arm) -> Result<Published> {
        let FilePublished { network: _, parameters, runs, figures: in_file, curves } = file;
        let mut figures = Vec::with_capacity(in_file.len());
        let mut seen = HashSet::new();
        for figure in in_file {
            let span = figure.span();
            let figure = self.figure(figure.into_inner(), runs, arm)?;
            if !seen.insert((figure.metric, figure.epoch)) {
                return Err(self.wrong(
                    span,
                    format!(
                        "{} of `{}` is given twice; leave one out",
                        titled(figure.metric, figure.epoch),
                        arm.name
                    ),
                ));
            }
            figures.push(figure);
        }
        let curves = match curves {
            Some(curves) => self.curves(curves, arm)?,
            None => Curves::default(),
        };
        figures.extend(on_curves(&curves, arm.recipe.epochs, runs, &figures));
        Ok(Published { parameters, figures, curves })
    }

    fn figure(&self, figure: FileFigure, runs: u32, arm: &Arm) -> Result<PublishedFigure> {
        let FileFigure { metric, epoch, value, runs: own, deviation, at_least } = figure;
        let span = value.span();
        let Decimal { value, decimals } = value.into_inner();
        let runs = own.unwrap_or(runs);
        let message = if metric.is_accuracy() && !(0.0..=100.0).contains(&value) {
            format!("{metric} is {value}, not an accuracy from 0 to 100 percent")
        } else if value < 0.0 {
            format!("{metric} is {value}, not a loss from 0")
        } else if epoch.is_some_and(|epoch| epoch > arm.recipe.epochs) {
            format!(
                "{} is published, and `{}` is trained for only {} epochs",
                titled(metric, epoch),
                arm.name,
                arm.recipe.epochs
            )
        } else if metric == Metric::TtaTestAcc && epoch.is_some() {
            format!("{metric} is measured only after the last epoch; leave out `epoch`")
        } else if metric == Metric::TtaTestAcc && arm.recipe.test_time_augmentation.is_none() {
            without_views(metric, arm)
        } else if deviation.is_some() && runs == 1 {
            "one run has no deviation; say with `runs` how many there were".to_owned()
        } else {
            return Ok(PublishedFigure { metric, epoch, value, decimals, runs, deviation, at_least });
        };
        Err(self.wrong(span, message))
    }

    fn curves(&self, curves: Spanned<Curves>, arm: &Arm) -> Result<Curves> {
        let epochs = arm.recipe.epochs as usize;
        for metric in Metric::OF_EPOCHS {
            let len = curves.get_ref().of(metric).len();
            if len > epochs {
                return Err(self.wrong(
                    curves.span(),
                    format!(
                        "the curve of {metric} has {len} values, and `{}` is trained for {epochs} epochs",
                        arm.name
                    ),
                ));
            }
        }
        Ok(curves.into_inner())
    }

    fn primary(
        &self,
        in_file: Vec<Spanned<Primary>>,
        arms: &[Arm],
        published: &HashMap<usize, Range<usize>>,
    ) -> Result<Vec<Primary>> {
        let mut seen = HashSet::new();
        let mut primary = Vec::with_capacity(in_file.len());
        for figure in in_file {
            let span = figure.span();
            let figure = figure.into_inner();
            let title = titled(figure.metric, figure.epoch);
            if !seen.insert((figure.metric, figure.epoch)) {
                return Err(self.wrong(span, format!("{title} is twice under `primary`; leave one out")));
            }
            if !arms.iter().any(|arm| arm.published.figure(figure.metric, figure.epoch).is_some()) {
                return Err(self.wrong(
                    span,
                    format!("{title} cannot decide, since it was published for no network; give it under `published`"),
                ));
            }
            primary.push(figure);
        }
        let decides = |arm: &Arm| arm.published.figures.iter().any(|figure| !figure.at_least);
        if let (true, Some(at)) = (primary.is_empty(), arms.iter().position(decides)) {
            return Err(self.wrong(
                published[&at].clone(),
                "figures are published, but none of them decides; give a [[primary]] with its `metric` and a `margin`, the \
                 smallest difference that matters",
            ));
        }
        Ok(primary)
    }

    fn claim(&self, claim: Spanned<FileClaim>, one: &Arm, other: &Arm, before: &[Claim]) -> Result<Claim> {
        let span = claim.span();
        let FileClaim { kind, of, network, to, published, margin, reason, text } = claim.into_inner();
        let follows = match of {
            Quantity::Macs => false,
            Quantity::Parameters => {
                one.published.parameters.is_some() && other.published.parameters.is_some()
            }
            _ => of.metric().is_some_and(|metric| {
                [one, other].iter().all(|arm| arm.published.figure(metric, None).is_some())
            }),
        };
        let is_ratio = kind == ClaimKind::Ratio;
        let is_same = |claim: &Claim| {
            (claim.kind, claim.of, claim.margin.is_some()) == (kind, of, margin.is_some())
                && (claim.network.as_str(), claim.to.as_str()) == (network.get_ref(), to.get_ref())
        };
        let message = if network.get_ref() == to.get_ref() {
            format!("`{}` is compared with itself; name another network", to.get_ref())
        } else if is_ratio && margin.is_some_and(|margin| margin <= 1.0) {
            "the margin of a ratio is itself a ratio; give a number above 1".to_owned()
        } else if is_ratio && published.is_some_and(|ratio| ratio <= 0.0) {
            "a published ratio is a number above 0".to_owned()
        } else if of == Quantity::TtaTestAcc
            && let Some(arm) =
                [one, other].into_iter().find(|arm| arm.recipe.test_time_augmentation.is_none())
        {
            without_views(Metric::TtaTestAcc, arm)
        } else if before.iter().any(is_same) {
            "the same claim stands above; leave one out".to_owned()
        } else if margin.is_none() && published.is_none() && !follows {
            "the claim has no published value; give `published`, or the figures of both networks at the end of training".to_owned()
        } else {
            let (network, to) = (network.into_inner(), to.into_inner());
            return Ok(Claim { kind, of, network, to, published, margin, reason, text });
        };
        Err(self.wrong(span, message))
    }

    fn effect(
        &self,
        effect: Spanned<FileEffect>,
        place: impl Fn(&Spanned<String>) -> Result<usize>,
        arms: &[Arm],
        before: &[Effect],
    ) -> Result<Effect> {
        let span = effect.span();
        let FileEffect { name, networks, to } = effect.into_inner();
        if before.iter().any(|effect| effect.name == name) {
            return Err(self.wrong(span, format!("the effect \"{name}\" is given twice; leave one out")));
        }
        if networks.is_empty() || networks.len() != to.len() {
            let message = format!(
                "`networks` has {} and `to` has {}; give each network its counterpart without the change",
                networks.len(),
                to.len()
            );
            return Err(self.wrong(span, message));
        }
        let mut pairs = Vec::with_capacity(networks.len());
        for (network, to) in networks.iter().zip(&to) {
            let pair = [place(network)?, place(to)?].map(|at| arms[at].name.clone());
            if pair[0] == pair[1] {
                let message = format!("`{}` is compared with itself; name another network", pair[0]);
                return Err(self.wrong(to.span(), message));
            }
            if pairs.contains(&pair) {
                let message = format!("`{}` and `{}` are paired twice; leave one out", pair[0], pair[1]);
                return Err(self.wrong(network.span(), message));
            }
            pairs.push(pair);
        }
        Ok(Effect { name, pairs })
    }

    /// The target of a path in the study. Errors show it, on one line.
    fn path(&self, span: &Range<usize>, path: &Path) -> Result<PathBuf> {
        let name = path.to_string_lossy();
        if name.chars().count() > MAX_PATH || name.contains(char::is_control) {
            let message = format!(
                "`{}` cannot be a path; give one of up to {MAX_PATH} characters without control characters",
                shown(&name)
            );
            return Err(self.wrong(span.clone(), message));
        }
        Ok(self.folder.join(path))
    }

    /// The text of a record.
    fn record(&self, path: &Spanned<PathBuf>) -> Result<String> {
        let path = self.path(&path.span(), path.get_ref())?;
        let text = read_text(&path)?;
        match serde_json::from_str::<IgnoredAny>(&text) {
            Ok(IgnoredAny) => Ok(text),
            Err(error) => Err(Error::File { path, cause: format!("it is not a study.json ({error})") }),
        }
    }
}

fn arms_names(places: &HashMap<String, usize>) -> impl Iterator<Item = &str> {
    let mut names: Vec<(&String, &usize)> = places.iter().collect();
    names.sort_unstable_by_key(|(_, place)| **place);
    names.into_iter().map(|(name, _)| name.as_str())
}

/// The message for a figure with test-time augmentation of an arm without it.
fn without_views(metric: Metric, arm: &Arm) -> String {
    format!(
        "{metric} needs a recipe with `test-time-augmentation`, and that of `{}` has none; add it to the recipe",
        arm.name
    )
}

/// A figure in an error.
fn titled(metric: Metric, epoch: Option<u32>) -> String {
    match epoch {
        Some(epoch) => format!("{metric} of epoch {epoch}"),
        None => format!("{metric} at the end"),
    }
}

/// Figures that follow from curves: one for each epoch and, for complete curves, one at the end, unless it is given.
pub(crate) fn on_curves(
    curves: &Curves,
    epochs: u32,
    runs: u32,
    figures: &[PublishedFigure],
) -> Vec<PublishedFigure> {
    let has: HashSet<(Metric, Option<u32>)> =
        figures.iter().map(|figure| (figure.metric, figure.epoch)).collect();
    let mut found = Vec::new();
    for metric in Metric::OF_EPOCHS {
        let values = curves.of(metric);
        let decimals = values.iter().map(|value| decimals(*value)).max().unwrap_or(0);
        for (epoch, &value) in (1..).zip(values) {
            let is_last = values.len() == epochs as usize && epoch == epochs;
            for epoch in [Some(epoch)].into_iter().chain(is_last.then_some(None)) {
                if !has.contains(&(metric, epoch)) {
                    let deviation = None;
                    found.push(PublishedFigure {
                        metric,
                        epoch,
                        value,
                        decimals,
                        runs,
                        deviation,
                        at_least: false,
                    });
                }
            }
        }
    }
    found
}
