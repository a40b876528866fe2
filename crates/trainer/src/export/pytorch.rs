//! `--format pytorch`: the file that `torch.save(module.state_dict(), path)` writes, with the names in the order of the layers.
//!
//! Such a file is a ZIP archive without compression: `data.pkl` is a pickle of an `OrderedDict` of tensors, whose numbers lie in
//! `data/0`, `data/1`, ..., each aligned so that PyTorch can map the file into memory.

use super::pickle::Pickle;
use anyhow::Context;
use pointwise_network::{Graph, Layer, Network};
use pointwise_weights::State;
use std::io::{Cursor, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// The folder of an archive; PyTorch takes any.
const ROOT: &str = "archive";
/// `torch.serialization`'s `storage_alignment`, in bytes.
const ALIGNMENT: u16 = 64;

/// A tensor of the dictionary.
enum Tensor<'a> {
    /// `torch.float32`.
    Floats { shape: &'a [usize], values: &'a [f32] },
    /// One `torch.int64` without dimensions.
    Count(i64),
}

/// The bytes of a file; equal arguments give equal bytes.
pub(super) fn encode(network: &Network, state: &State) -> anyhow::Result<Vec<u8>> {
    let tensors = tensors(&network.graph()?, state)?;
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::DEFAULT)
        .with_alignment(ALIGNMENT);
    let mut put = |name: &str, bytes: &[u8]| -> anyhow::Result<()> {
        archive.start_file(format!("{ROOT}/{name}"), options)?;
        Ok(archive.write_all(bytes)?)
    };
    put("data.pkl", &pickle(&tensors))?;
    put(".format_version", b"1")?;
    put(".storage_alignment", ALIGNMENT.to_string().as_bytes())?;
    put("byteorder", b"little")?;
    for (place, (_, tensor)) in tensors.iter().enumerate() {
        put(&format!("data/{place}"), &tensor.bytes())?;
    }
    put("version", b"3\n")?;
    Ok(archive.finish()?.into_inner())
}

/// All that a `state_dict` has, in the order of the layers.
fn tensors<'a>(graph: &Graph, state: &'a State) -> anyhow::Result<Vec<(String, Tensor<'a>)>> {
    let mut tensors = Vec::new();
    for (node, layer, input) in graph.layers() {
        let name = |own: &str| format!("{}.{own}", node.path);
        let mut names: Vec<String> =
            layer.kind().parameters(input).iter().map(|own| name(own.name)).collect();
        if matches!(layer, Layer::BatchNorm2d(_)) {
            names.extend(["running_mean", "running_var"].map(name));
        }
        for name in names {
            let array = state.parameters.get(&name).or_else(|| state.statistics.get(&name));
            let array = array.with_context(|| format!("`{name}` is missing"))?;
            tensors.push((name, Tensor::Floats { shape: &array.shape, values: &array.values }));
        }
        if matches!(layer, Layer::BatchNorm2d(_)) {
            let name = name("num_batches_tracked");
            let count = state.batches_tracked.get(&name).copied().unwrap_or_default();
            tensors.push((name, Tensor::Count(count)));
        }
    }
    Ok(tensors)
}

impl Tensor<'_> {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Floats { values, .. } => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Count(count) => count.to_le_bytes().to_vec(),
        }
    }

    /// PyTorch's class of the storage, the number of its elements, and the shape.
    fn storage(&self) -> (&'static str, usize, &[usize]) {
        match self {
            Self::Floats { shape, values } => ("FloatStorage", values.len(), shape),
            Self::Count(_) => ("LongStorage", 1, &[]),
        }
    }
}

fn pickle(tensors: &[(String, Tensor<'_>)]) -> Vec<u8> {
    let mut pickle = Pickle::new();
    ordered_dict(&mut pickle);
    pickle.set_items(|items| {
        for (place, (name, tensor)) in tensors.iter().enumerate() {
            let (class, len, shape) = tensor.storage();
            items.text(name);
            items.global("torch._utils", "_rebuild_tensor_v2");
            items.tuple(|arguments| {
                arguments.tuple(|storage| {
                    storage.text("storage");
                    storage.global("torch", class);
                    storage.text(&place.to_string());
                    storage.text("cpu");
                    storage.int(len);
                });
                arguments.persistent();
                // Where in the storage it begins.
                arguments.int(0);
                arguments.tuple(|sides| shape.iter().for_each(|side| sides.int(*side)));
                arguments.tuple(|strides| row_major(shape).iter().for_each(|stride| strides.int(*stride)));
                // Whether gradients are wanted, and hooks for them.
                arguments.no();
                ordered_dict(arguments);
            });
            items.call();
        }
    });
    pickle.finish()
}

/// Pushes an empty `OrderedDict`.
fn ordered_dict(pickle: &mut Pickle) {
    pickle.global("collections", "OrderedDict");
    pickle.tuple(|_| {});
    pickle.call();
}

/// The strides of a row-major tensor, in elements.
fn row_major(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storages_are_aligned_and_bytes_are_equal() {
        let network = Network::by_name("lenet").unwrap();
        let state = State::initial(&network.graph().unwrap(), 1);
        let bytes = encode(&network, &state).unwrap();
        assert_eq!(bytes, encode(&network, &state).unwrap());
        let mut archive = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
        for at in 0..archive.len() {
            let file = archive.by_index(at).unwrap();
            assert_eq!(
                file.data_start().map(|start| start % u64::from(ALIGNMENT)),
                Some(0),
                "{}",
                file.name().unwrap()
            );
            assert_eq!(file.compression(), CompressionMethod::Stored);
        }
        assert_eq!(row_major(&[2, 3, 4]), [12, 4, 1]);
        assert_eq!(row_major(&[]), [0; 0]);
    }
}
