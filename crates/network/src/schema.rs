//! The JSON Schema of a description, with which editors check and complete a file.

use crate::entry::{Branch, Entry};
use crate::layer::Layer;
use crate::limits::{MAX_NAME, MAX_NETWORK_NAME, MAX_PARTS, MAX_SIZE};
use crate::network::{InitialRule, Network};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

impl Network {
    /// The JSON Schema of a description's file.
    #[must_use]
    pub fn json_schema() -> Value {
        schemars::schema_for!(Network).to_value()
    }
}

impl JsonSchema for Network {
    fn schema_name() -> Cow<'static, str> {
        "Network".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let layers = generator.subschema_for::<Vec<Entry>>();
        let initial = generator.subschema_for::<Vec<InitialRule>>();
        let side = json!({ "type": "integer", "minimum": 1, "maximum": MAX_SIZE });
        json_schema!({
            "title": "A network",
            "description": "The shape of a network's input, and its layers by PyTorch's names",
            "type": "object",
            "properties": {
                "name": {
                    "type": "string", "minLength": 1, "maxLength": MAX_NETWORK_NAME,
                    "description": "Its name on command lines and in files",
                },
                "about": { "type": "string", "description": "What it is and where it comes from" },
                "input": {
                    "description": "Shape of one image: [channels, rows, columns]",
                    "type": "array", "items": side, "minItems": 3, "maxItems": 3,
                },
                "layers": layers,
                "initial": initial,
            },
            "required": ["name", "input", "layers"],
            "additionalProperties": false,
        })
    }
}

impl JsonSchema for Entry {
    fn schema_name() -> Cow<'static, str> {
        "Entry".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let entries = generator.subschema_for::<Vec<Entry>>().to_value();
        let branch = generator.subschema_for::<Branch>().to_value();
        let branches = json!({ "type": "array", "items": branch, "minItems": 2 });
        let layers = Layer::schemas(generator);
        // A layer with a required argument cannot be given by its name alone.
        let bare: Vec<&str> = layers
            .iter()
            .filter(|(_, schema)| schema.get("required").is_none())
            .map(|(class, _)| *class)
            .collect();
        let layers = layers.into_iter().map(|(class, schema)| (class, schema.to_value()));
        let composed = ["Sum", "Concat", "Multiply"].map(|kind| (kind, branches.clone()));
        let kinds = layers.chain([("Sequential", entries)]).chain(composed);
        let tables = kinds.map(|(kind, value)| {
            let mut properties = Map::new();
            let pattern = format!("^[A-Za-z0-9_-]{{1,{MAX_NAME}}}$");
            properties.insert("name".to_owned(), json!({ "type": "string", "pattern": pattern }));
            let repeat = json!({ "type": "integer", "minimum": 1, "maximum": MAX_PARTS });
            properties.insert("repeat".to_owned(), repeat);
            properties.insert(kind.to_owned(), value);
            json!({ "type": "object", "properties": properties, "required": [kind], "additionalProperties": false })
        });
        let any: Vec<Value> = [json!({ "enum": bare })].into_iter().chain(tables).collect();
        json_schema!({ "description": "A layer, a sequence or branches", "anyOf": any })
    }
}

impl JsonSchema for Branch {
    fn schema_name() -> Cow<'static, str> {
        "Branch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let entry = generator.subschema_for::<Entry>().to_value();
        json_schema!({
            "description": "A branch: an array of layers, empty for the identity, or one layer",
            "anyOf": [{ "type": "array", "items": entry }, entry],
        })
    }
}
