use serde::{Deserialize, Serialize};

/// One figure of several runs.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Sample {
    /// One a run, in the order of the seeds.
    pub values: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, with n - 1 in the denominator; `None` for a single value.
    pub deviation: Option<f64>,
}

impl Sample {
    /// `None` if there are no values or one is not finite.
    pub(crate) fn new(values: Vec<f64>) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        Some(Self { values, mean, deviation })
    }
}

/// Where the standard deviation behind an interval comes from.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SpreadSource {
    /// Our own runs' seeds.
    Seeds,
    /// The scatter of the published curve's last epochs about a straight line: there are too few seeds.
    PublishedCurve,
}

/// A published figure against the prediction interval of our runs.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Our mean minus the published figure.
    pub difference: f64,
    /// Standard deviation of one run.
    pub spread: f64,
    /// Where `spread` comes from.
    pub spread_from: SpreadSource,
    /// Degrees of freedom of `spread`.
    pub degrees_of_freedom: u32,
    /// Lower end of the 95 % interval for one further run.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Whether the published figure lies in the interval, its rounding allowed for.
    pub within: bool,
}

/// Fewer seeds than these say too little about their spread: two values have one degree of freedom and t = 12.7.
pub(crate) const SEEDS_FOR_SPREAD: usize = 3;

/// How many last epochs of the published curve stand for its scatter: the first ones are not straight.
pub(crate) const CURVE_TAIL: usize = 6;

impl Comparison {
    /// Judges `published`, rounded to `rounding` either side, by `ours`. `curve` is the published figure epoch by epoch.
    ///
    /// `None` if the spread can be had from neither.
    pub(crate) fn new(ours: &Sample, published: f64, rounding: f64, curve: &[f64]) -> Option<Self> {
        let n = ours.values.len();
        let (spread, spread_from, degrees_of_freedom) = match ours.deviation {
            Some(deviation) if n >= SEEDS_FOR_SPREAD => (deviation, SpreadSource::Seeds, n as u32 - 1),
            _ => {
                let tail = &curve[curve.len().checked_sub(CURVE_TAIL)?..];
                (scatter(tail)?, SpreadSource::PublishedCurve, CURVE_TAIL as u32 - 2)
            }
        };
        let half = t_975(degrees_of_freedom) * spread * (1.0 + 1.0 / n as f64).sqrt();
        let difference = ours.mean - published;
        Some(Self {
            difference,
            spread,
            spread_from,
            degrees_of_freedom,
            low: ours.mean - half,
            high: ours.mean + half,
            within: difference.abs() <= half + rounding,
        })
    }
}

/// Standard deviation of the residuals of the least-squares line through equally spaced values, n - 2 in the denominator.
/// `None` with fewer than three values.
pub(crate) fn scatter(values: &[f64]) -> Option<f64> {
    if values.len() < 3 {
        return None;
    }
    let n = values.len() as f64;
    let (x_mean, y_mean) = ((n - 1.0) / 2.0, values.iter().sum::<f64>() / n);
    let offsets = || values.iter().enumerate().map(|(x, y)| (x as f64 - x_mean, y - y_mean));
    let slope = offsets().map(|(x, y)| x * y).sum::<f64>() / offsets().map(|(x, _)| x * x).sum::<f64>();
    let squares: f64 = offsets().map(|(x, y)| (y - slope * x).powi(2)).sum();
    Some((squares / (n - 2.0)).sqrt())
}

