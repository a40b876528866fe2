//! Adam with coupled L2, on candle tensors.

use candle_core::{Result, Tensor, Var};

/// Constants of Adam (Kingma and Ba 2015) with the L2 penalty added to the gradient before the moments, as
/// `torch.optim.Adam(weight_decay=...)` does. (AdamW, which shrinks the weights beside the moments, is another method.)
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Step size.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Factor of the L2 penalty's gradient.
    pub weight_decay: f64,
}

impl Default for Adam {
    /// The study's: lr 0.001, betas (0.9, 0.999), eps 1e-8, weight decay 5e-4.
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 5e-4 }
    }
}

impl Adam {
    /// Updates a parameter and its moments in place; `step` counts from 1.
    ///
    /// The operations and their order are PyTorch's (`torch/optim/adam.py`, `_single_tensor_adam`).
    ///
    /// # Errors
    /// When shapes differ or the device fails.
    pub fn update(
        &self,
        parameter: &Var,
        gradient: &Tensor,
        first: &Var,
        second: &Var,
        step: u64,
    ) -> Result<()> {
        let value = parameter.as_detached_tensor();
        let gradient = if self.weight_decay == 0.0 {
            gradient.clone()
        } else {
            (gradient + (&value * self.weight_decay)?)?
        };
        let moment = first.as_detached_tensor();
        let moment = (&moment + ((&gradient - &moment)? * (1.0 - self.beta1))?)?;
        let square = ((second.as_detached_tensor() * self.beta2)? + (gradient.sqr()? * (1.0 - self.beta2))?)?;
        let exponent = step as f64;
        let first_correction = 1.0 - self.beta1.powf(exponent);
        let second_correction = 1.0 - self.beta2.powf(exponent);
        let denominator = ((square.sqrt()? / second_correction.sqrt())? + self.eps)?;
        parameter.set(&(value - ((&moment / denominator)? * (self.lr / first_correction))?)?)?;
        first.set(&moment)?;
        second.set(&square)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// The formulas of the paper in f64.
    fn naive(adam: &Adam, parameter: &mut f64, gradients: &[f64]) -> (f64, f64) {
        let (mut m, mut v) = (0.0, 0.0);
        for (t, gradient) in gradients.iter().enumerate() {
            let g = gradient + adam.weight_decay * *parameter;
            m = adam.beta1 * m + (1.0 - adam.beta1) * g;
            v = adam.beta2 * v + (1.0 - adam.beta2) * g * g;
            let t = t as i32 + 1;
            let m_hat = m / (1.0 - adam.beta1.powi(t));
            let v_hat = v / (1.0 - adam.beta2.powi(t));
            *parameter -= adam.lr * m_hat / (v_hat.sqrt() + adam.eps);
        }
        (m, v)
    }

    #[test]
    fn follows_the_paper_with_coupled_decay() {
        // Ten steps of f32 against f64: a few units in the last place each.
        const TOLERANCE: f64 = 2e-6;
        for weight_decay in [0.0, 5e-4, 0.1] {
            let adam = Adam { weight_decay, ..Adam::default() };
            let gradients = [0.5, -0.25, 0.0, 1e-6, 3.0, -0.125, 0.75, 0.5, -2.0, 0.25];
            let parameter = Var::new(&[0.3f32], &Device::Cpu).unwrap();
            let first = Var::new(&[0f32], &Device::Cpu).unwrap();
            let second = Var::new(&[0f32], &Device::Cpu).unwrap();
            for (t, gradient) in gradients.iter().enumerate() {
                let gradient = Tensor::new(&[*gradient as f32], &Device::Cpu).unwrap();
                adam.update(&parameter, &gradient, &first, &second, t as u64 + 1).unwrap();
            }
            let mut expected = f64::from(0.3f32);
            let (m, v) = naive(&adam, &mut expected, &gradients);
            for (name, var, expected) in
                [("parameter", &parameter, expected), ("first", &first, m), ("second", &second, v)]
            {
                let got = f64::from(var.to_vec1::<f32>().unwrap()[0]);
                assert!(
                    (got - expected).abs() <= TOLERANCE * expected.abs(),
                    "{name} with decay {weight_decay}: {got}, expected {expected}"
                );
            }
        }
    }
}
