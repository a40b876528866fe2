//! What `docs/dependencies.md` says of direct dependencies and of `unsafe`, checked against the manifests and the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context;
use cargo_metadata::Metadata;

/// The page, below the workspace's folder.
const PAGE: &str = "docs/dependencies.md";

/// Where our sources are; `xtask/peers` has programs in other libraries.
const SOURCES: [&str; 4] = ["crates", "tests", "xtask/src", "xtask/tests"];

/// A line of a table: its subject, and the cells that are compared with the workspace.
type Lines = BTreeMap<String, String>;

/// One sentence for each line of the page that is missing, superfluous or wrong.
pub(crate) fn violations(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let root = metadata.workspace_root.as_std_path();
    let page = root.join(PAGE);
    let page = fs::read_to_string(&page).with_context(|| format!("{} cannot be read", page.display()))?;
    let mut places = Lines::new();
    for folder in SOURCES {
        read(root, &root.join(folder), &mut places)?;
    }
    let mut found = differences("crate", &table(&page, "| crate |", 1), &dependencies(metadata));
    found.extend(differences("file", &table(&page, "| file |", 3), &places));
    Ok(found)
}

/// The versions that the workspace requires. There is one place for them, so that all crates require the same.
fn dependencies(metadata: &Metadata) -> Lines {
    let members: BTreeSet<&str> =
        metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    metadata
        .workspace_packages()
        .iter()
        .flat_map(|package| &package.dependencies)
        .filter(|dependency| !members.contains(dependency.name.as_str()))
        .map(|dependency| {
            (dependency.name.clone(), dependency.req.to_string().trim_start_matches('^').to_owned())
        })
        .collect()
}

/// Unsafe blocks, functions and implementations of each Rust file below a folder that has any.
fn read(root: &Path, folder: &Path, places: &mut Lines) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        // Links are a crate's view of `data`.
        if path.is_dir() && !path.is_symlink() {
            read(root, &path, places)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            let counts = counts(&text);
            if counts != [0; 3] {
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                places.insert(name, counts.map(|count| count.to_string()).join(" | "));
            }
        }
    }
    Ok(())
}

/// The numbers of blocks, of functions, and of implementations and others that say `unsafe` outside of comments.
fn counts(text: &str) -> [usize; 3] {
    let mut counts = [0; 3];
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut words = code.split_whitespace().peekable();
    while let Some(word) = words.next() {
        // In a call it follows a bracket.
        if word.rsplit(['(', '|', '[', '{', '}', ';']).next() != Some("unsafe") {
            continue;
        }
        match words.peek() {
            Some(next) if next.starts_with('{') => counts[0] += 1,
            Some(&"fn" | &"extern") => counts[1] += 1,
            Some(&"impl" | &"trait") => counts[2] += 1,
            // A word in a string.
            _ => {}
        }
    }
    counts
}

/// The lines of the table that begins with this: the first cell, and the next `cells`.
fn table(page: &str, head: &str, cells: usize) -> Lines {
    page.lines()
        .skip_while(|line| !line.starts_with(head))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| {
            let mut line = line.trim_matches('|').split('|').map(str::trim);
            Some((line.next()?.to_owned(), line.take(cells).collect::<Vec<_>>().join(" | ")))
        })
        .collect()
}

/// One sentence for each line of the page that differs from the workspace.
fn differences(what: &str, page: &Lines, found: &Lines) -> Vec<String> {
    let names: BTreeSet<&String> = page.keys().chain(found.keys()).collect();
    let sentence = |name: &String| match (page.get(name), found.get(name)) {
        (None, Some(now)) => Some(format!("{PAGE} lacks the {what} {name}: {now}; add it with its reason")),
        (Some(_), None) => Some(format!("{PAGE} has the {what} {name}, which does not exist: remove it")),
        (Some(said), Some(now)) if said != now => {
            Some(format!("{PAGE} says of the {what} {name}: {said}, but it is {now}"))
        }
        _ => None,
    };
    names.into_iter().filter_map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::workspace_manifest;
    use cargo_metadata::MetadataCommand;

    #[test]
    fn the_page_is_true() {
        let metadata = MetadataCommand::new().manifest_path(workspace_manifest()).exec().unwrap();
        assert_eq!(violations(&metadata).unwrap(), [""; 0]);
    }

    #[test]
    fn what_the_page_lacks_or_has_too_much_is_named() {
        let page = "text\n\n| crate | version | why |\n|---|---|---|\n| a | 1.0 | x |\n| b | 2 | x |\n\n| c | 3 | x |\n";
        let page = table(page, "| crate |", 1);
        let lines = |lines: &[(&str, &str)]| -> Lines {
            lines.iter().map(|(name, rest)| ((*name).to_owned(), (*rest).to_owned())).collect()
        };
        assert_eq!(page, lines(&[("a", "1.0"), ("b", "2")]));
        assert_eq!(differences("crate", &page, &page), [""; 0]);
        assert_eq!(
            differences("crate", &page, &lines(&[("a", "1.1"), ("c", "3")])),
            [
                "docs/dependencies.md says of the crate a: 1.0, but it is 1.1",
                "docs/dependencies.md has the crate b, which does not exist: remove it",
                "docs/dependencies.md lacks the crate c: 3; add it with its reason",
            ]
        );
    }

    #[test]
    fn places_are_counted_by_their_kind_and_outside_of_comments() {
        // With another word, because this file is counted as well.
        let text = r#"
            // unsound { }
            unsound impl Send for A {}
            unsound extern "C" fn f() { let text = "is unsound, or not"; }
            pub(crate) unsound fn g() { f(unsound { 1 }); list.map(|i| unsound { i }) }
            let x = unsound {
                1 };
            unsound_code();
        "#;
        assert_eq!(counts(&text.replace("unsound", "unsafe")), [3, 2, 1]);
        assert_eq!(counts("fn f() {}"), [0; 3]);
    }
}
