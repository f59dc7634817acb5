//! [`Quantity`]: an amount as Kubernetes writes it: `5Gi`, `1.5G`, `100m`, `2e3`.

use std::cmp::Ordering;

/// An amount, exact to a billionth, which is the finest that Kubernetes keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    nanos: i128,
}

const NANOS: i128 = 1_000_000_000;

/// More than that many of one, and nobody means it: Kubernetes keeps no larger ones either.
const LARGEST: i128 = (i64::MAX as i128) * NANOS;

impl Quantity {
    /// Reads an amount; `None` for what is none.
    ///
    /// What is finer than a billionth is rounded up, and what is larger than 2⁶³−1 is that, as Kubernetes has it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (sign, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let scale = Scale::parse(suffix)?;
        Some(Self { nanos: sign * scale.apply(whole, fraction) })
    }

    /// As whole bytes, rounded up; `None` for less than nothing.
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        let rounded = self.nanos / NANOS + i128::from(self.nanos % NANOS > 0);
        u64::try_from(rounded).ok().filter(|_| self.nanos >= 0)
    }
}

impl From<u64> for Quantity {
    fn from(bytes: u64) -> Self {
        Self { nanos: (i128::from(bytes) * NANOS).min(LARGEST) }
    }
}

/// What a suffix multiplies with.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// A power of two: `Ki` and its like.
    shift: u32,
    /// A power of ten: `k`, `m` and exponents.
    tens: i32,
}

impl Scale {
    fn parse(suffix: &str) -> Option<Self> {
        let tens = |tens| Self { shift: 0, tens };
        let shift = |shift| Self { shift, tens: 0 };
        Some(match suffix {
            "" => tens(0),
            "n" => tens(-9),
            "u" => tens(-6),
            "m" => tens(-3),
            "k" => tens(3),
            "M" => tens(6),
            "G" => tens(9),
            "T" => tens(12),
            "P" => tens(15),
            "E" => tens(18),
            "Ki" => shift(10),
            "Mi" => shift(20),
            "Gi" => shift(30),
            "Ti" => shift(40),
            "Pi" => shift(50),
            "Ei" => shift(60),
            _ => {
                let exponent = suffix.strip_prefix(['e', 'E'])?;
                let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
                if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
                // One that does not even fit is as good as the largest.
                tens(exponent.parse().unwrap_or(if exponent.starts_with('-') { -99 } else { 99 }))
            }
        })
    }

    /// The scaled number in billionths: digits before and behind the point, either of which may be empty.
    fn apply(self, whole: &str, fraction: &str) -> i128 {
        // 0.5Ki is 512: the fraction is scaled before it is rounded.
        let digits = whole.trim_start_matches('0').len();
        if digits > 28 {
            return LARGEST;
        }
        let fraction = fraction.trim_end_matches('0');
        let kept = &fraction[..fraction.len().min(28 - digits.min(28))];
        let is_cut = kept.len() < fraction.len();
        let mantissa: i128 = format!("{whole}{kept}").parse().unwrap_or_default();
        let behind = i32::try_from(kept.len()).unwrap_or(i32::MAX);
        let tens = 9 + self.tens.clamp(-60, 60) - behind;
        let scaled = match tens.cmp(&0) {
            Ordering::Less => {
                let divisor = 10_i128.checked_pow(tens.unsigned_abs());
                let shifted = mantissa.checked_mul(1 << self.shift);
                match (shifted, divisor) {
                    (Some(shifted), Some(divisor)) => {
                        shifted / divisor + i128::from(shifted % divisor > 0 || is_cut)
                    }
                    // Too small to be told from nothing, but more than that.
                    (Some(shifted), None) => i128::from(shifted > 0),
                    (None, _) => LARGEST,
                }
            }
            _ => 10_i128
                .checked_pow(tens.unsigned_abs())
                .and_then(|factor| mantissa.checked_mul(factor)?.checked_mul(1 << self.shift))
                .map_or(if mantissa == 0 { 0 } else { LARGEST }, |scaled| scaled + i128::from(is_cut)),
        };
        scaled.min(LARGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(text: &str) -> Option<u64> {
        Quantity::parse(text)?.bytes()
    }

    #[test]
    fn amounts_are_what_kubernetes_takes_them_for() {
        for (text, expected) in [
            ("0", Some(0)),
            ("5Gi", Some(5 << 30)),
            ("1.5Gi", Some(3 << 29)),
            (".5Ki", Some(512)),
            ("5.", Some(5)),
            ("10G", Some(10_000_000_000)),
            ("2e3", Some(2000)),
            ("2E+3", Some(2000)),
            ("2E", Some(2_000_000_000_000_000_000)),
            ("1e-1", Some(1)),
            ("100m", Some(1)),
            ("1n", Some(1)),
            ("0.00000000001", Some(1)),
            ("1e-99999999999", Some(1)),
            ("0e99999999999", Some(0)),
            ("1000Ei", Some(i64::MAX as u64)),
            ("99999999999999999999999999999999999999999", Some(i64::MAX as u64)),
            ("+7", Some(7)),
            ("-7", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_none() {
        for text in ["", "Gi", ".", "5 Gi", "5gi", "5GiB", "1.2.3", "1e", "1e+", "--1", "5K", "0x10", "٣"] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    #[test]
    fn amounts_are_compared_by_what_they_are() {
        let of = |text| Quantity::parse(text).unwrap();
        assert_eq!(of("1Gi"), of("1024Mi"));
        assert_eq!(of("1.0"), of("1000m"));
        assert!(of("1G") < of("1Gi"));
        assert!(of("-1") < of("0"));
        assert!(of("1e-99") > of("0"));
    }

    proptest! {
        #[test]
        fn whatever_is_read_nothing_breaks(text in "[-+]?[0-9.]{0,40}([numkMGTPE]i?|[eE][-+]?[0-9]{0,12})?") {
            let _ = Quantity::parse(&text);
        }

        #[test]
        fn whole_bytes_stay_what_they_are(amount in 0..=i64::MAX as u64) {
            prop_assert_eq!(bytes(&amount.to_string()), Some(amount));
            prop_assert_eq!(Quantity::parse(&amount.to_string()), Some(Quantity::from(amount)));
        }
    }
}
