//! Sizes, speeds and percentages as people read them in a status.

use crate::apimachinery::Quantity;

/// The units of sizes, each 1024 times the one before.
const UNITS: [&str; 7] = ["B", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// A size with at most one decimal: `285.9Mi`, `2.5Gi`, `10Gi`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    for next in units {
        // What would be shown as 1024 is one of the next unit.
        if (value * 10.0).round() / 10.0 < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = Some(next);
    }
    let text = format!("{value:.1}");
    format!("{}{}", text.strip_suffix(".0").unwrap_or(&text), unit.unwrap_or(&"B"))
}

/// A size that is read again as the same: `10Gi`, `1500M` is `1500000000`.
#[must_use]
pub(super) fn exact(bytes: u64) -> String {
    let mut steps = UNITS.iter().enumerate().rev();
    let fits = |power: usize| {
        bytes > 0 && bytes.trailing_zeros() >= 10 * u32::try_from(power).unwrap_or(u32::MAX / 10)
    };
    match steps.find(|(power, _)| fits(*power)) {
        Some((power, unit)) if power > 0 => format!("{}{unit}", bytes >> (10 * power)),
        _ => bytes.to_string(),
    }
}

/// Reads what [`exact`] has written, or anybody else.
#[must_use]
pub(super) fn bytes(text: &str) -> Option<u64> {
    Quantity::parse(text)?.bytes()
}

/// How far something is, from 0 to 1, in percent: `0%`, `12.3%`. Never 100%, which is for what has ended.
#[must_use]
pub(super) fn progress(fraction: f64) -> String {
    // Rounded down, since 99.99 is not yet 100, but not what is below a tenth only by the nature of binary numbers.
    let percent = ((fraction * 1000.0 + 1e-6).floor() / 10.0).clamp(0.0, 99.9);
    if percent <= 0.0 { "0%".to_owned() } else { format!("{percent:.1}%") }
}

/// Reads what [`progress`] has written; 0 for anything else.
#[must_use]
pub(super) fn fraction(progress: &str) -> f64 {
    progress.strip_suffix('%').and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0) / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_at_most_one_decimal() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1Ki"),
            (299_788_698, "285.9Mi"),
            (2_684_354_560, "2.5Gi"),
            (10 << 30, "10Gi"),
            ((1 << 20) - 1, "1Mi"),
            (u64::MAX, "16Ei"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn what_is_exact_is_read_again_as_it_was() {
        for (size, text) in [
            (0, "0"),
            (1, "1"),
            (1024, "1Ki"),
            (10 << 30, "10Gi"),
            ((10 << 30) + 1, "10737418241"),
            (1500 << 20, "1500Mi"),
            (3 << 60, "3Ei"),
        ] {
            assert_eq!(exact(size), text);
            assert_eq!(bytes(text), Some(size));
        }
    }

    #[test]
    fn progress_is_100_only_for_what_has_ended() {
        for (fraction, text) in [
            (0.0, "0%"),
            (0.0004, "0%"),
            (0.282, "28.2%"),
            (0.5, "50.0%"),
            (0.9999, "99.9%"),
            (1.0, "99.9%"),
            (7.0, "99.9%"),
        ] {
            assert_eq!(progress(fraction), text);
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        assert!((fraction(&progress(0.282)) - 0.282).abs() < 1e-9);
        assert!((fraction("100%") - 1.0).abs() < 1e-9);
        assert!(fraction("").abs() < 1e-9);
    }
}
