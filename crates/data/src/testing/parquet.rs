//! Parquet files with the columns of `uoft-cs/cifar10`.

use crate::testing::noise;
use image::{ImageFormat, RgbImage};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs::File;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

pub(crate) const IMAGE_BYTES: usize = 3072;

/// The columns of `uoft-cs/cifar10`.
const SCHEMA: &str = "message schema {
    optional group img { optional binary bytes; optional binary path (STRING); }
    optional int64 label;
}";

/// An encoded image and its label; an empty image is a null.
pub(crate) type TestRow = (Vec<u8>, i64);

pub(crate) fn write_parquet(path: &Path, rows: &[TestRow]) {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();

    let images = rows.iter().filter(|(image, _)| !image.is_empty());
    let images: Vec<ByteArray> = images.map(|(image, _)| ByteArray::from(image.clone())).collect();
    let levels: Vec<i16> = rows.iter().map(|(image, _)| if image.is_empty() { 0 } else { 2 }).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&images, Some(&levels), None).unwrap();
    column.close().unwrap();

    let paths: Vec<ByteArray> = images.iter().map(|_| ByteArray::from("x.png")).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&paths, Some(&levels), None).unwrap();
    column.close().unwrap();

    let labels: Vec<i64> = rows.iter().map(|row| row.1).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; labels.len()]), None).unwrap();
    column.close().unwrap();

    group.close().unwrap();
    writer.close().unwrap();
}

/// Noise of the size given: nothing about it is symmetric.
pub(crate) fn png(seed: u64, width: u32, height: u32) -> Vec<u8> {
    let image = RgbImage::from_raw(width, height, noise(seed, (3 * width * height) as usize)).unwrap();
    let mut encoded = Cursor::new(Vec::new());
    image.write_to(&mut encoded, ImageFormat::Png).unwrap();
    encoded.into_inner()
}

/// The bytes of `png(seed, 32, 32)` in the order of the binary files: R, G, B planes, row by row.
pub(crate) fn planes(seed: u64) -> Vec<u8> {
    let raw = noise(seed, IMAGE_BYTES);
    (0..IMAGE_BYTES).map(|i| raw[i % 1024 * 3 + i / 1024]).collect()
}