/// The 97.5 % quantile of Student's t distribution with `degrees` of freedom, from 1; to 3 decimals.
pub(crate) fn t_975(degrees: u32) -> f64 {
    // Any table of Student's distribution, for example NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2.
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
        2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
        2.045, 2.042,
    ];
    match TABLE.get((degrees as usize).saturating_sub(1)) {
        Some(&t) => t,
        None => {
            // Cornish-Fisher expansion about the normal quantile (Abramowitz and Stegun 26.7.5).
            let (z, v) = (1.959_964_f64, f64::from(degrees));
            z + (z.powi(3) + z) / (4.0 * v) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * v * v)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of arithmetic on numbers of size 1 to 100, and of the printed figures below.
    const CLOSE: f64 = 1e-9;

    #[test]
    fn a_sample_has_mean_and_deviation() {
        let sample = Sample::new(vec![2.0, 4.0, 9.0]).unwrap();
        assert!((sample.mean - 5.0).abs() < CLOSE);
        assert!((sample.deviation.unwrap() - 13.0_f64.sqrt()).abs() < CLOSE);
        assert_eq!(Sample::new(vec![3.0]).unwrap().deviation, None);
        assert_eq!(Sample::new(vec![]), None);
        assert_eq!(Sample::new(vec![1.0, f64::NAN]), None);
    }

    #[test]
    fn a_line_has_no_scatter_and_a_known_zigzag_has_its_own() {
        assert!(scatter(&[1.0, 3.0, 5.0, 7.0]).unwrap() < CLOSE);
        // Residuals +-1 orthogonal to constant and slope: squares 4, degrees of freedom 2.
        let zigzag = scatter(&[1.0, -1.0, -1.0, 1.0]).unwrap();
        assert!((zigzag - 2.0_f64.sqrt()).abs() < CLOSE);
        // A line added changes nothing.
        let tilted = scatter(&[1.0, 1.0, 3.0, 7.0]).unwrap();
        assert!((tilted - 2.0_f64.sqrt()).abs() < CLOSE);
        assert_eq!(scatter(&[1.0, 2.0]), None);
    }

    #[test]
    fn quantiles_go_on_smoothly_beyond_the_table() {
        assert_eq!(t_975(2), 4.303);
        for (degrees, t) in [(31, 2.0395), (40, 2.0211), (60, 2.0003), (120, 1.9799), (1_000_000, 1.96)] {
            assert!((t_975(degrees) - t).abs() < 1e-4, "{degrees}: {}", t_975(degrees));
        }
    }

    #[test]
    fn three_seeds_speak_for_themselves() {
        let ours = Sample::new(vec![9.0, 10.0, 11.0]).unwrap();
        let curve = [0.0; 10];
        let half = 4.303 * (4.0_f64 / 3.0).sqrt();
        for (published, within) in
            [(10.0 + half - 0.01, true), (10.0 + half + 0.01, false), (10.0 - half - 0.01, false)]
        {
            let found = Comparison::new(&ours, published, 0.0, &curve).unwrap();
            assert_eq!(
                (found.within, found.spread_from, found.degrees_of_freedom),
                (within, SpreadSource::Seeds, 2)
            );
            assert!((found.high - 10.0 - half).abs() < CLOSE && (10.0 - half - found.low).abs() < CLOSE);
            assert!((found.difference - (10.0 - published)).abs() < CLOSE);
        }
    }

    #[test]
    fn fewer_seeds_borrow_the_scatter_of_the_published_curve() {
        // Only the last six count: a line with a known zigzag.
        let curve = [0.0, 50.0, 0.0, 50.0, 1.0, -1.0, 0.0, 0.0, -1.0, 1.0];
        let s = scatter(&curve[4..]).unwrap();
        for values in [vec![10.0], vec![9.9, 10.1]] {
            let n = values.len() as f64;
            let ours = Sample::new(values).unwrap();
            let found = Comparison::new(&ours, 10.0, 0.0, &curve).unwrap();
            assert_eq!((found.spread_from, found.degrees_of_freedom), (SpreadSource::PublishedCurve, 4));
            assert!((found.high - 10.0 - 2.776 * s * (1.0 + 1.0 / n).sqrt()).abs() < CLOSE);
        }
        assert_eq!(Comparison::new(&Sample::new(vec![1.0]).unwrap(), 1.0, 0.0, &curve[..5]), None);
    }

    #[test]
    fn identical_runs_allow_for_the_rounding_of_the_published_figure() {
        let ours = Sample::new(vec![0.641_36; 3]).unwrap();
        assert!(Comparison::new(&ours, 0.6414, 0.000_05, &[]).unwrap().within);
        assert!(!Comparison::new(&ours, 0.6415, 0.000_05, &[]).unwrap().within);
    }
}
