//! [`Shape`]: a well-known type, by the name that `std::any::type_name` gives it, and what serde makes of it.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
    ser::{Error as _, SerializeMap, SerializeSeq, SerializeTuple},
};
use serde_json::Value;

/// Deeper names than any that somebody uses are not parsed.
const MAX_DEPTH: usize = 16;

/// How a well-known type is laid out.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    Unit,
    Bool,
    U8,
    U16,
    U32,
    U64,
    U128,
    I8,
    I16,
    I32,
    I64,
    I128,
    F32,
    F64,
    Char,
    Text,
    Option(Box<Shape>),
    /// Any number of the same.
    Seq(Box<Shape>),
    /// So many of the same.
    Array(Box<Shape>, usize),
    /// One after another.
    Tuple(Vec<Shape>),
    Map(Box<(Shape, Shape)>),
}

impl Shape {
    /// The shape of the type with this name; `None` where it is not among the well-known.
    pub fn parse(name: &str) -> Option<Shape> {
        parse(name.trim(), MAX_DEPTH)
    }

    /// What is written as it is, where all others are written as JSON.
    pub fn is_one_text(&self) -> bool {
        use Shape::{Char, F32, F64, I128, Text, U128};
        matches!(self, Char | F32 | F64 | I128 | Text | U128)
    }
}

fn parse(name: &str, depth: usize) -> Option<Shape> {
    let depth = depth.checked_sub(1)?;
    let one = |inner: &str| parse(inner.trim(), depth);
    if let Some(inner) = name.strip_prefix('&') {
        return one(inner);
    }
    if let Some(inner) = between(name, '(', ')') {
        let parts = split(inner)?;
        return match parts.is_empty() {
            true => Some(Shape::Unit),
            false => Some(Shape::Tuple(
                parts.into_iter().map(one).collect::<Option<_>>()?,
            )),
        };
    }
    if let Some(inner) = between(name, '[', ']') {
        let Some((of, len)) = inner.rsplit_once(';') else {
            return Some(Shape::Seq(many(one(inner)?)?));
        };
        return Some(Shape::Array(many(one(of)?)?, len.trim().parse().ok()?));
    }
    let (path, arguments) = match name.split_once('<') {
        None => (name, Vec::new()),
        Some((path, rest)) => (path, split(rest.strip_suffix('>')?)?),
    };
    // The last part of the path: where the standard library keeps a type is its own business.
    let (module, last) = path.rsplit_once("::").unwrap_or(("", path));
    let standard = ["alloc", "core", "std"].contains(&module.split("::").next()?);
    match (standard, last, &arguments[..]) {
        (true, "String", []) => Some(Shape::Text),
        (true, "Option", [of]) => match one(of)? {
            // Nothing, and something that is shown as nothing too, could not be told apart.
            Shape::Option(_) | Shape::Unit => None,
            of => Some(Shape::Option(Box::new(of))),
        },
        (true, "Box" | "Arc" | "Rc", [of, ..]) => one(of),
        (true, "Vec" | "VecDeque" | "BTreeSet" | "HashSet", [of, ..]) => {
            Some(Shape::Seq(many(one(of)?)?))
        }
        (true, "BTreeMap" | "HashMap", [key, value, ..]) => {
            Some(Shape::Map(Box::new((*many(one(key)?)?, one(value)?))))
        }
        (false, _, []) if module.is_empty() => primitive(last),
        _ => None,
    }
}

/// What there may be any number of. Not of what takes no bytes: a few bytes could say that there are more than anybody can count.
fn many(shape: Shape) -> Option<Box<Shape>> {
    fn takes_none(shape: &Shape) -> bool {
        match shape {
            Shape::Unit | Shape::Array(_, 0) => true,
            Shape::Tuple(parts) => parts.iter().all(takes_none),
            _ => false,
        }
    }
    (!takes_none(&shape)).then(|| Box::new(shape))
}

fn primitive(name: &str) -> Option<Shape> {
    Some(match name {
        "bool" => Shape::Bool,
        "u8" => Shape::U8,
        "u16" => Shape::U16,
        "u32" => Shape::U32,
        "u64" | "usize" => Shape::U64,
        "u128" => Shape::U128,
        "i8" => Shape::I8,
        "i16" => Shape::I16,
        "i32" => Shape::I32,
        "i64" | "isize" => Shape::I64,
        "i128" => Shape::I128,
        "f32" => Shape::F32,
        "f64" => Shape::F64,
        "char" => Shape::Char,
        "str" => Shape::Text,
        _ => return None,
    })
}

