//! A folder of PNG and JPEG files, one sub-folder for each class.
//!
//! `DIR/train/CLASS/*.png` and `DIR/test/CLASS/*.png`; without a `train` folder, `DIR` itself is the training split.
//! Images directly in a split's folder, with no class sub-folders, are unlabelled. Classes are numbered by name, those
//! of the training split. Files are read in the order of their names, so a data set is the same everywhere.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, ImageReader, Limits};

use super::bounded::MAX_BYTES;
use super::{Images, Split};
use crate::error::{Error, Result};

/// Largest side of an image file in pixels.
pub const MAX_SIDE: u32 = 8192;
/// Most images in a data set.
pub const MAX_IMAGES: usize = 1 << 20;
/// Most memory that decoding one file may take, in bytes.
const MAX_DECODE_BYTES: u64 = 512 << 20;
const EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

/// How images are brought to one shape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layout {
    /// Side of the square that each image is cropped (about its centre) and scaled to; without it all images must
    /// have one size.
    pub size: Option<u32>,
    /// One channel of luminance instead of red, green and blue.
    pub grey: bool,
}

/// Reads the images of `split`. Transparency is ignored.
///
/// # Errors
/// [`Error::File`] where a folder is missing or empty, a file cannot be decoded within the limits, sizes differ
/// without a [`Layout::size`], or the test split has a class that the training split does not have.
pub fn read(dir: &Path, split: Split, layout: Layout) -> Result<Images> {
    let train = dir.join("train");
    let train = if train.is_dir() { train } else { dir.to_owned() };
    let root = match split {
        Split::Train => train.clone(),
        Split::Test => dir.join("test"),
    };
    let classes = class_names(&train)?;
    let mut stack = Stack { layout, size: None, pixels: Vec::new(), labels: Vec::new() };
    for (path, class) in labelled_files(&root)? {
        let label = match class {
            None if classes.is_empty() => 0,
            Some(class) => classes.binary_search(&class).map_err(|_| unknown_class(&path, &class))?,
            None => return Err(Error::file(&path, "lies beside class folders; move it into one of them")),
        };
        stack.push(&path, u32::try_from(label).unwrap_or(u32::MAX))?;
    }
    let Some([height, width]) = stack.size else {
        return Err(Error::file(&root, "holds no PNG or JPEG files, neither directly nor in class folders"));
    };
    let channels = if layout.grey { 1 } else { 3 };
    Images::new([channels, height as usize, width as usize], stack.pixels, stack.labels, classes, &root)
}

fn unknown_class(path: &Path, class: &str) -> Error {
    Error::file(path, format!("class folder '{class}' does not exist in the training split"))
}

/// One picture as planes of `shape` = `[channels, height, width]`, of 1 channel (luminance) or 3: cropped about its
/// centre and scaled where its size is another.
///
/// # Errors
/// [`Error::File`] where it cannot be decoded within the limits.
pub fn picture(path: &Path, shape: [usize; 3]) -> Result<Vec<u8>> {
    let [channels, height, width] = shape;
    let side = |n: usize| u32::try_from(n).map_err(|_| Error::file(path, format!("cannot be scaled to {shape:?}")));
    let (image, size) = (decode(path)?, [side(width)?, side(height)?]);
    let image = match [image.width(), image.height()] == size {
        true => image,
        false => image.resize_to_fill(size[0], size[1], FilterType::CatmullRom),
    };
    let mut pixels = Vec::with_capacity(channels * height * width);
    push_planes(image, channels == 1, &mut pixels);
    Ok(pixels)
}

/// Adds the planes of an image.
fn push_planes(image: DynamicImage, grey: bool, pixels: &mut Vec<u8>) {
    if grey {
        return pixels.extend_from_slice(image.into_luma8().as_raw());
    }
    let interleaved = image.into_rgb8();
    let plane = |channel: usize| interleaved.as_raw().iter().skip(channel).step_by(3);
    (0..3).for_each(|channel| pixels.extend(plane(channel)));
}

/// Images of one shape, one after the other.
struct Stack {
    layout: Layout,
    size: Option<[u32; 2]>,
    pixels: Vec<u8>,
    labels: Vec<u32>,
}

impl Stack {
    fn push(&mut self, path: &Path, label: u32) -> Result<()> {
        let image = self.fit(decode(path)?);
        let size = [image.height(), image.width()];
        let expected = *self.size.get_or_insert(size);
        if size != expected {
            let [[h, w], [eh, ew]] = [size, expected];
            let problem = format!("is {w} × {h}, but the first image is {ew} × {eh}; set `size` to scale them all");
            return Err(Error::file(path, problem));
        }
        push_planes(image, self.layout.grey, &mut self.pixels);
        self.labels.push(label);
        if self.labels.len() > MAX_IMAGES || self.pixels.len() > MAX_BYTES {
            let bounds = format!("{MAX_IMAGES} images and {MAX_BYTES} bytes");
            return Err(Error::file(path, format!("is one image too many: a data set holds at most {bounds}")));
        }
        Ok(())
    }

    fn fit(&self, image: DynamicImage) -> DynamicImage {
        match self.layout.size {
            None => image,
            Some(side) if image.width() == side && image.height() == side => image,
            Some(side) => centre_square(&image).resize_exact(side, side, FilterType::CatmullRom),
        }
    }
}

/// Cropping comes before scaling, so that the memory taken depends on no image's aspect.
fn centre_square(image: &DynamicImage) -> DynamicImage {
    let (width, height) = (image.width(), image.height());
    let side = width.min(height);
    image.crop_imm((width - side) / 2, (height - side) / 2, side, side)
}

