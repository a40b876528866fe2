//! `cargo xtask architecture`: which crates may depend on which, checked against the workspace as it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::Context;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use pointwise_process::note;

use crate::{
    End, print,
    trainer::{cargo, workspace_manifest},
};

/// Every crate of the workspace, with those that it may depend on. What the table lacks is not allowed.
const ALLOWED: [(&str, &[&str]); 13] = [
    ("pointwise-random", &[]),
    ("pointwise-kernels", &[]),
    ("pointwise-process", &[]),
    ("pointwise-runs", &[]),
    ("pointwise-data", &["pointwise-random"]),
    ("pointwise-models", &["pointwise-random"]),
    ("pointwise-engine", &["pointwise-kernels", "pointwise-models", "pointwise-random"]),
    (
        "pointwise-training",
        &["pointwise-data", "pointwise-engine", "pointwise-models", "pointwise-random", "pointwise-runs"],
    ),
    ("pointwise-report", &["pointwise-runs"]),
    ("pointwise-tensorboard", &[]),
    ("trainer", LIBRARIES),
    ("xtask", &["pointwise-process", "pointwise-report", "pointwise-runs"]),
    ("pointwise-tests", LIBRARIES),
];

/// What programs and tests may use.
const LIBRARIES: &[&str] = &[
    "pointwise-data",
    "pointwise-engine",
    "pointwise-kernels",
    "pointwise-models",
    "pointwise-process",
    "pointwise-random",
    "pointwise-report",
    "pointwise-runs",
    "pointwise-tensorboard",
    "pointwise-training",
];

/// Crates that must do without the tensor library, however far down. candle-datasets, an optional part of pointwise-data, is
/// not in a build without that feature.
const WITHOUT_TENSORS: [&str; 8] = [
    "pointwise-data",
    "pointwise-kernels",
    "pointwise-process",
    "pointwise-random",
    "pointwise-report",
    "pointwise-runs",
    "pointwise-tensorboard",
    "xtask",
];

/// The tensor library.
const TENSORS: [&str; 2] = ["candle-core", "candle-nn"];

type Edges = BTreeMap<String, BTreeSet<String>>;

/// What the check looks at. Development dependencies are in neither part: tests may reach further.
#[derive(Debug, Default)]
struct Graph {
    /// For each crate of the workspace, the others that its manifest names, optional ones included.
    ours: Edges,
    /// All crates with default features, and what they link.
    links: Edges,
}

pub(crate) fn run() -> anyhow::Result<End> {
    let mut command = MetadataCommand::new();
    command.manifest_path(workspace_manifest()).cargo_path(cargo().get_program());
    let metadata = command.exec().context("`cargo metadata` failed")?;
    let graph = Graph::from_metadata(&metadata);
    let violations = graph.violations();
    for violation in &violations {
        note!("error: {violation}");
    }
    if violations.is_empty() {
        let edges: usize = graph.ours.values().map(BTreeSet::len).sum();
        print(&format!("{} crates, {edges} dependencies between them: all are allowed\n", graph.ours.len()))?;
        return Ok(End::Good);
    }
    Ok(End::Bad)
}

