//! Keys and values of tables whose types this command was not compiled with: from bytes to text and JSON, and back.
//!
//! A snapshot records of each table the names that its types had (`alloc::string::String`, `u64`) and the ids of its codecs. What is
//! [`Postcard`](lazurite::Postcard) of a well-known type is read and written as that type; [`RawBytes`](lazurite::RawBytes) as text where it is
//! UTF-8. Everything else is shown as `hex:` and the digits of its encoded bytes, which are taken in that form for every type.

mod shape;

use serde::de::DeserializeSeed;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use shape::{Shape, Shaped};

/// What begins encoded bytes, as hexadecimal digits.
const HEX: &str = "hex:";

/// How the bytes of one part of a table's entries (its keys, say) are shown and made.
#[derive(Debug)]
pub struct Form {
    name: String,
    codec: String,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Typed(Shape),
    /// Bytes that may be text.
    Raw,
    Unknown,
}

impl Form {
    /// That of a type with this name, written by the codec with this id.
    pub fn new(type_name: &str, codec: &str) -> Self {
        let way = match codec {
            "raw" => Way::Raw,
            "postcard" => Shape::parse(type_name).map_or(Way::Unknown, Way::Typed),
            _ => Way::Unknown,
        };
        Form {
            name: type_name.to_owned(),
            codec: codec.to_owned(),
            way,
        }
    }

    /// The bytes of what a user wrote: `hex:` and digits are the encoded bytes, for every type. Else a text or a character is itself, a number
    /// or a truth value as usual, and what is made of several JSON.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is none of this type.
    pub fn encode(&self, what: &str, text: &str) -> Result<Vec<u8>> {
        if let Some(digits) = text.strip_prefix(HEX) {
            return unhex(digits).ok_or_else(|| {
                Error::Usage(format!(
                    "{what} {text:?}: {HEX} takes two hexadecimal digits a byte"
                ))
            });
        }
        let refuse = |why: String| Error::Usage(format!("{what} {text:?}: {why}"));
        let shape = match &self.way {
            Way::Raw => return Ok(text.as_bytes().to_vec()),
            Way::Typed(shape) => shape,
            Way::Unknown => {
                return Err(refuse(format!(
                    "this command does not know the type {} in codec {:?}; give the encoded bytes as {HEX} and digits",
                    self.name, self.codec
                )));
            }
        };
        let value = match shape {
            shape if shape.is_one_text() => Value::from(text),
            _ => serde_json::from_str(text)
                .map_err(|e| refuse(format!("it is no {} ({e})", self.name)))?,
        };
        postcard::to_stdvec(&Shaped(shape, &value))
            .map_err(|_| refuse(format!("it is no {}", self.name)))
    }

    /// What `bytes` are, for JSON: `{"hex": "…"}` where that cannot be told.
    pub fn json(&self, bytes: &[u8]) -> Value {
        match self.read(bytes) {
            Some(value) => value,
            None => json!({ "hex": hex(bytes) }),
        }
    }

    /// What `bytes` are, as text that [`encode`](Self::encode) takes.
    pub fn text(&self, bytes: &[u8]) -> String {
        let bare = match &self.way {
            Way::Typed(shape) => shape.is_one_text(),
            Way::Raw | Way::Unknown => true,
        };
        match self.read(bytes) {
            Some(Value::String(text)) if bare && !text.starts_with(HEX) => text,
            Some(value) if !bare || !value.is_string() => value.to_string(),
            _ => format!("{HEX}{}", hex(bytes)),
        }
    }

    fn read(&self, bytes: &[u8]) -> Option<Value> {
        match &self.way {
            Way::Raw => raw_text(bytes).map(Value::from),
            Way::Typed(shape) => {
                let mut reader = postcard::Deserializer::from_bytes(bytes);
                let value = shape.deserialize(&mut reader).ok()?;
                // What is not all of it is another type.
                reader.finalize().ok()?.is_empty().then_some(value)
            }
            Way::Unknown => None,
        }
    }
}

/// A namespace: text where it is that, else as encoded bytes.
pub fn namespace_text(bytes: &[u8]) -> String {
    raw_text(bytes).map_or_else(|| format!("{HEX}{}", hex(bytes)), str::to_owned)
}

/// The bytes as text, unless they would then be taken for others.
fn raw_text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.starts_with(HEX)).then_some(text)
}

