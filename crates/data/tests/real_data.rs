//! The real CIFAR-10, if `CIFAR10_DIR` says where it is.

use std::path::PathBuf;

use pointwise_data::{NoProgress, Place, Published, Source, load, statistics, verify};

/// `None`, with a line that says so, if the real data is not here.
fn real_data() -> Option<PathBuf> {
    let folder = std::env::var_os("CIFAR10_DIR").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: CIFAR10_DIR does not say where CIFAR-10 is");
    }
    folder
}

#[test]
fn counts_and_channel_statistics_are_the_known_ones() {
    let Some(folder) = real_data() else { return };
    let source = Source::Published { dataset: Published::Cifar10, place: Place::Named(folder) };
    let dataset = load(&source, &NoProgress).expect("CIFAR10_DIR holds CIFAR-10");
    assert_eq!((dataset.train.len(), dataset.test.len()), (50_000, 10_000));
    assert!(!dataset.synthetic);

    let statistics = statistics(&dataset);
    assert_eq!(statistics.train_classes, [5_000; 10]);
    assert_eq!(statistics.test_classes, [1_000; 10]);
    // Measured with numpy over the training images, five digits.
    let mean = [0.49140, 0.48216, 0.44653];
    let std = [0.24703, 0.24348, 0.26159];
    let (usual_mean, usual_std) = dataset.spec.mean_std.expect("CIFAR-10 has usual figures");
    for channel in 0..3 {
        assert!((statistics.mean[channel] - mean[channel]).abs() < 1e-5, "{statistics:?}");
        assert!((statistics.std[channel] - std[channel]).abs() < 1e-5, "{statistics:?}");
        // The study rounds them to four digits, and its blue mean (0.44653) down.
        assert!((statistics.mean[channel] - f64::from(usual_mean[channel])).abs() < 1e-4, "{statistics:?}");
        assert!((statistics.std[channel] - f64::from(usual_std[channel])).abs() < 1e-4, "{statistics:?}");
    }
}

#[test]
fn every_file_passes_verification() {
    let Some(folder) = real_data() else { return };
    for report in verify(Published::Cifar10, &folder, &NoProgress).expect("CIFAR10_DIR holds CIFAR-10") {
        assert_eq!(report.problem, None, "{report:?}");
        if let Some(records) = report.records {
            assert_eq!((records, report.labels_valid), (10_000, Some(true)), "{report:?}");
        }
    }
}
