//! Weights of PyTorch as torch.save writes them, `.pt` or `.pth`: a `state_dict`, or a checkpoint that has one under a usual key.
//!
//! Nothing is executed: candle's pickle machine reads a pickle (`pickle.rs`), and only its dictionaries and plain tensors are understood.
//! An error names anything else.

mod files;
mod pickle;
mod tensor;

use candle_core::pickle::Object;
use files::{SAVE, Saved};
use pointwise_weights::checkpoint::{self, Contents, Meta};
use pointwise_weights::dictionary::{self, shown};
use pointwise_weights::{State, WeightsError};
use std::path::Path;

/// The keys under which checkpoints have their `state_dict`.
const USUAL_KEYS: [&str; 9] = [
    "model",
    "state_dict",
    "net",
    "model_state_dict",
    "model_state",
    "network",
    "weights",
    "params",
    "module",
];

/// How many dictionaries a `state_dict` may be nested in.
const MAX_NESTING: usize = 4;

/// Reads weights: what [`checkpoint::read`] reads, and files of torch.save, which have no [`Meta`].
///
/// # Errors
/// As [`checkpoint::read`].
pub fn read_weights(path: &Path) -> Result<(State, Option<Meta>), WeightsError> {
    checkpoint::read_with(path, |bytes| {
        if files::is_saved(bytes) { decode(bytes) } else { checkpoint::decode(bytes) }
    })
}

/// The content of a file of torch.save.
///
/// # Errors
/// A sentence without the file's name.
fn decode(bytes: &[u8]) -> Result<Contents, String> {
    let Saved { object, mut storages } = files::open(bytes)?;
    let entries = state_dict(&object, "it", 0)?;
    // A file has no more values than bytes, except for values that tensors share.
    let mut left = bytes.len();
    let mut tensors = Vec::with_capacity(entries.len());
    let mut ignored = Vec::new();
    for (key, value) in entries {
        let Object::Unicode(name) = key else {
            return Err(format!("a key of its state_dict is {}, not text: {SAVE}", described(key)));
        };
        if !dictionary::is_name(name) {
            return Err(format!("`{}` in it cannot be the name of a parameter: {SAVE}", shown(name)));
        }
        match value {
            value if tensor::is_tensor(value) => {
                let tensor = tensor::copy(name, value, &mut storages, &mut left)?;
                tensors.push((dictionary::without_wrappers(name), tensor));
            }
            // PyTorch's record of the modules' versions.
            Object::Dict(_) if name == "_metadata" => {}
            Object::Int(_) | Object::Long(_) | Object::Float(_) | Object::Bool(_) => {
                ignored.push(name.clone());
            }
            other => return Err(format!("`{name}` is {}, not a tensor: {SAVE}", described(other))),
        }
    }
    let (state, numbers) = dictionary::state(dictionary::unique(tensors)?, None)?;
    ignored.extend(numbers);
    ignored.sort_unstable();
    Ok(Contents { state, meta: None, ignored })
}

