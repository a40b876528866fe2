//! Numbers for display.

pub use pointwise_runs::duration;

/// Groups of three digits: `6,979,146`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A fraction in percent with two decimals, as the notebook prints accuracies: `78.58`.
pub(crate) fn percent(fraction: f64) -> String {
    decimals(fraction * 100.0, 2)
}

/// Points of accuracy, with one decimal, or two below 1: `11.6 points`, `0.15 points`.
pub(crate) fn points(number: f64) -> String {
    let places = if number.abs() < 1.0 { 2 } else { 1 };
    decimals(number, places) + " points"
}

/// With a sign, `0.00` without: `+0.12`.
pub(crate) fn signed(number: f64, places: usize) -> String {
    let text = decimals(number, places);
    if text.starts_with('-') || text.bytes().all(|byte| matches!(byte, b'0' | b'.')) {
        text
    } else {
        format!("+{text}")
    }
}

/// A fixed number of decimals, no negative zero, `-` for what is not a number.
pub(crate) fn decimals(number: f64, places: usize) -> String {
    if !number.is_finite() {
        return "-".into();
    }
    let text = format!("{number:.places$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.bytes().all(|byte| matches!(byte, b'0' | b'.')) => rest.into(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (50_000, "50,000"), (6_979_146, "6,979,146")]
        {
            assert_eq!(thousands(number), text);
        }
        assert_eq!(percent(0.7858), "78.58");
        assert_eq!(decimals(f64::NAN, 2), "-");
        assert_eq!([0.148, 1.0, 11.58].map(points), ["0.15 points", "1.0 points", "11.6 points"]);
        assert_eq!([signed(0.123, 2), signed(-0.126, 2), signed(-0.001, 2)], ["+0.12", "-0.13", "0.00"]);
    }
}