/// A text in one line and one column: with `\\`, `\t`, `\n` and `\r` for what would break it, and `\u{1b}` for what else a terminal would
/// obey.
pub fn one_cell(text: &str) -> String {
    let mut cell = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => cell.push_str("\\\\"),
            '\t' => cell.push_str("\\t"),
            '\n' => cell.push_str("\\n"),
            '\r' => cell.push_str("\\r"),
            c if c.is_control() => cell.extend(c.escape_unicode()),
            c => cell.push(c),
        }
    }
    cell
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let bytes = (0..digits.len()).step_by(2);
    bytes
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lazurite::{Codec, Postcard};

    use super::*;

    /// `value`, as a program writes it, is shown as `text` and `json`, and `text` is taken for it.
    #[track_caller]
    fn same<T>(value: T, text: &str, json: Value)
    where
        Postcard: Codec<T>,
    {
        let form = Form::new(std::any::type_name::<T>(), "postcard");
        let mut bytes = Vec::new();
        Postcard.encode(&value, &mut bytes).unwrap();
        assert_eq!(form.json(&bytes), json);
        assert_eq!(form.text(&bytes), text);
        assert_eq!(form.encode("--key", text).unwrap(), bytes, "{text}");
        let encoded = format!("hex:{}", hex(&bytes));
        assert_eq!(form.encode("--key", &encoded).unwrap(), bytes);
        // What is cut or goes on is none.
        bytes.push(7);
        assert_eq!(form.json(&bytes), json!({ "hex": hex(&bytes) }));
        assert_eq!(form.text(&bytes), format!("hex:{}", hex(&bytes)));
    }

    #[test]
    fn well_known_types_go_there_and_back() {
        same("naïve\t1".to_string(), "naïve\t1", json!("naïve\t1"));
        same(String::new(), "", json!(""));
        same("hex:1".to_string(), "hex:056865783a31", json!("hex:1"));
        same(true, "true", json!(true));
        same(200u8, "200", json!(200));
        same(-3i8, "-3", json!(-3));
        same(300u16, "300", json!(300));
        same(-300i16, "-300", json!(-300));
        same(70_000u32, "70000", json!(70_000));
        same(-70_000i32, "-70000", json!(-70_000));
        same(u64::MAX, "18446744073709551615", json!(u64::MAX));
        same(i64::MIN, "-9223372036854775808", json!(i64::MIN));
        same(
            u128::MAX,
            &u128::MAX.to_string(),
            json!(u128::MAX.to_string()),
        );
        same(
            i128::MIN,
            &i128::MIN.to_string(),
            json!(i128::MIN.to_string()),
        );
        same(5usize, "5", json!(5));
        same(-5isize, "-5", json!(-5));
        same(1.5f32, "1.5", json!(1.5));
        same(-0.1f64, "-0.1", json!(-0.1));
        same(f64::INFINITY, "inf", json!("inf"));
        same(f32::NAN, "NaN", json!("NaN"));
        same('ß', "ß", json!("ß"));
        same((), "null", Value::Null);
    }

    #[test]
    fn what_is_made_of_them_is_json() {
        same(("a".to_string(), 7u64), r#"["a",7]"#, json!(["a", 7]));
        same(vec![1u8, 255], "[1,255]", json!([1, 255]));
        same(Some(vec!["x".to_string()]), r#"["x"]"#, json!(["x"]));
        same(Some("x".to_string()), r#""x""#, json!("x"));
        same(None::<u64>, "null", Value::Null);
        same([1u32, 2, 3], "[1,2,3]", json!([1, 2, 3]));
        let map = BTreeMap::from([("a".to_string(), (1i64, true))]);
        same(map, r#"[["a",[1,true]]]"#, json!([["a", [1, true]]]));
        same(Box::new(9u16), "9", json!(9));
    }

    #[test]
    fn what_is_not_known_is_hexadecimal_and_only_that_is_taken() {
        let own = Form::new("app::model::Order", "postcard");
        assert_eq!(own.text(&[1, 0xab]), "hex:01ab");
        assert_eq!(own.json(&[1, 0xab]), json!({ "hex": "01ab" }));
        assert_eq!(own.encode("--key", "hex:01AB").unwrap(), [1, 0xab]);
        let error = own.encode("--key", "x").unwrap_err().to_string();
        assert!(
            error.contains("app::model::Order") && error.contains("hex:"),
            "{error}"
        );
        assert!(Form::new("u64", "protobuf").encode("--key", "1").is_err());
        for bad in ["hex:1", "hex:zz", "hex:+1", "hex:é"] {
            assert_eq!(
                own.encode("--key", bad).unwrap_err().exit_code(),
                2,
                "{bad}"
            );
        }
    }

    #[test]
    fn what_is_none_of_the_type_is_refused() {
        for (name, text) in [
            ("u8", "256"),
            ("u64", "-1"),
            ("i32", "1.5"),
            ("u128", "x"),
            ("bool", "yes"),
            ("char", "ab"),
            ("f64", "x"),
            ("(u8, u8)", "[1]"),
            ("(u8, u8)", "[1,2,3]"),
            ("alloc::vec::Vec<u8>", "1"),
            ("()", "1"),
            ("core::option::Option<u8>", "true"),
        ] {
            let refused = Form::new(name, "postcard").encode("--key", text);
            assert_eq!(refused.unwrap_err().exit_code(), 2, "{name} {text}");
        }
    }

    #[test]
    fn raw_bytes_are_text_where_they_are_some() {
        let raw = Form::new("alloc::vec::Vec<u8>", "raw");
        for (bytes, text) in [
            (&b"word"[..], "word"),
            (b"\xff", "hex:ff"),
            (b"hex:", "hex:6865783a"),
        ] {
            assert_eq!(raw.text(bytes), text);
            assert_eq!(raw.encode("--key", text).unwrap(), bytes);
        }
        assert_eq!(namespace_text(b"window"), "window");
        assert_eq!(one_cell("a\tb\\\r\n"), "a\\tb\\\\\\r\\n");
        assert_eq!(
            one_cell("\u{1b}[2J\u{7f}\u{9b}ü"),
            "\\u{1b}[2J\\u{7f}\\u{9b}ü"
        );
    }
}
