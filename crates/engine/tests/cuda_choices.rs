//! The measurements that the engine `cuda` keeps, on a GPU or on the emulator of `tests/cuda`.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod networks;

use networks::{has_gpu, images, labels, study_settings, tiny};
use pointwise_engine::cuda::Cuda;
use pointwise_engine::{Batch, DeviceName, Engine, Settings};
use std::fs;
use std::path::{Path, PathBuf};

/// The loss of a step by an engine with that cache.
fn loss(cache: &Path) -> Option<f64> {
    if !has_gpu() {
        return None;
    }
    let network = tiny(0.0);
    let settings =
        Settings { device: DeviceName::Cuda(0), cache: Some(cache.to_owned()), ..study_settings() };
    let mut engine = Cuda::new(&network, &settings).unwrap();
    let (images, labels) = (images(&network, 4), labels(&network, 4));
    engine.train_step(Batch { images: &images, labels: &labels }).unwrap();
    Some(engine.totals().unwrap().last_loss)
}

/// The one file of a folder.
fn file(cache: &Path) -> PathBuf {
    let files: Vec<PathBuf> = fs::read_dir(cache).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

/// The text with another algorithm number in each line for the forward direction.
fn with_forward_algorithm(text: &str, algorithm: u32) -> String {
    text.lines()
        .map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [shape, "convolution", _, math] => format!("{shape} convolution {algorithm} {math}\n"),
            _ => format!("{line}\n"),
        })
        .collect()
}

#[test]
fn what_was_measured_is_used_the_next_time_and_what_cannot_be_used_is_measured_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let Some(first) = loss(&cache) else { return };
    let file = file(&cache);
    let measured = fs::read_to_string(&file).unwrap();
    let directions = |name: &str| measured.lines().filter(|line| line.contains(name)).count();
    assert!(directions(" convolution ") > 0 && directions(" convolution_filter ") > 0, "{measured}");
    // Another algorithm that cuDNN lists: it is taken as it is, and stays.
    let others: Vec<String> =
        [0, 1].map(|algorithm| with_forward_algorithm(&measured, algorithm)).into_iter().collect();
    let other = others.iter().find(|other| **other != measured).unwrap();
    fs::write(&file, other).unwrap();
    let second = loss(&cache).unwrap();
    assert!(((second - first) / first).abs() < 1e-4, "{second} {first}");
    assert_eq!(&fs::read_to_string(&file).unwrap(), other);
    // One that does not exist.
    fs::write(&file, with_forward_algorithm(&measured, 99)).unwrap();
    assert!(((loss(&cache).unwrap() - first) / first).abs() < 1e-4);
    let corrected = fs::read_to_string(&file).unwrap();
    assert!(!corrected.contains(" convolution 99 "), "{corrected}");
    // No folder can exist there.
    assert!(loss(&file).is_some());
}
