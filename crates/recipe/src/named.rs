//! Values that a file gives by name alone, `"SGD"`, or with arguments, `{ SGD = { lr = 0.1 } }`.

use crate::error::shown;
use serde::de::value::MapDeserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// One of several kinds, each with a name and arguments that have defaults.
pub(crate) trait Named: Sized {
    /// The noun for all kinds, with an article: `an optimizer`.
    const WHAT: &'static str;
    /// The names.
    const NAMES: &'static [&'static str];

    /// The kind's name.
    fn name(&self) -> &'static str;

    /// Reads the arguments of the kind of that name.
    fn read<'de, D: Deserializer<'de>>(name: &str, arguments: D) -> Result<Self, D::Error>;

    /// Gives the arguments to be written.
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
}

/// Defines an enum of kinds, with serde's and schemars' traits.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $what:literal: $($variant:ident($kind:ty) = $text:literal,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $(#[doc = concat!("See [`", stringify!($kind), "`].")] $variant($kind),)*
        }

        impl $crate::named::Named for $name {
            const WHAT: &'static str = $what;
            const NAMES: &'static [&'static str] = &[$($text),*];

            fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $text,)*
                }
            }

            fn read<'de, D: serde::Deserializer<'de>>(name: &str, arguments: D) -> Result<Self, D::Error> {
                match name {
                    $($text => <$kind as serde::Deserialize>::deserialize(arguments).map(Self::$variant),)*
                    _ => Err(serde::de::Error::custom($crate::named::unknown::<Self>(name))),
                }
            }

            fn write<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Self::$variant(kind) => serde::Serialize::serialize(kind, serializer),)*
                }
            }
        }

        $(
            impl From<$kind> for $name {
                fn from(kind: $kind) -> Self {
                    Self::$variant(kind)
                }
            }
        )*

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::named::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::named::deserialize(deserializer)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let kinds = vec![$(($text, <$kind as schemars::JsonSchema>::json_schema(generator))),*];
                $crate::named::schema($what, kinds)
            }
        }
    };
}
pub(crate) use named;

/// Writes a table of one kind.
pub(crate) fn serialize<T: Named, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    struct Arguments<'a, T>(&'a T);

    impl<T: Named> Serialize for Arguments<'_, T> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.write(serializer)
        }
    }

    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(value.name(), &Arguments(value))?;
    map.end()
}

/// Reads a name, or a table of one kind.
pub(crate) fn deserialize<'de, T: Named, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(KindVisitor(PhantomData))
}

/// The message for an unknown kind, with the known ones.
pub(crate) fn unknown<T: Named>(name: &str) -> String {
    format!("`{}` is not {}; give one of {}", shown(name), T::WHAT, T::NAMES.join(", "))
}

/// The schema of a name or a table of one kind.
pub(crate) fn schema(what: &str, kinds: Vec<(&'static str, schemars::Schema)>) -> schemars::Schema {
    let is_bare = |schema: &schemars::Schema| schema.get("required").is_none();
    let bare: Vec<&str> = kinds.iter().filter(|(_, schema)| is_bare(schema)).map(|(name, _)| *name).collect();
    let tables = kinds.iter().map(|(name, schema)| {
        serde_json::json!({
            "type": "object",
            "properties": { *name: schema },
            "required": [name],
            "additionalProperties": false,
        })
    });
    let any: Vec<_> = std::iter::once(serde_json::json!({ "enum": bare })).chain(tables).collect();
    schemars::json_schema!({ "description": format!("The name of {what}, or a table of one"), "anyOf": any })
}

struct KindVisitor<T>(PhantomData<T>);

impl<'de, T: Named> Visitor<'de> for KindVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the name of {what}, or a table such as {{ {name} = {{}} }}",
            what = T::WHAT,
            name = T::NAMES[0]
        )
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<T, E> {
        if !T::NAMES.contains(&name) {
            return Err(E::custom(unknown::<T>(name)));
        }
        let none = MapDeserializer::<_, E>::new(std::iter::empty::<(&str, &str)>());
        // The only possible error is a missing argument.
        T::read(name, none).map_err(|missing| {
            let missing = missing.to_string();
            let argument = missing.split('`').nth(1).unwrap_or("...");
            E::custom(format!("{name} cannot stand alone; write {{ {name} = {{ {argument} = ... }} }}"))
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let Some(name) = map.next_key_seed(NameSeed::<T>::default())? else {
            return Err(A::Error::custom(format!(
                "an empty table is not {}; give it one of {}",
                T::WHAT,
                T::NAMES.join(", ")
            )));
        };
        let value = map.next_value_seed(ArgumentsSeed(name, PhantomData))?;
        // A second key is an error, reported at its place.
        map.next_key_seed(NameSeed::<T>(Some(name), PhantomData))?;
        Ok(value)
    }
}

/// Reads the key of a table of one kind, or a key after that kind.
struct NameSeed<T>(Option<&'static str>, PhantomData<T>);

impl<T> Default for NameSeed<T> {
    fn default() -> Self {
        Self(None, PhantomData)
    }
}

impl<'de, T: Named> DeserializeSeed<'de> for NameSeed<T> {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'static str, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T: Named> Visitor<'_> for NameSeed<T> {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name of {}", T::WHAT)
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<&'static str, E> {
        match (T::NAMES.iter().find(|name| **name == key), self.0) {
            (Some(name), None) => Ok(*name),
            (None, None) => Err(E::custom(unknown::<T>(key))),
            (Some(second), Some(first)) => {
                Err(E::custom(format!("{first} and {second} in one table; leave one of them out")))
            }
            (None, Some(first)) => Err(E::custom(format!(
                "unknown key `{key}` next to {first}; an argument goes into its table, {{ {first} = {{ {key} = ... }} }}",
                key = shown(key)
            ))),
        }
    }
}

struct ArgumentsSeed<T>(&'static str, PhantomData<T>);

impl<'de, T: Named> DeserializeSeed<'de> for ArgumentsSeed<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::read(self.0, deserializer)
    }
}
