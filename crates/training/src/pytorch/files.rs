//! What torch.save writes: a zip archive with a pickle and a file for each storage or, before PyTorch 1.6, five pickles and the storages
//! one after the other.

use super::pickle;
use candle_core::pickle::Object;
use pointwise_weights::dictionary::{self, Dtype};
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use zip::ZipArchive;
use zip::result::ZipError;

/// How to save weights that can be read.
pub(super) const SAVE: &str = "save its state_dict() with torch.save";

/// The file's pickle and, by their keys, its storages: the bytes of tensors, which share them.
pub(super) struct Saved<'a> {
    pub(super) object: Object,
    pub(super) storages: Storages<'a>,
}

/// Bytes by key.
pub(super) enum Storages<'a> {
    Archive(Box<Archive<'a>>),
    /// Of a file before PyTorch 1.6.
    Consecutive(BTreeMap<String, &'a [u8]>),
}

/// A zip archive whose storages are read on demand.
pub(super) struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder that holds its files, with a slash.
    folder: String,
    read: BTreeMap<String, Vec<u8>>,
    /// Bytes that may still be read: files may overlap, but all together must not have more bytes than the archive.
    left: u64,
}

/// What a zip archive begins with.
const ZIP: &[u8] = b"PK\x03\x04";

/// What a file of torch.save before PyTorch 1.6 begins with: pickles of a constant, and of the version of the format.
const LEGACY: &[u8] = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";

/// Whether bytes are to be read as a file of PyTorch: an archive, or a pickle.
pub(super) fn is_saved(bytes: &[u8]) -> bool {
    bytes.starts_with(ZIP) || matches!(bytes, [0x80, 2..=5, ..])
}

/// Opens a file of torch.save.
///
/// # Errors
/// A sentence that says what it is instead, or what is wrong in it.
pub(super) fn open(bytes: &[u8]) -> Result<Saved<'_>, String> {
    if bytes.starts_with(ZIP) { open_archive(bytes) } else { open_legacy(bytes) }
}

fn damaged(error: &ZipError) -> String {
    format!("it is cut short or damaged ({error}): fetch the file itself again")
}

fn open_archive(bytes: &[u8]) -> Result<Saved<'_>, String> {
    let zip = ZipArchive::new(Cursor::new(bytes)).map_err(|error| damaged(&error))?;
    let names: Vec<String> = zip
        .file_names()
        .map(|name| name.map(std::borrow::Cow::into_owned))
        .collect::<Result<_, _>>()
        .map_err(|error| damaged(&error))?;
    let has = |end: &str| names.iter().any(|name| name.ends_with(end));
    if has("/constants.pkl") || names.iter().any(|name| name.contains("/code/")) {
        return Err(format!("it is a TorchScript program (torch.jit.save): {SAVE}"));
    }
    if has("/archive_format") || has("/models/model.json") {
        return Err(format!("it is a program of torch.export: {SAVE}"));
    }
    let mut folders = names.iter().filter_map(|name| name.strip_suffix("data.pkl"));
    let folder = match (folders.next(), folders.next()) {
        (Some(folder), None) if folder.ends_with('/') => folder.to_owned(),
        _ => return Err("it is a zip archive, not a file of torch.save: unpack it first".to_owned()),
    };
    let mut archive = Archive { zip, folder, read: BTreeMap::new(), left: bytes.len() as u64 };
    if names.contains(&format!("{}byteorder", archive.folder)) && archive.take("byteorder")? != b"little" {
        return Err("it was written on a big-endian machine: load and save it on another".to_owned());
    }
    let pickle = archive.take("data.pkl")?;
    let object = pickle::read(&mut &pickle[..])?;
    Ok(Saved { object, storages: Storages::Archive(Box::new(archive)) })
}

impl Archive<'_> {
    /// The bytes of a file in the archive.
    fn take(&mut self, name: &str) -> Result<Vec<u8>, String> {
        let path = format!("{}{name}", self.folder);
        let named = dictionary::shown(&path);
        let file = self.zip.by_name(&path).map_err(|error| match error {
            ZipError::FileNotFound => {
                format!("it lacks `{named}`, which its pickle names: fetch the file itself again")
            }
            ZipError::UnsupportedArchive(_) | ZipError::CompressionMethodNotSupported(_) => format!(
                "`{named}` in it is compressed or encrypted, which torch.save does not do: load it in Python and save it again"
            ),
            error => damaged(&error),
        })?;
        let mut bytes = Vec::new();
        file.take(self.left + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| format!("it is damaged (`{named}`: {error}): fetch the file itself again"))?;
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| {
            "the files in it overlap each other, which torch.save does not do: fetch the file itself again"
                .to_owned()
        })?;
        Ok(bytes)
    }
}