fn decode(path: &Path) -> Result<DynamicImage> {
    let file = File::open(path).map_err(|e| Error::io(path, "open it", e))?;
    let reader = ImageReader::new(BufReader::new(file)).with_guessed_format();
    let mut reader = reader.map_err(|e| Error::io(path, "read it", e))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODE_BYTES);
    reader.limits(limits);
    reader.decode().map_err(|e| Error::file(path, format!("cannot be decoded as PNG or JPEG: {e}")))
}

/// The image files of a split with their class, sorted.
fn labelled_files(root: &Path) -> Result<Vec<(PathBuf, Option<String>)>> {
    let mut files: Vec<_> = image_files(root)?.into_iter().map(|path| (path, None)).collect();
    for class in class_names(root)? {
        let inside = image_files(&root.join(&class))?;
        files.extend(inside.into_iter().map(|path| (path, Some(class.clone()))));
    }
    Ok(files)
}

/// The class folders of a split by name.
fn class_names(root: &Path) -> Result<Vec<String>> {
    let folders = entries(root)?.into_iter().filter(|path| path.is_dir());
    let names = folders.map(|path| match path.file_name().and_then(|name| name.to_str()) {
        Some(name) => Ok(name.to_owned()),
        None => Err(Error::file(&path, "its name is not UTF-8; rename it")),
    });
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn image_files(root: &Path) -> Result<Vec<PathBuf>> {
    let is_image = |path: &PathBuf| {
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        path.is_file() && extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
    };
    Ok(entries(root)?.into_iter().filter(is_image).collect())
}

/// What is in a folder, sorted, without hidden entries.
fn entries(root: &Path) -> Result<Vec<PathBuf>> {
    let listing = std::fs::read_dir(root).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let listing = listing.map_err(|e| Error::io(root, "list it", e))?;
    let visible = listing.iter().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let mut paths: Vec<_> = visible.map(std::fs::DirEntry::path).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    fn save(path: &Path, width: u32, height: u32, colour: [u8; 3]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_pixel(width, height, Rgb(colour)).save(path).unwrap();
    }

    fn problem(result: Result<Images>) -> String {
        result.err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn class_folders_become_labels_and_channels_become_planes() {
        let folder = tempfile::tempdir().unwrap();
        save(&folder.path().join("train/dog/1.png"), 4, 4, [10, 20, 30]);
        save(&folder.path().join("train/cat/1.jpg"), 4, 4, [200, 200, 200]);
        save(&folder.path().join("test/dog/7.PNG"), 4, 4, [1, 2, 3]);
        std::fs::write(folder.path().join("train/dog/notes.txt"), "no image").unwrap();

        let train = read(folder.path(), Split::Train, Layout::default()).unwrap();
        assert_eq!(train.labels(), [0, 1]);
        let (dog, _) = train.get(1).unwrap();
        assert_eq!((dog[0], dog[16], dog[47]), (10, 20, 30));
        assert_eq!(read(folder.path(), Split::Test, Layout::default()).unwrap().labels(), [1]);

        save(&folder.path().join("test/emu/1.png"), 4, 4, [0; 3]);
        assert!(problem(read(folder.path(), Split::Test, Layout::default())).contains("'emu'"));
    }

    #[test]
    fn sizes_must_agree_unless_one_is_set() {
        let folder = tempfile::tempdir().unwrap();
        save(&folder.path().join("a.png"), 8, 4, [50; 3]);
        save(&folder.path().join("b.png"), 6, 6, [90; 3]);
        assert!(problem(read(folder.path(), Split::Train, Layout::default())).contains("set `size`"));
        let images = read(folder.path(), Split::Train, Layout { size: Some(2), grey: true }).unwrap();
        assert_eq!(images.get(0), Some((&[50u8; 4][..], 0)));
        assert_eq!(images.get(1), Some((&[90u8; 4][..], 0)));
    }

    #[test]
    fn a_single_picture_takes_the_shape_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        save(&path, 6, 4, [10, 20, 30]);
        assert_eq!(picture(&path, [3, 4, 6]).unwrap(), [[10; 24], [20; 24], [30; 24]].concat());
        assert_eq!(picture(&path, [1, 2, 2]).unwrap().len(), 4);
        assert!(picture(&folder.path().join("no.png"), [1, 2, 2]).is_err());
    }

    #[test]
    fn the_middle_is_kept() {
        let stripes = RgbImage::from_fn(9, 3, |x, _| Rgb([if (3..6).contains(&x) { 200 } else { 0 }; 3]));
        let middle = centre_square(&DynamicImage::ImageRgb8(stripes)).into_rgb8();
        assert_eq!((middle.dimensions(), middle.into_raw()), ((3, 3), vec![200; 27]));
    }

    #[test]
    fn what_is_no_image_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(problem(read(folder.path(), Split::Train, Layout::default())).contains("holds no PNG"));
        std::fs::write(folder.path().join("a.png"), [0u8; 40]).unwrap();
        assert!(problem(read(folder.path(), Split::Train, Layout::default())).contains("a.png: cannot be decoded"));
        save(&folder.path().join("a.png"), MAX_SIDE + 1, 1, [0; 3]);
        assert!(problem(read(folder.path(), Split::Train, Layout::default())).contains("a.png: cannot be decoded"));
        assert!(problem(read(&folder.path().join("no"), Split::Train, Layout::default())).contains("cannot list it"));
    }
}
