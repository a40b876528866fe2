//! What the runs were made of, and how to repeat them.

use pointwise_recipe::DeviceName;
use pointwise_runs::{Run, RunConfig};
use pointwise_study::Study;

use super::{
    Page,
    figure::Data,
    text::{data_link, escape},
};
use crate::number::{decimals, duration, percent, thousands};

impl Page<'_> {
    pub(super) fn provenance(&self) -> String {
        let seeds: Vec<String> = self.seeds().iter().map(u64::to_string).collect();
        let is_shipped = Study::shipped().any(|name| name == self.study.name);
        let (file, what) = if is_shipped {
            ("", self.study.name.as_str())
        } else {
            (", with the file <code>study.toml</code> next to this page", "study.toml")
        };
        let quick = if self.report.data.stand_in { " --quick" } else { "" };
        let mut html = format!(
            "<p>With the program <code>trainer</code>{file}:</p><pre><code>trainer reproduce {}{quick} --seeds {}</code></pre><p>Or a \
             single run: save its configuration below as <code>run.toml</code>.</p><pre><code>trainer train --config run.toml --run-dir \
             again</code></pre>",
            escape(what),
            seeds.join(",")
        );
        html += &self.repeatable();
        html += &self.data().table("The images");
        html += &self.runs().table("The runs");
        html += &self.environments().details("where the runs took place", "environment");
        for run in self.networks.iter().flat_map(|network| &network.runs) {
            let name = name(run);
            let text = configuration(run);
            html += &format!(
                "<details class=\"data\"><summary>Configuration of {}</summary><pre><code>{}</code></pre><p><a download=\"run.toml\" \
                 href=\"{}\">Download run.toml</a></p></details>",
                escape(&name),
                escape(&text),
                data_link("application/toml", &text)
            );
        }
        html
    }

    /// Claims equal bits only for runs that have them.
    fn repeatable(&self) -> String {
        let runs = || self.networks.iter().flat_map(|network| &network.runs);
        let exact = |run: &&&Run| run.config.device == DeviceName::Cpu || run.config.deterministic;
        let others: Vec<String> = runs().filter(|run| !exact(run)).map(|run| escape(&name(run))).collect();
        let same = "The same program on the same kind of processor gives the same numbers to the last bit, for any number of threads";
        if others.is_empty() {
            format!("<p>{same}.</p>")
        } else if others.len() == runs().count() {
            "<p>These runs were trained on a GPU without <code>--deterministic</code>: repeated, they agree within rounding at first, \
             and later as two seeds do.</p>"
                .into()
        } else {
            format!(
                "<p>{same}; except for runs on a GPU without <code>--deterministic</code>, which are here: {}.</p>",
                others.join(", ")
            )
        }
    }

    fn seeds(&self) -> Vec<u64> {
        let mut seeds: Vec<u64> =
            self.networks.iter().flat_map(|network| &network.runs).map(|run| run.config.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        seeds
    }

    fn data(&self) -> Data {
        let data = &self.report.data;
        let mut table = Data::new(["from", "training", "held out", "test", "synthetic", "fingerprint"]);
        table.rows.push(vec![
            data.source.clone(),
            thousands(data.train_images.into()),
            thousands(data.validation_images.into()),
            thousands(data.test_images.into()),
            if data.synthetic { "yes" } else { "no" }.into(),
            // As commits are shortened.
            data.fingerprint.chars().take(12).collect(),
        ]);
        table
    }

    fn runs(&self) -> Data {
        let mut runs = self.networks.iter().flat_map(|network| &network.runs);
        let has_views = runs.any(|run| run.result.as_ref().is_some_and(|it| it.tta_test_acc.is_some()));
        let mut columns = vec!["run", "state", "final accuracy %", "loss"];
        if has_views {
            columns.push("TTA accuracy %");
        }
        columns.extend(["best accuracy %", "best epoch", "time", "memory MiB"]);
        let width = columns.len();
        let mut table = Data::new(columns);
        for run in self.networks.iter().flat_map(|network| &network.runs) {
            let mut row = vec![name(run)];
            match &run.result {
                Some(result) => {
                    row.extend([
                        format!("{} epochs", result.epochs),
                        percent(result.final_acc),
                        decimals(result.final_loss, 4),
                    ]);
                    if has_views {
                        row.push(result.tta_test_acc.map_or("\u{2013}".into(), percent));
                    }
                    row.extend([
                        percent(result.best_acc),
                        result.best_epoch.to_string(),
                        duration(result.seconds),
                        result.peak_memory_bytes.map_or("\u{2013}".into(), |bytes| thousands(bytes >> 20)),
                    ]);
                }
                None => {
                    row.push(format!(
                        "not finished: {} of {} epochs",
                        run.epochs().count(),
                        run.config.recipe.epochs
                    ));
                    row.resize(width, "\u{2013}".to_owned());
                }
            }
            table.rows.push(row);
        }
        table
    }

    fn environments(&self) -> Data {
        let mut table = Data::new([
            "run",
            "engine",
            "device",
            "precision",
            "accelerator",
            "processor",
            "threads",
            "system",
            "started",
            "Pointwise",
            "candle",
            "compiler",
            "commit",
        ]);
        for run in self.networks.iter().flat_map(|network| &network.runs) {
            let environment = &run.environment;
            let optional = |text: &Option<String>| text.clone().unwrap_or_else(|| "\u{2013}".into());
            table.rows.push(vec![
                name(run),
                run.config.engine.to_string(),
                run.config.device.to_string(),
                run.config.precision.to_string(),
                optional(&environment.accelerator),
                environment.processor.clone(),
                format!("{} of {}", environment.threads, environment.cores),
                environment.os.clone(),
                environment.started.clone(),
                environment.pointwise.clone(),
                optional(&environment.candle),
                optional(&environment.rustc),
                optional(&environment.commit),
            ]);
        }
        table
    }
}

fn name(run: &Run) -> String {
    run.path.file_name().unwrap_or(run.path.as_os_str()).to_string_lossy().into_owned()
}

/// The configuration without the folders of the machine, which decide no numbers and are private.
fn configuration(run: &Run) -> String {
    let config = RunConfig { data_dir: None, init: None, ..run.config.clone() };
    config.to_toml().unwrap_or_default()
}
