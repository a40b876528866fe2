//! What is chosen by name in addition to a recipe.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_recipe::{DataKind, DeviceName, EngineKind, Precision, RecipeError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::{Debug, Display};

/// Shown, written and read as this name.
fn is_called<T: Display + Debug + PartialEq + Serialize + DeserializeOwned>(value: T, name: &str) {
    assert_eq!(value.to_string(), name);
    assert_eq!(serde_json::to_value(&value).unwrap(), json!(name));
    assert_eq!(serde_json::from_value::<T>(json!(name)).unwrap(), value);
    assert!(serde_json::from_value::<T>(json!(format!("{name} "))).is_err());
}

#[test]
fn names() {
    for kind in EngineKind::ALL {
        is_called(kind, kind.name());
        assert_eq!(kind.name().parse(), Ok(kind));
    }
    for precision in Precision::ALL {
        is_called(precision, precision.name());
        assert_eq!(precision.name().parse(), Ok(precision));
    }
    for kind in DataKind::ALL {
        is_called(kind, kind.name());
    }
    for (device, name) in
        [(DeviceName::Cpu, "cpu"), (DeviceName::Cuda(0), "cuda:0"), (DeviceName::Cuda(12), "cuda:12")]
    {
        is_called(device, name);
        assert_eq!(name.parse(), Ok(device));
    }
}

#[test]
fn unknown_names() {
    let told = |found: Result<Value, RecipeError>, expected: &str| {
        assert_eq!(found.unwrap_err().to_string(), expected);
    };
    told(
        "gpu".parse::<EngineKind>().map(|_| Value::Null),
        "there is no engine `gpu`; give one of reference, cpu, cuda",
    );
    told(
        "f16".parse::<Precision>().map(|_| Value::Null),
        "there is no precision `f16`; give one of f32, tf32, bf16",
    );
    for (device, shown) in [
        ("gpu", "gpu"),
        ("cuda", "cuda"),
        ("cuda:", "cuda:"),
        ("cuda:-1", "cuda:-1"),
        ("cuda:99999999999999999999", "cuda:99999999999999999999"),
        ("a\nb", "a\\nb"),
    ] {
        let expected = format!("there is no device `{shown}`; give one of cpu, cuda:N");
        told(device.parse::<DeviceName>().map(|_| Value::Null), &expected);
    }
    let long = "x".repeat(1000).parse::<DeviceName>().unwrap_err().to_string();
    assert!(long.len() < 200, "{long}");
}
