//! Helpers for the tests of several modules: data in all its forms, a small web server, a watcher of progress.

#[cfg(feature = "huggingface")]
pub(crate) mod parquet;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest, Md5};
use pointwise_random::{Purpose, Stream};

use crate::binary::{CIFAR10, CIFAR100};
use crate::file_spec::FileSpec;
use crate::files::hex;
use crate::{Progress, Unit};

/// A label and an image of CIFAR-10.
pub(crate) const RECORD_BYTES: usize = 3073;

/// Bytes that do not compress, determined by the seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut words = Stream::new(seed, Purpose::Synthetic, 0);
    (0..bytes).map(|_| words.word() as u8).collect()
}

pub(crate) fn md5_hex(bytes: &[u8]) -> String {
    hex(&Md5::digest(bytes))
}

/// `count` records of a binary file, with labels 0, 1, ..., 9, 0, ... and noise.
pub(crate) fn records(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = noise(seed, count * RECORD_BYTES);
    for (i, record) in bytes.chunks_mut(RECORD_BYTES).enumerate() {
        record[0] = (i % 10) as u8;
    }
    bytes
}

/// The six files of the binary layout, each with its own noise and number of records: training first.
pub(crate) fn six_files() -> Vec<(&'static str, Vec<u8>)> {
    CIFAR10
        .files()
        .zip([3, 1, 4, 2, 5, 6])
        .map(|(name, count)| (name, records(count as u64, count)))
        .collect()
}

pub(crate) fn write_files(folder: &Path, files: &[(&str, Vec<u8>)]) {
    fs::create_dir_all(folder).unwrap();
    for (name, contents) in files {
        fs::write(folder.join(name), contents).unwrap();
    }
}

/// A gzipped tar of these members, and its size and MD5.
pub(crate) fn archive_of(members: &[(&str, Vec<u8>)]) -> (Vec<u8>, FileSpec) {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, contents) in members {
        let mut header = tar::Header::new_ustar();
        // Written raw: the crate refuses to write names that leave the folder, which a test needs.
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, contents.as_slice()).unwrap();
    }
    let bytes = tar.into_inner().unwrap().finish().unwrap();
    let spec = FileSpec { name: CIFAR10.archive, bytes: bytes.len() as u64, md5: md5_hex(&bytes) };
    (bytes, spec)
}

/// A small version of the official archive: its order of members, with the two that are not data.
pub(crate) fn small_archive() -> (Vec<u8>, FileSpec) {
    let files = six_files();
    let member = |place: usize| (format!("cifar-10-batches-bin/{}", files[place].0), files[place].1.clone());
    let mut members = vec![member(0)];
    members.push(("cifar-10-batches-bin/batches.meta.txt".to_owned(), b"airplane\n".to_vec()));
    members.extend([2, 3, 5].map(member));
    members.push(("cifar-10-batches-bin/readme.html".to_owned(), b"<html>".to_vec()));
    members.extend([4, 1].map(member));
    archive_of(&members.iter().map(|(name, contents)| (name.as_str(), contents.clone())).collect::<Vec<_>>())
}

/// Small versions of CIFAR-100's two files: record i has the coarse label `i % 20`, the fine one `13 * i % 100`, and noise.
pub(crate) fn cifar100_files() -> Vec<(&'static str, Vec<u8>)> {
    let records = |seed: u64, count: usize| {
        let pixels = noise(seed, count * 3072);
        let record = |(i, pixels): (usize, &[u8])| [&[(i % 20) as u8, (13 * i % 100) as u8], pixels].concat();
        pixels.chunks(3072).enumerate().flat_map(record).collect()
    };
    vec![("train.bin", records(1, 200)), ("test.bin", records(2, 6))]
}

/// A small version of CIFAR-100's archive, with a member that is not data.
pub(crate) fn cifar100_archive() -> (Vec<u8>, FileSpec) {
    let mut members = vec![("cifar-100-binary/fine_label_names.txt".to_owned(), b"apple\n".to_vec())];
    let files = cifar100_files().into_iter();
    members.extend(files.map(|(name, contents)| (format!("cifar-100-binary/{name}"), contents)));
    let members: Vec<_> = members.iter().map(|(name, contents)| (name.as_str(), contents.clone())).collect();
    let (bytes, spec) = archive_of(&members);
    (bytes, FileSpec { name: CIFAR100.archive, ..spec })
}

