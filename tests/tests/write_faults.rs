//! Disks that fill up, fail or become read-only during a run: the error names the file and the fix, the previous checkpoint is whole, nothing
//! half written stays, and once the disk works again the run ends as if nothing had happened.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_runs::{Activity, Run};
use pointwise_tests::training::{activity, wait_until};
use pointwise_tests::{checkpoint, clean, command, fail, metrics, preloaded, succeed, trainer};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Quick, with small checkpoints.
const NETWORK: &str = r#"
name = "small"
input = [3, 8, 8]
layers = [
    { Conv2d = { out_channels = 8, kernel_size = 3, padding = 1 } }, "BatchNorm2d", "ReLU",
    { MaxPool2d = { kernel_size = 8 } }, "Flatten", { Linear = { out_features = 10 } },
]
"#;

/// Arguments of a training of ten epochs of three steps, which continues an existing run.
fn training(folder: &Path, run: &Path) -> Vec<String> {
    let network = folder.join("network.toml");
    fs::write(&network, NETWORK).unwrap();
    let text = "train --data synthetic --limit-train 24 --limit-test 8 --batch-size 8 --epochs 10 --log-every 1 --resume --quiet";
    let mut arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    for (option, path) in [("--model", &*network), ("--run-dir", run)] {
        arguments.extend([option.to_owned(), path.to_str().unwrap().to_owned()]);
    }
    arguments
}

/// The undisturbed run.
fn undisturbed(folder: &Path) -> PathBuf {
    let run = folder.join("undisturbed");
    succeed(training(folder, &run));
    run
}

/// Whether two finished runs have the same checkpoints, metrics and analysis, byte for byte.
fn assert_same(expected: &Path, run: &Path, what: &str) {
    assert_eq!(activity(run), Activity::Finished, "{what}");
    for name in ["best", "last"] {
        assert!(checkpoint(expected, name) == checkpoint(run, name), "{what}: {name} differs");
    }
    assert_eq!(metrics(expected), metrics(run), "{what}");
    let analysis = |run: &Path| fs::read(run.join("analysis.json")).unwrap();
    assert!(analysis(expected) == analysis(run), "{what}: analysis.json differs");
    assert_no_remains(run, what);
}

/// No temporary file is left.
fn assert_no_remains(run: &Path, what: &str) {
    for folder in [run.to_owned(), run.join("checkpoints")] {
        for entry in fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.ends_with(".tmp"), "{what}: {name} is left");
        }
    }
}

/// What a disturbed run leaves can be read, and each existing checkpoint can be used.
fn assert_usable(run: &Path, what: &str) {
    assert!(Run::read(run).is_ok(), "{what}: {:?}", Run::read(run));
    for name in ["best", "last"] {
        let path = run.join(format!("checkpoints/{name}.safetensors"));
        if path.exists() {
            let network = run.parent().unwrap().join("network.toml");
            let text = ["eval", "--checkpoint", path.to_str().unwrap(), "--model", network.to_str().unwrap()];
            succeed(text.iter().chain(&["--data", "synthetic", "--limit", "4"]));
        }
    }
}

/// Exactly one error, which contains these words.
fn assert_says(said: &str, words: &[&str], what: &str) {
    assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{what}: {said}");
    assert!(!said.contains("panicked"), "{what}: {said}");
    for word in words {
        assert!(said.contains(word), "{what}: no {word:?} in {said}");
    }
}

/// Fails calls of one kind on files of one name with `FAULT_ERRNO`, after the first `FAULT_AFTER` of them; `write` first writes half if
/// `FAULT_TORN` is set. The name may be one that a file is about to get.
///
/// `rename` is not called by name, so the system is asked to trap it; what is let through is marked in an argument that it does not have.
const FAULTS: &str = r#"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define PASS 0x50415353

static int calls;

static int fails(const char *call, const char *path) {
    if (strcmp(call, getenv("FAULT_CALL")) || !strstr(path, getenv("FAULT_NAME"))) return 0;
    return __sync_add_and_fetch(&calls, 1) > atoi(getenv("FAULT_AFTER"));
}

static int fails_on(const char *call, int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(call, path);
}

static int fault(void) { errno = atoi(getenv("FAULT_ERRNO")); return -1; }

