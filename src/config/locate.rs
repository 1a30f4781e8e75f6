//! Where each key and value of the file stands. Holds no values: what a value is, `mirror.rs` says.
//!
//! It runs first and is also the guard: nesting, aliases and tabs that would cost the second reader seconds or mislead it are refused
//! here, in milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{
    DefaultMessageFormatter, DuplicateKeyPolicy, Error, Location, MergeKeyPolicy, MessageFormatter, NonFiniteFloatPolicy, Spanned,
};

use super::problem::Place;

/// Where everything stands, by key path.
#[derive(Debug, Default)]
pub(super) struct Places {
    keys: BTreeMap<String, Place>,
    values: BTreeMap<String, Place>,
    /// Keys that were written again: the path, the place of the later one, and of the first.
    pub(super) repeated: Vec<(String, Place, Place)>,
}

impl Places {
    /// The place of a key's name.
    pub(super) fn key(&self, path: &str) -> Option<Place> {
        self.keys.get(path).copied()
    }

    /// The place of a key's value, or of an item of a list.
    pub(super) fn value(&self, path: &str) -> Option<Place> {
        self.values.get(path).copied()
    }

    fn walk(&mut self, path: &str, node: &Node) {
        self.values.insert(path.to_owned(), node.place);
        match &node.shape {
            Shape::Single => {}
            Shape::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.walk(&item_path(path, index), item);
                }
            }
            Shape::Map(entries) => {
                let mut seen = BTreeSet::new();
                for (key, place, value) in entries {
                    let path = key_path(path, key);
                    if seen.insert(key) {
                        self.keys.insert(path.clone(), *place);
                        self.walk(&path, value);
                    } else if let Some(first) = self.key(&path) {
                        self.repeated.push((path, *place, first));
                    }
                }
            }
        }
    }
}

/// The path of a key within a section. A key that no setting could have is quoted, so that no two paths are the same and nothing
/// in it can forge a line of the log.
pub(super) fn key_path(section: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let key = if plain { key.to_owned() } else { format!("{key:?}") };
    if section.is_empty() { key } else { format!("{section}.{key}") }
}

/// The path of an item of a list, counted from 0.
pub(super) fn item_path(list: &str, index: usize) -> String {
    format!("{list}[{index}]")
}

/// Finds the place of every key and value; `None` if the file holds nothing but comments.
///
/// # Errors
/// The first thing that is not YAML as it is taken here, and where.
pub(super) fn places(text: &str) -> Result<Option<Places>, (Option<Place>, String)> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_aliases: 0,
            max_anchors: 0,
        },
        // our own walk reports all of them
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // `<<` is an unknown key like any other
        merge_keys: MergeKeyPolicy::AsOrdinary,
        reject_unsupported_tags: true,
        // a value out of range is reported with its bound
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        // a snippet would print the neighbouring lines
        with_snippet: false,
    };
    let Some(root) = serde_saphyr::from_str_with_options::<Option<Node>>(text, options).map_err(describe)? else { return Ok(None) };
    let mut places = Places::default();
    places.walk("", &root);
    Ok(Some(places))
}

fn describe(error: Error) -> (Option<Place>, String) {
    let place = error.location().filter(|&location| location != Location::UNKNOWN).map(place);
    let budget = if let Error::Budget { breach, .. } = &error { Some(breach) } else { None };
    if matches!(error, Error::UnknownAnchor { .. }) || matches!(budget, Some(BudgetBreach::Aliases { .. } | BudgetBreach::Anchors { .. })) {
        return (place, "anchors (&) and aliases (*) are not taken here: write the value out, or in quotes".to_owned());
    }
    if matches!(budget, Some(BudgetBreach::Depth { .. })) {
        return (place, format!("nested deeper than {DEPTH_MAX}"));
    }
    if matches!(budget, Some(BudgetBreach::Nodes { .. })) {
        return (place, format!("holds more than {NODES_MAX} keys and values"));
    }
    if matches!(error, Error::MultipleDocuments { .. }) {
        return (place, "a second YAML document: the file is to hold one".to_owned());
    }
    (place, format!("not valid YAML: {}", DefaultMessageFormatter.format_message(&error)))
}

fn place(location: Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

/// A value with its place.
struct Node {
    place: Place,
    shape: Shape,
}

/// What there is to find a place in.
enum Shape {
    Single,
    List(Vec<Node>),
    Map(Vec<(String, Place, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Shape>::deserialize(deserializer)?;
        Ok(Self { place: place(spanned.referenced), shape: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a map")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Single)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Single)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Single)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Single)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Single)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Single)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Shape, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Shape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Shape, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = access.next_entry::<Spanned<String>, Node>()? {
            entries.push((key.value, place(key.referenced), value));
        }
        Ok(Shape::Map(entries))
    }
}

/// Twice what gate.yaml needs, and far below what costs either reader a moment.
const DEPTH_MAX: usize = 12;

/// Keys and values: twice what the longest lists that are taken come to.
const NODES_MAX: usize = 50_000;
