//! A file from one of several addresses, continued where it was interrupted.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ureq::http::Response;
use ureq::http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use ureq::{Agent, Proxy};

use crate::archive;
use crate::file_spec::FileSpec;
use crate::files::{CHUNK, Kind, kind, put_in_place, reading, remove_if_there, set_aside, writing};
use crate::{AddressFailure, Error, Progress, Unit};

/// How patient a download is, and its proxy.
pub(crate) struct Patience {
    /// Time for a connection, including TLS.
    pub(crate) connect: Duration,
    /// Time for the head of the answer after the request, and for each read of its body.
    pub(crate) silence: Duration,
    /// Time before an interrupted transfer is continued.
    pub(crate) pause: Duration,
    /// How often in a row a transfer that brought nothing new is continued.
    pub(crate) fruitless: u32,
    /// A transfer is slow if it brings fewer than `slow_bytes` in `slow_after`: then another address is tried first.
    pub(crate) slow_after: Duration,
    /// See `slow_after`.
    pub(crate) slow_bytes: u64,
    /// By default that of the environment (`HTTPS_PROXY`, ...).
    pub(crate) proxy: Option<Proxy>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            silence: Duration::from_secs(60),
            pause: Duration::from_secs(1),
            fruitless: 3,
            slow_after: Duration::from_secs(20),
            // 250 kB/s: the archive would take more than 11 minutes.
            slow_bytes: 5_000_000,
            proxy: Proxy::try_from_env(),
        }
    }
}

