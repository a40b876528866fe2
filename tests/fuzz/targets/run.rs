//! A run folder with the input as one of its files; the input's first byte says which.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use pointwise_fuzz::{check_file_error, file, folder};
use pointwise_runs::{Run, RunConfig, RunFolder};

const FILES: [(&str, &str); 6] = [
    ("config.toml", include_str!("../run/config.toml")),
    ("environment.json", include_str!("../run/environment.json")),
    ("metrics.jsonl", include_str!("../run/metrics.jsonl")),
    ("progress.json", include_str!("../run/progress.json")),
    ("result.json", include_str!("../run/result.json")),
    ("analysis.json", include_str!("../run/analysis.json")),
];

fn write_all() {
    static WRITTEN: OnceLock<()> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        for (name, contents) in FILES {
            file(&format!("run/{name}"), contents.as_bytes());
        }
        let run = Run::read(folder().join("run")).unwrap_or_else(|error| panic!("{error}"));
        run.analysis().unwrap_or_else(|error| panic!("{error}"));
    });
}

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    write_all();
    let (name, whole) = FILES[usize::from(*first) % FILES.len()];
    let path = file(&format!("run/{name}"), rest);
    let run_folder = folder().join("run");
    match Run::read(&run_folder) {
        Ok(run) => {
            let text = run.config.to_toml().unwrap_or_else(|error| panic!("{error}"));
            let again = RunConfig::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(again.differences(&run.config), []);
            let _ = (run.activity(), run.progress.as_ref().and_then(|progress| progress.seconds_left()));
        }
        Err(error) => check_file_error(&path, &error),
    }
    if let Ok(run) = Run::read(&run_folder)
        && let Err(error) = run.analysis()
    {
        check_file_error(&path, &error);
    }
    if name == "metrics.jsonl" {
        let rewound = RunFolder::resume(&run_folder).and_then(|(mut run, _)| run.rewind(2, 1));
        if let Err(error) = rewound {
            check_file_error(&path, &error);
        }
    }
    file(&format!("run/{name}"), whole.as_bytes());
});