/// Records the progress reported to it.
#[derive(Default)]
pub(crate) struct Watcher {
    notes: Mutex<Vec<String>>,
    /// What was started, and how far each came.
    started: Mutex<Vec<(String, u64)>>,
}

impl Watcher {
    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap().clone()
    }

    pub(crate) fn started(&self) -> Vec<(String, u64)> {
        self.started.lock().unwrap().clone()
    }

    pub(crate) fn last_position(&self) -> u64 {
        self.started().last().map_or(0, |(_, position)| *position)
    }
}

impl Progress for Watcher {
    fn start(&self, what: &str, _total: Option<u64>, _unit: Unit) {
        self.started.lock().unwrap().push((what.to_owned(), 0));
    }

    fn advance(&self, position: u64) {
        self.started.lock().unwrap().last_mut().unwrap().1 = position;
    }

    fn finish(&self) {}

    fn note(&self, message: &str) {
        self.notes.lock().unwrap().push(message.to_owned());
    }
}

/// An idx file with these dimensions and values.
pub(crate) fn idx_file(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    dimensions.iter().for_each(|side| bytes.extend(side.to_be_bytes()));
    bytes.extend(values);
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Serves files by their names on the loopback interface, until the end of the program.
pub(crate) struct FileServer {
    /// With a slash at the end.
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FileServer {
    pub(crate) fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let files: Vec<_> = files.iter().map(|(name, body)| ((*name).to_owned(), body.clone())).collect();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let request = lines.next().unwrap_or_default();
                let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
                // A client that hangs up early is its own affair.
                let _ = lines.find(String::is_empty);
                let _ = match files.iter().find(|(name, _)| *name == path) {
                    Some((_, body)) => {
                        let head = format!(
                            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                            body.len()
                        );
                        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body))
                    }
                    None => stream.write_all(
                        b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                    ),
                };
                seen.lock().unwrap().push(path);
            }
        });
        Self { address, asked }
    }

    /// The names requested since the last call.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// How the server answers one request.
#[derive(Clone, Copy)]
pub(crate) enum Reply {
    /// What is requested: the body, or its end from the start of the range on.
    Whole,
    /// The whole body with status 200, whatever range is requested.
    IgnoreRange,
    /// As [`Reply::IgnoreRange`], but hangs up after so many bytes.
    IgnoreRangeAndCutAfter(usize),
    /// A range other than requested, declared as such.
    ShiftedRange,
    /// The whole body without saying how long it is.
    NoLength,
    /// Announces all that is requested and hangs up after so many bytes.
    CutAfter(usize),
    /// Announces all that is requested and sends nothing more after so many bytes, until the client hangs up.
    SilentAfter(usize),
    /// No body but a status.
    Status(u16),
    /// Hangs up after so many bytes of the answer's head.
    CutHead(usize),
    /// A web page with status 200, whatever is requested, as from a network that requires a login.
    LoginPage,
    /// Redirects elsewhere on this server, where the next reply waits.
    Redirect,
    /// The range is refused.
    RangeRefused,
    /// A few bytes at a time, with a pause after each.
    Drops {
        /// Bytes.
        bytes: usize,
        /// The pause.
        pause: Duration,
    },
}

/// Serves one file on the loopback interface, one reply for each request, in order; then it is gone.
pub(crate) struct Server {
    address: String,
    ranges: Arc<Mutex<Vec<Option<usize>>>>,
}