/// Downloads the file of `spec` to `target`, from the first of `addresses` that provides it.
///
/// The bytes go to a file next to it, `target` with `.part` appended, which a later call continues from any address; it is renamed only when size and
/// MD5 are right, and a previous `target` is set aside. The caller ensures that no other process downloads there at the same time.
pub(crate) fn download(
    target: &Path,
    addresses: &[String],
    spec: &FileSpec,
    dataset: &'static str,
    patience: &Patience,
    progress: &dyn Progress,
) -> Result<(), Error> {
    if patience.proxy.is_none()
        && let Some(name) = unusable_proxy(|name| std::env::var(name).ok())
    {
        progress.note(&format!(
            "warning: the variable {name} does not hold a proxy address, such as http://HOST:PORT: the download is tried without it"
        ));
    }
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(patience.connect))
        .timeout_recv_response(Some(patience.silence))
        .timeout_per_read(Some(patience.silence))
        .proxy(patience.proxy.clone())
        .user_agent(concat!("pointwise-data/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let mut part = target.as_os_str().to_owned();
    part.push(".part");
    let transfer = Transfer { agent, part: part.into(), spec, dataset, patience, progress };

    let mut failures = Vec::new();
    // A slow address is left for the next ones, and tried again after them: better slow than never.
    let last = addresses.len().saturating_sub(1);
    let mut queue: VecDeque<_> =
        addresses.iter().enumerate().map(|(i, address)| (address, i < last)).collect();
    while let Some((address, hurry)) = queue.pop_front() {
        match transfer.ask(address, hurry) {
            Ok(()) => {
                set_aside(target, progress)?;
                return put_in_place(&transfer.part, target);
            }
            Err(Stop::Slow) => queue.push_back((address, false)),
            Err(Stop::Failed(cause)) => {
                let failure = AddressFailure { address: address.clone(), cause };
                progress.note(&failure.to_string());
                failures.push(failure);
            }
            Err(Stop::Local(error)) => return Err(error),
        }
    }
    let file = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Err(Error::Download { file, dataset, failures })
}

/// The first of ureq's proxy variables that holds something other than a proxy, which ureq silently ignores.
fn unusable_proxy(variable: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"]
        .into_iter()
        .find(|name| variable(name).is_some_and(|value| !value.is_empty() && Proxy::new(&value).is_err()))
}

/// Why an address did not give the file.
enum Stop {
    /// It gives it too slowly.
    Slow,
    /// It does not give it.
    Failed(String),
    /// This machine is at fault: no other address will help.
    Local(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

/// How one request ended, if not by the end of the file.
enum Attempt {
    Complete,
    /// The transfer broke off after so many bytes: continuing may help.
    Interrupted {
        cause: String,
        received: u64,
    },
    /// The bytes that are here cannot be continued and were removed.
    StartAnew(String),
}

struct Transfer<'a> {
    agent: Agent,
    part: PathBuf,
    spec: &'a FileSpec,
    dataset: &'static str,
    patience: &'a Patience,
    progress: &'a dyn Progress,
}

impl Transfer<'_> {
    /// Asks one address until the file is complete and right.
    fn ask(&self, address: &str, hurry: bool) -> Result<(), Stop> {
        let mut most = self.present()?;
        // The bytes that are here may be another address's, and wrong: this one is not blamed for them.
        let mut inherited = most > 0;
        let mut answers = false;
        let mut fruitless = 0;
        loop {
            let cause = match self.attempt(address, hurry)? {
                Attempt::Complete => match archive::check(&self.part, self.spec, self.progress) {
                    Ok(_) => return Ok(()),
                    Err(Error::ArchiveDigest { actual, expected, .. }) => {
                        remove_if_there(&self.part)?;
                        let cause = format!("the MD5 is {actual} instead of {expected}");
                        if !std::mem::take(&mut inherited) {
                            return Err(Stop::Failed(cause));
                        }
                        most = 0;
                        self.progress.note(&format!("{cause}: downloading again from the start"));
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                },
                Attempt::Interrupted { cause, received } => {
                    answers |= received > 0;
                    if !answers {
                        return Err(Stop::Failed(cause));
                    }
                    cause
                }
                Attempt::StartAnew(cause) => {
                    inherited = false;
                    cause
                }
            };
            let present = self.present()?;
            // At least a thousandth more each time: that comes to an end.
            if present > most + self.spec.bytes / 1000 {
                most = present;
                fruitless = 0;
            } else {
                fruitless += 1;
            }
            if fruitless > self.patience.fruitless {
                return Err(Stop::Failed(cause));
            }
            self.progress.note(&format!("{address}: {cause}, continuing from byte {present}"));
            std::thread::sleep(self.patience.pause);
        }
    }

    /// Bytes downloaded so far.
    fn present(&self) -> Result<u64, Error> {
        match kind(&self.part)? {
            Kind::Nothing => Ok(0),
            _ => Ok(fs::metadata(&self.part).map_err(reading(&self.part))?.len()),
        }
    }

    /// One request, for what is missing.
    fn attempt(&self, address: &str, hurry: bool) -> Result<Attempt, Stop> {
        let expected = self.spec.bytes;
        let mut present = self.present()?;
        if present > expected {
            remove_if_there(&self.part)?;
            present = 0;
        }
        if present == expected {
            return Ok(Attempt::Complete);
        }

        // With compression, neither the size nor where to continue would be known.
        let mut request = self.agent.get(address).header(ACCEPT_ENCODING, "identity");
        if present > 0 {
            request = request.header(RANGE, format!("bytes={present}-"));
        }
        self.progress.note(&match present {
            0 => format!("downloading {address}"),
            _ => format!("downloading {address} from byte {present} on"),
        });
        let mut response = match request.call() {
            Ok(response) => response,
            Err(error) => return Ok(Attempt::Interrupted { cause: error.to_string(), received: 0 }),
        };
        match (response.status().as_u16(), present) {
            (200, _) => {
                if let Some(bytes) =
                    header(&response, CONTENT_LENGTH.as_str()).and_then(|v| v.parse::<u64>().ok())
                    && bytes != expected
                {
                    return Err(Stop::Failed(format!("the file has {bytes} bytes instead of {expected}")));
                }
                // The server has no ranges, or none was requested: the whole file comes.
                present = 0;
            }
            (206, 1..) => {
                let range = header(&response, CONTENT_RANGE.as_str()).unwrap_or_default().to_owned();
                if let Some(total) = range.rsplit('/').next().and_then(|total| total.parse::<u64>().ok())
                    && total != expected
                {
                    return Err(Stop::Failed(format!("the file has {total} bytes instead of {expected}")));
                }
                if !range.starts_with(&format!("bytes {present}-")) {
                    remove_if_there(&self.part)?;
                    return Ok(Attempt::StartAnew(format!("the answer has the range {range:?}")));
                }
            }
            (416, 1..) => {
                remove_if_there(&self.part)?;
                return Ok(Attempt::StartAnew("the server has no such range".to_owned()));
            }
            _ => return Err(Stop::Failed(format!("HTTP status {}", response.status()))),
        }

        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(present == 0)
            .open(&self.part)
            .map_err(writing(&self.part))?;
        file.seek(SeekFrom::Start(present)).map_err(writing(&self.part))?;
        self.progress.start(&format!("downloading {}", self.dataset), Some(expected), Unit::Bytes);
        self.receive(&mut file, response.body_mut().as_reader(), present, hurry)
    }

    /// Appends the body of an answer to the file, which has `start` bytes.
    fn receive(
        &self,
        file: &mut File,
        mut body: impl Read,
        start: u64,
        hurry: bool,
    ) -> Result<Attempt, Stop> {
        let expected = self.spec.bytes;
        let mut present = start;
        let mut buffer = vec![0; CHUNK];
        let mut measured = (Instant::now(), present);
        self.progress.advance(present);
        let cause = loop {
            match body.read(&mut buffer) {
                Ok(0) => break format!("the transfer ended after {present} of {expected} bytes"),
                Ok(n) => {
                    present += n as u64;
                    if present > expected {
                        // Not what was asked for; nothing of it is worth keeping.
                        remove_if_there(&self.part)?;
                        return Err(Stop::Failed(format!("the file has more than {expected} bytes")));
                    }
                    file.write_all(&buffer[..n]).map_err(writing(&self.part))?;
                    self.progress.advance(present);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break format!("{error} after {present} of {expected} bytes"),
            }
            if measured.0.elapsed() >= self.patience.slow_after {
                if hurry && present - measured.1 < self.patience.slow_bytes {
                    self.progress.note("this address is slow: trying the next one");
                    return Err(Stop::Slow);
                }
                measured = (Instant::now(), present);
            }
        };
        file.sync_all().map_err(writing(&self.part))?;
        if present == expected {
            self.progress.finish();
            return Ok(Attempt::Complete);
        }
        Ok(Attempt::Interrupted { cause, received: present - start })
    }
}

fn header<'r, B>(response: &'r Response<B>, name: &str) -> Option<&'r str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Reply, Server, Watcher, md5_hex, noise};
    use std::fs;
    use tempfile::TempDir;

    /// A body of a few chunks, so that an interruption can be in the middle of one and after one.
    const BODY_BYTES: usize = 2 * CHUNK + 1000;

    struct Case {
        folder: TempDir,
        body: Vec<u8>,
        spec: FileSpec,
        watcher: Watcher,
        patience: Patience,
    }

    impl Case {
        fn new() -> Self {
            let body = noise(1, BODY_BYTES);
            Self {
                folder: TempDir::new().unwrap(),
                spec: FileSpec { name: "file.gz", bytes: body.len() as u64, md5: md5_hex(&body) },
                body,
                watcher: Watcher::default(),
                patience: Patience { pause: Duration::ZERO, proxy: None, ..Patience::default() },
            }
        }

        fn target(&self) -> PathBuf {
            self.folder.path().join("file.gz")
        }

        fn part(&self) -> PathBuf {
            self.folder.path().join("file.gz.part")
        }

        fn serve(&self, replies: impl IntoIterator<Item = Reply>) -> Server {
            Server::new(&self.body, replies)
        }

        fn download(&self, servers: &[&Server]) -> Result<(), Error> {
            let addresses: Vec<String> = servers.iter().map(|server| server.address()).collect();
            download(&self.target(), &addresses, &self.spec, "CIFAR-10", &self.patience, &self.watcher)
        }

        /// The file is in place, whole, and nothing else is left.
        fn assert_whole(&self) {
            assert!(fs::read(self.target()).unwrap() == self.body, "the file has other contents");
            assert!(!self.part().exists());
        }
    }

    #[test]
    fn one_address_that_works() {
        let case = Case::new();
        let server = case.serve([Reply::Whole]);
        case.download(&[&server]).unwrap();
        case.assert_whole();
        assert_eq!(server.ranges(), [None]);
        let downloading = case.watcher.started().into_iter().next();
        assert_eq!(downloading, Some(("downloading CIFAR-10".to_owned(), BODY_BYTES as u64)));
    }

    #[test]
    fn an_interrupted_transfer_is_continued_where_it_broke_off() {
        let case = Case::new();
        let cut = CHUNK + 77;
        let server = case.serve([Reply::CutAfter(cut), Reply::CutAfter(1000), Reply::Whole]);
        case.download(&[&server]).unwrap();
        case.assert_whole();
        assert_eq!(server.ranges(), [None, Some(cut), Some(cut + 1000)]);
    }

    #[test]
    fn what_a_killed_process_left_is_continued() {
        let case = Case::new();
        fs::write(case.part(), &case.body[..5000]).unwrap();
        let server = case.serve([Reply::Whole]);
        case.download(&[&server]).unwrap();
        case.assert_whole();
        assert_eq!(server.ranges(), [Some(5000)]);

        // Killed between the last byte and the rename: nothing is left to request.
        fs::rename(case.target(), case.part()).unwrap();
        let server = case.serve([]);
        case.download(&[&server]).unwrap();
        case.assert_whole();
    }

    #[test]
    fn what_is_not_the_range_that_was_asked_for_starts_anew() {
        let cases: [(&[Reply], &[Option<usize>]); 4] = [
            (&[Reply::IgnoreRange], &[Some(5000)]),
            (&[Reply::IgnoreRangeAndCutAfter(1000), Reply::Whole], &[Some(5000), Some(1000)]),
            (&[Reply::ShiftedRange, Reply::Whole], &[Some(5000), None]),
            (&[Reply::RangeRefused, Reply::Whole], &[Some(5000), None]),
        ];
        for (replies, ranges) in cases {
            let case = Case::new();
            fs::write(case.part(), &case.body[..5000]).unwrap();
            let server = case.serve(replies.iter().copied());
            case.download(&[&server]).unwrap();
            case.assert_whole();
            assert_eq!(server.ranges(), ranges);
        }
    }

    #[test]
    fn wrong_bytes_of_another_address_are_not_held_against_this_one() {
        let case = Case::new();
        fs::write(case.part(), [9; 5000]).unwrap();
        let server = case.serve([Reply::Whole, Reply::Whole]);
        case.download(&[&server]).unwrap();
        case.assert_whole();
        assert_eq!(server.ranges(), [Some(5000), None]);
    }

    #[test]
    fn too_many_bytes_left_behind_are_thrown_away() {
        let case = Case::new();
        fs::write(case.part(), vec![9; BODY_BYTES + 1]).unwrap();
        let server = case.serve([Reply::Whole]);
        case.download(&[&server]).unwrap();
        case.assert_whole();
        assert_eq!(server.ranges(), [None]);
    }

    #[test]
    fn an_address_that_goes_silent_is_given_up_and_the_next_goes_on() {
        let mut case = Case::new();
        // No test server is silent this long unless it is meant to be.
        case.patience.silence = Duration::from_secs(2);
        case.patience.fruitless = 0;
        // It sends the first 3000 bytes and nothing more, and then nothing at all.
        let first = case.serve([Reply::SilentAfter(3000), Reply::SilentAfter(0), Reply::Whole]);
        let second = case.serve([Reply::Whole]);
        case.download(&[&first, &second]).unwrap();
        case.assert_whole();
        assert_eq!(first.ranges(), [None, Some(3000)]);
        assert_eq!(second.ranges(), [Some(3000)]);
        let given_up = case.watcher.notes().iter().filter(|note| note.contains("timeout")).count();
        assert_eq!(given_up, 2, "{:?}", case.watcher.notes());
    }

    #[test]
    fn a_slow_address_is_left_for_another_and_used_if_there_is_no_better() {
        let mut case = Case::new();
        case.patience.slow_after = Duration::ZERO;
        case.patience.slow_bytes = u64::MAX;
        let first = case.serve([Reply::Whole]);
        let second = case.serve([Reply::Whole]);
        case.download(&[&first, &second]).unwrap();
        case.assert_whole();
        assert!(matches!(second.ranges()[..], [Some(1..)]), "{:?}", second.ranges());

        fs::remove_file(case.target()).unwrap();
        let first = case.serve([Reply::Whole, Reply::Whole]);
        let second = case.serve([Reply::Status(503)]);
        case.download(&[&first, &second]).unwrap();
        case.assert_whole();
    }

    #[test]
    fn when_all_fail_each_address_is_named_with_its_cause() {
        let case = Case::new();
        let mut wrong = case.body.clone();
        wrong[BODY_BYTES / 2] ^= 1;
        let missing = case.serve([Reply::Status(404)]);
        let flipped = Server::new(&wrong, [Reply::Whole]);
        let short = Server::new(&case.body[..1000], [Reply::Whole]);
        let closed = Server::closed();
        let error = case.download(&[&missing, &flipped, &short, &closed]).unwrap_err();
        let Error::Download { failures, .. } = &error else { panic!("{error}") };
        let causes: Vec<&str> = failures.iter().map(|failure| failure.cause.as_str()).collect();
        let refused = causes[3].to_owned();
        assert_eq!(
            causes,
            [
                "HTTP status 404 Not Found",
                &format!("the MD5 is {} instead of {}", md5_hex(&wrong), md5_hex(&case.body)),
                &format!("the file has 1000 bytes instead of {BODY_BYTES}"),
                &refused,
            ]
        );
        assert!(refused.contains("refused"), "{refused}");
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("could not download file.gz ({}: HTTP status 404", missing.address())),
            "{text}"
        );
        assert!(
            text.ends_with("give a folder that holds CIFAR-10 with --data-dir, or use synthetic data"),
            "{text}"
        );
        assert!(!case.target().exists());
        // Wrong bytes are not kept to be continued.
        assert!(!case.part().exists());
    }

    #[test]
    fn a_body_without_a_length_may_not_exceed_the_file_nor_end_before_it() {
        let case = Case::new();
        let longer = noise(1, BODY_BYTES + 1);
        let server = Server::new(&longer, [Reply::NoLength]);
        let error = case.download(&[&server]).unwrap_err().to_string();
        assert!(error.contains(&format!("the file has more than {BODY_BYTES} bytes")), "{error}");
        assert!(!case.part().exists());
        let server = case.serve([Reply::NoLength]);
        case.download(&[&server]).unwrap();
        case.assert_whole();

        // An end does not make it whole either.
        let case = Case::new();
        let (short, second) =
            (Server::new(&case.body[..1000], [Reply::NoLength]), case.serve([Reply::Whole]));
        case.download(&[&short, &second]).unwrap();
        case.assert_whole();
        assert_eq!(second.ranges(), [Some(1000)]);
    }

    #[test]
    fn a_range_of_a_file_of_another_length_is_not_appended() {
        for bytes in [BODY_BYTES - 1, BODY_BYTES + 1] {
            let case = Case::new();
            fs::write(case.part(), &case.body[..5000]).unwrap();
            let causes = causes(&case, &[&Server::new(&noise(1, bytes), [Reply::Whole])]);
            assert_eq!(causes, [format!("the file has {bytes} bytes instead of {BODY_BYTES}")]);
            assert_eq!(fs::read(case.part()).unwrap(), case.body[..5000]);
        }
    }

    #[test]
    fn a_socks_proxy_is_used() {
        let mut case = Case::new();
        let proxy = Server::socks(&case.body);
        case.patience.proxy = Some(Proxy::new(&format!("socks5h://{}", proxy.host())).unwrap());
        // Only the proxy knows this host.
        let addresses = ["http://cifar.invalid/file.gz".to_owned()];
        download(&case.target(), &addresses, &case.spec, "CIFAR-10", &case.patience, &case.watcher).unwrap();
        case.assert_whole();
    }

    #[test]
    fn a_variable_that_holds_no_proxy_is_named() {
        for (value, usable) in [
            ("", true),
            ("http://127.0.0.1:3128", true),
            ("socks5h://h:1080", true),
            ("http://a b", false),
            ("ftp://h", false),
        ] {
            let found = unusable_proxy(|name| (name == "https_proxy").then(|| value.to_owned()));
            assert_eq!(found, (!usable).then_some("https_proxy"), "{value}");
        }
        assert_eq!(unusable_proxy(|_| None), None);
    }

    /// Why each address failed; nothing may be left that could be taken for the file.
    fn causes(case: &Case, servers: &[&Server]) -> Vec<String> {
        let error = case.download(servers).unwrap_err();
        assert!(!case.target().exists());
        let Error::Download { failures, .. } = error else { panic!("{error}") };
        failures.into_iter().map(|failure| failure.cause).collect()
    }

    #[test]
    fn a_transfer_that_is_cut_at_any_stage_is_continued_or_made_good_by_the_next_address() {
        // Before the head, in its first line, in a header, at its end; then in the body, at its first and its last byte.
        let heads = [0, 5, 20, 36].map(Reply::CutHead);
        let bodies = [0, 1, CHUNK, BODY_BYTES - 1].map(Reply::CutAfter);
        for reply in heads.into_iter().chain(bodies) {
            let case = Case::new();
            let (first, second) = (case.serve([reply]), case.serve([Reply::Whole]));
            case.download(&[&first, &second]).unwrap();
            case.assert_whole();
            let received = match reply {
                Reply::CutAfter(bytes) => Some(bytes).filter(|bytes| *bytes > 0),
                _ => None,
            };
            assert_eq!(second.ranges(), [received]);
        }
        for reply in heads {
            let case = Case::new();
            assert_eq!(causes(&case, &[&case.serve([reply])]).len(), 1);
            assert!(!case.part().exists());
        }
    }

    #[test]
    fn every_refusal_is_named_and_the_next_address_tried() {
        // The last is where nobody listens.
        let statuses = [401, 403, 404, 410, 429, 500, 503].map(Some);
        for status in statuses.into_iter().chain([None]) {
            let refusing = |case: &Case| match status {
                Some(status) => case.serve([Reply::Status(status)]),
                None => Server::closed(),
            };
            let cause = status.map_or_else(|| "refused".to_owned(), |status| format!("HTTP status {status}"));
            let case = Case::new();
            let (first, second) = (refusing(&case), case.serve([Reply::Whole]));
            case.download(&[&first, &second]).unwrap();
            case.assert_whole();
            let is_cause = |note: &String| note.starts_with(&first.address()) && note.contains(&cause);
            assert!(case.watcher.notes().iter().any(is_cause), "{cause}: {:?}", case.watcher.notes());
            let case = Case::new();
            let causes = causes(&case, &[&refusing(&case)]);
            assert!(causes[0].contains(&cause), "{causes:?}");
            assert!(!case.part().exists());
        }
    }

    #[test]
    fn a_login_page_is_not_the_file() {
        let case = Case::new();
        // What was there stays intact.
        fs::write(case.part(), &case.body[..5000]).unwrap();
        let causes = causes(&case, &[&case.serve([Reply::LoginPage])]);
        assert_eq!(causes, [format!("the file has 39 bytes instead of {BODY_BYTES}")]);
        assert_eq!(fs::read(case.part()).unwrap(), case.body[..5000]);
        let case = Case::new();
        let (first, second) = (case.serve([Reply::Redirect, Reply::LoginPage]), case.serve([Reply::Whole]));
        case.download(&[&first, &second]).unwrap();
        case.assert_whole();
    }

    #[test]
    fn redirects_are_followed_but_not_for_ever() {
        let case = Case::new();
        fs::write(case.part(), &case.body[..5000]).unwrap();
        let server = case.serve([Reply::Redirect, Reply::Redirect, Reply::Whole]);
        case.download(&[&server]).unwrap();
        case.assert_whole();
        // Redirects keep the range.
        assert_eq!(server.ranges(), [Some(5000); 3]);
        let case = Case::new();
        let causes = causes(&case, &[&case.serve([Reply::Redirect; 100])]);
        assert!(causes[0].contains("redirect"), "{causes:?}");
    }

    #[test]
    fn a_slow_address_that_is_the_only_one_is_waited_for() {
        let mut case = Case::new();
        case.patience.slow_after = Duration::ZERO;
        case.patience.slow_bytes = u64::MAX;
        let server = case.serve([Reply::Drops { bytes: 20_000, pause: Duration::from_millis(5) }]);
        case.download(&[&server]).unwrap();
        case.assert_whole();
    }

    #[test]
    fn an_address_without_the_tls_that_it_promises_is_passed_over() {
        // It answers a greeting of TLS in plain text.
        let case = Case::new();
        let (plain, good) = (case.serve([Reply::Whole]), case.serve([Reply::Whole]));
        let addresses = [plain.address().replace("http:", "https:"), good.address()];
        download(&case.target(), &addresses, &case.spec, "CIFAR-10", &case.patience, &case.watcher).unwrap();
        case.assert_whole();
        let case = Case::new();
        let plain = case.serve([Reply::Whole]);
        let addresses = [plain.address().replace("http:", "https:")];
        let error =
            download(&case.target(), &addresses, &case.spec, "CIFAR-10", &case.patience, &case.watcher);
        assert!(error.unwrap_err().to_string().contains("https://"));
        assert!(!case.target().exists() && !case.part().exists());
    }

    #[test]
    fn an_address_whose_certificate_nobody_vouches_for_is_passed_over() {
        let case = Case::new();
        let (untrusted, good) = (Server::untrusted(&case.body), case.serve([Reply::Whole]));
        case.download(&[&untrusted, &good]).unwrap();
        case.assert_whole();
        let case = Case::new();
        let error = case.download(&[&Server::untrusted(&case.body)]).unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
        assert!(!case.target().exists() && !case.part().exists());
    }

    /// The address that a separate process fetches from, and the folder that it fetches into.
    const ADDRESS: &str = "POINTWISE_TEST_ADDRESS";
    const INTO: &str = "POINTWISE_TEST_FETCH_TO";

    /// What the processes do whose environment names a proxy; without the variables, nothing.
    #[test]
    fn fetches_with_the_proxy_of_its_environment() {
        let Some(address) = std::env::var_os(ADDRESS) else { return };
        let mut case = Case::new();
        case.patience.proxy = Patience::default().proxy;
        let addresses = [address.into_string().unwrap()];
        download(&case.target(), &addresses, &case.spec, "CIFAR-10", &case.patience, &case.watcher).unwrap();
        fs::copy(case.target(), std::env::var_os(INTO).unwrap()).unwrap();
    }

    #[test]
    fn the_environments_proxy_is_used_but_for_the_hosts_that_it_excepts() {
        let case = Case::new();
        let target = case.folder.path().join("fetched");
        let fetch = |address: &str, proxy: &str, excepted: Option<&str>| {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "download::tests::fetches_with_the_proxy_of_its_environment"]);
            for name in
                ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "http_proxy", "NO_PROXY", "no_proxy"]
            {
                command.env_remove(name);
            }
            command
                .env("HTTP_PROXY", format!("http://{proxy}"))
                .envs(excepted.map(|hosts| ("NO_PROXY", hosts)));
            let output = command.env(ADDRESS, address).env(INTO, &target).output().unwrap();
            let fetched = fs::read(&target).ok();
            let _ = fs::remove_file(&target);
            (output.status.success() && fetched.as_ref() == Some(&case.body), output)
        };
        let check = |address: &str, proxy: &Server, excepted: Option<&str>, works: bool| {
            let (is_fetched, output) = fetch(address, proxy.host(), excepted);
            assert_eq!(is_fetched, works, "{address}, NO_PROXY={excepted:?}: {output:?}");
        };
        // Only the proxy knows this host.
        let far = "http://cifar.invalid/file.gz";
        let dead = Server::closed();
        check(far, &Server::tunnel(&case.body, "cifar.invalid"), None, true);
        check(far, &dead, None, false);
        let excepted = [
            (None, false),
            (Some("example.org"), false),
            (Some("127.0.0.1,example.org"), true),
            (Some("*"), true),
        ];
        for (excepted, works) in excepted {
            check(&case.serve([Reply::Whole]).address(), &dead, excepted, works);
        }
    }

    #[test]
    fn a_proxy_is_used_and_one_that_is_dead_is_named() {
        let mut case = Case::new();
        // Only the proxy knows this host.
        let proxy = Server::tunnel(&case.body, "cifar.invalid");
        case.patience.proxy = Some(Proxy::new(&format!("http://{}", proxy.host())).unwrap());
        let addresses = ["http://cifar.invalid/file.gz".to_owned()];
        let fetch = |case: &Case| {
            download(&case.target(), &addresses, &case.spec, "CIFAR-10", &case.patience, &case.watcher)
        };
        fetch(&case).unwrap();
        case.assert_whole();
        fs::remove_file(case.target()).unwrap();
        case.patience.proxy = Some(Proxy::new(&format!("http://{}", Server::closed().host())).unwrap());
        let error = fetch(&case).unwrap_err().to_string();
        assert!(error.contains("cifar.invalid") && error.contains("refused"), "{error}");
        assert!(!case.target().exists());
    }

    /// `/dev/full` takes nothing, like a full disk.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_ends_it_with_the_way_out() {
        let case = Case::new();
        std::os::unix::fs::symlink("/dev/full", case.part()).unwrap();
        let server = case.serve([Reply::Whole]);
        let error = case.download(&[&server, &server]).unwrap_err().to_string();
        assert!(
            error.contains("file.gz.part: No space left") && error.starts_with("cannot write"),
            "{error}"
        );
        assert!(!case.target().exists());
        assert_eq!(server.ranges().len(), 1, "no other address makes room");
        // Once there is room, it is downloaded.
        fs::remove_file(case.part()).unwrap();
        case.download(&[&case.serve([Reply::Whole])]).unwrap();
        case.assert_whole();
    }

    #[test]
    fn no_address_is_an_error_too() {
        let case = Case::new();
        let error = case.download(&[]).unwrap_err().to_string();
        assert!(error.contains("no address was given"), "{error}");
    }
}
