//! The JSON Schema of a description.

use pointwise_network::{Layer, Network};
use serde_json::{Value, json};

/// Every class and composition is there, with its arguments and no others; those without a default are required.
#[test]
fn the_schema_has_every_kind() {
    let schema = Network::json_schema();
    assert_eq!(schema["required"], json!(["name", "input", "layers"]));
    assert_eq!(schema["additionalProperties"], json!(false));
    let alternatives = schema["$defs"]["Entry"]["anyOf"].as_array().unwrap();
    let (bare, tables) = alternatives.split_first().unwrap();
    let kinds: Vec<&str> = tables.iter().map(|table| table["required"][0].as_str().unwrap()).collect();
    let compositions = ["Sequential", "Sum", "Concat", "Multiply"];
    assert_eq!(kinds, [Layer::CLASSES, &compositions].concat());

    let required = |kind: &str| match kind {
        "Conv2d" => json!(["out_channels", "kernel_size"]),
        "Linear" => json!(["out_features"]),
        "MaxPool2d" | "AvgPool2d" => json!(["kernel_size"]),
        "Scale" => json!(["factor"]),
        "Subsample" => json!(["stride"]),
        _ => Value::Null,
    };
    for (kind, table) in kinds.iter().zip(tables) {
        assert_eq!(table["additionalProperties"], json!(false), "{kind}");
        let properties = table["properties"].as_object().unwrap();
        assert!(properties.contains_key("name") && properties.contains_key("repeat"), "{kind}");
        let arguments = &properties[*kind];
        if Layer::CLASSES.contains(kind) {
            assert_eq!(arguments["additionalProperties"], json!(false), "{kind}");
            assert_eq!(arguments.get("required").unwrap_or(&Value::Null), &required(kind), "{kind}");
            let alone = bare["enum"].as_array().unwrap().contains(&json!(kind));
            assert_eq!(alone, required(kind).is_null(), "{kind}");
            // Exactly the names that the schema allows alone can be read alone.
            let text = format!("name = \"a\"\ninput = [2, 4, 4]\nlayers = [\"{kind}\", \"Flatten\"]\n");
            assert_eq!(Network::from_toml(&text).is_ok(), alone, "{kind}");
        } else {
            assert_eq!(arguments["type"], json!("array"), "{kind}");
            let branches = if *kind == "Sequential" { Value::Null } else { json!(2) };
            assert_eq!(arguments.get("minItems").unwrap_or(&Value::Null), &branches, "{kind}");
        }
    }
    for rule in ["zeros", "constant", "kaiming_normal", "xavier_uniform"] {
        assert!(schema["$defs"]["Rule"].to_string().contains(rule), "{rule}");
    }
}
