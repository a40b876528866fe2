//! Recognises files that were given as weights but are not safetensors files, and says what to do.

use pointwise_recipe::one_line;
use safetensors::SafeTensorError;

/// The largest header, in bytes, that safetensors accepts.
pub(crate) const LARGEST_HEADER: u64 = 100_000_000;

/// The fix for a file of PyTorch.
const CONVERT: &str = "convert it with `trainer import`";
const FETCH_AGAIN: &str = "fetch the file itself again";
const UNPACK: &str = "unpack it first";

/// How a format begins, its name, and the fix.
const BEGINNINGS: [(&[u8], &str, &str); 15] = [
    (b"version https://git-lfs", "a Git LFS pointer, not the file that it stands for", "run `git lfs pull`"),
    (b"\x1f\x8b", "compressed with gzip", UNPACK),
    (b"BZh", "compressed with bzip2", UNPACK),
    (b"\xfd7zXZ\0", "compressed with xz", UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", "save the weights as safetensors"),
    (b"\x93NUMPY", "a NumPy array", "save all weights as safetensors, by PyTorch's names"),
    (b"GGUF", "a GGUF file", "save the weights as safetensors"),
    (b"\x89PNG", "an image", "give the weights here, and images to `trainer predict`"),
    (b"\xff\xd8\xff", "an image", "give the weights here, and images to `trainer predict`"),
    (b"\x7fELF", "a program", "give the weights"),
    (b"/annex/objects/", "a git-annex pointer, not the file that it stands for", "run `git annex get`"),
    (b"../.git/annex/", "a git-annex pointer, not the file that it stands for", "run `git annex get`"),
    (b"PAR1", "a Parquet file", "give the weights"),
];

/// The message for bytes that safetensors rejects with an error of this `kind`: what they are, and what to do.
pub(crate) fn explain(bytes: &[u8], kind: &SafeTensorError) -> String {
    let error = one_line(&kind.to_string());
    let declared = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    // A safetensors file begins with the length of its header, then the header, which is a JSON object.
    if declared < LARGEST_HEADER && bytes.get(8) == Some(&b'{') {
        let len = bytes.len();
        return match kind {
            _ if declared + 8 > len as u64 => {
                format!("it is cut short ({len} bytes, and its header alone has {declared}): {FETCH_AGAIN}")
            }
            SafeTensorError::MetadataIncompleteBuffer => format!(
                "it is cut short or damaged (its {len} bytes are not those that its header lists): {FETCH_AGAIN}"
            ),
            _ => format!("it is damaged ({error}): {FETCH_AGAIN}"),
        };
    }
    match recognise(bytes) {
        Some((what, fix)) => format!("it is {what}: {fix}"),
        None => format!("it is damaged or of another format ({error}): give a safetensors file"),
    }
}

/// The name of a format with its article, and the fix.
fn recognise(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    if bytes.is_empty() {
        return Some(("empty", FETCH_AGAIN));
    }
    if let Some((_, what, fix)) = BEGINNINGS.iter().find(|(beginning, ..)| bytes.starts_with(beginning)) {
        return Some((what, fix));
    }
    let holds = |text: &[u8]| bytes.windows(text.len()).take(1 << 16).any(|part| part == text);
    match bytes {
        [b'P', b'K', 3, 4, ..] if holds(b"data.pkl") => Some(("a file of PyTorch's torch.save", CONVERT)),
        [b'P', b'K', 3, 4, ..] => Some(("a zip archive", UNPACK)),
        [0x80, 2..=5, ..] => Some(("a Python pickle, as torch.save writes", CONVERT)),
        // Fields of a protobuf message: the version, then the producer or the graph.
        [8, 1..=32, 0x12 | 0x1a | 0x22 | 0x28 | 0x3a | 0x42, ..] => {
            Some(("an ONNX model", "save the weights of the PyTorch module as safetensors"))
        }
        _ if bytes.get(4..8) == Some(b"TFL3") => {
            Some(("a TensorFlow Lite model", "save the weights as safetensors"))
        }
        _ if bytes.get(257..262) == Some(b"ustar") => Some(("a tar archive", UNPACK)),
        _ => text(bytes),
    }
}

/// As [`recognise`], for text files.
fn text(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let head = &bytes[..bytes.len().min(512)];
    let head = match std::str::from_utf8(head) {
        Ok(text) => text,
        // Truncated within a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    if head.contains(|c: char| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let head = head.trim_start_matches('\u{feff}').trim_start().to_lowercase();
    Some(if head.starts_with("<!doctype html") || head.starts_with("<html") {
        ("a web page (HTML), perhaps one that asks to log in", FETCH_AGAIN)
    } else if head.starts_with('<') {
        ("XML, perhaps a server's message", FETCH_AGAIN)
    } else if head.starts_with(['{', '[']) {
        ("JSON, perhaps a server's message or a list of files", FETCH_AGAIN)
    } else {
        ("text", "give a safetensors file")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn what_is_no_safetensors_file_is_named_with_the_fix() {
        let long = |beginning: &[u8], rest: &[u8]| [beginning, &[0; 40], rest, &[0; 400]].concat();
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (bytes, expected) in [
            (vec![], "it is empty: fetch"),
            (
                long(b"PK\x03\x04", b"archive/data.pkl"),
                "it is a file of PyTorch's torch.save: convert it with `trainer import`",
            ),
            (long(b"PK\x03\x04", b"weight.npy"), "it is a zip archive: unpack"),
            (long(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b""), "it is a Python pickle"),
            (long(b"\x1f\x8b\x08", b""), "it is compressed with gzip: unpack"),
            (long(b"\x08\x08\x12\x07pytorch", b""), "it is an ONNX model: save"),
            (long(b"\x89HDF\r\n\x1a\n", b""), "it is an HDF5 file"),
            (tar, "it is a tar archive"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n".to_vec(), "run `git lfs pull`"),
            (b"\xef\xbb\xbf \n<!DOCTYPE HTML><title>".to_vec(), "it is a web page (HTML)"),
            (b"<?xml version=\"1.0\"?><Error>".to_vec(), "it is XML"),
            (b"{\"error\": \"Not Found\"}".to_vec(), "it is JSON"),
            (b"Not Found\n".to_vec(), "it is text"),
            (long(b"\xff\xfe\xfd\xfc", b""), "it is damaged or of another format"),
            (u64::MAX.to_le_bytes().to_vec(), "it is damaged or of another format"),
            (long(b"\xff\xff\xff\xff\xff\xff\xff\x7f{", b""), "it is damaged or of another format"),
        ] {
            let error = SafeTensors::deserialize(&bytes).unwrap_err();
            let message = explain(&bytes, &error);
            assert!(message.contains(expected) && !message.contains('\n'), "{expected}: {message}");
        }
    }

    #[test]
    fn a_cut_safetensors_file_is_called_that() {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &[0; 8]).unwrap();
        let bytes = safetensors::serialize([("w", view)], None).unwrap();
        for len in 9..bytes.len() {
            let error = SafeTensors::deserialize(&bytes[..len]).unwrap_err();
            let message = explain(&bytes[..len], &error);
            assert!(message.starts_with("it is cut short"), "{len}: {message}");
        }
    }
}