ssize_t write(int file, const void *bytes, size_t length) {
    static int torn;
    if (fails_on("write", file)) {
        if (!getenv("FAULT_TORN") || torn++) return fault();
        length /= 2;
    }
    return syscall(SYS_write, file, bytes, length);
}

int fsync(int file) { return fails_on("fsync", file) ? fault() : syscall(SYS_fsync, file); }
int fdatasync(int file) { return fails_on("fsync", file) ? fault() : syscall(SYS_fdatasync, file); }

static void trapped(int signal, siginfo_t *info, void *context) {
    mcontext_t *machine = &((ucontext_t *)context)->uc_mcontext;
    int before = errno;
#if defined(__x86_64__)
    greg_t *r = machine->gregs;
    long a[5] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8]};
    int path = info->si_syscall == SYS_rename ? 1 : 3;
#elif defined(__aarch64__)
    unsigned long long *r = machine->regs;
    long a[5] = {r[0], r[1], r[2], r[3], r[4]};
    int path = 3;
#endif
    long result;
    if (fails("rename", (const char *)a[path])) result = -atoi(getenv("FAULT_ERRNO"));
    else {
        result = syscall(info->si_syscall, a[0], a[1], a[2], a[3], a[4], PASS);
        if (result < 0) result = -errno;
    }
#if defined(__x86_64__)
    r[REG_RAX] = result;
#elif defined(__aarch64__)
    r[0] = result;
#endif
    errno = before;
}

__attribute__((constructor)) static void begin(void) {
    if (strcmp(getenv("FAULT_CALL"), "rename")) return;
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSYS, &action, NULL);
#ifdef SYS_rename
    int oldest = SYS_rename;
#else
    int oldest = SYS_renameat;
#endif
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, oldest, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PASS, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) _exit(99);
}
"#;

