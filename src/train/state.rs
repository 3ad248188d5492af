//! The state of a run on disk: everything that the next step depends on, in one safetensors file.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

use super::learner::Learner;
use super::recipe::Recipe;
use crate::checkpoint::atomic::write_file;
use crate::error::{Error, Result};

/// Format of the file.
const VERSION: &str = "2";
/// The lists of values that make a state.
const PARTS: [&str; 4] = ["weights", "average", "first", "second"];
/// One more, where the objective has stages.
const BEFORE: &str = "before";

/// What a state was made from.
pub(super) struct Origin<'a> {
    pub(super) recipe: &'a Recipe,
    /// The recipe, verbatim.
    pub(super) text: &'a str,
    /// Content hash of the teacher, empty without one.
    pub(super) teacher: &'a str,
}

/// Writes the state; a process killed meanwhile leaves the old one.
///
/// # Errors
/// [`Error::File`] when the disk refuses.
pub(super) fn save(path: &Path, learner: &Learner, origin: &Origin<'_>) -> Result<()> {
    let metadata = HashMap::from([
        ("version".to_owned(), VERSION.to_owned()),
        ("step".to_owned(), learner.optimiser.steps.to_string()),
        ("recipe".to_owned(), origin.text.to_owned()),
        ("teacher".to_owned(), origin.teacher.to_owned()),
        ("stage".to_owned(), learner.before.as_ref().map_or(0, |before| before.stage).to_string()),
    ]);
    let lists = [&learner.weights, &learner.average, &learner.optimiser.first, &learner.optimiser.second];
    let before = learner.before.as_ref().map(|before| (&BEFORE, &before.values));
    let mut tensors = Vec::new();
    for (part, list) in PARTS.iter().zip(lists).chain(before) {
        for ((name, shape), values) in learner.tensors().zip(list) {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            tensors.push((format!("{part}.{name}"), shape.to_vec(), bytes));
        }
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        view.map(|view| (name, view)).map_err(|e| Error::file(path, e))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let bytes = serialize(views, Some(metadata)).map_err(|e| Error::file(path, e))?;
    write_file(path, &bytes)
}

/// Restores a learner made from `origin` to the state on disk.
///
/// # Errors
/// [`Error::File`] when the file is broken or belongs to another origin; the learner is then unusable.
pub(super) fn load(path: &Path, learner: &mut Learner, origin: &Origin<'_>) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read the state to resume from", e))?;
    let broken = |problem: String| Error::file(path, format!("{problem}; it cannot be resumed from"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| broken(e.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| broken(e.to_string()))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let entry = |key: &str| metadata.get(key).ok_or_else(|| broken(format!("the state has no '{key}'")));
    if entry("version")? != VERSION {
        return Err(broken(format!("the state has version {}, not {VERSION}", entry("version")?)));
    }
    let saved: Recipe = toml::from_str(entry("recipe")?).map_err(|e| broken(e.to_string()))?;
    if !origin.recipe.continues(&saved) {
        return Err(broken(
            "the state was made by another recipe (only every and description may differ, and steps where the schedule \
             does not depend on it)"
                .into(),
        ));
    }
    if entry("teacher")? != origin.teacher {
        return Err(broken("the state was made with another teacher".into()));
    }
    let steps = entry("step")?.parse().map_err(|_| broken("the state's step is not a number".into()))?;
    let stage = entry("stage")?.parse().map_err(|_| broken("the state's stage is not a number".into()))?;
    let names: Vec<String> = learner.tensors().map(|(name, _)| name.to_owned()).collect();
    let optimiser = &mut learner.optimiser;
    optimiser.steps = steps;
    let lists = [&mut learner.weights, &mut learner.average, &mut optimiser.first, &mut optimiser.second];
    let before = learner.before.as_mut().map(|before| (&BEFORE, &mut before.values));
    for (part, list) in PARTS.iter().zip(lists).chain(before) {
        for (name, values) in names.iter().zip(list) {
            let view = file.tensor(&format!("{part}.{name}")).map_err(|e| broken(e.to_string()))?;
            let (words, rest) = view.data().as_chunks::<4>();
            if view.dtype() != Dtype::F32 || words.len() != values.len() || !rest.is_empty() {
                return Err(broken(format!("'{part}.{name}' has another size than the recipe's network")));
            }
            values.iter_mut().zip(words).for_each(|(value, word)| *value = f32::from_le_bytes(*word));
        }
    }
    if let Some(before) = &mut learner.before {
        before.stage = stage;
        before.publish()?;
    }
    learner.publish()
}
