//! `cargo xtask architecture`: checks the workspace: which crates may depend on which, that no files of a crate depend on each other in a circle,
//! and that the inventory of dependencies and `unsafe` is right.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::Context;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use pointwise_process::note;

use crate::{
    End,
    circles::circles,
    inventory, print,
    trainer::{cargo, workspace_manifest},
};

/// Every crate of the workspace, with those that it depends on. What the table lacks is not allowed, and what it lists must be used.
const ALLOWED: [(&str, &[&str]); 22] = [
    ("pointwise-kernels", &[]),
    ("pointwise-memory", &[]),
    ("pointwise-process", &[]),
    ("pointwise-protobuf", &[]),
    ("pointwise-random", &[]),
    ("pointwise-recipe", &[]),
    ("pointwise-tensorboard", &["pointwise-protobuf"]),
    ("pointwise-candle", &["pointwise-kernels", "pointwise-random"]),
    ("pointwise-data", &["pointwise-memory", "pointwise-random", "pointwise-recipe"]),
    ("pointwise-network", &["pointwise-random"]),
    ("pointwise-models", &["pointwise-candle", "pointwise-network", "pointwise-random"]),
    (
        "pointwise-engine",
        &[
            "pointwise-candle",
            "pointwise-kernels",
            "pointwise-memory",
            "pointwise-models",
            "pointwise-network",
            "pointwise-random",
            "pointwise-recipe",
            "pointwise-weights",
        ],
    ),
    ("pointwise-weights", &["pointwise-memory", "pointwise-network", "pointwise-recipe", "pointwise-runs"]),
    ("pointwise-onnx", &["pointwise-network", "pointwise-protobuf", "pointwise-weights"]),
    (
        "pointwise-inference",
        &["pointwise-kernels", "pointwise-memory", "pointwise-network", "pointwise-weights"],
    ),
    ("pointwise-runs", &["pointwise-recipe"]),
    ("pointwise-study", &["pointwise-network", "pointwise-process", "pointwise-recipe", "pointwise-runs"]),
    ("pointwise-report", &["pointwise-network", "pointwise-recipe", "pointwise-runs", "pointwise-study"]),
    (
        "pointwise-training",
        &[
            "pointwise-data",
            "pointwise-engine",
            "pointwise-network",
            "pointwise-recipe",
            "pointwise-runs",
            "pointwise-weights",
        ],
    ),
    (
        "trainer",
        &[
            "pointwise-data",
            "pointwise-engine",
            "pointwise-inference",
            "pointwise-network",
            "pointwise-onnx",
            "pointwise-process",
            "pointwise-random",
            "pointwise-recipe",
            "pointwise-report",
            "pointwise-runs",
            "pointwise-study",
            "pointwise-tensorboard",
            "pointwise-training",
            "pointwise-weights",
        ],
    ),
    (
        "xtask",
        &["pointwise-process", "pointwise-recipe", "pointwise-report", "pointwise-runs", "pointwise-study"],
    ),
    ("pointwise-tests", &["pointwise-process", "pointwise-runs"]),
];

/// Crates that must not depend on the tensor library, even indirectly. candle-datasets, an optional part of pointwise-data, is
/// not in a build without that feature.
const WITHOUT_TENSORS: [&str; 16] = [
    "pointwise-data",
    "pointwise-inference",
    "pointwise-kernels",
    "pointwise-memory",
    "pointwise-network",
    "pointwise-onnx",
    "pointwise-process",
    "pointwise-protobuf",
    "pointwise-random",
    "pointwise-recipe",
    "pointwise-report",
    "pointwise-runs",
    "pointwise-study",
    "pointwise-tensorboard",
    "pointwise-weights",
    "xtask",
];

/// The tensor library.
const TENSORS: [&str; 2] = ["candle-core", "candle-nn"];

type Edges = BTreeMap<String, BTreeSet<String>>;