impl Graph {
    fn from_metadata(metadata: &Metadata) -> Self {
        let members: BTreeSet<&str> =
            metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect();
        let mut graph = Self::default();
        for package in metadata.workspace_packages() {
            let edges = graph.ours.entry(package.name.to_string()).or_default();
            let dependencies = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind != DependencyKind::Development);
            edges.extend(
                dependencies
                    .map(|dependency| dependency.name.clone())
                    .filter(|name| members.contains(name.as_str())),
            );
        }
        let names: BTreeMap<_, _> =
            metadata.packages.iter().map(|package| (&package.id, package.name.to_string())).collect();
        for node in metadata.resolve.iter().flat_map(|resolve| &resolve.nodes) {
            let Some(name) = names.get(&node.id) else { continue };
            let normal = node.deps.iter().filter(|dependency| {
                dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal)
            });
            // Two versions of a crate become one here, with the edges of both: enough to find what must not be found.
            let edges = graph.links.entry(name.clone()).or_default();
            edges.extend(normal.filter_map(|dependency| names.get(&dependency.pkg).cloned()));
        }
        graph
    }

    /// One sentence for each dependency that must not be.
    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, dependencies) in &self.ours {
            let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| known == name) else {
                found.push(format!(
                    "{name} is not in the table of xtask/src/architecture.rs: add it with what it may use"
                ));
                continue;
            };
            for dependency in dependencies.iter().filter(|dependency| !allowed.contains(&dependency.as_str()))
            {
                found.push(format!("{name} must not depend on {dependency}"));
            }
        }
        for name in WITHOUT_TENSORS {
            for tensors in TENSORS {
                if let Some(path) = self.path(name, tensors) {
                    found.push(format!("{name} must not link {tensors}, but does: {}", path.join(" -> ")));
                }
            }
        }
        found
    }

    /// A shortest chain of links from one crate to another.
    fn path(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = VecDeque::from([self.links.get_key_value(from)?.0.as_str()]);
        while let Some(name) = queue.pop_front() {
            if name == to {
                let mut path = vec![name.to_owned()];
                let mut at = name;
                while let Some(&before) = came_from.get(at) {
                    path.push(before.to_owned());
                    at = before;
                }
                path.reverse();
                return Some(path);
            }
            for next in self.links.get(name).into_iter().flatten() {
                if next != from && !came_from.contains_key(next.as_str()) {
                    came_from.insert(next, name);
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(lines: &[(&str, &[&str])]) -> Edges {
        lines
            .iter()
            .map(|(name, to)| ((*name).to_owned(), to.iter().map(|to| (*to).to_owned()).collect()))
            .collect()
    }

    fn violations(ours: &[(&str, &[&str])], links: &[(&str, &[&str])]) -> Vec<String> {
        Graph { ours: edges(ours), links: edges(links) }.violations()
    }

    #[test]
    fn everything_in_the_table_is_allowed() {
        assert_eq!(violations(&ALLOWED, &[]), [""; 0]);
        for (_, allowed) in ALLOWED {
            for name in allowed {
                assert!(ALLOWED.iter().any(|(known, _)| known == name), "{name} is spelled wrong");
            }
        }
    }

    #[test]
    fn every_forbidden_dependency_is_listed() {
        let found = violations(
            &[
                ("pointwise-data", &["pointwise-models", "pointwise-random"]),
                ("pointwise-models", &["pointwise-data"]),
                ("pointwise-report", &["pointwise-runs", "trainer"]),
                ("trainer", &["xtask"]),
                ("pointwise-tests", &["trainer"]),
                ("newcomer", &[]),
            ],
            &[],
        );
        for expected in [
            "pointwise-data must not depend on pointwise-models",
            "pointwise-models must not depend on pointwise-data",
            "pointwise-report must not depend on trainer",
            "trainer must not depend on xtask",
            "pointwise-tests must not depend on trainer",
        ] {
            assert!(found.iter().any(|line| line == expected), "{expected} not in {found:?}");
        }
        assert!(found.iter().any(|line| line.starts_with("newcomer is not in the table")), "{found:?}");
        assert_eq!(found.len(), 6);
    }

    #[test]
    fn a_hidden_way_to_the_tensor_library_is_shown() {
        let links: [(&str, &[&str]); 5] = [
            ("pointwise-runs", &["serde", "helper"]),
            ("pointwise-report", &["pointwise-runs", "pointwise-report"]),
            ("helper", &["candle-core", "pointwise-runs"]),
            ("candle-core", &["serde"]),
            // These may.
            ("pointwise-models", &["candle-core", "candle-nn"]),
        ];
        assert_eq!(
            violations(&[], &links),
            [
                "pointwise-report must not link candle-core, but does: pointwise-report -> pointwise-runs -> helper -> candle-core",
                "pointwise-runs must not link candle-core, but does: pointwise-runs -> helper -> candle-core",
            ]
        );
    }

    #[test]
    fn this_workspace_is_read_with_all_of_its_crates() {
        let mut command = MetadataCommand::new();
        let metadata = command.manifest_path(workspace_manifest()).exec().unwrap();
        let graph = Graph::from_metadata(&metadata);
        assert!(graph.ours["xtask"].contains("pointwise-report"), "{:?}", graph.ours);
        assert!(graph.path("xtask", "serde_json").is_some());
        assert!(!graph.links["pointwise-report"].contains("tempfile"), "a development dependency");
    }
}