impl Server {
    pub(crate) fn new(body: &[u8], replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/file.gz", listener.local_addr().unwrap());
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&ranges);
        let body = body.to_vec();
        let replies: Vec<Reply> = replies.into_iter().collect();
        thread::spawn(move || {
            for reply in replies {
                let (stream, _) = listener.accept().unwrap();
                // A client that hangs up early is part of some tests.
                let _ = answer(stream, &body, reply, &seen);
            }
        });
        Self { address, ranges }
    }

    /// A SOCKS 5 proxy that gives the file whatever host it is asked for, to one client.
    pub(crate) fn socks(body: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/file.gz", listener.local_addr().unwrap());
        let body = body.to_vec();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Version and methods; no password.
            let mut head = [0; 2];
            stream.read_exact(&mut head).unwrap();
            stream.read_exact(&mut vec![0; head[1].into()]).unwrap();
            stream.write_all(&[5, 0]).unwrap();
            // Version, command, a name of so many bytes, a port; granted.
            let mut request = [0; 5];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(request[..4], [5, 1, 0, 3]);
            stream.read_exact(&mut vec![0; usize::from(request[4]) + 2]).unwrap();
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
            answer(stream, &body, Reply::Whole, &Mutex::default()).unwrap();
        });
        Self { address, ranges: Arc::default() }
    }

    /// An HTTP proxy that gives the file through a tunnel to `host`, to one client.
    pub(crate) fn tunnel(body: &[u8], host: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/file.gz", listener.local_addr().unwrap());
        let body = body.to_vec();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            let head = String::from_utf8(head).unwrap();
            assert!(head.starts_with(&format!("CONNECT {host}:80 ")), "{head}");
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
            answer(stream, &body, Reply::Whole, &Mutex::default()).unwrap();
        });
        Self { address, ranges: Arc::default() }
    }

    /// Gives the file over TLS, to one client that trusts a certificate that no authority has signed.
    pub(crate) fn untrusted(body: &[u8]) -> Self {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("https://{}/file.gz", listener.local_addr().unwrap());
        let body = body.to_vec();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            let mut stream = rustls::Stream::new(&mut connection, &mut stream);
            // A client that does not trust it hangs up before it requests anything.
            let mut request = [0; 1024];
            if stream.read(&mut request).is_ok() {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            }
        });
        Self { address, ranges: Arc::default() }
    }

    /// Host and port.
    pub(crate) fn host(&self) -> &str {
        self.address.trim_start_matches("http://").trim_end_matches("/file.gz")
    }

    /// An address where nobody listens. A port that was free a moment ago may be another test's by now.
    pub(crate) fn closed() -> Self {
        Self { address: "http://127.0.0.1:1/file.gz".to_owned(), ranges: Arc::default() }
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// The start of the range that each request asked for.
    pub(crate) fn ranges(&self) -> Vec<Option<usize>> {
        self.ranges.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    body: &[u8],
    reply: Reply,
    ranges: &Mutex<Vec<Option<usize>>>,
) -> std::io::Result<()> {
    let mut start = None;
    for line in BufReader::new(&stream).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().ok();
        }
    }
    ranges.lock().unwrap().push(start);

    match reply {
        Reply::CutHead(bytes) => {
            return stream.write_all(&b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"[..bytes]);
        }
        Reply::LoginPage => {
            let page = "<html><form>Please log in</form></html>";
            return write!(
                stream,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{page}",
                page.len()
            );
        }
        Reply::Redirect => {
            return write!(
                stream,
                "HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: /elsewhere/file.gz\r\nContent-Length: 0\r\n\r\n"
            );
        }
        Reply::RangeRefused if start.is_some() => {
            return write!(
                stream,
                "HTTP/1.1 416 Range Not Satisfiable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            );
        }
        _ => {}
    }
    let all = matches!(reply, Reply::IgnoreRange | Reply::IgnoreRangeAndCutAfter(_) | Reply::NoLength);
    let start = if all { None } else { start };
    let rest = &body[start.unwrap_or(0).min(body.len())..];
    let status = match (reply, start) {
        (Reply::Status(404), _) => "404 Not Found".to_owned(),
        (Reply::Status(status), _) => format!("{status} Some Reason"),
        (_, Some(_)) => "206 Partial Content".to_owned(),
        (_, None) => "200 OK".to_owned(),
    };
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n")?;
    if let Some(start) = start {
        let start = if matches!(reply, Reply::ShiftedRange) { start - 1 } else { start };
        write!(stream, "Content-Range: bytes {start}-{}/{}\r\n", body.len() - 1, body.len())?;
    }
    match reply {
        Reply::Status(_) => write!(stream, "Content-Length: 0\r\n\r\n"),
        Reply::NoLength => {
            write!(stream, "\r\n")?;
            stream.write_all(rest)
        }
        _ => {
            write!(stream, "Content-Length: {}\r\n\r\n", rest.len())?;
            match reply {
                Reply::CutAfter(n) | Reply::IgnoreRangeAndCutAfter(n) => stream.write_all(&rest[..n]),
                Reply::Drops { bytes, pause } => rest.chunks(bytes).try_for_each(|drop| {
                    stream.write_all(drop)?;
                    stream.flush()?;
                    thread::sleep(pause);
                    Ok(())
                }),
                Reply::SilentAfter(n) => {
                    stream.write_all(&rest[..n])?;
                    stream.flush()?;
                    // Longer than the patience of any test.
                    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                    stream.read(&mut [0]).map(drop)
                }
                _ => stream.write_all(rest),
            }
        }
    }
}
