//! Validation of a value by a JSON Schema, for the keywords that ours use.

use serde_json::Value;

/// Whether a value is valid by a schema, for the keywords that ours use.
pub(crate) fn is_valid(value: &Value, schema: &Value, root: &Value) -> bool {
    let number = |limit: &Value| limit.as_f64().unwrap();
    let schemas = |list: &'_ Value| -> Vec<Value> { list.as_array().unwrap().clone() };
    let is = |schema: &Value| is_valid(value, schema, root);
    let object = value.as_object();
    let properties = schema.get("properties").and_then(Value::as_object);
    let is_kept = |(keyword, limit): (&String, &Value)| match keyword.as_str() {
        "$schema" | "$defs" | "title" | "description" | "default" | "format" | "then" => true,
        "$ref" => is(root.pointer(limit.as_str().unwrap().strip_prefix('#').unwrap()).unwrap()),
        "const" => value == limit,
        "enum" => schemas(limit).contains(value),
        "type" => match limit {
            Value::String(name) => is_a(value, name),
            names => schemas(names).iter().any(|name| is_a(value, name.as_str().unwrap())),
        },
        "anyOf" => schemas(limit).iter().any(is),
        "oneOf" => schemas(limit).iter().filter(|schema| is(schema)).count() == 1,
        "if" => !is(limit) || is(&schema["then"]),
        "minimum" => value.as_f64().is_none_or(|value| value >= number(limit)),
        "maximum" => value.as_f64().is_none_or(|value| value <= number(limit)),
        "exclusiveMinimum" => value.as_f64().is_none_or(|value| value > number(limit)),
        "exclusiveMaximum" => value.as_f64().is_none_or(|value| value < number(limit)),
        "minItems" => value.as_array().is_none_or(|items| items.len() as f64 >= number(limit)),
        "maxItems" => value.as_array().is_none_or(|items| items.len() as f64 <= number(limit)),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| is_valid(item, limit, root))),
        "required" => object
            .is_none_or(|object| schemas(limit).iter().all(|key| object.contains_key(key.as_str().unwrap()))),
        "properties" => object.is_none_or(|object| {
            let known =
                |(key, value): (&String, &Value)| limit.get(key).is_none_or(|it| is_valid(value, it, root));
            object.iter().all(known)
        }),
        "additionalProperties" => {
            let is_known = |key: &String| properties.is_some_and(|properties| properties.contains_key(key));
            limit == true || object.is_none_or(|object| object.keys().all(is_known))
        }
        "uniqueItems" => {
            assert_eq!(limit, true);
            let twice = |items: &Vec<Value>| (1..items.len()).any(|at| items[..at].contains(&items[at]));
            value.as_array().is_none_or(|items| !twice(items))
        }
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 >= number(limit)),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 <= number(limit)),
        "pattern" => value.as_str().is_none_or(|text| matches_pattern(text, limit.as_str().unwrap())),
        other => panic!("the schema says {other}, which this test does not know"),
    };
    match schema {
        Value::Bool(all) => *all,
        _ => schema.as_object().unwrap().iter().all(is_kept),
    }
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => panic!("{other}"),
    }
}

/// The patterns that our schemas have, each implemented in another way.
fn matches_pattern(text: &str, pattern: &str) -> bool {
    let is_of =
        |text: &str, others: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match pattern {
        "^[A-Za-z0-9]([A-Za-z0-9_.+=-]{0,62}[A-Za-z0-9_+=-])?$" => {
            (1..=64).contains(&text.len())
                && is_of(text, "_.+=-")
                && text.as_bytes()[0].is_ascii_alphanumeric()
                && !text.ends_with('.')
        }
        "^[A-Za-z0-9_-]{1,64}$" => (1..=64).contains(&text.len()) && is_of(text, "_-"),
        "^[0-9]+([.][0-9]+)?$" => {
            is_digits(text) || text.split_once('.').is_some_and(|(a, b)| is_digits(a) && is_digits(b))
        }
        "^(https?://.*)?$" => text.is_empty() || text.starts_with("https://") || text.starts_with("http://"),
        other => panic!("the schema has the pattern {other}, which this test does not know"),
    }
}