/// The entries of the `state_dict` that an object is or has under a usual key.
fn state_dict<'a>(object: &'a Object, what: &str, nesting: usize) -> Result<&'a [(Object, Object)], String> {
    let Object::Dict(entries) = object else {
        return Err(match object {
            Object::Reduce { .. } | Object::Build { .. } if !tensor::is_tensor(object) => {
                format!("{what} is {}, a whole Python object, not a state_dict: {SAVE}", described(object))
            }
            _ => format!("{what} is {}, not a state_dict: {SAVE}", described(object)),
        });
    };
    let usual = entries.iter().filter_map(|(key, value)| match (key, value) {
        (Object::Unicode(key), Object::Dict(_) | Object::Reduce { .. } | Object::Build { .. })
            if USUAL_KEYS.contains(&key.as_str()) && !tensor::is_tensor(value) =>
        {
            Some((key, value))
        }
        _ => None,
    });
    // If the file has both a module and its state_dict, the latter counts.
    let (mut dictionaries, objects): (Vec<_>, Vec<_>) =
        usual.partition(|(_, value)| matches!(value, Object::Dict(_)));
    dictionaries.sort_by_key(|(key, _)| *key);
    match &if dictionaries.is_empty() { objects } else { dictionaries }[..] {
        [] if entries.iter().any(|(_, value)| tensor::is_tensor(value)) => Ok(entries),
        [(key, value)] if nesting < MAX_NESTING => {
            log::info!("the weights are what the file has under `{key}`");
            state_dict(value, &format!("`{key}` in it"), nesting + 1)
        }
        [(one, _), (other, _), ..] => {
            Err(format!("{what} has both `{one}` and `{other}`: save the one that is meant with torch.save"))
        }
        _ => {
            const SHOWN: usize = 6;
            let mut keys: Vec<String> = entries.iter().take(SHOWN).map(|(key, _)| described(key)).collect();
            if entries.len() > SHOWN {
                keys.push(format!("{} more", entries.len() - SHOWN));
            }
            let keys = if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
            Err(format!(
                "{what} has no tensors, and none of the keys under which a state_dict lies ({}), but {keys}: {SAVE}",
                USUAL_KEYS.join(", ")
            ))
        }
    }
}