#[derive(Debug)]
struct Fault {
    call: &'static str,
    file: &'static str,
    after: u32,
    is_torn: bool,
    error: i32,
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

#[test]
fn a_call_that_fails_costs_nothing_but_what_it_was_to_write() {
    let temp = tempfile::tempdir().unwrap();
    let library = preloaded(temp.path(), FAULTS);
    let expected = undisturbed(temp.path());
    let fault = |call, file, after, error| Fault { call, file, after, is_torn: false, error };
    let faults = [
        fault("write", "last.safetensors", 0, EIO),
        fault("write", "last.safetensors", 2, EIO),
        fault("write", "best.safetensors", 0, EDQUOT),
        fault("write", "config.toml", 0, ENOSPC),
        fault("write", "metrics.jsonl", 4, EIO),
        fault("write", "progress.json", 2, EIO),
        fault("write", "analysis.json", 0, ENOSPC),
        fault("write", "result.json", 0, EIO),
        Fault { is_torn: true, ..fault("write", "metrics.jsonl", 5, ENOSPC) },
        Fault { is_torn: true, ..fault("write", "last.safetensors", 2, ENOSPC) },
        fault("fsync", "last.safetensors", 2, EIO),
        fault("fsync", "best.safetensors", 0, EIO),
        fault("fsync", "metrics.jsonl", 2, EIO),
        fault("fsync", "environment.json", 0, EIO),
        fault("fsync", "result.json", 0, EIO),
        fault("rename", "last.safetensors", 0, EIO),
        fault("rename", "last.safetensors", 2, EIO),
        fault("rename", "best.safetensors", 0, EIO),
        fault("rename", "config.toml", 0, EIO),
        fault("rename", "progress.json", 2, EIO),
        fault("rename", "result.json", 0, EIO),
    ];
    for (number, Fault { call, file, after, is_torn, error }) in faults.iter().enumerate() {
        let what = format!("{call} of {file}, {error}");
        let run = temp.path().join(format!("run-{number}"));
        let mut disturbed = command(training(temp.path(), &run));
        disturbed.env("LD_PRELOAD", &library).env("FAULT_CALL", call).env("FAULT_NAME", file);
        disturbed.env("FAULT_AFTER", after.to_string()).env("FAULT_ERRNO", error.to_string());
        if *is_torn {
            disturbed.env("FAULT_TORN", "1");
        }
        let output = disturbed.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        let (cause, advice) = match *error {
            EIO => ("(Input/output error", "check the system's log"),
            ENOSPC => ("(No space left on device", "check free space"),
            _ => ("quota exceeded", "check free space"),
        };
        assert_says(&said, &[file, "cannot be written", cause, advice], &what);
        assert_no_remains(&run, &what);
        // A folder without a configuration is not yet a run.
        if run.join("config.toml").exists() {
            assert_ne!(activity(&run), Activity::Finished, "{what}");
            assert_usable(&run, &what);
        }
        succeed(training(temp.path(), &run));
        assert_same(&expected, &run, &what);
    }
}

/// Runs a script as root in its own mount namespace, whose mounts end with it; `None` if the system does not allow that.
fn with_mounts(script: &str, paths: &[(&str, &Path)], arguments: &[String]) -> Option<()> {
    let unshared = |map: &[&str]| {
        let mut command = clean(Command::new("unshare"), map);
        command.arg("--mount").stderr(Stdio::null()).stdout(Stdio::null());
        command
    };
    let ways: [&[&str]; 2] = [&[], &["--user", "--map-root-user"]];
    let can = |map: &&&[&str]| {
        let look = "mount -t tmpfs -o size=1m none /mnt";
        unshared(map).args(["sh", "-c", look]).status().is_ok_and(|status| status.success())
    };
    let Some(map) = ways.iter().find(can) else {
        eprintln!("skipped: file systems cannot be mounted here");
        return None;
    };
    let mut command = unshared(map);
    let script = format!("set -eu\n{script}");
    command.args(["sh", "-c", &script]).arg(trainer()).args(arguments).envs(paths.iter().copied());
    let status = command.stderr(Stdio::inherit()).status().unwrap();
    assert!(status.success(), "the script ended with {status}");
    Some(())
}

/// Holds a process at one call, while the file `HANG` is there, and says so by the file `SEEN`: where it records its third epoch, makes the
/// folder `RUN`, or takes a lock.
const HOLD: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void hold_at(const char *call) {
    if (strcmp(call, getenv("AT"))) return;
    close(creat(getenv("SEEN"), 0666));
    while (access(getenv("HANG"), F_OK) == 0) usleep(1000);
}

ssize_t write(int file, const void *bytes, size_t length) {
    static const char record[] = "\"kind\":\"epoch\",\"epoch\":3,";
    if (memmem(bytes, length, record, sizeof record - 1)) hold_at("write");
    return syscall(SYS_write, file, bytes, length);
}

int mkdir(const char *path, mode_t mode) {
    if (!strcmp(path, getenv("RUN"))) hold_at("mkdir");
    return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int flock(int file, int operation) {
    hold_at("flock");
    return syscall(SYS_flock, file, operation);
}
"#;

/// The files that hold a process.
struct Hold {
    library: PathBuf,
    hang: PathBuf,
    seen: PathBuf,
}

impl Hold {
    fn new(folder: &Path) -> Self {
        let (hang, seen) = (folder.join("hang"), folder.join("seen"));
        fs::write(&hang, "").unwrap();
        Self { library: preloaded(folder, HOLD), hang, seen }
    }

    /// A training that is held at a call.
    fn training(&self, folder: &Path, run: &Path, call: &str) -> Child {
        let mut held = command(training(folder, run));
        held.env("LD_PRELOAD", &self.library).env("AT", call).envs(self.paths(run));
        let held = held.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("it comes to the call", || self.seen.exists());
        held
    }

    fn paths<'a>(&'a self, run: &'a Path) -> [(&'static str, &'a Path); 4] {
        [("RUN", run), ("HANG", &self.hang), ("SEEN", &self.seen), ("LIBRARY", &self.library)]
    }

    fn release(&self) {
        fs::remove_file(&self.hang).unwrap();
    }
}

/// Starts the training, which is held before it records its third epoch.
const BEGIN: &str = r#"
AT=write LD_PRELOAD="$LIBRARY" "$0" "$@" > /dev/null 2> "$SAID" & training=$!
until [ -e "$SEEN" ]; do
    kill -0 $training || { cat "$SAID" >&2; exit 1; }
    sleep 0.01
done
"#;

/// Lets it continue, to its failure.
const END: &str = r#"
rm "$HANG"
wait $training && { echo 'the training did not fail' >&2; exit 1; } || code=$?
[ $code = 1 ] || { cat "$SAID" >&2; exit 1; }
"#;

#[test]
fn a_run_whose_disk_was_full_continues_once_there_is_space() {
    let temp = tempfile::tempdir().unwrap();
    let disk = temp.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let (run, failed, finished) =
        (disk.join("run"), temp.path().join("failed"), temp.path().join("finished"));
    let (hold, said) = (Hold::new(temp.path()), temp.path().join("said"));
    let script = format!(
        r#"
mount -t tmpfs -o size=4m none "$DISK"
{BEGIN}
head -c 8M /dev/zero > "$DISK/ballast" 2> /dev/null || true
{END}
cp -a "$RUN" "$FAILED"
rm "$DISK/ballast"
"$0" "$@" > /dev/null
cp -a "$RUN" "$FINISHED"
"#
    );
    let own = [("DISK", &*disk), ("SAID", &said), ("FAILED", &failed), ("FINISHED", &finished)];
    let paths = [&own[..], &hold.paths(&run)].concat();
    if with_mounts(&script, &paths, &training(temp.path(), &run)).is_none() {
        return;
    }
    let said = fs::read_to_string(said).unwrap();
    assert_says(&said, &["cannot be written (No space left on device", "check free space"], "a full disk");
    assert!(failed.join("checkpoints/last.safetensors").is_file());
    assert_no_remains(&failed, "a full disk");
    assert_usable(&failed, "a full disk");
    assert_same(&undisturbed(temp.path()), &finished, "a disk that was full");
}

#[test]
fn a_folder_that_was_made_read_only_is_named_and_continued_in() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let (failed, said) = (temp.path().join("failed"), temp.path().join("said"));
    fs::create_dir_all(run.join("checkpoints")).unwrap();
    let hold = Hold::new(temp.path());
    // A mount with a file open for writing cannot become read-only: none is open where the training is held.
    let script = format!(
        r#"
mount --bind "$RUN/checkpoints" "$RUN/checkpoints"
{BEGIN}
mount -o remount,bind,ro "$RUN/checkpoints"
{END}
cp -a "$RUN" "$FAILED"
mount -o remount,bind,rw "$RUN/checkpoints"
"$0" "$@" > /dev/null
"#
    );
    let paths = [&[("SAID", &*said), ("FAILED", &failed)], &hold.paths(&run)[..]].concat();
    if with_mounts(&script, &paths, &training(temp.path(), &run)).is_none() {
        return;
    }
    let said = fs::read_to_string(said).unwrap();
    let words = ["safetensors cannot be written (Read-only file system", "make it writable again"];
    assert_says(&said, &words, "a folder that is read-only");
    assert_eq!(activity(&failed), Activity::Failed);
    assert!(failed.join("checkpoints/last.safetensors").is_file());
    assert_usable(&failed, "a folder that is read-only");
    assert_same(&undisturbed(temp.path()), &run, "a folder that was read-only");
}

