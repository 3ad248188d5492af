//! What the way from an image's numbers to its bytes costs, and what the settings of PNG buy.
//!
//! ```text
//! cargo bench --bench encode
//! ```

use std::hint::black_box;
use std::time::{Duration, Instant};

use flowmap::checkpoint::Repository;
use flowmap::config::{Config, Layers};
use flowmap::domain::{Digest, Evaluation, ModelKey, ModelRef, NoiseKey, Rule};
use flowmap::engine::{Batch, Outcome, Purpose, RowId, RowStep, Start};
use flowmap::picture;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Images of each kind.
const IMAGES: usize = 64;
/// Turns of each contestant, of which the best counts, and their length.
const TURNS: usize = 7;
const TURN: Duration = Duration::from_millis(50);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Images of one kind.
struct Kind {
    name: &'static str,
    /// Channels, height, width.
    shape: [usize; 3],
    states: Vec<Vec<f32>>,
}

fn main() -> Result<(), Failure> {
    let kinds =
        [embedded()?, smooth("3 × 32 × 32, smooth", [3, 32, 32]), smooth("3 × 256 × 256, smooth", [3, 256, 256])];
    println!("µs for an image, the best of {TURNS} turns\n");
    println!("| images | bytes one by one | to 8 bits | digest of the numbers | PNG as served |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for kind in &kinds {
        let pixels = kind.pixels();
        let bytes = fastest(&kind.states, |state| state.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
        let quantised = fastest(&kind.states, |state| picture::to_u8(state, [-1.0, 1.0]));
        let digest = fastest(&kind.states, |state| Digest::of_numbers(state));
        let png = fastest(&pixels, |pixels| picture::png::encode(pixels, kind.shape));
        println!("| {} | {bytes:.2} | {quantised:.2} | {digest:.2} | {png:.1} |", kind.name);
    }
    for kind in &kinds {
        println!("\nPNG, {}: µs and bytes for an image\n\n| compression | filter | µs | bytes |", kind.name);
        println!("| --- | --- | ---: | ---: |");
        compare(kind)?;
    }
    Ok(())
}

/// Each setting of the encoder on its own.
fn compare(kind: &Kind) -> Result<(), Failure> {
    use CompressionType::{Default, Fast, Level, Uncompressed};
    use FilterType::{Adaptive, NoFilter, Paeth, Sub, Up};
    let pixels: Vec<Vec<u8>> = kind.pixels().iter().map(|planes| interleaved(planes, kind.shape)).collect();
    for compression in [Uncompressed, Fast, Level(1), Default] {
        for filter in [NoFilter, Sub, Up, Paeth, Adaptive] {
            let time = fastest(&pixels, |pixels| encoded(pixels, kind.shape, compression, filter).unwrap_or_default());
            let sizes: Vec<usize> = pixels
                .iter()
                .map(|pixels| encoded(pixels, kind.shape, compression, filter).map(|file| file.len()))
                .collect::<Result<_, _>>()?;
            let bytes = sizes.iter().sum::<usize>() / sizes.len();
            println!("| {compression:?} | {filter:?} | {time:.1} | {bytes} |");
        }
    }
    Ok(())
}

fn encoded(
    pixels: &[u8],
    [channels, height, width]: [usize; 3],
    compression: CompressionType,
    filter: FilterType,
) -> image::ImageResult<Vec<u8>> {
    let colour = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut file = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut file, compression, filter);
    encoder.write_image(pixels, width as u32, height as u32, colour)?;
    Ok(file)
}

fn interleaved(planes: &[u8], [channels, height, width]: [usize; 3]) -> Vec<u8> {
    let plane = height * width;
    (0..plane).flat_map(|at| (0..channels).map(move |channel| planes[channel * plane + at])).collect()
}

impl Kind {
    fn pixels(&self) -> Vec<Vec<u8>> {
        self.states.iter().map(|state| picture::to_u8(state, [-1.0, 1.0])).collect()
    }
}

/// What the embedded model makes.
fn embedded() -> Result<Kind, Failure> {
    let config = Config::read(&Layers::load(None, [], [])?)?;
    let mut parts = flowmap::app::Parts::load(&config)?;
    let name: ModelRef = "fashion-mnist".parse()?;
    let key: ModelKey = parts.catalogue.resolve(&name)?;
    let id = Repository::embedded().resolve(&name, None)?;
    let info = parts.catalogue.info(key).clone();
    assert_eq!(info.id, id);
    let mut engine = parts.engines.pop().ok_or("no engine")?()?;
    let step = |index: u32| RowStep {
        row: RowId(index.into()),
        start: Some(Start::Noise),
        noise: NoiseKey { seed: 1, index },
        evaluation: Evaluation { s: 0.0, t: 1.0, rule: Rule::Jump },
        label: Some(index % 10),
        guidance: 1.0,
        purpose: Purpose::Finish { keep: false },
    };
    let outcomes = engine.step(&Batch { model: key, rows: (0..IMAGES as u32).map(step).collect() })?;
    let state = |outcome| match outcome {
        Outcome::Finished { state, .. } => Some(state),
        _ => None,
    };
    let shape = <[usize; 3]>::try_from(info.shape).map_err(|_| "the embedded model makes no images")?;
    Ok(Kind {
        name: "1 × 28 × 28, of the embedded model",
        shape,
        states: outcomes.into_iter().filter_map(state).collect(),
    })
}

/// Waves of several lengths and a little noise, as photographs have them.
fn smooth(name: &'static str, shape: [usize; 3]) -> Kind {
    let [channels, height, width] = shape;
    let mut random = 1u32;
    let mut noise = move || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut image = |number: usize| {
        let phase = number as f32;
        let mut state = Vec::with_capacity(channels * height * width);
        for (channel, y, x) in
            (0..channels).flat_map(|c| (0..height).flat_map(move |y| (0..width).map(move |x| (c, y, x))))
        {
            let (y, x) = (y as f32 / height as f32, x as f32 / width as f32);
            let waves =
                (7.0 * x + phase).sin() * (5.0 * y + channel as f32).cos() + 0.3 * (31.0 * (x + y) + phase).sin();
            state.push(0.7 * waves + 0.03 * noise());
        }
        state
    };
    let count = if height > 64 { 4 } else { IMAGES };
    Kind { name, shape, states: (0..count).map(&mut image).collect() }
}

/// µs for an item, the best of several turns.
fn fastest<T, R>(items: &[T], work: impl Fn(&T) -> R) -> f64 {
    let turn = || {
        let (begun, mut done) = (Instant::now(), 0u32);
        while begun.elapsed() < TURN {
            for item in items {
                black_box(work(black_box(item)));
                done += 1;
            }
        }
        1e6 * begun.elapsed().as_secs_f64() / f64::from(done)
    };
    (0..TURNS).map(|_| turn()).fold(f64::INFINITY, f64::min)
}
