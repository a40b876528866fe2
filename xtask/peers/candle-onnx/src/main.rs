//! `candle-onnx-peer MODEL INPUTS`: the outputs of candle-onnx, as a JSON array of rows.
//!
//! INPUTS is a file of little-endian f32: images of the shape that the model declares for its input, one after the other.

use anyhow::{Context, bail, ensure};
use candle_core::{Device, Tensor};
use candle_onnx::onnx::tensor_shape_proto::dimension::Value;
use candle_onnx::onnx::type_proto;
use std::collections::HashMap;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, inputs] = &arguments[..] else { bail!("usage: candle-onnx-peer MODEL INPUTS") };
    let model = candle_onnx::read_file(model)?;
    let graph = model.graph.as_ref().context("the model has no graph")?;
    let input = graph.input.first().context("the graph has no input")?;
    let tensor = match input.r#type.as_ref().and_then(|kind| kind.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => tensor,
        _ => bail!("the input is no tensor"),
    };
    let sides: Vec<usize> = tensor
        .shape
        .iter()
        .flat_map(|shape| &shape.dim)
        .filter_map(|dimension| match &dimension.value {
            Some(Value::DimValue(side)) => Some(*side as usize),
            _ => None,
        })
        .collect();
    let bytes = std::fs::read(inputs).with_context(|| format!("{inputs} cannot be read"))?;
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let size: usize = sides.iter().product();
    ensure!(size > 0 && values.len().is_multiple_of(size), "{} values are no whole images of {sides:?}", values.len());
    let shape = [&[values.len() / size], &sides[..]].concat();
    let images = Tensor::from_vec(values, shape, &Device::Cpu)?;
    let output = graph.output.first().context("the graph has no output")?.name.clone();
    let mut answers = candle_onnx::simple_eval(&model, HashMap::from([(input.name.clone(), images)]))?;
    let answers = answers.remove(&output).context("there is no answer")?;
    println!("{:?}", answers.to_vec2::<f32>()?);
    Ok(())
}
