//! What the tables' cells and sentences have in common.

use super::{
    question::Phase,
    record::{FOLDER, Lacking, Record},
};

/// Shown where there is no figure.
pub(super) const NONE: &str = "-";

/// Who was timed, who was not, what was built, and where every row is.
pub(super) fn made_by(record: &Record, file: &str) -> String {
    let group_of = |contender| {
        let rows = record.rows.iter().map(|entry| &entry.row).filter(|row| row.contender == contender);
        rows.filter_map(|row| row.group).max()
    };
    let entered: Vec<String> = record
        .contenders
        .iter()
        .map(|entered| {
            let version = entered.version.as_deref().unwrap_or("of unknown version");
            let (title, detail) = (entered.contender.title(), &entered.detail);
            let (warmup, steps) = (entered.warmup, entered.steps);
            let what = match group_of(entered.contender) {
                Some(group) => format!("groups of {group} steps"),
                None => "steps".to_owned(),
            };
            format!("{title} {version} ({detail}; {warmup} + {steps} {what})")
        })
        .collect();
    let mut text = format!("Timed, with steps before and on the clock: {}. ", entered.join(", "));
    if !record.skipped.is_empty() {
        let skipped: Vec<&str> = record.skipped.iter().map(|skipped| skipped.contender.title()).collect();
        text += &format!("Not there: {}. ", skipped.join(", "));
    }
    for Lacking { contender, model, reason } in &record.lacking {
        text += &format!("{} is left out of `{model}`: {reason}. ", contender.title());
    }
    if record.unfinished {
        text += "Cut off before its end. ";
    }
    if !record.failures.is_empty() {
        text += &format!("Processes that failed: {}. ", record.failures.len());
    }
    let compiler = record.rustc.as_deref().unwrap_or("an unknown rustc");
    let commit = record.commit.as_deref().map_or("an unknown commit".to_owned(), |commit| {
        let short = commit.get(..7).unwrap_or(commit);
        format!("commit {short}{}", if record.dirty { " with changes" } else { "" })
    });
    text += &format!(
        "Built by {compiler}{}. Every row: [{FOLDER}/{file}](../{FOLDER}/{file}), by `{}` at {commit}.\n",
        match record.card {
            Some(_) => String::new(),
            None => format!(", the other Rust programs with `{}`", record.peer_flags),
        },
        record.command
    );
    text
}

pub(super) fn step(phase: Phase) -> &'static str {
    match phase {
        Phase::Train => "training",
        Phase::Eval => "evaluation",
        Phase::Infer => "inference",
    }
}

pub(super) fn count(number: u32, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn times(ratio: f64) -> String {
    if ratio < 9.95 { format!("{ratio:.2}x") } else { format!("{ratio:.1}x") }
}