impl Storages<'_> {
    /// The bytes of a storage.
    pub(super) fn get(&mut self, key: &str) -> Result<&[u8], String> {
        match self {
            Self::Archive(archive) => {
                if !archive.read.contains_key(key) {
                    let bytes = archive.take(&format!("data/{key}"))?;
                    archive.read.insert(key.to_owned(), bytes);
                }
                Ok(&archive.read[key])
            }
            Self::Consecutive(storages) => storages.get(key).copied().ok_or_else(|| {
                format!("it lacks the storage `{}`: fetch the file itself again", dictionary::shown(key))
            }),
        }
    }
}

fn open_legacy(bytes: &[u8]) -> Result<Saved<'_>, String> {
    let Some(mut rest) = bytes.strip_prefix(LEGACY) else {
        return Err(format!("it is a Python pickle, but not of torch.save: {SAVE}"));
    };
    let Object::Dict(machine) = pickle::read(&mut rest)? else {
        return Err(
            "it is damaged (it does not say on what machine it was written): fetch the file itself again"
                .to_owned(),
        );
    };
    let little = (Object::Unicode("little_endian".to_owned()), Object::Bool(true));
    if !machine.contains(&little) {
        return Err("it was written on a big-endian machine: load and save it on another".to_owned());
    }
    let object = pickle::read(&mut rest)?;
    let Object::List(keys) = pickle::read(&mut rest)? else {
        return Err("it is damaged (it does not list its storages): fetch the file itself again".to_owned());
    };
    // The size of their elements is known from the objects that use them, maybe only an optimizer.
    let mut sizes = BTreeMap::new();
    collect_sizes(&object, &mut sizes);
    let mut storages = BTreeMap::new();
    for key in keys {
        let cut =
            || "it is cut short or damaged (a storage is not whole): fetch the file itself again".to_owned();
        let key = key.unicode().map_err(|_| cut())?;
        let (len, behind) = rest.split_first_chunk().ok_or_else(cut)?;
        let size = *sizes.get(&key).ok_or_else(cut)?;
        let len = usize::try_from(i64::from_le_bytes(*len)).ok().and_then(|len| len.checked_mul(size));
        let (storage, behind) = len.and_then(|len| behind.split_at_checked(len)).ok_or_else(cut)?;
        storages.insert(key, storage);
        rest = behind;
    }
    Ok(Saved { object, storages: Storages::Consecutive(storages) })
}

/// The type of the elements of a storage, by its class.
pub(super) fn dtype_of(storage: &str) -> Option<Dtype> {
    Some(match storage {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        "ComplexFloatStorage" => Dtype::C64,
        _ => return None,
    })
}

/// The size of an element of a storage in bytes, by its class.
fn size_of(storage: &str) -> Option<usize> {
    match storage {
        "ComplexDoubleStorage" => Some(16),
        "UntypedStorage" => Some(1),
        _ => dtype_of(storage).map(|dtype| dtype.bitsize() / 8),
    }
}

/// The size of an element, in bytes, of each storage that an object refers to.
fn collect_sizes(object: &Object, sizes: &mut BTreeMap<String, usize>) {
    match object {
        Object::Tuple(parts) | Object::List(parts) => {
            parts.iter().for_each(|part| collect_sizes(part, sizes));
        }
        Object::Dict(entries) => {
            for (key, value) in entries {
                collect_sizes(key, sizes);
                collect_sizes(value, sizes);
            }
        }
        Object::Reduce { callable, args } | Object::Build { callable, args } => {
            collect_sizes(callable, sizes);
            collect_sizes(args, sizes);
        }
        Object::PersistentLoad(id) => {
            if let Object::Tuple(parts) = &**id
                && let [_, Object::Class { class_name, .. }, Object::Unicode(key), ..] = &parts[..]
                && let Some(size) = size_of(class_name)
            {
                sizes.insert(key.clone(), size);
            }
        }
        _ => {}
    }
}
