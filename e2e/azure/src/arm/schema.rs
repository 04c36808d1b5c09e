//! Strict bodies: unknown properties, wrong types and missing ones are refused as Azure's providers refuse them.

use serde_json::Value;

use super::error::ArmError;

/// What a value has to be.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// A string.
    Text,
    /// One of these strings.
    One(&'static [&'static str]),
    /// A whole number of at most 32 bits, or of 64.
    Whole(u8),
    /// True or false.
    Flag,
    /// An object with these properties and no other.
    Object(&'static str, &'static [Field]),
    /// A list.
    List(&'static Shape),
    /// At most 50 tags: names of at most 512 characters, values of at most 256, both strings.
    Tags,
    /// What Azure answers with and ignores in requests.
    ReadOnly,
    /// What Azure has and this simulator has not.
    Beyond,
}

/// A property.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    name: &'static str,
    shape: Shape,
    required: bool,
}

/// A property that has to be there.
#[must_use]
pub const fn need(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: true }
}

/// A property that may be there.
#[must_use]
pub const fn may(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: false }
}

/// How a provider words its refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Microsoft.Compute, Microsoft.Storage, Microsoft.Authorization.
    Compute,
    /// Microsoft.Network.
    Network,
}

/// Parses a body and checks it against a shape.
///
/// # Errors
/// InvalidRequestContent for what is no JSON object, or has unknown properties at the top; the provider's codes for what is within.
pub fn parse(body: &[u8], shape: &Shape, style: Style) -> Result<Value, ArmError> {
    let content = |message: String| {
        ArmError::new(400, "InvalidRequestContent", format!("The request content was invalid and could not be deserialized: '{message}'."))
    };
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(ArmError::new(
            400,
            "InvalidRequestContent",
            "The request content is not valid: it is empty and a JSON object is expected.",
        ));
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| content(error.to_string()))?;
    if !value.is_object() {
        return Err(content("a JSON object is expected".to_owned()));
    }
    check(&value, shape, style, "")?;
    Ok(strip(value))
}

/// Without nulls: Azure takes them as absent.
fn strip(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.into_iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k, strip(v))).collect()),
        Value::Array(list) => Value::Array(list.into_iter().map(strip).collect()),
        other => other,
    }
}

fn wrong(style: Style, path: &str, message: String) -> ArmError {
    if !path.contains('.') && message.starts_with("Could not find member") {
        let message = format!("The request content was invalid and could not be deserialized: '{message}'.");
        return ArmError::new(400, "InvalidRequestContent", message);
    }
    match style {
        Style::Compute => ArmError::new(400, "BadRequest", message).target(path),
        Style::Network => {
            let mut error = ArmError::new(400, "InvalidRequestFormat", "Cannot parse the request.");
            error.details.push(serde_json::json!({ "code": "InvalidJson", "message": message, "target": path }));
            error
        }
    }
}

fn check(value: &Value, shape: &Shape, style: Style, path: &str) -> Result<(), ArmError> {
    let converting = |kind: &str| Err(wrong(style, path, format!("Error converting value {value} to type '{kind}'. Path '{path}'.")));
    match shape {
        Shape::ReadOnly => Ok(()),
        Shape::Beyond => Err(ArmError::unsupported(path)),
        Shape::Text if !value.is_string() => converting("System.String"),
        Shape::Flag if !value.is_boolean() => converting("System.Boolean"),
        Shape::Text | Shape::Flag => Ok(()),
        Shape::One(known) => match value.as_str() {
            Some(text) if known.contains(&text) => Ok(()),
            _ => converting(&format!("enum of {}", known.join(", "))),
        },
        Shape::Whole(bits) => match value.as_i64() {
            Some(number) if *bits == 64 || i32::try_from(number).is_ok() => Ok(()),
            _ => converting(if *bits == 64 { "System.Int64" } else { "System.Int32" }),
        },
        Shape::List(item) => {
            let Some(items) = value.as_array() else { return converting("a list") };
            items.iter().enumerate().try_for_each(|(at, value)| check(value, item, style, &format!("{path}[{at}]")))
        }
        Shape::Tags => tags(value, style, path),
        Shape::Object(name, fields) => {
            let Some(map) = value.as_object() else { return converting(name) };
            let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            for (key, value) in map {
                let Some(field) = fields.iter().find(|field| field.name == key) else {
                    let at = below(key);
                    return Err(wrong(style, &at, format!("Could not find member '{key}' on object of type '{name}'. Path '{at}'.")));
                };
                if !value.is_null() {
                    check(value, &field.shape, style, &below(key))?;
                }
            }
            for field in fields.iter().filter(|field| field.required) {
                if map.get(field.name).is_none_or(Value::is_null) {
                    let at = below(field.name);
                    if at == "location" {
                        return Err(ArmError::new(400, "LocationRequired", "The location property is required for this definition."));
                    }
                    return Err(ArmError::invalid(&at, format!("Required parameter '{at}' is missing (null).")));
                }
            }
            Ok(())
        }
    }
}