fn between(name: &str, open: char, close: char) -> Option<&str> {
    name.strip_prefix(open)?.strip_suffix(close)
}

/// The parts between commas that stand in no brackets. The comma after the last one may be there.
fn split(list: &str) -> Option<Vec<&str>> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0usize, 0);
    for (at, c) in list.char_indices() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                parts.push(list[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    let last = list[from..].trim();
    if !last.is_empty() {
        parts.push(last);
    }
    Some(parts)
}

/// A number of JSON, or its name where JSON has none.
fn float(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
}

/// Reads a value of this shape.
impl<'de> DeserializeSeed<'de> for &Shape {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        match self {
            Shape::Unit => <()>::deserialize(d).map(|()| Value::Null),
            Shape::Bool => bool::deserialize(d).map(Value::from),
            Shape::U8 => u8::deserialize(d).map(Value::from),
            Shape::U16 => u16::deserialize(d).map(Value::from),
            Shape::U32 => u32::deserialize(d).map(Value::from),
            Shape::U64 => u64::deserialize(d).map(Value::from),
            Shape::U128 => u128::deserialize(d).map(|n| n.to_string().into()),
            Shape::I8 => i8::deserialize(d).map(Value::from),
            Shape::I16 => i16::deserialize(d).map(Value::from),
            Shape::I32 => i32::deserialize(d).map(Value::from),
            Shape::I64 => i64::deserialize(d).map(Value::from),
            Shape::I128 => i128::deserialize(d).map(|n| n.to_string().into()),
            // By its shortest text, or 0.1 would be shown as 0.10000000149011612.
            Shape::F32 => f32::deserialize(d).map(|n| match n.to_string().parse() {
                Ok(same) => float(same),
                Err(_) => n.to_string().into(),
            }),
            Shape::F64 => f64::deserialize(d).map(float),
            Shape::Char => char::deserialize(d).map(|c| c.to_string().into()),
            Shape::Text => String::deserialize(d).map(Value::from),
            Shape::Option(_) => d.deserialize_option(Parts(self)),
            Shape::Seq(_) => d.deserialize_seq(Parts(self)),
            Shape::Array(_, len) => d.deserialize_tuple(*len, Parts(self)),
            Shape::Tuple(parts) => d.deserialize_tuple(parts.len(), Parts(self)),
            Shape::Map(_) => d.deserialize_map(Parts(self)),
        }
    }
}

/// Takes apart what is made of several.
struct Parts<'a>(&'a Shape);

impl<'de> Visitor<'de> for Parts<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        match self.0 {
            Shape::Option(of) => of.deserialize(d),
            other => other.deserialize(d),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        match self.0 {
            Shape::Seq(of) | Shape::Array(of, _) => {
                while let Some(value) = access.next_element_seed(&**of)? {
                    values.push(value);
                }
            }
            Shape::Tuple(parts) => {
                for part in parts {
                    let value = access.next_element_seed(part)?;
                    values.push(value.ok_or_else(|| A::Error::custom("it ends early"))?);
                }
            }
            _ => return Err(A::Error::custom("it is no list")),
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let Shape::Map(of) = self.0 else {
            return Err(A::Error::custom("it is no map"));
        };
        let mut entries = Vec::new();
        // Pairs: the keys of JSON's objects are texts.
        while let Some((key, value)) = access.next_entry_seed(&of.0, &of.1)? {
            entries.push(Value::from(vec![key, value]));
        }
        Ok(entries.into())
    }
}

/// A value that is to be written in this shape.
pub struct Shaped<'a>(pub &'a Shape, pub &'a Value);

