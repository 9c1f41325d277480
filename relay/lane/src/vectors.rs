//! The golden vectors of tests/vectors, for the tests of this crate. Must never live here: expectations.

use serde_json::Value;

/// Parse one vector file, given with `include_str!`.
pub fn load(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The bytes that a JSON string spells in hex.
pub fn hex(value: &Value) -> Vec<u8> {
    unhex(value.as_str().unwrap())
}

/// The bytes of a hex text; blanks in it do not count.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|char| char.to_digit(16)).collect();
    digits
        .chunks_exact(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
        .collect()
}

/// The members of a JSON array.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}