/// What an object is, with an article or as it is written in Python.
fn described(object: &Object) -> String {
    match object {
        Object::Class { module_name, class_name } => {
            format!("the class {}", shown(&format!("{module_name}.{class_name}")))
        }
        Object::Int(number) => number.to_string(),
        Object::Long(number) => number.to_string(),
        Object::Float(number) => number.to_string(),
        Object::Unicode(text) => format!("`{}`", shown(text)),
        Object::Bool(_) => "a bool".to_owned(),
        Object::None => "None".to_owned(),
        Object::Tuple(_) => "a tuple".to_owned(),
        Object::List(_) => "a list".to_owned(),
        Object::Dict(_) => "a dictionary".to_owned(),
        Object::Mark | Object::PersistentLoad(_) => "a storage".to_owned(),
        Object::Reduce { .. } if tensor::is_tensor(object) => "a tensor".to_owned(),
        Object::Reduce { callable, .. } | Object::Build { callable, .. } => match &**callable {
            Object::Class { module_name, class_name } => {
                format!("an object of {}", shown(&format!("{module_name}.{class_name}")))
            }
            inner => described(inner),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointwise_network::Network;
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;

    /// Files of real PyTorch: generated by `tests/pytorch/weights.py`, or by another run of it in another folder.
    fn file(name: &str) -> PathBuf {
        let committed = || {
            let folder = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
            Path::new(&folder).join("../../tests/pytorch/weights")
        };
        std::env::var_os("POINTWISE_TORCH_FILES").map_or_else(committed, PathBuf::from).join(name)
    }

    fn refused(name: &str) -> String {
        let error = read_weights(&file(name)).expect_err(name).to_string();
        assert!(error.contains(name) && !error.contains('\n'), "{error}");
        error
    }

    #[test]
    fn what_torch_save_writes_is_read_to_the_bit() {
        let network = Network::from_toml(&fs::read_to_string(file("small.toml")).unwrap()).unwrap();
        let expected = read_weights(&file("expected.safetensors")).unwrap().0;
        assert_eq!(expected.batches_tracked.values().collect::<Vec<_>>(), [&7]);
        for name in [
            "state_dict.pt",
            "notebook.pth",
            "training.pth",
            "twice.pt",
            "parallel.pth",
            "legacy.pth",
            "compiled.pt",
            "float16.pt",
            "bfloat16.pt",
            "float64.pt",
            "views.pt",
            "views_legacy.pt",
        ] {
            let (mut state, meta) = read_weights(&file(name)).unwrap_or_else(|error| panic!("{error}"));
            assert!(meta.is_none());
            state.check(&network).unwrap_or_else(|error| panic!("{name}: {error}"));
            if name.starts_with("views") {
                state.batches_tracked = expected.batches_tracked.clone();
            }
            assert_eq!(state, expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_state_dict_is_named() {
        for (name, expected) in [
            (
                "module.pt",
                "it is an object of __main__.Module, a whole Python object, not a state_dict: save its state_dict()",
            ),
            ("module_in_it.pt", "`net` in it is an object of __main__.Module, a whole Python object"),
            ("two.pt", "it has both `model` and `net`: save the one that is meant"),
            ("nothing.pt", "it has no tensors, and none of the keys under which a state_dict lies"),
            ("list.pt", "it is a list, not a state_dict"),
            ("tensor.pt", "it is a tensor, not a state_dict"),
            ("int8.pt", "`4.weight` is I8, and weights must be F32, F16, BF16 or F64"),
            ("complex.pt", "`4.bias` is C64, and weights must be F32, F16, BF16 or F64"),
            ("float8.pt", "`4.bias` is not a plain tensor (it is made by `torch._utils._rebuild_tensor_v3`)"),
            (
                "sparse.pt",
                "`4.weight` is not a plain tensor (it is made by `torch._utils._rebuild_sparse_tensor`)",
            ),
            ("nan.pt", "`4.bias` holds NaN"),
            ("object.pt", "`config` is an object of collections.Counter, not a tensor"),
            (
                "expanded.pt",
                "its tensors up to `4.weight`, of shape [1048576, 1048576], have more values than the file has bytes",
            ),
            (
                "protocol4.pt",
                "its pickle has the instruction 0x95, which torch.save does not write by default",
            ),
            ("script.pt", "it is a TorchScript program (torch.jit.save): save its state_dict()"),
            ("program.pt2", "it is a program of torch.export: save its state_dict()"),
        ] {
            let error = refused(name);
            assert!(error.contains(expected), "{name}: {error}");
        }
    }

    /// Numbers as a hash of a counter gives them.
    fn draws() -> impl FnMut(usize) -> usize {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % below
        }
    }

    #[test]
    fn damaged_files_are_refused_or_read_and_never_the_end_of_the_program() {
        let mut draw = draws();
        let mut seen = 0;
        for entry in fs::read_dir(file("")).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            if !files::is_saved(&bytes) {
                continue;
            }
            seen += 1;
            for len in (0..bytes.len()).step_by(7) {
                assert!(decode(&bytes[..len]).is_err(), "{} cut at {len}", path.display());
            }
            for _ in 0..300 {
                let mut changed = bytes.clone();
                for _ in 0..=draw(3) {
                    let at = draw(changed.len());
                    changed[at] = [0, 0xff, 0x80, draw(256) as u8, changed[at] ^ 1][draw(5)];
                }
                if let Err(error) = decode(&changed) {
                    assert!(!error.contains('\n'), "{}: {error}", path.display());
                }
            }
        }
        assert!(seen > 25);
    }

    #[test]
    fn damage_behind_the_checksums_is_found_as_well() {
        let mut draw = draws();
        for name in ["views_legacy.pt", "parallel.pth", "legacy.pth"] {
            let bytes = fs::read(file(name)).unwrap();
            for _ in 0..3000 {
                let mut changed = bytes.clone();
                // Before the storages, in the part that describes them.
                let at = draw(bytes.len() * 3 / 4);
                changed[at] = [0, 0xff, draw(256) as u8][draw(3)];
                drop(decode(&changed));
            }
        }
    }

    /// A file in the format before PyTorch 1.6, with a hand-written pickle and a storage of four f32.
    fn by_hand(object: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
        bytes.extend(b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.");
        bytes.extend(object);
        bytes.extend(b"\x80\x02]X\x01\x00\x00\x00ka.");
        bytes.extend(4u64.to_le_bytes());
        bytes.extend([1.0f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat());
        bytes
    }

    /// A `state_dict` of one tensor, of a storage that claims to have `len` values.
    fn one_tensor(len: &[u8], offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
        let mut object = b"\x80\x02}X\x06\x00\x00\x00weightctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
        object
            .extend(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00kX\x03\x00\x00\x00cpu");
        object.extend([len, b"tQ", offset, shape, strides, b"\x89}tRs."].concat());
        by_hand(&object)
    }

    /// Found by fuzzing: a function of 5,000 characters stood in the error as a whole.
    #[test]
    fn a_name_of_any_length_is_shown_in_one_short_line() {
        let tensor = one_tensor(b"K\x04", b"K\x00", b"K\x04\x85", b"K\x01\x85");
        let with = |old: &[u8], new: &[u8]| {
            let at = tensor.windows(old.len()).position(|part| part == old).unwrap();
            [&tensor[..at], new, &tensor[at + old.len()..]].concat()
        };
        let long = "\u{7f}\u{e9}".repeat(5000);
        let text = [b"X", &(long.len() as u32).to_le_bytes()[..], long.as_bytes()].concat();
        for (file, expected) in [
            (with(b"_rebuild_tensor_v2", format!("_rebuild_{long}").as_bytes()), "is not a plain tensor"),
            (with(b"FloatStorage", long.as_bytes()), "and weights must be"),
            (with(b"X\x01\x00\x00\x00k", &text), "it lacks the storage"),
        ] {
            // The tensor alone: with the whole file, some of this is refused earlier.
            let start = file.windows(5).position(|part| part == b"\x80\x02}X\x06").unwrap();
            let Object::Dict(entries) = pickle::read(&mut &file[start..]).unwrap() else {
                panic!("not a dictionary")
            };
            let mut storages = files::Storages::Consecutive(BTreeMap::new());
            let error = tensor::copy("weight", &entries[0].1, &mut storages, &mut 100).unwrap_err();
            assert!(error.contains(expected) && error.len() < 2000, "{expected}: {error}");
            assert!(!error.contains(char::is_control), "{error}");
        }
    }

    #[test]
    fn views_beyond_their_storage_are_refused() {
        let decode = |len: &[u8], offset: &[u8], shape: &[u8], strides: &[u8]| {
            decode(&one_tensor(len, offset, shape, strides))
                .map(|contents| contents.state.parameters["weight"].clone())
        };
        let fits = decode(b"K\x04", b"K\x01", b"K\x02\x85", b"K\x02\x85").unwrap();
        assert_eq!((fits.shape, fits.values), (vec![2], vec![2.0, 4.0]));
        let scalar = decode(b"K\x04", b"K\x03", b")", b")").unwrap();
        assert_eq!((scalar.shape, scalar.values), (vec![], vec![4.0]));
        let huge = b"J\xff\xff\xff\x7f";
        let more = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
        for (len, offset, shape, strides, expected) in [
            (
                &b"K\x04"[..],
                &b"K\x01"[..],
                &b"K\x02\x85"[..],
                &b"K\x03\x85"[..],
                "reaches beyond its storage",
            ),
            (b"K\x04", huge, b"K\x02\x85", b"K\x01\x85", "reaches beyond its storage"),
            (b"K\x04", more, b"K\x02\x85", &[more, &b"\x85"[..]].concat(), "reaches beyond its storage"),
            (b"K\x05", b"K\x00", b"K\x05\x85", b"K\x01\x85", "has 16 bytes, not 5 values of 4"),
            (more, b"K\x00", b"K\x05\x85", b"K\x01\x85", "has 16 bytes, not 9223372036854775807 values"),
            (
                b"K\x04",
                b"K\x00",
                &[more, &more[..], b"\x86"].concat(),
                b"K\x00K\x00\x86",
                "have more values than",
            ),
            (b"K\x04", b"K\x00", &[huge, &b"\x85"[..]].concat(), b"K\x00\x85", "have more values than"),
            (b"K\x04", b"J\xff\xff\xff\xff", b"K\x02\x85", b"K\x01\x85", "is not described as a tensor"),
            (b"K\x04", b"K\x00", b"K\x02\x85", b"K\x01K\x01\x86", "is not described as a tensor"),
            (b"K\x04", b"K\x00", b"}", b"K\x01\x85", "is not described as a tensor"),
        ] {
            let error = decode(len, offset, shape, strides).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
