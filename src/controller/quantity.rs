//! Sizes, speeds and percentages as people read them in a status.

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
