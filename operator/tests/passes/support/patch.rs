//! What an apiserver makes of a patch.

use serde_json::{Map, Value};

/// A merge patch (RFC 7386).
pub fn merge(into: &mut Value, change: &Value) {
    let Some(change) = change.as_object() else {
        *into = change.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    for (name, value) in change {
        if value.is_null() {
            drop(into.as_object_mut().map(|into| into.remove(name)));
        } else {
            merge(&mut into[name], value);
        }
    }
}

/// Server-side apply, by force: what is said is so; what this manager said `before` and does not say any more goes, where no other says it. Conditions are
/// known by their type, all other lists are one value.
pub fn apply(current: Option<&Value>, before: Option<&Value>, said: &Value, others: &[&Value]) -> Value {
    let Some(said) = said.as_object() else { return said.clone() };
    let mut result = current.and_then(Value::as_object).cloned().unwrap_or_default();
    let before = before.and_then(Value::as_object);
    for (name, value) in said {
        let old = before.and_then(|before| before.get(name));
        let others: Vec<&Value> = others.iter().filter_map(|other| other.get(name)).collect();
        let next = if name == "conditions" {
            conditions(result.get(name), old, value, &others)
        } else {
            apply(result.get(name), old, value, &others)
        };
        result.insert(name.clone(), next);
    }
    for name in before.into_iter().flat_map(Map::keys).filter(|name| !said.contains_key(*name)) {
        if !others.iter().any(|other| other.get(name).is_some()) {
            result.remove(name);
        }
    }
    Value::Object(result)
}

fn conditions(current: Option<&Value>, before: Option<&Value>, said: &Value, others: &[&Value]) -> Value {
    fn find<'a>(list: &'a Value, of: &Value) -> Option<&'a Value> {
        list.as_array()?.iter().find(|one| one["type"] == of["type"])
    }
    let mut all: Vec<Value> = current.and_then(Value::as_array).cloned().unwrap_or_default();
    // What was said before by this one alone goes.
    all.retain(|one| {
        let was = before.is_some_and(|before| find(before, one).is_some());
        !was || find(said, one).is_some() || others.iter().any(|other| find(other, one).is_some())
    });
    for one in said.as_array().into_iter().flatten() {
        match all.iter_mut().find(|old| old["type"] == one["type"]) {
            Some(old) => *old = one.clone(),
            None => all.push(one.clone()),
        }
    }
    Value::Array(all)
}

/// Without what is null, which says nothing but in a merge patch.
pub fn without_nulls(value: Value, merges: bool) -> Value {
    match value {
        Value::Object(all) if !merges => Value::Object(
            all.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, without_nulls(value, merges))).collect(),
        ),
        value => value,
    }
}
