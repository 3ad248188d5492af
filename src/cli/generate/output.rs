//! The files that are written.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};

use super::order::Order;
use super::row::Row;
use super::{npy, sheet};
use crate::api::proto::NULL_LABEL;
use crate::domain::ModelInfo;
use crate::error::{Error, Result};
use crate::picture::{png, to_u8};

/// The picture's file where no other is named.
const DEFAULT_PICTURE: &str = "flowmap.png";

/// Which files to write, and where.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Outputs {
    /// Save a picture of all rows [flowmap.png, if nothing else is saved].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Save the samples as a NumPy array of float32, [rows if several,] count, shape of a sample.
    #[arg(long, value_name = "FILE")]
    npy: Option<PathBuf>,
    /// Save the samples as tensors of float32, one per row, with their labels.
    #[arg(long, value_name = "FILE")]
    safetensors: Option<PathBuf>,
    /// Save every image as a PNG file of its own in this folder.
    #[arg(long, value_name = "DIR")]
    png_dir: Option<PathBuf>,
}

impl Outputs {
    fn picture(&self) -> Option<&Path> {
        let nothing = self.npy.is_none() && self.safetensors.is_none() && self.png_dir.is_none();
        self.out.as_deref().or_else(|| nothing.then_some(Path::new(DEFAULT_PICTURE)))
    }

    /// Checks, before anything is computed, that samples of `model` can be written so.
    ///
    /// # Errors
    /// [`Error::Config`] where they cannot.
    pub(super) fn check(&self, model: &ModelInfo) -> Result<()> {
        let no_picture = self.picture().is_some() && !sheet::can_draw(model);
        let no_images = self.png_dir.is_some() && !model.is_image();
        let refuse = |flag: &str| {
            let (id, shape) = (&model.id, &model.shape);
            Err(Error::Config(vec![format!("{flag}: samples of {id} have the shape {shape:?}, no picture; use --npy")]))
        };
        match (no_picture, no_images) {
            (true, _) => refuse("--out"),
            (_, true) => refuse("--png-dir"),
            _ => Ok(()),
        }
    }

    /// Writes the files and returns their paths, of single images that of their folder.
    ///
    /// # Errors
    /// [`Error::File`] where the operating system refuses.
    pub(super) fn write(&self, order: &Order, rows: &[Row]) -> Result<Vec<PathBuf>> {
        let mut written = Vec::new();
        if let Some(path) = self.picture() {
            save(path, &sheet::png(order, rows)?)?;
            written.push(path.into());
        }
        if let Some(path) = &self.npy {
            let numbers = rows.iter().flat_map(|row| row.images.iter().flatten().copied());
            save(path, &npy::file(&array_shape(order, rows.len()), numbers))?;
            written.push(path.clone());
        }
        if let Some(path) = &self.safetensors {
            save(path, &safetensors(order, rows, path)?)?;
            written.push(path.clone());
        }
        if let Some(folder) = &self.png_dir {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create it", e))?;
            single_images(order, rows)?.iter().try_for_each(|(name, bytes)| save(&folder.join(name), bytes))?;
            written.push(folder.clone());
        }
        Ok(written)
    }
}

pub(super) fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| Error::io(path, "write it", e))
}

fn array_shape(order: &Order, rows: usize) -> Vec<usize> {
    let rows = (rows > 1).then_some(rows);
    rows.into_iter().chain([order.labels.len()]).chain(order.model.shape.iter().copied()).collect()
}

/// A tensor `[count, shape…]` of each row, named after its steps, and one of the labels.
fn safetensors(order: &Order, rows: &[Row], path: &Path) -> Result<Vec<u8>> {
    let shape = array_shape(order, 1);
    let row = |row: &Row| {
        let bytes: Vec<u8> = row.images.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
        (row.times.name(), Dtype::F32, shape.clone(), bytes)
    };
    let label = |label: &Option<u32>| label.and_then(|label| i32::try_from(label).ok()).unwrap_or(NULL_LABEL);
    let labels = order.labels.iter().flat_map(|l| label(l).to_le_bytes()).collect();
    let labels = ("labels".to_owned(), Dtype::I32, vec![order.labels.len()], labels);
    let tensors: Vec<_> = rows.iter().map(row).chain([labels]).collect();
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>();
    let file = views.and_then(|views| safetensors::serialize(views, None));
    file.map_err(|e| Error::file(path, format!("cannot be written as safetensors: {e}")))
}

/// A PNG file of a sample of `model`.
///
/// # Errors
/// [`Error::Config`] where it is no image.
pub(in crate::cli) fn picture(model: &ModelInfo, sample: &[f32]) -> Result<Vec<u8>> {
    let ModelInfo { id, shape, value_range, .. } = model;
    let shape = <[usize; 3]>::try_from(shape.as_slice());
    let shape = shape.map_err(|_| Error::Config(vec![format!("samples of {id} are no images")]))?;
    png::encode(&to_u8(sample, *value_range), shape)
}

/// Name and PNG file of every image.
fn single_images(order: &Order, rows: &[Row]) -> Result<Vec<(String, Vec<u8>)>> {
    let file = |row: &Row, index: usize, image: &[f32]| {
        Ok((format!("{}-{index:04}.png", row.times.name()), picture(&order.model, image)?))
    };
    let images =
        rows.iter().flat_map(|row| row.images.iter().enumerate().map(move |(index, image)| (row, index, image)));
    images.map(|(row, index, image)| file(row, index, image)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::order::Times;
    use super::super::order::tests::{model, order};
    use super::super::row::tests::row;
    use super::*;

    #[test]
    fn every_kind_of_file_holds_the_samples() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| Some(folder.path().join(name));
        let outputs =
            Outputs { out: at("a.png"), npy: at("a.npy"), safetensors: at("a.safetensors"), png_dir: at("images") };
        let rows = [row(Times::steps(0.0, 1), 2), row(Times::steps(0.0, 2), 2)];
        let files = outputs.write(&order(&[Some(1), None], 2), &rows).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.png", "a.npy", "a.safetensors", "images"]);
        let array = candle_core::Tensor::read_npy(&files[1]).unwrap();
        assert_eq!(
            (array.dims(), array.get(1).unwrap().get(1).unwrap().max_all().unwrap().to_scalar().unwrap()),
            (&[2, 2, 1, 2, 2][..], 1f32)
        );
        let bytes = std::fs::read(&files[2]).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("labels").unwrap().data(), [1, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(tensors.tensor("steps_2").unwrap().shape(), [2, 1, 2, 2]);
        assert_eq!(image::open(files[3].join("steps_2-0001.png")).unwrap().into_luma8().into_raw(), [255; 4]);
    }

    #[test]
    fn what_cannot_be_drawn_is_refused_before_it_is_made() {
        let points = ModelInfo { shape: vec![3], ..model() };
        assert!(Outputs::default().check(&points).unwrap_err().to_string().contains("use --npy"));
        let array = Outputs { npy: Some("a.npy".into()), ..Outputs::default() };
        assert!(array.check(&points).is_ok() && array.picture().is_none());
        let single = Outputs { png_dir: Some("a".into()), ..Outputs::default() };
        assert!(single.check(&points).is_err() && single.check(&model()).is_ok());
        assert_eq!(Outputs::default().picture(), Some(Path::new(DEFAULT_PICTURE)));
    }
}
