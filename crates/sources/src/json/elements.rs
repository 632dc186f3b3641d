//! Many objects in one text, each read on its own.

use std::borrow::Cow;
use std::fmt;

use proto_events::wire;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::fields::Fields;
use super::repair::repaired;

/// Why an element is no object that can be read.
#[derive(Debug)]
pub(crate) enum Broken {
    NotAnObject,
    /// Too deep, or a number that nothing can hold.
    Malformed(String),
}

/// Reads the object, or each of the array of objects, that the text is. A broken element does not take its neighbours
/// with it, and what Python writes although it is not JSON is repaired. The error says that the text is not JSON.
pub(crate) fn each_object<T: Default>(
    text: &str,
    mut read: impl FnMut(&mut T, Result<Fields<'_>, Broken>),
) -> Result<T, String> {
    // The usual case, all well, in one pass; only a text with something bad in it is taken apart.
    if let Ok(into) = parse(text, Objects { into: T::default(), read: &mut read, array_only: false }) {
        return Ok(into);
    }
    let text = sound(text)?;
    Ok(one_by_one(&text, read))
}

/// Reads each object of the array that the text, an object, has under the key. `None` where there is no such array.
pub(crate) fn each_object_in<T: Default>(
    text: &str,
    key: &str,
    mut read: impl FnMut(&mut T, Result<Fields<'_>, Broken>),
) -> Result<Option<T>, String> {
    let member = Member { key, objects: Objects { into: T::default(), read: &mut read, array_only: true } };
    if let Ok(into) = parse(text, member) {
        return Ok(into);
    }
    let text = sound(text)?;
    let array = member_text(&text, key).filter(|array| array.starts_with('['));
    Ok(array.map(|array| one_by_one(array, read)))
}

fn parse<'de, S: DeserializeSeed<'de>>(text: &'de str, seed: S) -> Result<S::Value, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = seed.deserialize(&mut parser)?;
    parser.end().map(|()| value)
}

/// The text, repaired, when it is JSON then: of the right syntax, though perhaps too deep or with numbers too large.
fn sound(text: &str) -> Result<String, String> {
    let text = repaired(text);
    serde_json::from_str::<IgnoredAny>(&text).map_err(|error| error.to_string())?;
    Ok(text)
}

fn one_by_one<T: Default>(text: &str, mut read: impl FnMut(&mut T, Result<Fields<'_>, Broken>)) -> T {
    let mut into = T::default();
    for element in wire::elements(text.as_bytes()).unwrap_or_else(|| vec![text.as_bytes()]) {
        let fields = match serde_json::from_slice(element) {
            Ok(Element(fields)) => fields.ok_or(Broken::NotAnObject),
            Err(error) => Err(Broken::Malformed(error.to_string())),
        };
        read(&mut into, fields);
    }
    into
}

/// The text of one member of an object, which must be JSON but need not be readable.
fn member_text<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    let inside = object.trim_ascii().strip_prefix('{')?.strip_suffix('}')?;
    let list = format!("[{inside}]");
    let mut found = None;
    let mut begin = 0;
    // Only the lengths matter: the members stand in `inside` as they stand in the list, one comma apart.
    for length in wire::elements(list.as_bytes())?.into_iter().map(<[u8]>::len) {
        let (name, value) = split_member(inside.get(begin..begin + length)?)?;
        if name == key {
            found.get_or_insert(value);
        }
        begin += length + 1;
    }
    found
}

fn split_member(member: &str) -> Option<(String, &str)> {
    let mut names = serde_json::Deserializer::from_str(member).into_iter::<String>();
    let name = names.next()?.ok()?;
    Some((name, member[names.byte_offset()..].trim_ascii_start().strip_prefix(':')?.trim_ascii()))
}

/// Calls `read` for each element while it is parsed, so that not even a hostile array is held as a whole.
struct Objects<'f, T, F> {
    into: T,
    read: &'f mut F,
    array_only: bool,
}

impl<'de, T, F: FnMut(&mut T, Result<Fields<'_>, Broken>)> DeserializeSeed<'de> for Objects<'_, T, F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        if self.array_only { deserializer.deserialize_seq(self) } else { deserializer.deserialize_any(self) }
    }
}

impl<'de, T, F: FnMut(&mut T, Result<Fields<'_>, Broken>)> Visitor<'de> for Objects<'_, T, F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<T, A::Error> {
        while let Some(Element(fields)) = elements.next_element()? {
            (self.read)(&mut self.into, fields.ok_or(Broken::NotAnObject));
        }
        Ok(self.into)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<T, A::Error> {
        let fields = fields(map)?;
        (self.read)(&mut self.into, Ok(fields));
        Ok(self.into)
    }
}

/// An object of which only one member matters.
struct Member<'k, O> {
    key: &'k str,
    objects: O,
}

impl<'de, T, F: FnMut(&mut T, Result<Fields<'_>, Broken>)> DeserializeSeed<'de> for Member<'_, Objects<'_, T, F>> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T, F: FnMut(&mut T, Result<Fields<'_>, Broken>)> Visitor<'de> for Member<'_, Objects<'_, T, F>> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<T>, A::Error> {
        let mut objects = Some(self.objects);
        let mut into = None;
        while let Some(Key(key)) = map.next_key()? {
            match objects.take_if(|_| key == self.key) {
                Some(objects) => into = Some(map.next_value_seed(objects)?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(into)
    }
}

fn fields<'de, A: MapAccess<'de>>(mut map: A) -> Result<Fields<'de>, A::Error> {
    let mut fields = Vec::with_capacity(16);
    while let Some((Key(key), value)) = map.next_entry::<Key<'de>, Value>()? {
        fields.push((key, value));
    }
    Ok(Fields(fields))
}

/// A value of an array: its fields, or `None` where it is no object.
struct Element<'a>(Option<Fields<'a>>);

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Element<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Element<'de>, A::Error> {
        fields(map).map(|fields| Element(Some(fields)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Element<'de>, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Element(None))
    }

    fn visit_unit<E>(self) -> Result<Element<'de>, E> {
        Ok(Element(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Element<'de>, E> {
        Ok(Element(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Element<'de>, E> {
        Ok(Element(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Element<'de>, E> {
        Ok(Element(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Element<'de>, E> {
        Ok(Element(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Element<'de>, E> {
        Ok(Element(None))
    }
}
