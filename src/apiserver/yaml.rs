//! YAML, which only server-side apply may come as.
//!
//! Clients mostly send JSON under that type, and nothing but JSON tells keys that are there twice, so that is tried
//! first.

use serde_json::Value;

use super::decode::{self, Decoded};

/// The error is a sentence.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, String> {
    let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if is_json && let Ok(decoded) = decode::json(bytes) {
        return Ok(decoded);
    }
    let value: Value = serde_saphyr::from_slice(bytes).map_err(|error| first_line(&error.to_string()))?;
    // The limits of JSON, on nesting first of all, hold for what came as YAML too.
    decode::json(value.to_string().as_bytes()).map_err(|error| error.to_string())
}

/// The rest is the document again.
fn first_line(error: &str) -> String {
    error.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_are_the_same() {
        let json = decode(br#" {"a":{"b":[1,"2"]}}"#).unwrap().value;
        assert_eq!(json, decode(b"a: {b: [1, '2']}").unwrap().value);
        assert_eq!(json, decode(b"{a: {b: [1, '2']}}").unwrap().value);
    }

    #[test]
    fn documents_that_grow_or_nest_without_end_are_refused() {
        let level = |n: i32| format!("a{n}: &a{n} [{}]\n", format!("*a{},", n - 1).repeat(10));
        let bomb = format!("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{}", (1..12).map(level).collect::<String>());
        assert!(decode(bomb.as_bytes()).is_err());
        assert!(decode("[".repeat(100_000).as_bytes()).is_err());
        assert!(decode(format!("a: {}1{}", "[".repeat(500), "]".repeat(500)).as_bytes()).is_err());
        assert!(decode("- ".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn an_error_does_not_repeat_the_document() {
        let error = decode(b"password: [hunter2").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
