//! Ages as kubectl shows them.
//!
//! The precision falls with the age, as in apimachinery's `HumanDuration`: a column stays narrow, and two rows of
//! one minute and one of ten days are both readable.

use jiff::Timestamp;

/// An age as kubectl shows it (`5s`, `3m10s`, `4d2h`) of a timestamp in RFC 3339: `<unknown>` when there is none,
/// `<invalid>` when it is no timestamp or lies in the future.
#[must_use]
pub fn age(timestamp: Option<&str>, now: Timestamp) -> String {
    match timestamp {
        None | Some("") => "<unknown>".to_owned(),
        Some(text) => match text.parse::<Timestamp>() {
            Ok(then) => human_duration(now.duration_since(then).as_secs()),
            Err(_) => "<invalid>".to_owned(),
        },
    }
}

fn human_duration(seconds: i64) -> String {
    let pair = |major: i64, major_unit: &str, minor: i64, minor_unit: &str| {
        if minor == 0 {
            format!("{major}{major_unit}")
        } else {
            format!("{major}{major_unit}{minor}{minor_unit}")
        }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let years = days / 365;
    match seconds {
        // A second of disagreement between two clocks is forgiven.
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => pair(days, "d", hours % 24, "h"),
        _ if years < 2 => format!("{days}d"),
        _ if years < 8 => pair(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_falls_with_age() {
        const HOUR: i64 = 3600;
        const DAY: i64 = 24 * HOUR;
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (190, "3m10s"),
            (600, "10m"),
            (179 * 60, "179m"),
            (3 * HOUR, "3h"),
            (7 * HOUR + 59 * 60, "7h59m"),
            (23 * HOUR, "23h"),
            (48 * HOUR, "2d"),
            (4 * DAY + 2 * HOUR, "4d2h"),
            (8 * DAY + 2 * HOUR, "8d"),
            (729 * DAY, "729d"),
            (730 * DAY, "2y"),
            (731 * DAY, "2y1d"),
            (8 * 365 * DAY, "8y"),
        ] {
            assert_eq!(human_duration(seconds), expected);
        }
    }

    #[test]
    fn missing_and_wrong_timestamps_are_told_apart() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        assert_eq!(age(Some("2026-01-01T23:59:55Z"), now), "5s");
        assert_eq!(age(None, now), "<unknown>");
        assert_eq!(age(Some(""), now), "<unknown>");
        assert_eq!(age(Some("yesterday"), now), "<invalid>");
    }
}
