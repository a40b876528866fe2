//! Weights files of torch.save: zip archives and legacy files. An input that begins with `p` is only an archive's pickle, which is put into one with
//! two storages, since an archive's checksums stop most changes of a pickle in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointwise_fuzz::{check_file_error, file};
use pointwise_training::read_weights;

/// CRC-32 as in zip.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// A zip archive of files without compression.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let len = (bytes.len() as u32).to_le_bytes();
        let common = [
            &[20, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &crc32(bytes).to_le_bytes(),
            &len,
            &len,
            &(name.len() as u16).to_le_bytes(),
            &[0, 0],
        ]
        .concat();
        let offset = (archive.len() as u32).to_le_bytes();
        directory.extend([&b"PK\x01\x02\x14\x00"[..], &common, &[0; 10], &offset, name.as_bytes()].concat());
        archive.extend([&b"PK\x03\x04"[..], &common, name.as_bytes(), bytes].concat());
    }
    let count = (files.len() as u16).to_le_bytes();
    let [size, start] = [directory.len(), archive.len()].map(|len| (len as u32).to_le_bytes());
    [&archive[..], &directory, b"PK\x05\x06\0\0\0\0", &count, &count, &size, &start, &[0, 0]].concat()
}

fuzz_target!(|input: &[u8]| {
    let storage: Vec<u8> = (0..24u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    let path = match input.strip_prefix(b"p") {
        Some(pickle) => {
            let files = [("a/data.pkl", pickle), ("a/data/0", &storage), ("a/data/1", &storage[..16])];
            file("weights.pt", &zip(&files))
        }
        None => file("weights.pt", input),
    };
    match read_weights(&path) {
        Ok((state, _)) => {
            for array in state.parameters.values().chain(state.statistics.values()) {
                assert_eq!(array.values.len(), array.shape.iter().product::<usize>());
                assert!(array.values.iter().all(|value| value.is_finite()));
            }
        }
        Err(error) => check_file_error(&path, &error),
    }
});
