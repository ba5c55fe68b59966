//! JSON as Go reads it, and so as clients of Docker write it: a field's name counts in any case.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::{de::DeserializeOwned, forward_to_deserialize_any};
use serde_json::{Error, Map, Value};

/// The text as the type that is expected.
///
/// # Errors
/// When it is not JSON, or something else.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, Error> {
    T::deserialize(Loose(serde_json::from_slice(text)?))
}

struct Loose(Value);

/// The object with the names that are expected; a name as it is expected goes before one in another case.
fn renamed(object: Map<String, Value>, fields: &[&str]) -> Map<String, Value> {
    let mut named = Map::new();
    for (key, value) in object {
        let exact = fields.contains(&key.as_str());
        let field = fields.iter().find(|field| field.eq_ignore_ascii_case(&key));
        let name = field.filter(|_| !exact).map_or(key, |field| (*field).to_owned());
        if exact || !named.contains_key(&name) {
            named.insert(name, value);
        }
    }
    named
}

impl<'de> Deserializer<'de> for Loose {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(list) => {
                visitor.visit_seq(SeqDeserializer::new(list.into_iter().map(Loose)))
            }
            Value::Object(map) => {
                let pairs = map.into_iter().map(|(key, value)| (key, Loose(value)));
                visitor.visit_map(MapDeserializer::new(pairs))
            }
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(map) => Loose(renamed(map, fields).into()).deserialize_any(visitor),
            _ => Err(Error::custom(format!("expected an object ({name})"))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

impl IntoDeserializer<'_, Error> for Loose {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use bollard_stubs::models::{ContainerCreateBody, ExecConfig, RestartPolicyNameEnum};

    use super::*;

    #[test]
    fn names_count_in_any_case() {
        let exec: ExecConfig =
            from_slice(br#"{"detachKeys":"ctrl-a","CMD":["x"],"Cmd":["y"],"tty":true}"#).unwrap();
        assert_eq!(exec.detach_keys.as_deref(), Some("ctrl-a"));
        assert_eq!((exec.cmd.unwrap(), exec.tty), (vec!["y".to_owned()], Some(true)));
    }

    #[test]
    fn what_is_inside_is_read_the_same_way() {
        let text = br#"{"image":"a","labels":{"KEEP":"Case"},"exposedports":{"80/tcp":{}},
            "hostconfig":{"memory":5,"restartpolicy":{"name":"always"},"binds":null,"portbindings":{"80/tcp":[{"hostport":"1"}]}}}"#;
        let body: ContainerCreateBody = from_slice(text).unwrap();
        let host = body.host_config.unwrap();
        assert_eq!(body.labels.unwrap()["KEEP"], "Case");
        assert_eq!(body.exposed_ports.unwrap(), ["80/tcp"]);
        assert_eq!((host.memory, host.binds), (Some(5), None));
        assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::ALWAYS));
        let port = &host.port_bindings.unwrap()["80/tcp"];
        assert_eq!(port.as_ref().unwrap()[0].host_port.as_deref(), Some("1"));
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        for text in ["", "[]", "{\"Tty\":\"yes\"}", "{\"Cmd\":{}}", "3"] {
            assert!(from_slice::<ExecConfig>(text.as_bytes()).is_err(), "{text}");
        }
    }
}
