//! `trainer summary`.

use crate::args::SummaryArgs;
use crate::model::Model;
use crate::print;
use crate::recipe::study_recipe;
use pointwise_engine::cpu::training_memory;
use pointwise_network::{LayerSummary, Network};
use pointwise_report::{Align, Table};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;

#[derive(Serialize)]
struct ModelSummary {
    model: String,
    parameters: usize,
    /// For one image.
    macs: usize,
    layers: Vec<LayerSummary>,
    memory: MemorySummary,
}

/// Bytes that the engine `cpu` allocates to train.
#[derive(Serialize)]
struct MemorySummary {
    batch: usize,
    threads: usize,
    /// Values, gradients and moments.
    parameters: usize,
    /// Weights in transformed form.
    weights: usize,
    activations: usize,
    workspace: usize,
    total: usize,
}

pub(crate) fn run(args: &SummaryArgs) -> anyhow::Result<()> {
    if args.schema {
        return Ok(print(&serde_json::to_string_pretty(&Network::json_schema())?)?);
    }
    let models = match &args.model {
        Some(model) if args.toml => return Ok(print(toml(model).trim_end())?),
        Some(model) if args.graph => return Ok(print(&graph(model)?)?),
        Some(model) => vec![model.clone()],
        None => match &args.study {
            Some(study) => study.arms.iter().map(Model::of_arm).collect(),
            None => Network::shipped().map(Model::shipped).collect::<anyhow::Result<_>>()?,
        },
    };
    let summaries = models.iter().map(summarise).collect::<anyhow::Result<Vec<_>>>()?;
    if args.json {
        return Ok(print(&serde_json::to_string_pretty(&summaries)?)?);
    }
    match &summaries[..] {
        [one] => Ok(print(&table(one))?),
        all => Ok(print(list(all).trim_end())?),
    }
}

/// The description of a network; of one that comes with the program, with the comments of its file.
fn toml(model: &Model) -> String {
    let shipped = Network::by_name(model.name()).is_ok_and(|shipped| shipped == *model.network());
    let file = if shipped { Network::shipped_toml(model.name()).ok() } else { None };
    file.map_or_else(|| model.network().to_toml(), str::to_owned)
}

/// The resolved network, one node a line: pretty-printed, it would be ten times as many lines as anybody reads.
fn graph(model: &Model) -> anyhow::Result<String> {
    let network = model.network().to_json()?;
    let node = |node: &Value| {
        let keys = ["path", "kind", "inputs", "arguments", "parameters", "output"];
        format!("    {{ {} }}", keys.map(|key| pair(node, key)).join(", "))
    };
    let nodes: Vec<String> = network["nodes"].as_array().into_iter().flatten().map(node).collect();
    let keys = ["name", "input", "classes", "parameters", "macs"];
    let facts = keys.map(|key| format!("  {},\n", pair(&network, key))).concat();
    Ok(format!("{{\n{facts}  \"nodes\": [\n{}\n  ]\n}}", nodes.join(",\n")))
}

/// A key with its value, as written in a JSON object.
fn pair(object: &Value, key: &str) -> String {
    format!("\"{key}\": {}", object[key])
}

fn summarise(model: &Model) -> anyhow::Result<ModelSummary> {
    let graph = model.network().graph()?;
    let recipe = study_recipe()?;
    let batch = recipe.batch_size as usize;
    let memory = training_memory(model.network(), &recipe, batch)?;
    Ok(ModelSummary {
        model: model.name().to_owned(),
        parameters: graph.parameter_count(),
        macs: graph.macs(),
        layers: graph.table(),
        memory: MemorySummary {
            batch,
            threads: rayon::current_num_threads(),
            parameters: memory.parameters,
            weights: memory.weights,
            activations: memory.activations,
            workspace: memory.workspace,
            total: memory.total(),
        },
    })
}

/// A line for each network.
fn list(summaries: &[ModelSummary]) -> String {
    let right = ["parameters", "MACs", "memory MiB"].map(|title| (title, Align::Right));
    let mut table = Table::new([("network", Align::Left)].into_iter().chain(right));
    for ModelSummary { model, parameters, macs, memory, .. } in summaries {
        let memory = memory.total.div_ceil(1 << 20);
        table.row([model.clone(), grouped(*parameters), grouped(*macs), grouped(memory)]);
    }
    table.plain()
}

fn table(summary: &ModelSummary) -> String {
    let width = |least: usize, of: fn(&LayerSummary) -> &str| {
        summary.layers.iter().map(|layer| of(layer).chars().count()).fold(least, usize::max)
    };
    let (name, kind) = (width(14, |layer| &layer.path), width(22, |layer| &layer.layer));
    let mut text = format!(
        "{}\n{:<name$} {:<kind$} {:>14} {:>11} {:>13}",
        summary.model, "name", "layer", "output", "parameters", "MACs"
    );
    let mut row = |path: &str, layer: &str, output: &str, parameters: usize, macs: usize| {
        let (parameters, macs) = (grouped(parameters), grouped(macs));
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{path:<name$} {layer:<kind$} {output:>14} {parameters:>11} {macs:>13}");
    };
    for LayerSummary { path, layer, output, parameters, macs } in &summary.layers {
        let output: Vec<String> = output.iter().map(usize::to_string).collect();
        row(path, layer, &output.join(" x "), *parameters, *macs);
    }
    row("total", "", "", summary.parameters, summary.macs);
    let memory = &summary.memory;
    let [parameters, weights, activations, workspace, total] =
        [memory.parameters, memory.weights, memory.activations, memory.workspace, memory.total]
            .map(|bytes| bytes.div_ceil(1 << 20));
    let _ = write!(
        text,
        "\nmemory to train in batches of {} with {} threads on the engine cpu: {total} MiB (parameters with gradients and \
         moments {parameters}, evaluation weights {weights}, activations {activations}, scratch {workspace})",
        memory.batch, memory.threads
    );
    text
}

/// 6979146 as 6,979,146.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (6_979_146, "6,979,146")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn the_tables_show_the_published_totals() {
        for (name, total) in
            ["alexnet_plain", "alexnet", "nin"].into_iter().zip(["6,979,146", "2,256,458", "1,485,386"])
        {
            let text = table(&summarise(&Model::shipped(name).unwrap()).unwrap());
            let mut last = text.lines().rev();
            let memory = last.next().unwrap();
            assert!(memory.contains("batches of 126") && memory.contains(" MiB ("), "{memory}");
            let last = last.next().unwrap();
            assert!(last.starts_with("total") && last.contains(total), "{last}");
        }
    }

    #[test]
    fn a_graph_is_the_networks_json_with_a_node_a_line() {
        for name in Network::shipped() {
            let text = graph(&Model::shipped(name).unwrap()).unwrap();
            let json: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json, Network::by_name(name).unwrap().to_json().unwrap());
            assert_eq!(text.lines().count(), 9 + json["nodes"].as_array().unwrap().len());
        }
    }

    #[test]
    fn a_list_has_a_line_for_each_network() {
        let models = ["nin", "nin-nopad-relu-r4"].map(|name| Model::shipped(name).unwrap());
        let summaries = models.map(|model| summarise(&model).unwrap());
        let text = list(&summaries);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("\nnin-nopad-relu-r4     814,250   58,009,600"), "{text}");
    }
}
