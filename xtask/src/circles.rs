//! Circles between the files of a crate: a file that uses another one which uses it, directly or through others.
//!
//! Files are read as text. It counts every path that begins with `crate::` or `super::`, and with the name of a module that the
//! file itself declares; tests at the end of a file do not count. A crate's root wires its modules together and is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The modules of a crate by their paths, such as `cpu::plan`; the root is the empty path.
type Modules = BTreeMap<String, String>;

/// One sentence for each circle in the crate with its sources in `src`.
pub(crate) fn circles(name: &str, src: &Path) -> anyhow::Result<Vec<String>> {
    let mut modules = Modules::new();
    read(src, src, &mut modules)?;
    let edges = edges(&modules);
    let mut found = Vec::new();
    let mut reported = BTreeSet::new();
    for module in edges.keys() {
        if reported.contains(module) {
            continue;
        }
        if let Some(circle) = around(module, &edges) {
            found.push(format!("the files of {name} form a circle: {}", circle.join(" -> ")));
            reported.extend(circle);
        }
    }
    Ok(found)
}

fn read(src: &Path, folder: &Path, modules: &mut Modules) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read(src, &path, modules)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let inner = path.strip_prefix(src).unwrap_or(&path).with_extension("");
            let parts: Vec<_> = inner.iter().map(|part| part.to_string_lossy()).collect();
            let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
            let module = match &parts[..] {
                ["lib" | "main"] => String::new(),
                [before @ .., "mod"] => before.join("::"),
                all => all.join("::"),
            };
            let text =
                fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            modules.insert(module, code(&text));
        }
    }
    Ok(())
}

/// Without comments, and without the tests at the end.
fn code(text: &str) -> String {
    let text = text.split("\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// For each module but the root, the others that it uses.
fn edges(modules: &Modules) -> BTreeMap<String, BTreeSet<String>> {
    let exports = exports(modules.get("").map_or("", String::as_str));
    let mut edges = BTreeMap::new();
    for (module, text) in modules.iter().filter(|(module, _)| !module.is_empty()) {
        let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        let mut used = BTreeSet::new();
        let mut add = |path: &str| {
            // The longest part of the path that is a module; else the module from which the root re-exports its first name.
            let mut part = path;
            while !modules.contains_key(part) {
                match part.rsplit_once("::") {
                    Some((before, _)) => part = before,
                    None => part = exports.get(part).map_or("", String::as_str),
                }
            }
            if !part.is_empty() && part != module {
                used.insert(part.to_owned());
            }
        };
        for path in paths_after(text, "crate::") {
            add(&path);
        }
        for path in paths_after(text, "super::") {
            add(path.strip_prefix("super::").unwrap_or(&join(parent, &path)));
        }
        for child in modules.keys().filter_map(|other| other.strip_prefix(&format!("{module}::"))) {
            if !child.contains("::") && text.contains(&format!("{child}::")) {
                add(&join(module, child));
            }
        }
        edges.insert(module.clone(), used);
    }
    edges
}

fn join(parent: &str, path: &str) -> String {
    if parent.is_empty() { path.to_owned() } else { format!("{parent}::{path}") }
}

/// For each name that a root re-exports from a module, the module.
fn exports(root: &str) -> BTreeMap<String, String> {
    let mut exports = BTreeMap::new();
    for start in ["pub use ", "pub(crate) use "] {
        for path in paths_after(root, start) {
            if let (Some((module, _)), Some((_, name))) = (path.split_once("::"), path.rsplit_once("::")) {
                exports.insert(name.to_owned(), module.to_owned());
            }
        }
    }
    exports
}

/// All paths after each occurrence of `start`, with groups in braces expanded.
fn paths_after(text: &str, start: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (place, _) in text.match_indices(start) {
        let before = text[..place].chars().next_back();
        if before.is_none_or(|c| !is_name(c) && c != ':') {
            tree(&mut text[place + start.len()..].chars().peekable(), "", &mut paths);
        }
    }
    paths
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Reads `a::b`, or `a::{b, c::d}`, after the part of the path already read.
fn tree(text: &mut std::iter::Peekable<std::str::Chars<'_>>, known: &str, paths: &mut Vec<String>) {
    let mut path = known.to_owned();
    loop {
        while text.next_if(|c| c.is_whitespace()).is_some() {}
        if text.next_if_eq(&'{').is_some() {
            loop {
                while text.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
                match text.peek() {
                    None => return,
                    Some('}') => {
                        text.next();
                        return;
                    }
                    Some(c) if is_name(*c) => tree(text, &path, paths),
                    Some(_) => {
                        text.next();
                    }
                }
            }
        }
        let mut name = String::new();
        while let Some(c) = text.next_if(|c| is_name(*c)) {
            name.push(c);
        }
        path = join(&path, &name);
        if name.is_empty() || text.next_if_eq(&':').is_none() || text.next_if_eq(&':').is_none() {
            paths.push(path);
            return;
        }
    }
}

/// A path from a module back to itself.
fn around(module: &str, edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![module.to_owned()]];
    while let Some(way) = ways.pop() {
        for next in edges.get(way.last()?).into_iter().flatten() {
            let mut longer = way.clone();
            longer.push(next.clone());
            if next == module {
                return Some(longer);
            }
            if seen.insert(next.clone()) {
                ways.push(longer);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        circles("made-up", folder.path()).unwrap()
    }

    #[test]
    fn arrows_one_way_are_no_circle() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\npub use a::{A, Other};\npub use b::B;"),
            ("a.rs", "pub struct A;\n#[cfg(test)]\nmod tests { use crate::b::B; }"),
            ("b.rs", "use crate::{A, inner::deep};\n// crate::c::C\npub struct B;"),
            ("c.rs", "mod part;\nuse part::Part;\nfn f() { crate::b::f(); }"),
            ("c/part.rs", "use crate::b::B;"),
        ];
        assert_eq!(found(&files), Vec::<String>::new());
    }

    #[test]
    fn circles_are_found_however_they_are_written() {
        let circle = "the files of made-up form a circle: a -> b -> a";
        for (a, b) in [
            ("use crate::b::B;", "use crate::a::A;"),
            ("use crate::{\n    Error,\n    b::{self, B},\n};", "fn f() -> super::a::A {}"),
            // Through what the root re-exports.
            ("use crate::{Number, B};", "use crate::A;"),
        ] {
            let root = ("lib.rs", "mod a;\nmod b;\npub use a::A;\npub use b::{B, C};");
            assert_eq!(found(&[root, ("a.rs", a), ("b.rs", b)]), [circle], "{a} {b}");
        }
        let inner = [("lib.rs", ""), ("a.rs", "mod b;\nuse b::B;"), ("a/b.rs", "use super::A;")];
        assert_eq!(found(&inner), ["the files of made-up form a circle: a -> a::b -> a"]);
    }
}
