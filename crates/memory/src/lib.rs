//! How much memory this process can still take: to be checked before it takes any, since the system's own answer may be to kill it.
//!
//! An allocation that succeeds says nothing: most systems promise memory that they do not have, and end a process that writes to it.

use std::fs;
use std::path::Path;

/// The tightest bound on the memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The limit of its address space, `ulimit -v`, or of its data, `ulimit -d`.
    AddressSpace,
    /// The limit of its control group, such as that of a container or a batch job.
    ControlGroup,
    /// What the machine has free, swap included.
    Machine,
}

/// Memory that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// Bytes.
    pub bytes: u64,
    /// What bounds it.
    pub bound: Bound,
}

impl std::fmt::Display for Available {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = shown(self.bytes);
        match self.bound {
            Bound::AddressSpace => write!(f, "the limit of address space (ulimit -v) leaves {bytes}"),
            Bound::ControlGroup => write!(f, "the control group of this process leaves {bytes}"),
            Bound::Machine => write!(f, "{bytes} are free"),
        }
    }
}

/// Bytes in readable form: `361 MiB`, `12.5 GiB`.
#[must_use]
pub fn shown(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 10_240.0 {
        format!("{mebibytes:.0} MiB")
    } else {
        format!("{:.1} GiB", mebibytes / 1024.0)
    }
}

/// The memory left under the tightest bound; `None` where the system does not report it (only Linux does).
#[must_use]
pub fn available() -> Option<Available> {
    let of = |bytes: Option<u64>, bound: Bound| bytes.map(|bytes| Available { bytes, bound });
    let group = fs::read_to_string("/proc/self/cgroup").ok();
    let machine = fs::read_to_string("/proc/meminfo").ok();
    [
        of(address_space(), Bound::AddressSpace),
        of(group.and_then(|text| control_group(Path::new("/sys/fs/cgroup"), &text)), Bound::ControlGroup),
        of(machine.and_then(|text| free_memory(&text)), Bound::Machine),
    ]
    .into_iter()
    .flatten()
    .min_by_key(|available| available.bytes)
}

/// The address space that this process's limits leave; `None` where there are none.
#[must_use]
pub fn address_space() -> Option<u64> {
    left_by_limits(
        &fs::read_to_string("/proc/self/limits").ok()?,
        &fs::read_to_string("/proc/self/status").ok()?,
    )
}

/// The available memory, if `need` bytes are more than that.
///
/// ```
/// assert_eq!(pointwise_memory::lacking(0), None);
/// ```
#[must_use]
pub fn lacking(need: u64) -> Option<Available> {
    available().filter(|available| need > available.bytes)
}

/// The value of a line `key   value kB` in bytes.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// From `/proc/self/limits` and `/proc/self/status`.
fn left_by_limits(limits: &str, status: &str) -> Option<u64> {
    let left = |limit: &str, used: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(limit))?;
        let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(limit.saturating_sub(kibibytes(status, used)?))
    };
    [left("Max address space", "VmSize"), left("Max data size", "VmData")].into_iter().flatten().min()
}

/// From `/proc/meminfo`.
fn free_memory(meminfo: &str) -> Option<u64> {
    Some(kibibytes(meminfo, "MemAvailable")? + kibibytes(meminfo, "SwapFree").unwrap_or(0))
}

/// What the limits of the groups named in `/proc/self/cgroup`, and of those around them, leave. Of the memory in use, cached files do not count: they
/// can be evicted.
fn control_group(root: &Path, membership: &str) -> Option<u64> {
    let mut least = None;
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (root, limit, used, files) = match controllers {
            "" => (root.to_owned(), "memory.max", "memory.current", ["active_file ", "inactive_file "]),
            _ if controllers.split(',').any(|name| name == "memory") => (
                root.join("memory"),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                ["total_active_file ", "total_inactive_file "],
            ),
            _ => continue,
        };
        // In a container, the path may be one of the host: its groups do not exist here, but the root does.
        let own = root.join(path.trim_start_matches('/'));
        for group in own.ancestors().take_while(|group| group.starts_with(&root)) {
            let read = |file: &str| fs::read_to_string(group.join(file)).ok();
            // `max` is not a number, and means that there is no limit.
            let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
            let (Some(limit), Some(used)) = (number(limit), number(used)) else { continue };
            let stat = read("memory.stat").unwrap_or_default();
            let count =
                |key: &str| stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
            let files: u64 = files.iter().filter_map(|key| count(key)).sum();
            let left = limit.saturating_sub(used.saturating_sub(files));
            least = Some(least.map_or(left, |least: u64| least.min(left)));
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_leave_what_is_not_used() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max data size             unlimited            unlimited            bytes     \n\
                      Max address space         307200000            unlimited            bytes     \n";
        let status = "Name:\ttrainer\nVmSize:\t  100000 kB\nVmData:\t   50000 kB\n";
        assert_eq!(left_by_limits(limits, status), Some(307_200_000 - 102_400_000));
        let full = status.replace("100000", "999999");
        assert_eq!(left_by_limits(limits, &full), Some(0));
        let both = limits.replace("size             unlimited", "size             60000000");
        assert_eq!(left_by_limits(&both, status), Some(60_000_000 - 51_200_000));
        assert_eq!(left_by_limits(&limits.replace("307200000", "unlimited"), status), None);
        assert_eq!(left_by_limits("", ""), None);
    }

    #[test]
    fn swap_counts_as_memory() {
        let text = "MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:   2048 kB\nSwapFree:  1024 kB\n";
        assert_eq!(free_memory(text), Some(3 << 20));
        assert_eq!(free_memory("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn the_tightest_of_the_groups_counts_and_cached_files_do_not() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let left = |membership: &str| control_group(root.path(), membership);
        assert_eq!(left("0::/job/step\n"), None);
        write("job/step/memory.max", "max\n");
        write("job/step/memory.current", "600\n");
        assert_eq!(left("0::/job/step\n"), None);
        write("job/memory.max", "1000\n");
        write("job/memory.current", "700\n");
        write("job/memory.stat", "anon 500\nactive_file 50\ninactive_file 150\n");
        assert_eq!(left("0::/job/step\n"), Some(500));
        assert_eq!(left("0::/\n"), None);
        // Version 1 of control groups, in a container that does not see its group's path.
        write("memory/memory.limit_in_bytes", "2000\n");
        write("memory/memory.usage_in_bytes", "1900\n");
        write("memory/memory.stat", "active_file 1\ntotal_active_file 300\ntotal_inactive_file 100\n");
        assert_eq!(left("3:cpu:/x\n2:memory,hugetlb:/docker/abc\n"), Some(500));
        assert_eq!(left("garbage\n"), None);
    }

    #[test]
    fn bytes_are_shown_in_a_size_that_suits() {
        assert_eq!(shown(378_535_936), "361 MiB");
        assert_eq!(shown(137 << 30), "137.0 GiB");
    }
}
