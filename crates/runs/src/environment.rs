use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, RunConfig};

/// Where a run took place and on which data: `environment.json`. None of it is needed to repeat the run, all of it to judge
/// the run.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Environment {
    /// Version of this project.
    pub pointwise: String,
    /// Version of candle.
    pub candle: Option<String>,
    /// Version of the compiler.
    pub rustc: Option<String>,
    /// The commit that was built.
    pub commit: Option<String>,
    /// Name of the processor.
    pub processor: String,
    /// Name of the accelerator that did the work; absent if the processor did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// Logical processors of the machine.
    pub cores: u32,
    /// Worker threads in use.
    pub threads: u32,
    /// Operating system and architecture.
    pub os: String,
    /// Start of the run or of its last resume, RFC 3339 UTC.
    pub started: String,
    /// Where the images came from, for people.
    pub data_source: String,
    /// Hash of the images and labels in use: equal fingerprints are equal data.
    pub data_fingerprint: String,
    /// Whether the images are synthetic, so that accuracies say nothing about CIFAR-10.
    pub data_synthetic: bool,
    /// Images trained on in an epoch.
    pub train_images: u32,
    /// Images held out to choose the best epoch; 0 without a split.
    pub validation_images: u32,
    /// Images in the test set.
    pub test_images: u32,
    /// Trainable parameters of the network.
    pub parameters: u64,
    /// Multiply-accumulate operations of one forward pass of one image.
    pub macs_per_image: u64,
}

/// This moment as RFC 3339 UTC in whole seconds: `2026-01-31T12:00:00Z`.
pub fn timestamp() -> String {
    rfc3339(SystemTime::now())
}

/// A time in that form. A time before 1970 or after the year 9999 is clamped.
fn rfc3339(time: SystemTime) -> String {
    let last = Duration::from_secs(253_402_300_799);
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().min(last);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// The operating system and the architecture: `linux x86_64`.
pub fn operating_system() -> String {
    format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)
}

/// The processor's name as the system reports it, else its architecture.
pub fn processor_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    model_name(&info).unwrap_or(std::env::consts::ARCH).to_owned()
}

/// The number of computing threads in the variable `RAYON_NUM_THREADS`; `None` if it is not set, empty, or 0, which leaves the number to
/// the program.
///
/// # Errors
/// [`Error::Threads`] for anything but a number of threads that the option `--threads` takes.
pub fn threads_of_environment() -> Result<Option<u32>> {
    std::env::var_os("RAYON_NUM_THREADS").map_or(Ok(None), |value| threads_in(&value.to_string_lossy()))
}

fn threads_in(value: &str) -> Result<Option<u32>> {
    match value.trim().parse() {
        _ if value.is_empty() => Ok(None),
        Ok(0) => Ok(None),
        Ok(threads @ 1..=RunConfig::MAX_THREADS) => Ok(Some(threads)),
        _ => Err(Error::Threads { value: value.to_owned() }),
    }
}

/// The largest resident set of this process so far, in bytes, where the system reports it (Linux).
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn model_name(cpuinfo: &str) -> Option<&str> {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(key, value)| (key.trim() == "model name").then_some(value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_rfc_3339_utc() {
        let now = timestamp();
        let read = humantime::parse_rfc3339(&now).unwrap();
        assert!(SystemTime::now().duration_since(read).unwrap().as_secs() < 60, "{now}");
        assert!(now.ends_with('Z') && now.len() == 20, "{now}");
    }

    #[test]
    fn a_clock_that_is_wrong_is_no_panic() {
        let hour = Duration::from_secs(3600);
        let year = 365 * 24 * hour;
        for (time, expected) in [
            (UNIX_EPOCH - hour, "1970-01-01T00:00:00Z"),
            (UNIX_EPOCH - 400 * year, "1970-01-01T00:00:00Z"),
            (UNIX_EPOCH + hour, "1970-01-01T01:00:00Z"),
            (UNIX_EPOCH + 9000 * year, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(time), expected, "{time:?}");
        }
    }

    #[test]
    fn a_number_of_threads_is_bounded_like_the_option() {
        for (value, expected) in
            [("", None), ("0", None), ("1", Some(1)), (" 8", Some(8)), ("1024", Some(1024))]
        {
            assert_eq!(threads_in(value).unwrap(), expected, "{value:?}");
        }
        for value in ["1025", "5000", "-1", "two", "2.5", "99999999999999999999"] {
            let message = threads_in(value).unwrap_err().to_string();
            assert!(message.contains(value) && message.contains("from 1 to 1024"), "{message}");
        }
    }

    #[test]
    fn a_processor_has_a_name() {
        let info = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: Some CPU @ 2 GHz: fast\n";
        assert_eq!(model_name(info), Some("Some CPU @ 2 GHz: fast"));
        assert_eq!(model_name(""), None);
        assert!(!processor_name().is_empty());
    }
}
