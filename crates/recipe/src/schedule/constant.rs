use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The optimizer's own learning rate, at every step.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConstantLr {}
