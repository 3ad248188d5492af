//! The settings in force, each with where it came from.

use config::{Value, ValueKind};

use super::layers::Layers;

impl Layers {
    /// As a TOML file that would give the same configuration.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut open = "";
        for key in self.keys() {
            let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
            if section != open {
                let gap = if text.is_empty() { "" } else { "\n" };
                text += &format!("{gap}[{section}]\n");
                open = section;
            }
            text += &format!("{name} = {}  # {}\n", literal(&self.value(key)), self.origin(key));
        }
        text
    }

    /// As a JSON object by key.
    pub fn to_json(&self) -> serde_json::Value {
        let entry = |key: &str| serde_json::json!({ "value": json(&self.value(key)), "source": self.origin(key) });
        self.keys().map(|key| (key.to_owned(), entry(key))).collect::<serde_json::Map<_, _>>().into()
    }
}

/// A value as TOML spells it.
pub(super) fn literal(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => toml::Value::String(text.clone()).to_string(),
        ValueKind::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

fn json(value: &Value) -> serde_json::Value {
    match &value.kind {
        ValueKind::Array(items) => items.iter().map(json).collect(),
        ValueKind::I64(number) => (*number).into(),
        ValueKind::Boolean(truth) => (*truth).into(),
        _ => value.clone().into_string().unwrap_or_default().into(),
    }
}