impl Serialize for Shaped<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let Shaped(shape, value) = *self;
        let none = || S::Error::custom("it is of another type");
        let unsigned = value.as_u64().ok_or_else(none);
        let signed = value.as_i64().ok_or_else(none);
        let text = value.as_str().ok_or_else(none);
        let float = || match value {
            Value::String(text) => text.parse().map_err(|_| none()),
            value => value.as_f64().ok_or_else(none),
        };
        match shape {
            Shape::Unit => match value {
                Value::Null => s.serialize_unit(),
                _ => Err(none()),
            },
            Shape::Bool => s.serialize_bool(value.as_bool().ok_or_else(none)?),
            Shape::U8 => s.serialize_u8(unsigned?.try_into().map_err(|_| none())?),
            Shape::U16 => s.serialize_u16(unsigned?.try_into().map_err(|_| none())?),
            Shape::U32 => s.serialize_u32(unsigned?.try_into().map_err(|_| none())?),
            Shape::U64 => s.serialize_u64(unsigned?),
            Shape::U128 => s.serialize_u128(text?.parse().map_err(|_| none())?),
            Shape::I8 => s.serialize_i8(signed?.try_into().map_err(|_| none())?),
            Shape::I16 => s.serialize_i16(signed?.try_into().map_err(|_| none())?),
            Shape::I32 => s.serialize_i32(signed?.try_into().map_err(|_| none())?),
            Shape::I64 => s.serialize_i64(signed?),
            Shape::I128 => s.serialize_i128(text?.parse().map_err(|_| none())?),
            Shape::F32 => s.serialize_f32(float()? as f32),
            Shape::F64 => s.serialize_f64(float()?),
            Shape::Char => {
                let mut chars = text?.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) => s.serialize_char(c),
                    _ => Err(none()),
                }
            }
            Shape::Text => s.serialize_str(text?),
            Shape::Option(of) => match value {
                Value::Null => s.serialize_none(),
                value => s.serialize_some(&Shaped(of, value)),
            },
            Shape::Seq(of) => {
                let values = value.as_array().ok_or_else(none)?;
                let mut seq = s.serialize_seq(Some(values.len()))?;
                for value in values {
                    seq.serialize_element(&Shaped(of, value))?;
                }
                seq.end()
            }
            Shape::Array(of, len) => {
                let values = value.as_array().filter(|v| v.len() == *len);
                let mut tuple = s.serialize_tuple(*len)?;
                for value in values.ok_or_else(none)? {
                    tuple.serialize_element(&Shaped(of, value))?;
                }
                tuple.end()
            }
            Shape::Tuple(parts) => {
                let values = value.as_array().filter(|v| v.len() == parts.len());
                let mut tuple = s.serialize_tuple(parts.len())?;
                for (part, value) in parts.iter().zip(values.ok_or_else(none)?) {
                    tuple.serialize_element(&Shaped(part, value))?;
                }
                tuple.end()
            }
            Shape::Map(of) => {
                let values = value.as_array().ok_or_else(none)?;
                let mut map = s.serialize_map(Some(values.len()))?;
                for entry in values {
                    let pair = entry.as_array().map(Vec::as_slice);
                    let Some([key, value]) = pair else {
                        return Err(none());
                    };
                    map.serialize_entry(&Shaped(&of.0, key), &Shaped(&of.1, value))?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let text = || Box::new(Shape::Text);
        for (name, shape) in [
            ("&str", Some(Shape::Text)),
            ("()", Some(Shape::Unit)),
            ("(u8,)", Some(Shape::Tuple(vec![Shape::U8]))),
            ("[bool; 2]", Some(Shape::Array(Box::new(Shape::Bool), 2))),
            (
                "alloc::vec::Vec<alloc::string::String>",
                Some(Shape::Seq(text())),
            ),
            (
                "std::collections::hash::map::HashMap<alloc::string::String, (u8, [u16; 1])>",
                Some(Shape::Map(Box::new((
                    Shape::Text,
                    Shape::Tuple(vec![Shape::U8, Shape::Array(Box::new(Shape::U16), 1)]),
                )))),
            ),
            ("app::String", None),
            ("app::u8", None),
            ("alloc::vec::Vec<app::Order>", None),
            ("alloc::vec::Vec<u8", None),
            ("(u8", None),
            ("", None),
            ("alloc::vec::Vec<((), [u8; 0])>", None),
            ("core::option::Option<core::option::Option<u8>>", None),
            (
                "core::option::Option<alloc::boxed::Box<core::option::Option<u8>>>",
                None,
            ),
            ("core::option::Option<()>", None),
        ] {
            assert_eq!(Shape::parse(name), shape, "{name}");
        }
        let deep = format!("{}u8{}", "(".repeat(100_000), ")".repeat(100_000));
        assert_eq!(Shape::parse(&deep), None);
    }
}
