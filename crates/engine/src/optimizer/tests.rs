use super::*;
use candle_core::Device;

/// Ten steps of f32 against f64: a few units in the last place each.
const TOLERANCE: f64 = 4e-6;

/// A parameter and its buffers after the steps, by the formulas of PyTorch's documentation in f64.
fn naive(optimizer: &Optimizer, parameter: f64, gradients: &[f64]) -> Vec<f64> {
    let (mut p, mut m, mut v) = (parameter, 0.0, 0.0);
    for (t, gradient) in (1..).zip(gradients) {
        let mut g = *gradient;
        match optimizer {
            Optimizer::Adam(Adam { lr, betas: [beta1, beta2], eps, weight_decay })
            | Optimizer::AdamW(AdamW { lr, betas: [beta1, beta2], eps, weight_decay }) => {
                match optimizer {
                    Optimizer::AdamW(_) => p -= lr * weight_decay * p,
                    _ => g += weight_decay * p,
                }
                m = beta1 * m + (1.0 - beta1) * g;
                v = beta2 * v + (1.0 - beta2) * g * g;
                p -= lr * (m / (1.0 - beta1.powi(t))) / ((v / (1.0 - beta2.powi(t))).sqrt() + eps);
            }
            Optimizer::Sgd(Sgd { lr, momentum, weight_decay, nesterov }) => {
                g += weight_decay * p;
                if *momentum > 0.0 {
                    m = momentum * m + g;
                    g = if *nesterov { g + momentum * m } else { m };
                }
                p -= lr * g;
            }
        }
    }
    [p, m, v][..=optimizer.buffers().len()].to_vec()
}

#[test]
fn optimizers_follow_the_papers() {
    let sgd = Sgd { lr: 0.05, momentum: 0.9, ..Sgd::default() };
    let optimizers: [Optimizer; 8] = [
        Adam::default().into(),
        Adam { weight_decay: 0.1, eps: 1e-4, ..Adam::default() }.into(),
        AdamW::default().into(),
        AdamW { weight_decay: 0.5, betas: [0.0, 0.5], lr: 0.1, eps: 1e-3 }.into(),
        Sgd::default().into(),
        sgd.clone().into(),
        Sgd { weight_decay: 0.1, ..sgd.clone() }.into(),
        Sgd { weight_decay: 0.1, nesterov: true, ..sgd }.into(),
    ];
    let gradients = [0.5, -0.25, 0.0, 1e-6, 3.0, -0.125, 0.75, 0.5, -2.0, 0.25];
    for optimizer in optimizers {
        let var = |value: f32| Var::new(&[value], &Device::Cpu).unwrap();
        let parameter = var(0.3);
        let buffers: Vec<Var> = optimizer.buffers().iter().map(|_| var(0.0)).collect();
        let rate = Rate::new(optimizer.lr());
        let group = Group { lr_factor: 1.0, weight_decay: optimizer.weight_decay(), frozen_after: None };
        for (number, gradient) in (1..).zip(gradients) {
            let gradient = Tensor::new(&[gradient as f32], &Device::Cpu).unwrap();
            let step = Step::new(&optimizer, rate, group, number);
            step.update(&parameter, &gradient, &buffers.iter().collect::<Vec<_>>()).unwrap();
        }
        let expected = naive(&optimizer, f64::from(0.3f32), &gradients);
        assert_eq!(expected.len(), 1 + buffers.len());
        for (which, (var, expected)) in std::iter::once(&parameter).chain(&buffers).zip(expected).enumerate()
        {
            let got = f64::from(var.to_vec1::<f32>().unwrap()[0]);
            let allowed = TOLERANCE * expected.abs();
            assert!((got - expected).abs() <= allowed, "{which} of {optimizer:?}: {got}, not {expected}");
        }
    }
}

#[test]
fn rate_and_group_make_the_constants() {
    let rate = Rate { momentum: Some(0.25), ..Rate::new(0.5) };
    let group = Group { lr_factor: 0.1, weight_decay: 0.3, frozen_after: None };
    let adam = AdamStep { lr: 0.05, beta1: 0.25, beta2: 0.999, eps: 1e-8, weight_decay: 0.3, step: 7 };
    assert_eq!(Step::new(&Adam::default().into(), rate, group, 7), Step::Adam(adam));
    assert_eq!(Step::new(&AdamW::default().into(), rate, group, 7), Step::AdamW(adam));
    let sgd = Sgd { momentum: 0.9, nesterov: true, ..Sgd::default() };
    let expected = SgdStep { lr: 0.05, momentum: 0.25, weight_decay: 0.3, nesterov: true };
    assert_eq!(Step::new(&sgd.clone().into(), rate, group, 7), Step::Sgd(expected));
    // Without a momentum from the schedule, the optimizer's own applies.
    let plain = Rate { momentum: None, ..rate };
    assert_eq!(Step::new(&sgd.into(), plain, group, 7), Step::Sgd(SgdStep { momentum: 0.9, ..expected }));
    assert_eq!(
        Step::new(&Adam::default().into(), plain, group, 7),
        Step::Adam(AdamStep { beta1: 0.9, ..adam })
    );
}

#[test]
fn only_a_norm_above_the_limit_is_clipped() {
    assert_eq!(clip_factor(0.0, 1.0), 1.0);
    assert_eq!(clip_factor(0.9, 1.0), 1.0);
    assert_eq!(clip_factor(4.0 - 1e-6, 1.0), 0.25);
    assert_eq!(clip_factor(f64::INFINITY, 1.0), 0.0);
    assert_eq!(clip_factor(f64::NAN, 1.0), 1.0);
}
