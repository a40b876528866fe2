//! Named variables in a fixed order, with the description's initial values.

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use pointwise_network::Graph;
use std::collections::BTreeMap;

/// The variables of a network: the trained ones and BatchNorm's running statistics, each sorted by name.
///
/// candle's `VarMap` mixes the two and iterates in an order that differs from run to run.
#[derive(Debug, Clone)]
pub struct ParameterStore {
    trainable: BTreeMap<String, Var>,
    statistics: BTreeMap<String, Var>,
}

impl ParameterStore {
    /// The description's initial values, drawn from `seed`: a parameter's values depend only on the seed and on its place among the sorted names.
    ///
    /// # Errors
    /// When the device fails.
    pub fn initialised(graph: &Graph, seed: u64, device: &Device) -> Result<Self> {
        let trainable = graph
            .parameters()
            .iter()
            .zip(0..)
            .map(|(spec, ordinal)| {
                let values = spec.initial.values(&spec.shape, seed, ordinal);
                Ok((spec.name.clone(), Var::from_vec(values, spec.shape.as_slice(), device)?))
            })
            .collect::<Result<_>>()?;
        let statistics = graph
            .statistics()
            .iter()
            .map(|spec| {
                let values = vec![spec.initial; spec.channels];
                Ok((spec.name.clone(), Var::from_vec(values, spec.channels, device)?))
            })
            .collect::<Result<_>>()?;
        Ok(Self { trainable, statistics })
    }

    /// The trained variables, f32, sorted by name.
    #[must_use]
    pub fn trainable(&self) -> &BTreeMap<String, Var> {
        &self.trainable
    }

    /// BatchNorm's running statistics, f32 `(C)`, sorted by name.
    #[must_use]
    pub fn statistics(&self) -> &BTreeMap<String, Var> {
        &self.statistics
    }

    /// Gives these variables, not copies of them, to candle-nn modules.
    #[must_use]
    pub fn var_builder(&self, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, device.clone())
    }

    fn find(&self, name: &str) -> Result<&Var> {
        match self.trainable.get(name).or_else(|| self.statistics.get(name)) {
            Some(var) => Ok(var),
            None => candle_core::bail!("the network has no parameter `{name}`"),
        }
    }
}

impl SimpleBackend for ParameterStore {
    /// The hint is not used: the values were set by [`ParameterStore::initialised`] or loaded.
    fn get(&self, shape: Shape, name: &str, _: candle_nn::Init, dtype: DType, _: &Device) -> Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, &Device::Cpu)?;
        if tensor.shape() != &shape {
            candle_core::bail!("parameter `{name}` has shape {:?}, not {shape:?}", tensor.shape())
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> Result<Tensor> {
        let var = self.find(name)?;
        if var.dtype() != dtype {
            candle_core::bail!("parameter `{name}` is {:?}, not {dtype:?}", var.dtype())
        }
        Ok(var.as_tensor().clone())
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointwise_network::{Initial, Network};

    fn graph(name: &str) -> Graph {
        Network::by_name(name).unwrap().graph().unwrap()
    }

    fn values(store: &ParameterStore, name: &str) -> Vec<f32> {
        store.find(name).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn initial_values_are_uniform_within_pytorchs_bounds() {
        let network = graph("alexnet_plain");
        let store = ParameterStore::initialised(&network, 42, &Device::Cpu).unwrap();
        for spec in network.parameters() {
            let values = values(&store, &spec.name);
            match spec.initial {
                Initial::Constant(value) => assert!(values.iter().all(|v| *v == value), "{}", spec.name),
                Initial::Uniform { bound } => {
                    let n = values.len() as f64;
                    let scaled: Vec<f64> = values.iter().map(|v| f64::from(v / bound)).collect();
                    assert!(scaled.iter().all(|v| (-1.0..=1.0).contains(v)), "{}", spec.name);
                    let mean = scaled.iter().sum::<f64>() / n;
                    let square = scaled.iter().map(|v| v * v).sum::<f64>() / n;
                    // Uniform on [-1, 1]: variance 1/3, variance of the square 4/45; six standard errors.
                    assert!(mean.abs() < 6.0 * (1.0 / 3.0 / n).sqrt(), "{}: mean {mean}", spec.name);
                    let error = (square - 1.0 / 3.0).abs();
                    assert!(error < 6.0 * (4.0 / 45.0 / n).sqrt(), "{}: square {square}", spec.name);
                }
                other => panic!("{}: {other:?}", spec.name),
            }
        }
    }

    #[test]
    fn seeds_and_parameters_have_their_own_values() {
        let network = graph("nin");
        let first = ParameterStore::initialised(&network, 1, &Device::Cpu).unwrap();
        let again = ParameterStore::initialised(&network, 1, &Device::Cpu).unwrap();
        let second = ParameterStore::initialised(&network, 2, &Device::Cpu).unwrap();
        let name = "features.4.weight";
        assert_eq!(values(&first, name), values(&again, name));
        assert_ne!(values(&first, name), values(&second, name));
        // Two parameters of one shape.
        assert_ne!(values(&first, "features.14.weight"), values(&first, "features.24.weight"));
    }

    #[test]
    fn the_builder_shares_and_checks() {
        let store = ParameterStore::initialised(&graph("nin"), 1, &Device::Cpu).unwrap();
        let builder = store.var_builder(&Device::Cpu);
        let bias = builder.get(64, "features.0.bias").unwrap();
        store.trainable()["features.0.bias"]
            .set(&Tensor::ones(64, DType::F32, &Device::Cpu).unwrap())
            .unwrap();
        assert_eq!(bias.to_vec1::<f32>().unwrap(), vec![1.0; 64]);
        assert!(builder.get(65, "features.0.bias").is_err());
        assert!(builder.get(64, "features.0.scale").is_err());
    }
}
