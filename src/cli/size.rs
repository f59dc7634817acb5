//! [`Size`]: a number of bytes as Kubernetes writes quantities.

use std::str::FromStr;

/// Bytes: `1024`, `512Mi`, `16Ti`, `10G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, suffix) = text.split_at(digits);
        let unit: u64 = match suffix {
            "" => 1,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            "k" => 1000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            _ => return Err("a size reads 1024, 512Mi, 20Gi, 2Ti or 10G".to_owned()),
        };
        let number: u64 = number.parse().map_err(|_| "a size begins with a number of bytes".to_owned())?;
        number.checked_mul(unit).map(Self).ok_or_else(|| "that is more than there can be".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_quantities() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("1Ki", 1024),
            ("20Gi", 20 << 30),
            ("2Ti", 2 << 40),
            ("10G", 10_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
        for text in ["", "Gi", "1gb", "-1", "1.5Gi", "99999999999Ti"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
