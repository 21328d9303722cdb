//! Quantities in JSON as Ethereum writes them (EIP-1474): `0x` and hex digits, the fewest that are needed.
//!
//! Plain numbers are read as well, because the live network's frames and heartbeats have them. Binary formats keep the
//! number. For fields: `#[serde(with = "quantity")]`, and [`option`], [`list`], [`number`].

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A quantity where no field can carry the attribute, e.g. a parameter of a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(pub u64);

impl From<u64> for Quantity {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl From<Quantity> for u64 {
    fn from(value: Quantity) -> Self {
        value.0
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, s)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        deserialize(d).map(Self)
    }
}

/// Hex in readable formats, the number in others.
///
/// # Errors
/// The serializer's.
pub fn serialize<T: Copy + Into<u64>, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
    let value: u64 = (*value).into();
    if s.is_human_readable() { s.collect_str(&Quantity(value)) } else { s.serialize_u64(value) }
}

/// Reads hex or a number.
///
/// # Errors
/// When it is neither, has leading zeros, or does not fit the type.
pub fn deserialize<'de, T: TryFrom<u64>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
    let value = if d.is_human_readable() {
        d.deserialize_any(AnyForm)?
    } else {
        <u64 as Deserialize>::deserialize(d)?
    };
    T::try_from(value).map_err(|_| de::Error::custom(format_args!("quantity {value:#x} is too large")))
}

struct AnyForm;

impl de::Visitor<'_> for AnyForm {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity: 0x and 1 to 16 hex digits without leading zeros, or a number")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        let wrong = || E::invalid_value(de::Unexpected::Str(text), &self);
        let digits = text.strip_prefix("0x").ok_or_else(wrong)?;
        let canonical = digits == "0" || !digits.starts_with('0');
        // `from_str_radix` takes a sign.
        if !canonical || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u64::from_str_radix(digits, 16).map_err(|_| wrong())
    }
}

/// A field's value, for the formats of several.
struct Field<T>(T);

impl<T: Copy + Into<u64>> Serialize for Field<&T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        serialize(self.0, s)
    }
}

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        deserialize(d).map(Self)
    }
}

/// `null`, or a quantity.
pub mod option {
    use super::{Deserialize, Deserializer, Field, Serialize, Serializer};

    /// As [`super::serialize`].
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: Copy + Into<u64>, S: Serializer>(value: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(Field).serialize(s)
    }

    /// As [`super::deserialize`].
    ///
    /// # Errors
    /// As there.
    pub fn deserialize<'de, T: TryFrom<u64>, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
        Ok(Option::<Field<T>>::deserialize(d)?.map(|field| field.0))
    }
}

/// An array of quantities.
pub mod list {
    use super::{Deserialize, Deserializer, Field, Serializer};

    /// As [`super::serialize`].
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: Copy + Into<u64>, S: Serializer>(values: &[T], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(values.iter().map(Field))
    }

    /// As [`super::deserialize`].
    ///
    /// # Errors
    /// As there.
    pub fn deserialize<'de, T: TryFrom<u64>, D: Deserializer<'de>>(d: D) -> Result<Vec<T>, D::Error> {
        Ok(Vec::<Field<T>>::deserialize(d)?.into_iter().map(|field| field.0).collect())
    }
}

/// A plain number, where the live network's JSON has one; hex is read too.
pub mod number {
    use super::Serializer;
    pub use super::deserialize;

    /// The number in every format.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: Copy + Into<u64>, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64((*value).into())
    }
}

/// A JSON object of another crate with every number in it as a quantity.
pub mod nested {
    use super::{Deserializer, Serialize, Serializer, de};
    use serde::{Deserialize, de::DeserializeOwned, ser};
    use serde_json::Value;

    /// Serialises the value with its numbers in hex.
    ///
    /// # Errors
    /// When the value cannot be serialised.
    pub fn serialize<T: Serialize, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
        let mut json = serde_json::to_value(value).map_err(ser::Error::custom)?;
        each_leaf(&mut json, &|leaf| {
            if let Some(number) = leaf.as_u64() {
                *leaf = Value::String(super::Quantity(number).to_string());
            }
        });
        json.serialize(s)
    }

    /// Reads quantities as numbers, then the value. Longer hex (hashes, addresses, amounts) is left as it is.
    ///
    /// # Errors
    /// When the value cannot be read.
    pub fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        let mut json = Value::deserialize(d)?;
        each_leaf(&mut json, &|leaf| {
            let number = leaf
                .as_str()
                .and_then(|text| de::Visitor::visit_str::<serde_json::Error>(super::AnyForm, text).ok());
            if let Some(number) = number {
                *leaf = number.into();
            }
        });
        T::deserialize(json).map_err(de::Error::custom)
    }

    fn each_leaf(json: &mut Value, change: &dyn Fn(&mut Value)) {
        match json {
            Value::Array(items) => items.iter_mut().for_each(|item| each_leaf(item, change)),
            Value::Object(members) => members.values_mut().for_each(|member| each_leaf(member, change)),
            leaf => change(leaf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::JobId,
        params::{ChainParams, tests::some_params},
    };
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        #[serde(with = "super")]
        one: u32,
        #[serde(with = "super::option")]
        perhaps: Option<u64>,
        #[serde(with = "super::list")]
        many: Vec<JobId>,
        #[serde(with = "super::number")]
        live: JobId,
        #[serde(with = "super::nested")]
        params: ChainParams,
    }

    #[test]
    fn quantities_are_hex_where_they_should_be() {
        let row = Row {
            one: 0,
            perhaps: Some(255),
            many: vec![JobId(1), JobId(16)],
            live: JobId(7),
            params: some_params(),
        };
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!(json["one"], "0x0");
        assert_eq!(json["perhaps"], "0xff");
        assert_eq!(json["many"], serde_json::json!(["0x1", "0x10"]));
        assert_eq!(json["live"], 7);
        assert_eq!(json["params"]["completionTimeout"], "0x1");
        assert_eq!(json["params"]["sortitionEnabled"], true);
        assert_eq!(serde_json::from_value::<Row>(json).unwrap(), row);
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for bad in [
            "\"0x\"",
            "\"0x01\"",
            "\"0x+1\"",
            "\"7\"",
            "\"0x10000000000000000\"",
            "-1",
            "1.5",
            "null",
            "\"0X1\"",
        ] {
            assert!(serde_json::from_str::<Quantity>(bad).is_err(), "{bad}");
        }
        let error = serde_json::from_str::<Quantity>("\"0x01\"").unwrap_err().to_string();
        assert!(error.contains("leading zeros"), "{error}");
    }

    proptest! {
        #[test]
        fn both_forms_are_read(n: u64) {
            let hex = serde_json::to_string(&Quantity(n)).unwrap();
            prop_assert_eq!(&hex, &format!("\"{n:#x}\""));
            prop_assert_eq!(serde_json::from_str::<Quantity>(&hex).unwrap(), Quantity(n));
            prop_assert_eq!(serde_json::from_str::<Quantity>(&n.to_string()).unwrap(), Quantity(n));
        }
    }
}