/// One sentence for each line that ARCHITECTURE.md's list of edges lacks, and for each that should not be there.
fn undocumented(page: &str) -> Vec<String> {
    let short = |name: &str| name.trim_start_matches("pointwise-").to_owned();
    let expected: BTreeSet<String> = ALLOWED
        .iter()
        .map(|(name, allowed)| {
            let allowed: Vec<String> = allowed.iter().map(|name| short(name)).collect();
            let allowed = if allowed.is_empty() { "(none)".to_owned() } else { allowed.join(", ") };
            format!("{} -> {allowed}", short(name))
        })
        .collect();
    let found: BTreeSet<String> = page
        .lines()
        .skip_while(|line| !line.starts_with("Allowed edges"))
        .skip_while(|line| !line.starts_with("```"))
        .skip(1)
        .take_while(|line| !line.starts_with("```"))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let lacks =
        expected.difference(&found).map(|line| format!("ARCHITECTURE.md's list of edges lacks: {line}"));
    let extra =
        found.difference(&expected).map(|line| format!("ARCHITECTURE.md's list of edges is wrong: {line}"));
    lacks.chain(extra).collect()
}

/// What is checked. Development dependencies are in neither part: tests may use more.
#[derive(Debug, Default)]
struct Graph {
    /// For each crate of the workspace, the others that its manifest names, optional ones included.
    ours: Edges,
    /// All crates with default features, and the crates they link.
    links: Edges,
}

pub(crate) fn run() -> anyhow::Result<End> {
    let mut command = MetadataCommand::new();
    command.manifest_path(workspace_manifest()).cargo_path(cargo().get_program());
    let metadata = command.exec().context("`cargo metadata` failed")?;
    let graph = Graph::from_metadata(&metadata);
    let mut violations = graph.violations();
    violations.extend(graph.unused());
    let page = metadata.workspace_root.join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(&page).with_context(|| format!("{page} cannot be read"))?;
    violations.extend(undocumented(&text));
    for package in metadata.workspace_packages() {
        let src = package.manifest_path.with_file_name("src");
        violations.extend(circles(&package.name, src.as_std_path())?);
    }
    violations.extend(inventory::violations(&metadata)?);
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
            // Two versions of a crate become one here, with the edges of both: enough to find what is not allowed.
            let edges = graph.links.entry(name.clone()).or_default();
            edges.extend(normal.filter_map(|dependency| names.get(&dependency.pkg).cloned()));
        }
        graph
    }

    /// One sentence for each dependency that is not allowed.
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

    /// One sentence for each dependency that is allowed but does not exist.
    fn unused(&self) -> Vec<String> {
        let uses = |name: &str, other: &str| self.ours.get(name).is_some_and(|edges| edges.contains(other));
        ALLOWED
            .iter()
            .flat_map(|(name, allowed)| allowed.iter().map(move |other| (*name, *other)))
            .filter(|(name, other)| !uses(name, other))
            .map(|(name, other)| {
                format!("{name} does not depend on {other}: xtask/src/architecture.rs need not allow it")
            })
            .collect()
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
    fn what_is_allowed_is_used_and_documented() {
        let graph = |ours: &[(&str, &[&str])]| Graph { ours: edges(ours), links: Edges::new() };
        assert_eq!(graph(&ALLOWED).unused(), [""; 0]);
        let (others, last) = ALLOWED.split_at(ALLOWED.len() - 2);
        let found = graph(others).unused();
        assert_eq!(found.len(), last.iter().map(|(_, allowed)| allowed.len()).sum::<usize>());
        assert!(found[0].starts_with("xtask does not depend on pointwise-process"), "{found:?}");

        let page = include_str!("../../ARCHITECTURE.md");
        assert_eq!(undocumented(page), [""; 0]);
        let found = undocumented(&page.replace("models      -> candle", "models      -> data"));
        assert_eq!(
            found,
            [
                "ARCHITECTURE.md's list of edges lacks: models -> candle, network, random",
                "ARCHITECTURE.md's list of edges is wrong: models -> data, network, random"
            ]
        );
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
            // These are allowed to.
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
