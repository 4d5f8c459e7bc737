//! Reading a [`Value`] as a type, exactly: a map is a structure, a name is a variant of an
//! enumeration, and nothing else is.
//!
//! rmp-serde is more generous: it takes the number of a variant for its name and an array for a
//! structure, because it also reads a form without names. In parameters that would be a second way
//! to say things, which no schema shows and which changes its meaning when a variant is added.
//!
//! Allocates nothing of its own but keys that are asked for as texts. Its depth is that of the
//! value, which the scan has bounded.

use rmpv::Value;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};

/// What is wrong, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(String);

impl de::Error for Wrong {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// A value to be read.
#[derive(Clone, Copy, Debug)]
pub struct Strict<'de>(pub &'de Value);

/// What a value is, for an error.
fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Nil => Unexpected::Unit,
        Value::Boolean(it) => Unexpected::Bool(*it),
        Value::Integer(it) => match (it.as_u64(), it.as_i64()) {
            (Some(it), _) => Unexpected::Unsigned(it),
            (None, it) => Unexpected::Signed(it.unwrap_or(i64::MIN)),
        },
        Value::F32(it) => Unexpected::Float(f64::from(*it)),
        Value::F64(it) => Unexpected::Float(*it),
        // Not its text: that is the caller's, and may be long.
        Value::String(_) => Unexpected::Other("text"),
        Value::Binary(_) => Unexpected::Other("binary data"),
        Value::Array(_) => Unexpected::Other("list"),
        Value::Map(_) => Unexpected::Other("map"),
        Value::Ext(..) => Unexpected::Other("extension type"),
    }
}

impl<'de> Deserializer<'de> for Strict<'de> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::Nil => visitor.visit_unit(),
            Value::Boolean(it) => visitor.visit_bool(*it),
            Value::Integer(it) => match (it.as_u64(), it.as_i64()) {
                (Some(it), _) => visitor.visit_u64(it),
                (None, Some(it)) => visitor.visit_i64(it),
                (None, None) => Err(Wrong::custom("a whole number out of range")),
            },
            Value::F32(it) => visitor.visit_f32(*it),
            Value::F64(it) => visitor.visit_f64(*it),
            Value::String(it) => match it.as_str() {
                Some(it) => visitor.visit_borrowed_str(it),
                None => Err(Wrong::custom("a text that is not UTF-8")),
            },
            Value::Binary(it) => visitor.visit_borrowed_bytes(it),
            Value::Array(items) => {
                let mut items = Items(items.iter());
                let made = visitor.visit_seq(&mut items)?;
                match items.0.len() {
                    0 => Ok(made),
                    left => Err(Wrong::custom(format!("{left} items too many in a list"))),
                }
            }
            Value::Map(entries) => visitor.visit_map(Entries {
                left: entries.iter(),
                value: None,
            }),
            Value::Ext(..) => Err(Wrong::custom(
                "extension types are not part of the protocol",
            )),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::Nil => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::Map(_) => self.deserialize_any(visitor),
            other => Err(Wrong::invalid_type(unexpected(other), &"a map")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::String(name) => {
                let name = name.as_str().unwrap_or_default();
                visitor.visit_enum(StrDeserializer::<Wrong>::new(name))
            }
            Value::Map(entries) => match entries.as_slice() {
                [(Value::String(name), content)] => {
                    let name = name.as_str().unwrap_or_default();
                    visitor.visit_enum(Variant { name, content })
                }
                _ => Err(Wrong::custom(
                    "a map of one entry, the name of a variant, is wanted",
                )),
            },
            other => {
                let wanted = format!("one of `{}`", variants.join("`, `"));
                Err(Wrong::invalid_type(unexpected(other), &wanted.as_str()))
            }
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'de>(std::slice::Iter<'de, Value>);

impl<'de> SeqAccess<'de> for &mut Items<'de> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Wrong> {
        let next = self.0.next();
        next.map(|item| seed.deserialize(Strict(item))).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Entries<'de> {
    left: std::slice::Iter<'de, (Value, Value)>,
    value: Option<&'de Value>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Wrong> {
        let Some((key, value)) = self.left.next() else {
            return Ok(None);
        };
        self.value = Some(value);
        seed.deserialize(Strict(key)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Wrong> {
        // serde asks for a value only after its key.
        seed.deserialize(Strict(self.value.take().unwrap_or(&Value::Nil)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left.len())
    }
}

struct Variant<'de> {
    name: &'de str,
    content: &'de Value,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Wrong;
    type Variant = Strict<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self::Variant), Wrong> {
        let name: StrDeserializer<'de, Wrong> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, Strict(self.content)))
    }
}

impl<'de> VariantAccess<'de> for Strict<'de> {
    type Error = Wrong;

    fn unit_variant(self) -> Result<(), Wrong> {
        match self.0 {
            Value::Nil => Ok(()),
            other => Err(Wrong::invalid_type(unexpected(other), &"nothing")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Wrong> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.deserialize_struct("", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::message::typed;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Plain {
        One,
        Two,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Rich {
        Nothing,
        Number(u8),
        Pair(u8, u8),
        Record { a: u8 },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Record {
        plain: Plain,
        rich: Vec<Rich>,
        some: Option<i64>,
        map: BTreeMap<String, f64>,
        pair: (u8, String),
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        any: Value,
    }

    fn value(of: &impl Serialize) -> Value {
        let bytes = rmp_serde::to_vec_named(of).unwrap();
        rmpv::decode::read_value(&mut bytes.as_slice()).unwrap()
    }

    #[test]
    fn what_was_written_by_name_is_read_as_it_was() {
        let record = Record {
            plain: Plain::Two,
            rich: vec![
                Rich::Nothing,
                Rich::Number(3),
                Rich::Pair(1, 2),
                Rich::Record { a: 9 },
            ],
            some: Some(-5),
            map: [("x".to_string(), 0.5)].into(),
            pair: (1, "b".into()),
            bytes: vec![0, 255],
            any: Value::Array(vec![Value::Nil, Value::from(u64::MAX)]),
        };
        assert_eq!(typed::<Record>(&value(&record)), Ok(record));
        // A whole number is a number.
        assert_eq!(typed::<f64>(&Value::from(3)), Ok(3.0));
    }

    #[test]
    fn the_number_of_a_variant_and_a_list_of_fields_are_not_taken() {
        let wrong = typed::<Plain>(&Value::from(1)).unwrap_err();
        assert!(wrong.contains("`one`, `two`"), "{wrong}");
        let list = Value::Array(vec![Value::from(1)]);
        #[derive(Debug, Deserialize)]
        struct One {
            #[expect(dead_code, reason = "it is not read")]
            a: u8,
        }
        let wrong = typed::<One>(&list).unwrap_err();
        assert!(wrong.contains("expected a map"), "{wrong}");
        let more = Value::Array(vec![Value::from(1), Value::from("b"), Value::Nil]);
        assert!(typed::<(u8, String)>(&more).is_err());
    }
}
