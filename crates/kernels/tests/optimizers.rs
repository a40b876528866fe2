//! Optimizers, averages and clipping against the obvious loops in `f64`, on every instruction set of this machine.

mod common;

use common::{FEW_ROUNDINGS, close, uniform};
use pointwise_kernels::{AdamStep, Isa, SgdStep, adam, adamw, average, l2_norm, scale_all, sgd};

/// Around the widest vector, and around what a task takes.
const LENGTHS: [usize; 7] = [0, 16, 32, 80, (1 << 14) - 16, 1 << 14, (1 << 14) + 16];

/// Ten steps of f32 against f64: a few units in the last place each.
const AFTER_STEPS: f64 = 4e-6;

/// An optimizer with its constants.
#[derive(Debug, Clone, Copy)]
enum Case {
    Adam(AdamStep),
    AdamW(AdamStep),
    Sgd(SgdStep),
}

fn cases() -> Vec<Case> {
    let adam = AdamStep { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 0 };
    let decayed = |weight_decay: f64| AdamStep { weight_decay, ..adam };
    let fast = AdamStep { lr: 0.1, beta1: 0.0, beta2: 0.5, eps: 1e-3, weight_decay: 0.5, step: 0 };
    let sgd = SgdStep { lr: 0.05, momentum: 0.0, weight_decay: 0.0, nesterov: false };
    let heavy = SgdStep { momentum: 0.9, weight_decay: 1e-2, ..sgd };
    vec![
        Case::Adam(adam),
        Case::Adam(decayed(5e-4)),
        Case::Adam(fast),
        Case::AdamW(adam),
        Case::AdamW(decayed(1e-2)),
        Case::AdamW(fast),
        Case::Sgd(sgd),
        Case::Sgd(SgdStep { weight_decay: 1e-2, ..sgd }),
        Case::Sgd(heavy),
        Case::Sgd(SgdStep { nesterov: true, ..heavy }),
    ]
}

/// Parameters and two buffers, of which SGD leaves the second alone.
type Values<T> = [Vec<T>; 3];

impl Case {
    /// The kernel's step `number`, from 1.
    fn step(self, isa: Isa, number: u64, values: &mut Values<f32>, gradients: &[f32]) {
        let [parameters, first, second] = values;
        match self {
            Self::Adam(step) => {
                adam(isa, AdamStep { step: number, ..step }, parameters, gradients, first, second);
            }
            Self::AdamW(step) => {
                adamw(isa, AdamStep { step: number, ..step }, parameters, gradients, first, second);
            }
            Self::Sgd(step) => sgd(isa, step, parameters, gradients, first),
        }
    }

    /// The papers' formulas.
    fn naive(self, number: u64, values: &mut Values<f64>, gradients: &[f32]) {
        let [parameters, first, second] = values;
        for (((p, m), v), gradient) in parameters.iter_mut().zip(first).zip(second).zip(gradients) {
            let mut g = f64::from(*gradient);
            match self {
                Self::Adam(step) | Self::AdamW(step) => {
                    match self {
                        Self::AdamW(_) => *p -= step.lr * step.weight_decay * *p,
                        _ => g += step.weight_decay * *p,
                    }
                    *m = step.beta1 * *m + (1.0 - step.beta1) * g;
                    *v = step.beta2 * *v + (1.0 - step.beta2) * g * g;
                    let m_hat = *m / (1.0 - step.beta1.powi(number as i32));
                    let v_hat = *v / (1.0 - step.beta2.powi(number as i32));
                    *p -= step.lr * m_hat / (v_hat.sqrt() + step.eps);
                }
                Self::Sgd(step) => {
                    g += step.weight_decay * *p;
                    if step.momentum > 0.0 {
                        *m = step.momentum * *m + g;
                        g = if step.nesterov { g + step.momentum * *m } else { *m };
                    }
                    *p -= step.lr * g;
                }
            }
        }
    }

    fn trained(self, isa: Isa, len: usize) -> Values<f32> {
        let mut values = [uniform(1, len), vec![0.0; len], vec![0.0; len]];
        for number in 1..=10 {
            self.step(isa, number, &mut values, &uniform(100 + number, len));
        }
        values
    }
}

#[test]
fn optimizers_follow_the_papers() {
    for isa in Isa::available() {
        for (case, len) in cases().into_iter().flat_map(|case| LENGTHS.map(|len| (case, len))) {
            let mut exact = [uniform(1, len), vec![0.0; len], vec![0.0; len]]
                .map(|values| values.into_iter().map(f64::from).collect());
            for number in 1..=10 {
                case.naive(number, &mut exact, &uniform(100 + number, len));
            }
            let got = case.trained(isa, len);
            for (which, (got, exact)) in got.iter().zip(&exact).enumerate() {
                close(&format!("{which} of {len} after {case:?} on {isa}"), got, exact, AFTER_STEPS);
            }
        }
    }
}

