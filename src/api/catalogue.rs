//! The loaded models by name and version.

use std::sync::Arc;

use crate::domain::{ModelId, ModelInfo, ModelKey, ModelRef};
use crate::error::{Error, Result};

/// Models that are listed for a client that named none of them; `ListModels` has the rest.
const MAX_TOLD: usize = 16;

/// The models that a server has loaded. A model's place in it is its [`ModelKey`].
#[derive(Debug, Clone)]
pub struct Catalogue {
    models: Arc<[ModelInfo]>,
    default: ModelKey,
}

impl Catalogue {
    /// A catalogue whose requests without a name go to `default`; to the first model by name, where `default` names
    /// none either.
    ///
    /// # Errors
    /// [`Error::NotFound`] when `default` names none of the models.
    pub fn new(models: Arc<[ModelInfo]>, default: &ModelRef) -> Result<Self> {
        let first = models.iter().map(|model| &model.id.name).min();
        let name = default.name.as_ref().or(first).cloned();
        let default = find(&models, &ModelRef { name, version: default.version })?;
        Ok(Self { models, default })
    }

    /// The models, by key.
    pub fn models(&self) -> &Arc<[ModelInfo]> {
        &self.models
    }

    /// The model that answers requests without a name.
    pub fn default_model(&self) -> ModelKey {
        self.default
    }

    /// The model that `reference` names.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it names none.
    pub fn resolve(&self, reference: &ModelRef) -> Result<ModelKey> {
        if *reference == ModelRef::default() { Ok(self.default) } else { find(&self.models, reference) }
    }

    /// The model with this key.
    pub fn info(&self, key: ModelKey) -> &ModelInfo {
        &self.models[key.0]
    }

    /// Every key: the default model first, then by name and version.
    pub fn keys(&self) -> Vec<ModelKey> {
        let mut keys: Vec<ModelKey> = (0..self.models.len()).map(ModelKey).collect();
        keys.sort_by_key(|key| (*key != self.default, &self.models[key.0].id));
        keys
    }
}

/// The latest version that fits the reference.
fn find(models: &[ModelInfo], reference: &ModelRef) -> Result<ModelKey> {
    let fits = |id: &ModelId| {
        reference.name.as_ref().is_none_or(|name| *name == id.name)
            && reference.version.is_none_or(|version| version == id.version)
    };
    let candidates = models.iter().enumerate().filter(|(_, model)| fits(&model.id));
    let latest = candidates.max_by_key(|(_, model)| model.id.version);
    latest.map(|(index, _)| ModelKey(index)).ok_or_else(|| not_found(models, reference))
}

fn not_found(models: &[ModelInfo], reference: &ModelRef) -> Error {
    let name = reference.name.as_deref().unwrap_or_default();
    let version = reference.version.map(|v| format!("@{v}")).unwrap_or_default();
    let told: Vec<String> = models.iter().take(MAX_TOLD).map(|model| model.id.to_string()).collect();
    let more = models.len() - told.len();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    Error::NotFound(format!("model '{name}{version}' is not loaded; loaded are: {}{rest}", told.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::validate::tests::model;

    fn catalogue() -> Catalogue {
        let models = [("b", 1), ("a", 2), ("b", 3)].map(|(name, version)| {
            let id = ModelId { name: name.into(), version };
            ModelInfo { id, ..model() }
        });
        Catalogue::new(Arc::new(models), &"b".parse().unwrap()).unwrap()
    }

    #[test]
    fn names_resolve_to_the_latest_version() {
        let catalogue = catalogue();
        for (text, want) in [("", 2), ("b", 2), ("b@1", 0), ("a", 1)] {
            assert_eq!(catalogue.resolve(&text.parse().unwrap()).unwrap(), ModelKey(want), "{text}");
        }
    }

    #[test]
    fn without_a_default_the_first_name_is_it() {
        let catalogue = Catalogue::new(Arc::clone(catalogue().models()), &ModelRef::default()).unwrap();
        assert_eq!(catalogue.default_model(), ModelKey(1));
        assert!(Catalogue::new(Arc::new([]), &ModelRef::default()).is_err());
    }

    #[test]
    fn unknown_names_say_what_is_loaded() {
        let error = catalogue().resolve(&"b@2".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "model 'b@2' is not loaded; loaded are: b@1, a@2, b@3");
    }

    #[test]
    fn of_many_models_some_are_told() {
        let version = |version| ModelInfo { id: ModelId { name: "b".into(), version }, ..model() };
        let catalogue = Catalogue::new((1..=100).map(version).collect(), &ModelRef::default()).unwrap();
        let error = catalogue.resolve(&"a".parse().unwrap()).unwrap_err().to_string();
        assert!(error.ends_with("b@15, b@16 and 84 more"), "{error}");
    }

    #[test]
    fn the_default_model_comes_first() {
        assert_eq!(catalogue().keys(), [ModelKey(2), ModelKey(1), ModelKey(0)]);
    }
}
