//! Event files that [TensorBoard](https://www.tensorflow.org/tensorboard) shows: scalars, images and histograms over steps.
//!
//! A file is a sequence of TFRecords, each a length, a checksum of it, an `Event` of TensorFlow's `event.proto` as protobuf bytes, and a checksum of
//! those. The half dozen messages are written by hand: the crates that write them are no longer maintained.
//!
//! ```
//! use pointwise_tensorboard::{EventWriter, Value};
//!
//! # fn main() -> std::io::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let mut writer = EventWriter::create(folder, 1)?;
//! writer.write(1, &[("loss", Value::Scalar(2.3)), ("weights", Value::histogram([0.1, -0.2, 0.3]))])?;
//! # Ok(())
//! # }
//! ```

mod histogram;
mod record;

pub use histogram::Histogram;

use pointwise_protobuf::Message;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The value of a tag at a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number, plotted over the steps.
    Scalar(f32),
    /// A picture.
    Image {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// The picture as a PNG file, 8-bit RGB.
        png: Vec<u8>,
    },
    /// The distribution of values.
    Histogram(Histogram),
}

impl Value {
    /// The histogram of some values.
    #[must_use]
    pub fn histogram(values: impl IntoIterator<Item = f32>) -> Self {
        Self::Histogram(Histogram::of(values))
    }

    /// Field of the value in `Summary.Value`.
    fn put(&self, message: &mut Message) {
        match self {
            Self::Scalar(value) => message.float(2, *value),
            Self::Image { width, height, png } => {
                let mut image = Message::default();
                image.int(1, u64::from(*height));
                image.int(2, u64::from(*width));
                // RGB.
                image.int(3, 3);
                image.bytes(4, png);
                message.message(4, &image);
            }
            Self::Histogram(histogram) => message.message(5, &histogram.message()),
        }
    }
}

/// Writes one event file. Each call of [`write`](Self::write) reaches the file at once, so that TensorBoard can follow.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
}

impl EventWriter {
    /// Starts a new file in a folder, which is created if need be, for events from step `first` on: TensorBoard ignores what older files of the
    /// folder hold for that step and later ones, so that a resumed run shows each step once.
    ///
    /// # Errors
    /// When the folder or the file cannot be written.
    pub fn create(folder: impl AsRef<Path>, first: u64) -> io::Result<Self> {
        let folder = folder.as_ref();
        fs::create_dir_all(folder)?;
        let now = now();
        // TensorBoard reads those files of a folder whose names contain "tfevents", in the order of the names. The process number distinguishes files
        // of the same nanosecond.
        let name = format!(
            "events.out.tfevents.{:010}.{:09}.{}",
            now.as_secs(),
            now.subsec_nanos(),
            std::process::id()
        );
        let file = OpenOptions::new().append(true).create_new(true).open(folder.join(name))?;
        let mut writer = Self { file };
        let mut version = Message::default();
        version.bytes(3, b"brain.Event:2");
        writer.record(0, version)?;
        // SessionLog with the status START.
        let mut start = Message::default();
        start.int(1, 1);
        let mut session = Message::default();
        session.message(7, &start);
        writer.record(first, session)?;
        Ok(writer)
    }

    /// Adds the values of tags at a step. Tags with the same text before `/` are shown together.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, step: u64, values: &[(&str, Value)]) -> io::Result<()> {
        let mut summary = Message::default();
        for (tag, value) in values {
            let mut message = Message::default();
            message.bytes(1, tag.as_bytes());
            value.put(&mut message);
            summary.message(1, &message);
        }
        let mut event = Message::default();
        event.message(5, &summary);
        self.record(step, event)
    }

    /// Completes an event with its time and step, and appends it.
    fn record(&mut self, step: u64, what: Message) -> io::Result<()> {
        let mut event = Message::default();
        event.double(1, now().as_secs_f64());
        event.int(2, step);
        event.append(what);
        // In one piece: a reader never sees half of it unless the system is stopped in between.
        self.file.write_all(&record::record(event.as_bytes()))
    }
}

fn now() -> Duration {
    // A clock before 1970 is not worth an error.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointwise_protobuf::{Field, fields};

    #[test]
    fn a_file_is_version_start_and_events() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path().join("new"), 7).unwrap();
        let image = Value::Image { width: 2, height: 1, png: b"png".to_vec() };
        writer.write(8, &[("a/b", Value::Scalar(1.5)), ("c", image)]).unwrap();
        let second = EventWriter::create(folder.path().join("new"), 9);
        assert!(second.is_ok(), "a second file next to the first: {second:?}");

        let mut files: Vec<_> =
            fs::read_dir(folder.path().join("new")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), 2);
        let bytes = fs::read(&files[0]).unwrap();
        let records = record::tests::records(&bytes);
        assert_eq!(records.len(), 3);
        let event = |at: usize| fields(records[at]).unwrap();
        assert_eq!(event(0)[2], (3, Field::Bytes(b"brain.Event:2")));
        // Step 7; a session log whose status is 1.
        assert_eq!(event(1)[1], (2, Field::Int(7)));
        assert_eq!(event(1)[2], (7, Field::Bytes(&[1 << 3, 1])));
        let (5, Field::Bytes(summary)) = event(2)[2] else { panic!("{:?}", event(2)) };
        let values: Vec<_> = fields(summary).unwrap().into_iter().map(|(_, value)| within(value)).collect();
        assert_eq!(values[0], [(1, Field::Bytes(b"a/b")), (2, Field::Float(1.5))]);
        let picture = within(values[1][1].1);
        assert_eq!(
            picture,
            [(1, Field::Int(1)), (2, Field::Int(2)), (3, Field::Int(3)), (4, Field::Bytes(b"png"))]
        );
    }

    /// The fields of a message within another.
    fn within(value: Field<'_>) -> Vec<(u32, Field<'_>)> {
        let Field::Bytes(bytes) = value else { panic!("{value:?} is no message") };
        fields(bytes).unwrap()
    }
}