#[test]
fn a_second_process_is_refused_and_the_first_ends_undisturbed() {
    let temp = tempfile::tempdir().unwrap();
    let (run, hold) = (temp.path().join("run"), Hold::new(temp.path()));
    let first = hold.training(temp.path(), &run, "write");
    let message = fail(6, training(temp.path(), &run));
    assert!(
        message.contains("is in use by another process") && message.contains("another --run-dir"),
        "{message}"
    );
    hold.release();
    let output = first.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_same(&undisturbed(temp.path()), &run, "a run that two processes wanted");
}

/// As happens with two tasks of a cluster, or with a study that is continued while the trainings of a killed one end.
#[test]
fn a_run_that_another_process_began_in_the_meantime_is_its_own() {
    let temp = tempfile::tempdir().unwrap();
    let expected = undisturbed(temp.path());
    // It has found neither a run nor remains of one.
    for call in ["mkdir", "flock"] {
        let (run, hold) = (temp.path().join(call), Hold::new(temp.path()));
        let slow = hold.training(temp.path(), &run, call);
        succeed(training(temp.path(), &run));
        hold.release();
        let output = slow.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{call}: {said}");
        assert_says(&said, &["is in use by another process"], call);
        assert_same(&expected, &run, call);
        fs::remove_file(&hold.seen).unwrap();
    }
}
