/// A duration in its two largest units: `48 s`, `3 min 20 s`, `2 h 05 min`; `-` for a number that is no duration.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".into();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_two_units() {
        for (seconds, text) in [
            (0.04, "0.0 s"),
            (9.96, "10 s"),
            (59.4, "59 s"),
            (59.6, "1 min 00 s"),
            (3_599.0, "59 min 59 s"),
            (7_500.0, "2 h 05 min"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