/// Also where `eps` is zero, or so small that a float does not hold it.
#[test]
fn padding_stays_zero() {
    for isa in Isa::available() {
        for (case, eps) in
            cases().into_iter().flat_map(|case| [None, Some(0.0), Some(1e-60)].map(|eps| (case, eps)))
        {
            let case = match (case, eps) {
                (Case::Adam(step), Some(eps)) => Case::Adam(AdamStep { eps, ..step }),
                (Case::AdamW(step), Some(eps)) => Case::AdamW(AdamStep { eps, ..step }),
                _ => case,
            };
            let zeros: Values<f32> = std::array::from_fn(|_| vec![0.0; 16]);
            let mut values = zeros.clone();
            for number in 1..=3 {
                case.step(isa, number, &mut values, &[0.0; 16]);
            }
            assert_eq!(values, zeros, "{case:?} on {isa}");
        }
        let mut zeros = [0.0; 16];
        average(isa, 0.9, &[0.0; 16], &mut zeros);
        assert_eq!(zeros, [0.0; 16], "{isa}");
    }
}

/// As in PyTorch, where a schedule may take the momentum away for some steps.
#[test]
fn a_step_without_momentum_leaves_the_buffer() {
    let step = SgdStep { lr: 0.1, momentum: 0.0, weight_decay: 0.1, nesterov: false };
    for isa in Isa::available() {
        let (mut parameters, mut buffer) = (vec![1.0; 32], uniform(3, 32));
        let before = buffer.clone();
        sgd(isa, step, &mut parameters, &[0.5; 32], &mut buffer);
        assert_eq!(buffer, before);
        close("parameters", &parameters, &[0.94; 32], FEW_ROUNDINGS);
    }
}

#[test]
fn an_average_moves_by_its_share() {
    for isa in Isa::available() {
        for (decay, len) in
            [0.0, 0.3, 0.5, 0.9, 0.999].into_iter().flat_map(|decay| LENGTHS.map(|len| (decay, len)))
        {
            let (values, mut target) = (uniform(1, len), uniform(2, len));
            let pairs = target.iter().zip(&values).map(|(a, v)| (f64::from(*a), f64::from(*v)));
            let expected: Vec<f64> = pairs.map(|(a, v)| decay * a + (1.0 - decay) * v).collect();
            average(isa, decay, &values, &mut target);
            close(&format!("{len} by {decay} on {isa}"), &target, &expected, FEW_ROUNDINGS);
            if decay == 0.0 {
                assert_eq!(target, values);
            }
        }
    }
}

#[test]
fn a_norm_is_that_of_f64_and_the_same_everywhere() {
    for len in LENGTHS.into_iter().chain([1, 17, 100_003]) {
        let values = uniform(5, len);
        let expected = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let norms: Vec<f64> = Isa::available().into_iter().map(|isa| l2_norm(isa, &values)).collect();
        assert!(norms.iter().all(|norm| *norm == norms[0]), "{len}: {norms:?}");
        assert!((norms[0] - expected).abs() <= 1e-13 * expected, "{len}: {} is not {expected}", norms[0]);
    }
    for isa in Isa::available() {
        // Squares that no f32 holds.
        assert!((l2_norm(isa, &[3e30, 4e30]) / 5e30 - 1.0).abs() < FEW_ROUNDINGS);
        assert_eq!(l2_norm(isa, &[1.0, f32::NEG_INFINITY]), f64::INFINITY);
        assert!(l2_norm(isa, &[f32::NAN; 20]).is_nan());
    }
}

#[test]
fn every_value_is_scaled() {
    for isa in Isa::available() {
        for len in LENGTHS {
            let mut values = uniform(6, len);
            let expected: Vec<f32> = values.iter().map(|x| x * 0.3).collect();
            scale_all(isa, 0.3, &mut values);
            assert_eq!(values, expected, "{len} on {isa}");
        }
    }
}

#[test]
fn threads_change_no_bit() {
    // Several runs and a short one.
    let len = 5 * (1 << 14) + 48;
    let all = || {
        let isa = Isa::detect();
        let mut values: Vec<Vec<f32>> = cases().into_iter().flat_map(|case| case.trained(isa, len)).collect();
        let mut averaged = uniform(8, len);
        average(isa, 0.9, &values[0], &mut averaged);
        scale_all(isa, 0.7, &mut averaged);
        values.push(averaged);
        (l2_norm(isa, &values[0]), values)
    };
    let with =
        |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(all);
    let one = with(1);
    for threads in [2, 3, 5] {
        assert!(with(threads) == one, "{threads}");
    }
}