/// Limits of tags: learn.microsoft.com, "Use tags to organize your Azure resources".
fn tags(value: &Value, style: Style, path: &str) -> Result<(), ArmError> {
    let Some(map) = value.as_object() else {
        return Err(wrong(style, path, "Error converting tags: an object is expected.".to_owned()));
    };
    if map.len() > 50 {
        return Err(ArmError::new(400, "InvalidTags", format!("The resource has {} tags; at most 50 are allowed.", map.len())));
    }
    for (name, value) in map {
        let Some(text) = value.as_str() else {
            return Err(ArmError::new(400, "InvalidRequestContent", format!("The value of tag '{name}' has to be a string.")));
        };
        if name.len() > 512 {
            return Err(ArmError::new(400, "InvalidTagNameLength", "Tag names may have at most 512 characters."));
        }
        if name.is_empty() || name.contains(['<', '>', '%', '&', '\\', '?', '/']) {
            let message = format!("The tag name '{name}' contains the following invalid characters: <,>,%,&,\\,?,/ or control characters.");
            return Err(ArmError::new(400, "InvalidTagNameCharacters", message));
        }
        if text.len() > 256 {
            let message = format!("Tag value too large. Following tag value '{text}' exceeded the maximum length: '256'.");
            return Err(ArmError::new(400, "InvalidTagValueLength", message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape::Object(
        "Thing",
        &[
            need("location", Shape::Text),
            may("tags", Shape::Tags),
            may(
                "properties",
                Shape::Object("Inner", &[may("size", Shape::Whole(32)), may("kind", Shape::One(&["A", "B"])), may("x", Shape::Beyond)]),
            ),
        ],
    );

    fn code(body: &str) -> String {
        parse(body.as_bytes(), &SHAPE, Style::Compute).map_or_else(|error| error.code.clone(), |_| "fine".to_owned())
    }

    #[test]
    fn strangers_wrong_types_and_gaps_are_refused() {
        assert_eq!(code(r#"{"location":"x","properties":{"size":1,"kind":"A"},"tags":{"a":"b"}}"#), "fine");
        assert_eq!(code(r#"{"location":"x","properties":{"size":null}}"#), "fine");
        assert_eq!(code(""), "InvalidRequestContent");
        assert_eq!(code("[]"), "InvalidRequestContent");
        assert_eq!(code(r#"{"location":"x","other":1}"#), "InvalidRequestContent");
        assert_eq!(code(r#"{"location":"x","properties":{"other":1}}"#), "BadRequest");
        assert_eq!(code(r#"{"location":"x","properties":{"size":"1"}}"#), "BadRequest");
        assert_eq!(code(r#"{"location":"x","properties":{"size":4294967296}}"#), "BadRequest");
        assert_eq!(code(r#"{"location":"x","properties":{"kind":"a"}}"#), "BadRequest");
        assert_eq!(code(r#"{"location":"x","properties":{"x":1}}"#), "NotSupportedBySimulator");
        assert_eq!(code(r#"{"properties":{}}"#), "LocationRequired");
        assert_eq!(code(r#"{"location":"x","tags":{"a":1}}"#), "InvalidRequestContent");
        assert_eq!(code(r#"{"location":"x","tags":{"a/b":"1"}}"#), "InvalidTagNameCharacters");
    }
}
